"""Kernels for CUDA devices: the only place that imports a CUDA target and knows how it compiles and launches.

A device runs instructions of a program as the CPU does, from rows of a table of int64, here with HEAD cells before the
operands. `launcher` makes what runs one instruction and those chained to it, on a grid of blocks.
"""

import functools
import weakref

import numpy as np

from ._block import PANEL_ROWS, SIMULATED, THREADS, barrier, block_x, block_y, operands
from ._context import BATCH
from ._primitives import ints, reals
from ._specialize import Specializer
from ._steps import CONTEXT, FLAWED, STOPPED

KIND, ROWS, HEIGHT, COLUMNS, SPAN, CHAIN, HEAD = range(7)  # ROWS: 0 for those of the batch; CHAIN: address of a row


@functools.cache
def target():
    """Numba's CUDA target.

    Raises ImportError where there is none that fits.
    """
    try:
        from numba import cuda
        from numba.cuda import extending  # noqa: F401  what Numba's own, older target lacks
    except Exception as error:
        if not SIMULATED:
            raise ImportError(f"the cuda backend needs numba-cuda ({error}): install hotloop with the extra of your "
                              "driver's CUDA version, pip install 'hotloop[cuda12]' or 'hotloop[cuda13]'") from error
        from numba import cuda
    return cuda


def bindings(dtype):
    """The module-level names of `_primitives` and `_block` as they are for a dtype."""
    dtype = np.dtype(dtype)
    return {
        "real": dtype.type, "DOUBLE": dtype == np.float64, "SIZE": dtype.itemsize, "PANEL": PANEL_ROWS,
        "FUSED": not SIMULATED, "ROUND": dtype.type(1.5 / np.finfo(dtype).eps),
    }


@functools.cache
def launcher(functions, dtype):
    """A kernel of (row, context) that runs the instruction of that row, and those chained to it, of `functions`."""
    return target().jit(_bound(functions, np.dtype(dtype)))


def launch(kernel, grid, near, row, context):
    """Have a grid of blocks, which share `near` bytes each, run a kernel of `launcher` after all before it."""
    kernel[grid, THREADS, 0, near](row, context)


def ptx(functions, dtype, capability):
    """The code of `launcher` for a device of compute capability (major, minor), as text; needs no device."""
    cuda = target()
    kind = cuda.types.void(cuda.types.int64, cuda.types.int64)
    return cuda.compile_ptx(_bound(functions, np.dtype(dtype)), kind, cc=capability)[0]


def _bound(functions, dtype):
    """The Python function that `launcher` compiles."""
    if SIMULATED:
        from . import _cuda_simulator as simulator

        lowering, helper = simulator.lowering(dtype), lambda function: function
    else:
        from ._cuda_lowering import CudaLowering

        lowering = CudaLowering(bindings(dtype))
        helper = functools.partial(target().jit, device=True, inline="always")
    specializer = Specializer(bindings(dtype), lowering, dtype, helper)
    run = _runner(functions)

    def launch(row, context):
        head, cells = ints(row, HEAD), ints(context, CONTEXT)
        rows = head[ROWS]
        if rows == 0:
            rows = cells[BATCH]
        first, column = block_x() * head[HEIGHT], block_y() * head[SPAN]
        if cells[STOPPED] == 0 and first < rows:
            if run(row, context, first, min(head[HEIGHT], rows - first), column,
                   min(head[SPAN], head[COLUMNS] - column)):
                cells[FLAWED] = 1

    launch.__module__ = __name__
    return specializer.bind(launch)


def _runner(functions):
    """A function that runs an instruction, and those chained to it, on one rectangle; all of `functions`."""
    scope = {"ints": ints, "reals": reals, "barrier": barrier}
    lines = ["def run(row, context, first, rows, column, columns):", "    status = 0", "    while row:",
             f"        kind = ints(row, {HEAD})[{KIND}]"]
    for place, function in enumerate(functions):
        scope[f"f{place}"] = function
        notes, given = function.__annotations__, []
        for cell, name in enumerate(operands(function), HEAD):
            view = "reals" if notes.get(name) is float else "ints"
            given.append(f"{view}(row + {8 * cell}, 1)[0]")
        lines += [f"        {'el' * bool(place)}if kind == {function.kind}:",
                  f"            status |= f{place}({', '.join([*given, 'context, first, rows, column, columns'])})"]
    lines += ["        barrier()", f"        row = ints(row, {HEAD})[{CHAIN}]", "    return status"]
    exec("\n".join(lines), scope)
    scope["run"].__module__ = __name__
    return scope["run"]


class Memory:
    """Bytes on the device, zero at first."""

    def __init__(self, size):
        self.size, self.address, self._array = size, 0, None
        if size:
            self._array = target().to_device(np.zeros(size, np.uint8))
            self.address = _address(self, self._array)

    def write(self, array, first=0):
        """Overwrite bytes from `first` on with those of a C-contiguous array."""
        if array.nbytes:
            self._array[first : first + array.nbytes].copy_to_device(array.reshape(-1).view(np.uint8))

    def read(self, array, first=0):
        """Fill a C-contiguous array with the bytes from `first` on; waits until all kernels are done."""
        if array.nbytes:
            self._array[first : first + array.nbytes].copy_to_host(array.reshape(-1).view(np.uint8))

    def copy(self, other):
        """Overwrite the first bytes with all those of another memory."""
        if other.size:
            self._array[: other.size].copy_to_device(other._array)


def _address(owner, array):
    """Where an array on the device begins; kernels may touch it as long as its owner is there."""
    if not SIMULATED:
        return array.__cuda_array_interface__["data"][0]
    from ._cuda_simulator import declare, forget

    first = declare(array._ary)
    weakref.finalize(owner, forget, first)
    return first


def processors():
    """Multiprocessors of the device: blocks that run at once, at least."""
    return 1 if SIMULATED else target().get_current_device().MULTIPROCESSOR_COUNT
