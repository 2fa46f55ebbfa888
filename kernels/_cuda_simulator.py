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


def declare(array):
    """Let kernels touch the memory of an array; return its address."""
    global _regions
    first = array.__array_interface__["data"][0]
    forget(first)
    _regions = tuple(sorted([*_regions, (first, first + array.nbytes)]))
    _forget_views()
    return first


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
    kernel.BlockManager = Block
    declare(_block._near)
    kinds = {"reals": dtype, "doubles": np.dtype(np.float64), "ints": np.dtype(np.int64)}
    first, view = _block._near.ctypes.data, _view(dtype)
    return {name: _view(kind) for name, kind in kinds.items()} | {
        "nears": lambda place, size: view(first + place * dtype.itemsize, size)} | _THREADS


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
        self.blockIdx, self.number = block, number
        self.gr_context = contextvars.copy_context()


class Block:
    """Runs the threads of a block in turns; it takes the place of Numba's, which polls as many threads of Python."""

    def __init__(self, function, grid, block, debug):
        self.function, self.threads = function, int(np.prod(block))

    def run(self, place, *arguments):
        """Run all threads from barrier to barrier; numbers behave as on a device, without warnings."""
        with np.errstate(all="ignore"):
            strands = [Strand(self.function, place, number) for number in range(self.threads)]
            for strand in strands:
                strand.switch(*arguments)
            while strands := [strand for strand in strands if not strand.dead]:
                for strand in strands:
                    strand.switch()


def _thread():
    return greenlet.getcurrent().number


def _block_x():
    return greenlet.getcurrent().blockIdx[0]


def _block_y():
    return greenlet.getcurrent().blockIdx[1]


def _barrier():
    greenlet.getcurrent().parent.switch()


_THREADS = {"thread": _thread, "block_x": _block_x, "block_y": _block_y, "barrier": _barrier}
