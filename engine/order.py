"""The orders of epochs' rows: what NumPy's generator makes of seed and epoch, in a fraction of its time."""

import ctypes
from functools import cache

import numpy as np

from hotloop.kernels import _jit, data

_LEAST, _MOST = 500, 2**31  # rows that make the kernel pay; rows that words of 32 bits number


class Orders:
    """The orders of epochs of `rows` rows, one after the other in memory that is used again and again.

    write: of a backend, `(seed, epoch, order)`, what `permute` is.
    """

    def __init__(self, write, seed, rows):
        self._write, self._seed = write, seed
        self._orders, self._epochs = np.empty((0, rows), np.int64), range(0)

    def of(self, epochs):
        """The orders of a range of epochs as one array, valid until the next call."""
        orders, before = self._orders, self._epochs
        if len(orders) < len(epochs):
            self._orders = np.empty((len(epochs), orders.shape[1]), np.int64)
        known = range(max(before.start, epochs.start), min(before.stop, epochs.stop))
        if known:
            first, old = known.start - epochs.start, known.start - before.start
            self._orders[first : first + len(known)] = orders[old : old + len(known)]
        self._epochs = epochs
        for place, epoch in enumerate(epochs):
            if epoch not in known:
                self._write(self._seed, epoch, self._orders[place])
        return self._orders[: len(epochs)].reshape(-1)


def permute(seed, epoch, order, dtype):
    """order = `np.random.default_rng([seed, epoch]).permutation(len(order))`, int64, by the kernel for `dtype`."""
    if not _LEAST <= len(order) < _MOST:
        order[:] = np.random.default_rng([seed, epoch]).permutation(len(order))
        return
    generator, words = np.random.PCG64([seed, epoch]), np.empty(data.WORDS, np.int64)
    source = generator.ctypes
    draw = ctypes.cast(source.next_uint64, ctypes.c_void_p).value
    operands = order.ctypes.data, len(order), words.ctypes.data, draw, source.state_address
    row = np.array([*[0] * _jit.HEADER, *operands], np.int64)
    _shuffle(np.dtype(dtype))(row.ctypes.data, 0, 0, 0)


@cache
def _shuffle(dtype):
    return _jit.caller(data.shuffle, dtype)
