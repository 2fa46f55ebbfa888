"""What executors of programs and of general graphs on CUDA devices share."""

import numpy as np

from hotloop.kernels import OPS, _cuda, _jit

_TURNS = 16  # that one call of the driver makes, where there are as many


class Player:
    """Makes launches in turns, the first ones one by one, all others with few calls of the driver.

    launches: what `_cuda.launch` takes for each, with a row and a context as arguments. They are compiled at once.
    """

    def __init__(self, launches):
        self.launches, self.known, self.recorded = launches, False, {}
        for kernel, *_ in launches:
            _cuda.make(kernel, 2)

    def __call__(self, turns=1):
        """Make all launches, so many times."""
        if turns and not self.known:
            _cuda.launch_all(self.launches)  # a graph records what has been launched before
            self.known, turns = True, turns - 1
        while turns:
            count = _TURNS if turns >= _TURNS else 1
            if count not in self.recorded:
                self.recorded[count] = _cuda.recorded(self.launches * count)
            self.recorded[count]()
            turns -= count


def coefficients(op, settings, steps, update, dtype):
    """What the kernel of optimizer `op` takes, a row a step from number `update` on."""
    cpu = OPS[op].cpu
    given = np.empty((steps, len(cpu.settings)))
    for place, name in enumerate(cpu.settings):
        given[:, place] = settings[name]
    made = np.empty((steps, cpu.width), dtype)
    row = np.array([*[0] * _jit.HEADER, given.ctypes.data, made.ctypes.data, update], np.int64)
    _jit.caller(cpu.table, dtype)(row.ctypes.data, 0, 0, steps)
    return made


def grown(memory, size):
    """The memory, or a new one if it has not so many bytes; they may hold anything."""
    return memory if memory.size >= size else _cuda.Memory(size, zero=False)


def put_real(cell, value, dtype):
    """Write a real into a cell of a table, a slice of one int64: its bits are the cell's first."""
    cell[:] = 0
    cell.view(dtype)[0] = value
