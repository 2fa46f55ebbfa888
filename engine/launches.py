"""What executors of programs and of general graphs on CUDA devices share."""

import numpy as np

from hotloop.kernels import OPS, _cuda, _jit


class Player:
    """Makes launches: at first one by one, as they are compiled then, afterwards with one call of the driver.

    launches: what `_cuda.launch` takes for each.
    """

    def __init__(self, launches):
        self.launches, self.known, self.recorded = launches, False, None

    def __call__(self):
        """Make all launches."""
        if not self.known:
            _cuda.launch_all(self.launches)
            self.known = True
            return
        if self.recorded is None:
            self.recorded = _cuda.recorded(self.launches)
        self.recorded()


def coefficients(op, settings, steps, update, dtype):
    """What the kernel of optimizer `op` takes, a row a step from number `update` on: memory, and numbers of a row."""
    cpu = OPS[op].cpu
    given = np.empty((steps, len(cpu.settings)))
    for place, name in enumerate(cpu.settings):
        given[:, place] = settings[name]
    made = np.empty((steps, cpu.width), dtype)
    row = np.array([*[0] * _jit.HEADER, given.ctypes.data, made.ctypes.data, update], np.int64)
    _jit.caller(cpu.table, dtype)(row.ctypes.data, 0, 0, steps)
    memory = _cuda.Memory(made.nbytes)
    memory.write(made)
    return memory, cpu.width


def put_real(cell, value, dtype):
    """Write a real into a cell of a table, a slice of one int64: its bits are the cell's first."""
    cell[:] = 0
    cell.view(dtype)[0] = value
