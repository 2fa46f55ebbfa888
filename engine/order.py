"""The order of an epoch's rows: what NumPy's generator makes of seed and epoch, in a fraction of its time."""

import math
from functools import cache

import numpy as np

from hotloop.kernels import _jit, data

_LEAST, _MOST = 500, 2**31  # rows that make the kernel pay; rows that words of 32 bits number


def permutation(seed, epoch, rows, dtype):
    """`np.random.default_rng([seed, epoch]).permutation(rows)`, int64, by the kernel for `dtype`."""
    if _LEAST <= rows < _MOST:
        words = np.random.PCG64([seed, epoch]).random_raw(_draws(rows) // 2)
        order = np.empty(rows, np.int64)
        operands = order.ctypes.data, rows, words.ctypes.data, 2 * len(words)
        row = np.array([*[0] * _jit.HEADER, *operands], np.int64)
        if not _shuffle(np.dtype(dtype))(row.ctypes.data, 0, 0, 0):
            return order
    return np.random.default_rng([seed, epoch]).permutation(rows).astype(np.int64, copy=False)


@cache
def _shuffle(dtype):
    return _jit.caller(data.shuffle, dtype)


def _draws(rows):
    """Words of 32 bits that suffice but for one time in billions: their expected number, and seven deviations."""
    power = 2 ** (rows.bit_length() - 1)
    return int(2 * power * math.log(2 * rows / power) + 10 * math.sqrt(rows)) + 64
