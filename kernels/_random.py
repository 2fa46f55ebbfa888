"""Random numbers without a state: each is a function of counters, so that a backward pass can make it again.

The counters are the seed, the layer's place, the number of the update, and row and column in the batch: the number is
the same for every backend, number of threads and cut of an epoch.
"""

import numpy as np

from ._context import CONTEXT, UPDATE
from ._primitives import ints, scramble

_MASK32, _MASK64 = np.uint64(0xFFFFFFFF), 0xFFFFFFFFFFFFFFFF


def row_key(key, place, context, row):
    """The key of a row's numbers, for `uniform`, whose other argument is the column."""
    return scramble(scramble(scramble(key, place), ints(context, CONTEXT)[UPDATE]), row)


def draws(place, key, x):
    """What `uniform` gives for each element of x, as an array of its shape and dtype; key: seed and update."""
    seed, update = key
    with np.errstate(over="ignore"):
        stream = _scramble(int(_scramble(seed, place)), update)
        rows = _scramble(int(stream), np.arange(len(x)))
    return _uniform(rows[:, None], np.arange(x.shape[1])[None]).astype(x.dtype)


def _scramble(key, numbers):
    """splitmix64 (Steele, Lea and Flood 2014) at position `numbers` of the stream that starts at `key`."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    z = np.uint64(key & _MASK64) + (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * golden
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> np.uint64(shift)) * np.uint64(factor)
    return z ^ z >> np.uint64(31)


def _uniform(keys, numbers):
    """Two rounds of C. Wellons' 32-bit mixer `lowbias32`, each after half of the key."""
    z = numbers.astype(np.uint32)
    for half in (keys & _MASK32, keys >> np.uint64(32)):
        z = (z ^ half.astype(np.uint32)) * np.uint32(0x9E3779B1)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            z = (z ^ z >> np.uint32(shift)) * np.uint32(factor)
        z = z ^ z >> np.uint32(16)
    return (z >> np.uint32(8)) * 2.0**-24


def batch_shape(attributes, *operands):
    """The shape rule of ops on values (batch, features) of one shape, and a key."""
    *values, key = operands
    if any(len(value) != 2 or value != values[0] for value in values) or key != ():
        raise ValueError(f"expected operands of one shape (batch, features) and a key (), got {operands}")
    return values[0]
