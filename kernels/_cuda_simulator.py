"""Numba's simulator of a device as a target: primitives are plain Python, and every index is checked."""

import bisect
import contextvars
import ctypes

import greenlet
import numpy as np
from numba.cuda.simulator import kernel

from . import _block

_regions: tuple = ()  # (first address, address after the last) of the memory that kernels may touch, in order

_kept: dict = {}  # views of numbers by dtype, address and size
_MOST = 10_000  # of them


class Span:
    """Numbers at an address, none of which lies outside memory that was declared."""

    def __init__(self, address, size, dtype):
        self.size, nbytes = int(size), int(size) * dtype.itemsize
        self.numbers = np.empty(0, dtype)
        if nbytes:
            _check(int(address), nbytes)
            self.numbers = np.frombuffer((ctypes.c_char * nbytes).from_address(int(address)), dtype)

    def __getitem__(self, index):
        return self.numbers[self._inside(index)]

    def __setitem__(self, index, value):
        self.numbers[self._inside(index)] = value

    def __iter__(self):
        return iter(self.numbers)

    def _inside(self, index):
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} outside a buffer of {self.size} numbers")
        return index


def _check(address, nbytes):
    regions = _regions
    place = bisect.bisect(regions, (address, float("inf"))) - 1
    if place < 0 or address + nbytes > regions[place][1]:
        raise IndexError(f"{nbytes} bytes at {address} lie outside all memory of the device")


def declare(first, nbytes):
    """Let kernels touch some bytes from an address on."""
    global _regions
    forget(first)
    _regions = tuple(sorted([*_regions, (first, first + nbytes)]))
    _forget_views()


def forget(first):
    """Undo `declare` of the memory that begins at this address."""
    global _regions
    _regions = tuple(region for region in _regions if region[0] != first)
    _forget_views()


def _forget_views():
    for kept in _kept.values():
        kept.clear()


def lowering(dtype):
    """What stands for primitives, by name; the others are what they are in plain Python."""
    kernel.BlockManager, _block.strand = Block, greenlet.getcurrent
    declare(_block._near.ctypes.data, _block._near.nbytes)
    kinds = {"reals": dtype, "doubles": np.dtype(np.float64), "ints": np.dtype(np.int64)}
    first, view = _block._near.ctypes.data, _view(dtype)
    return {name: _view(kind) for name, kind in kinds.items()} | {
        "nears": lambda place, size: view(first + place * dtype.itemsize, size)}


def _view(dtype):
    kept = _kept.setdefault(dtype, {})  # all threads of a block view the same numbers

    def view(address, size):
        found = kept.get((address, size))
        if found is None:
            if len(kept) > _MOST:
                kept.clear()
            found = kept[address, size] = Span(address, size, dtype)
        return found

    return view


class Strand(greenlet.greenlet):
    """A thread of a block, which goes on where another one waits at a barrier."""

    def __init__(self, function, block, number):
        super().__init__(function)
        self.block, self.number = block, number
        self.gr_context = contextvars.copy_context()

    def wait(self, what):
        """Let others go on until all of the "block", or the "grid", wait."""
        self.parent.switch(what)


_waiting: list = []  # threads of the blocks that wait for all of their grid, block by block


class Block:
    """Runs the threads of a block in turns; it takes the place of Numba's, which polls as many threads of Python.

    Blocks that meet are all begun before one of them goes on, which Numba's simulator cannot do.
    """

    def __init__(self, function, grid, block, debug):
        self.function, self.threads = function, int(np.prod(block))
        self.last = tuple(size - 1 for size in grid)

    def run(self, place, *arguments):
        """Run all threads from barrier to barrier; numbers behave as on a device, without warnings."""
        with np.errstate(all="ignore"):
            strands = [Strand(self.function, place, number) for number in range(self.threads)]
            try:
                self._go_on([(strand, arguments) for strand in strands])
                if tuple(place) == self.last:
                    while blocks := list(_waiting):
                        _waiting.clear()
                        for waiting in blocks:
                            self._go_on([(strand, ()) for strand in waiting])
            except BaseException:
                _waiting.clear()
                raise

    def _go_on(self, calls):
        """Run threads of one block until they wait for other blocks or are done."""
        _block._near[:] = np.nan  # nobody may rely on what another block, or the one before, left there
        while calls:
            waits = {strand.switch(*arguments) for strand, arguments in calls}
            strands = [strand for strand, _ in calls if not strand.dead]
            if len(waits) > 1:
                raise RuntimeError(f"threads of a block wait for different things: {waits}")
            if waits == {"grid"}:
                _waiting.append(strands)
                return
            calls = [(strand, ()) for strand in strands]
