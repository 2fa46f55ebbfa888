"""Dropout (Srivastava et al. 2014): y = x / (1 - p) where u >= p, else 0, for u uniform in [0, 1).

u is a function of counters, not of a state: of the seed, the layer's place, the number of the update, and row and
column in the batch. So it is the same for every backend, number of threads and cut of an epoch, and the backward pass
makes it again: the gradient is the op itself. As in torch, what is kept is scaled in training.
"""

import numpy as np

from ._context import CONTEXT, UPDATE
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, ints, real, reals, scramble, select, uniform


@kernel
def dropout(x, x_panel, y, y_panel, y_panels, p: float, place, key, context, low, high):
    """Y = X u-chosen and scaled, for rows [low, high); Y may be X."""
    stream = scramble(scramble(key, place), ints(context, CONTEXT)[UPDATE])
    bound, scale = real(p), real(1 / (1 - p))
    for i in range(low, high):
        row_stream = scramble(stream, i)
        for panel in range(y_panels):
            source = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                u = uniform(row_stream, panel * PANEL + j)
                target[j] = source[j] * select(u < bound, 0.0, scale)
    return 0


_MASK32, _MASK64 = np.uint64(0xFFFFFFFF), 0xFFFFFFFFFFFFFFFF


def _numpy_scramble(key, numbers):
    """splitmix64 (Steele, Lea and Flood 2014) at position `numbers` of the stream that starts at `key`."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    z = np.uint64(key & _MASK64) + (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * golden
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> np.uint64(shift)) * np.uint64(factor)
    return z ^ z >> np.uint64(31)


def _numpy_uniform(keys, numbers):
    """Two rounds of C. Wellons' 32-bit mixer `lowbias32`, each after half of the key."""
    z = numbers.astype(np.uint32)
    for half in (keys & _MASK32, keys >> np.uint64(32)):
        z = (z ^ half.astype(np.uint32)) * np.uint32(0x9E3779B1)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            z = (z ^ z >> np.uint32(shift)) * np.uint32(factor)
        z = z ^ z >> np.uint32(16)
    return (z >> np.uint32(8)) * 2.0**-24


def _dropout_reference(attributes, x, key):
    seed, update = key
    with np.errstate(over="ignore"):
        stream = _numpy_scramble(int(_numpy_scramble(seed, attributes["place"])), update)
        rows = _numpy_scramble(int(stream), np.arange(len(x)))
    u = _numpy_uniform(rows[:, None], np.arange(x.shape[1])[None]).astype(x.dtype)
    return x * np.where(u < attributes["p"], 0, 1 / (1 - attributes["p"])).astype(x.dtype)


def _dropout_shape(attributes, x, key):
    if len(x) != 2 or key != ():
        raise ValueError(f"dropout needs x (batch, features) and a key (); got {x} and {key}")
    return x


def _dropout_gradient(graph, node, dy):
    return graph.apply("dropout", dy, node.inputs[1], **node.attributes), None


register(Op("dropout", _dropout_shape, _dropout_reference, _dropout_gradient, cpu=dropout,
            cases=({"p": 0.5, "place": 0}, {"p": 0.0, "place": 3}, {"p": 0.9, "place": 1})))
