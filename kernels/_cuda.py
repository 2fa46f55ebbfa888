"""Kernels for CUDA devices: how they are compiled and launched.

Nothing else imports a CUDA target, but for two files that are imported here: they say what stands for primitives on a
device and in the simulator.

A device runs instructions of a program as the CPU does, from rows of a table of int64, here with HEAD cells before the
operands. `launcher` makes what runs one instruction and those chained to it, on a grid of blocks.
"""

import contextlib
import ctypes
import functools
import warnings
import weakref

import numpy as np

from ._block import PANEL_ROWS, SIMULATED, THREADS, barrier, block_x, block_y, block_z, meet, operands, thread
from ._context import BATCH
from ._primitives import ints, reals
from ._specialize import Specializer
from ._steps import CONTEXT, FLAWED, STOPPED

ROWS_PHASE, UNITS_PHASE, EACH = range(3)
PHASE_KIND, PHASE_FIRST, PHASE_COUNT, PHASE = range(4)  # of a phase: which it is, its first row's address, its rows
LEAST = 7, 5  # compute capability
_ANYTHING = 255  # byte that the simulator fills memory with which nobody asked to be zero: NaN
ACROSS = 2**15  # rectangles along the grid's second axis, which ends before 2**16; more go along the third
KIND, ROWS, HEIGHT, COLUMNS, SPAN, CHAIN, HEAD = range(7)  # ROWS: 0 for those of the batch; CHAIN: address of a row


class DeviceError(RuntimeError):
    """The cuda backend cannot be used: the message says what is missing, and what to do."""


_EXTRAS = "install hotloop with the extra cuda12 or cuda13, whichever CUDA version the driver has"
_TOOLS = "numba.cuda.cudadrv", "cuda."  # modules whose errors say that something is missing, or does not fit


@functools.cache
def target():
    """Numba's CUDA target. Raises DeviceError where NVIDIA's is not installed."""
    try:
        import numba.cuda.core  # noqa: F401  which Numba's own, older target lacks
        from numba import cuda
    except ImportError as error:
        raise DeviceError(f"the cuda backend needs numba-cuda ({error}): {_EXTRAS}") from error
    return cuda


def require():
    """Raise DeviceError, in words, unless there are a device, a driver and a compiler for it."""
    cuda = target()
    if SIMULATED:
        try:
            import greenlet  # noqa: F401
        except ImportError as error:
            raise DeviceError("NUMBA_ENABLE_CUDASIM asks for a simulated device, which needs greenlet: pip install "
                              "greenlet, or unset the variable") from error
        return
    try:
        device, version = cuda.get_current_device(), cuda.driver.driver.get_version()
    except Exception as error:
        raise DeviceError(f"no CUDA device can be used ({_said(error)}): install NVIDIA's driver for it, then "
                          f"{_EXTRAS}; or take backend='cpu'") from error
    try:
        find_compiler()
        runtime = cuda.runtime.get_version()
    except Exception as error:
        raise DeviceError(f"there is no compiler for the device ({_said(error)}): {_EXTRAS}") from error
    if version[0] < runtime[0]:
        raise DeviceError(f"the driver has CUDA {version[0]}.{version[1]}, older than the installed compiler's "
                          f"{runtime[0]}.{runtime[1]}: update the driver, or {_EXTRAS}")
    if device.compute_capability < LEAST:
        raise DeviceError(f"{device.name} has compute capability {device.compute_capability}, the cuda "
                          f"backend needs {LEAST[0]}.{LEAST[1]} at least: take backend='cpu'")
    if cuda.core.config.CUDA_PER_THREAD_DEFAULT_STREAM:
        raise DeviceError("NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM is set, with which copies do not wait for kernels: "
                          "unset it for the cuda backend")


def find_compiler():
    """Raise whatever error says that NVIDIA's compiler for LLVM's code is not there."""
    from numba.cuda.cudadrv.nvvm import NVVM

    NVVM()


def _said(error):
    """What an error says, in one line."""
    return " ".join(str(error).split())


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


@functools.cache
def walker(functions, dtype):
    """A kernel that runs whole steps of a program of `functions`; see `_walk`."""
    return target().jit(_bound(functions, np.dtype(dtype), _walk))


def walkers(kernel, near, most):
    """Blocks that `walker`'s kernel may have, at most `most`: all of them have to be on the device at once."""
    if SIMULATED:
        return min(most, 3)
    return min(most, make(kernel, 7).max_cooperative_grid_blocks(THREADS, near))


def make(kernel, count):
    """Compile a kernel of `count` numbers now, not when it is launched; what was made. Nothing in the simulator.

    Raises DeviceError where a part of the toolkit is missing.
    """
    if SIMULATED:
        return None
    kinds = (target().types.int64,) * count
    try:
        kernel.compile(kinds)
    except Exception as error:
        if not type(error).__module__.startswith(_TOOLS):
            raise
        raise DeviceError(f"kernels cannot be compiled for the device ({_said(error)}): {_EXTRAS}") from error
    return kernel.overloads[kinds]


@functools.cache
def stream(purpose):
    """The stream for "kernels", or that for "copies", which go on beside them; all other copies wait for both."""
    return target().stream()


def launch(kernel, grid, near, *arguments, on=None):
    """Have blocks, `grid` (down, across), which share `near` bytes each, run a kernel after all before it."""
    configured(kernel, grid, near, stream("kernels") if on is None else on)(*arguments)


def configured(kernel, grid, near, on):
    """A kernel with its blocks and stream, without the warning that they are few, as those of small programs are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grid size")
        down, across = grid
        return kernel[(down, min(across, ACROSS), -(-across // ACROSS)), THREADS, on, near]


def launch_all(launches, on=None):
    """Launch kernels one after the other; each is what `launch` takes."""
    for kernel, grid, near, *arguments in launches:
        launch(kernel, grid, near, *arguments, on=on)


def recorded(launches):
    """A function that does what `launch_all` does, with one call of the driver: a captured graph of the kernels.

    All of them must have been launched before. The simulator has no graphs; there it launches them one by one.
    """
    if SIMULATED:
        return functools.partial(launch_all, launches)
    from cuda.core import Device

    device = Device()
    device.set_current()
    builder = device.create_graph_builder()
    builder.begin_building()
    launch_all(launches, builder)
    graph = builder.end_building().complete()
    return functools.partial(graph.launch, device.create_stream(stream("kernels")))


def ptx(functions, dtype, capabilities, make=None):
    """The code of `launcher`, or of what `make` makes, for devices of each compute capability (major, minor), as texts.

    They are made one by one, and need no device.
    """
    types, function = target().types, _bound(functions, np.dtype(dtype), make)
    from numba.cuda import compiler

    kind = types.void(*[types.int64] * function.__code__.co_argcount)
    library, _ = compiler._compile_pyfunc_with_fixup(function, kind, device=False, abi="numba", cc=capabilities[0])
    return (library.get_asm_str(capability) for capability in capabilities)


def _bound(functions, dtype, make=None):
    """The Python function that `launcher` compiles, or what `make` makes of one that runs instructions."""
    if SIMULATED:
        from . import _cuda_simulator as simulator

        lowering, helper = simulator.lowering(dtype), lambda function: function
    else:
        from ._cuda_lowering import CudaLowering

        lowering = CudaLowering(bindings(dtype))
        helper = functools.partial(target().jit, device=True, inline="always")
    specializer = Specializer(bindings(dtype), lowering, dtype, helper)
    return specializer.bind((make or _launch)(_runner(functions)))


def _launch(run):
    """What runs one instruction, and those chained to it, a rectangle a block."""

    def launch(row, context):
        head, cells = ints(row, HEAD), ints(context, CONTEXT)
        rows = head[ROWS]
        if rows == 0:
            rows = cells[BATCH]
        first, column = block_x() * head[HEIGHT], (block_z() * ACROSS + block_y()) * head[SPAN]
        stopped = cells[STOPPED]
        barrier()  # the instruction may be what stops the run
        if stopped == 0 and first < rows and column < head[COLUMNS]:
            if run(row, context, first, min(head[HEIGHT], rows - first), column,
                   min(head[SPAN], head[COLUMNS] - column)):
                cells[FLAWED] = 1

    launch.__module__ = __name__
    return launch


def _walk(run):
    """What runs `steps` steps, phase after phase, by blocks that are all on the device at once (see `walk`).

    A block has a context of its own. In a phase of rows it takes PANEL_ROWS of them at a time through all instructions;
    in one of units it takes every `blocks`-th rectangle of each; other phases every block runs for itself. All blocks
    meet after the first two. `flaw` is a cell that becomes 1 where an update was not finite.
    """

    def walk(phases, count, width, contexts, blocks, flaw, steps):
        own, place = contexts + block_x() * CONTEXT * 8, block_x()
        cells = ints(own, CONTEXT)
        for number in range(steps * count):
            phase = ints(phases + number % count * PHASE * 8, PHASE)
            kind, batch, begin, bad = phase[PHASE_KIND], cells[BATCH], place, 0
            stopped, turns = cells[STOPPED], 1
            barrier()  # an instruction may be what stops the run
            if stopped:
                return
            if kind == ROWS_PHASE:
                turns = max(0, ((batch + PANEL_ROWS - 1) // PANEL_ROWS - place + blocks - 1) // blocks)
            for turn in range(turns):
                for i in range(phase[PHASE_COUNT]):
                    row = phase[PHASE_FIRST] + i * width
                    head = ints(row, HEAD)
                    rows, across = head[ROWS], (head[COLUMNS] + head[SPAN] - 1) // head[SPAN]
                    if rows == 0:
                        rows = batch
                    down = (place + turn * blocks) * PANEL_ROWS
                    low, units, step = 0, across, 1
                    if kind == UNITS_PHASE:
                        units = (rows + head[HEIGHT] - 1) // head[HEIGHT] * across
                        low, down, step = begin, 0, blocks
                        begin = (begin + blocks - units % blocks) % blocks  # the next instruction's go on from there
                    elif kind == EACH:
                        down = 0
                    for unit in range(low, units, step):  # the only call: all kernels are part of it
                        first, column = down + unit // across * head[HEIGHT], unit % across * head[SPAN]
                        bad |= run(row, own, first, min(head[HEIGHT], rows - first), column,
                                   min(head[SPAN], head[COLUMNS] - column))
            if kind != EACH:
                if bad:
                    ints(flaw, 1)[0] = 1
                meet()
                if thread() == 0 and ints(flaw, 1)[0]:
                    cells[FLAWED] = 1
                barrier()

    walk.__module__ = __name__
    return walk


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
    """Bytes on the device, zero at first or, without `zero`, anything.

    Raises MemoryError where the device has no room for them.
    """

    def __init__(self, size, zero=True):
        self.size, self.address, self._array = size, 0, None
        if size:
            with _room(f"the device has no room for {size:,} more bytes"):
                self._array = target().device_array(size, np.uint8)
            if zero or SIMULATED:
                _fill(self._array, 0 if zero else _ANYTHING)
            self.address = _address(self, self._array)

    @classmethod
    def of(cls, array):
        """The bytes of a C-contiguous array."""
        memory = cls(array.nbytes, zero=False)
        memory.write(array)
        return memory

    def write(self, array, first=0, stream=0):
        """Overwrite bytes from `first` on with those of a C-contiguous array."""
        if array.nbytes:
            self._array[first : first + array.nbytes].copy_to_device(array.reshape(-1).view(np.uint8), stream=stream)

    def read(self, array, first=0):
        """Fill a C-contiguous array with the bytes from `first` on; waits until all kernels are done."""
        if array.nbytes:
            self._array[first : first + array.nbytes].copy_to_host(array.reshape(-1).view(np.uint8))

    def copy(self, other):
        """Overwrite the first bytes with all those of another memory."""
        if other.size:
            self._array[: other.size].copy_to_device(other._array)


@contextlib.contextmanager
def _room(lacking):
    """Raise MemoryError, in words, where there is no room for what is made."""
    try:
        yield
    except Exception as error:
        if "MEMORY" not in str(error).upper():
            raise
        raise MemoryError(f"{lacking}, {free():,} are free on the device: take a smaller batch, a smaller network, or "
                          "data in the computer's own memory") from error


def _fill(array, byte):
    """Set all bytes of an array on the device."""
    if SIMULATED:
        array._ary[:] = byte
    else:
        from numba.cuda.cudadrv.driver import device_memset

        device_memset(array, byte, array.nbytes)


def free():
    """Bytes that are free on the device."""
    return int(min(target().current_context().get_memory_info()[0], 2**62))


def pinned(shape, dtype):
    """An array in memory that devices copy from while the computer goes on. Raises MemoryError."""
    with _room(f"there is no room for {int(np.prod(shape)) * np.dtype(dtype).itemsize:,} bytes that devices copy from"):
        return target().pinned_array(shape, dtype)


def finish():
    """Wait until all work on the device is done."""
    target().synchronize()


def fetch(address, array):
    """Fill a C-contiguous array with what lies at an address on the device."""
    finish()
    if array.nbytes and SIMULATED:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
    elif array.nbytes:
        given = {"shape": (array.nbytes,), "typestr": "|u1", "data": (address, False), "version": 3, "strides": None}
        target().from_cuda_array_interface(given).copy_to_host(array.reshape(-1).view(np.uint8))


def device_number():
    """The number of the device that is in use."""
    return 0 if SIMULATED else target().get_current_device().id


def dlpack(x):
    """Address, shape, dtype and strides in bytes, None for C order, of what has `__dlpack__`."""
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(x, stream_ptr=-1)
    dtype = np.dtype(view.dtype)
    return view.ptr, view.shape, dtype, view.strides and tuple(step * dtype.itemsize for step in view.strides)


def allow(owner, address, nbytes):
    """Let kernels in the simulator touch memory that is not of this package, as long as its owner is there."""
    if SIMULATED and nbytes:
        from ._cuda_simulator import declare, forget

        declare(address, nbytes)
        weakref.finalize(owner, forget, address)


def _address(owner, array):
    """Where an array on the device begins; kernels may touch it as long as its owner is there."""
    if not SIMULATED:
        return array.__cuda_array_interface__["data"][0]
    first = array._ary.__array_interface__["data"][0]
    allow(owner, first, array._ary.nbytes)
    return first


def processors():
    """Multiprocessors of the device: blocks that run at once, at least."""
    return 1 if SIMULATED else target().get_current_device().MULTIPROCESSOR_COUNT
