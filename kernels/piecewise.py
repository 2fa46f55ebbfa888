"""Activations in pieces: straight lines, or parabolas, with kinks between them.

At a kink the slope is torch's: for the flat piece 0, and as the comments say elsewhere. NaN passes through.
"""

import numpy as np

from ._primitives import select
from .activations import activation
from .elementary import clamp
from .gemm import POSITIVE, WHERE_POSITIVE


def _relu(x):
    return select(x <= 0.0, 0.0, x)


def _relu_slope(y):
    return select(y > 0.0, 1.0, 0.0)


activation("relu", _relu, _relu_slope, "y", lambda x: np.where(x <= 0, 0, x).astype(x.dtype),
           lambda y: (y > 0).astype(y.dtype), finish=(POSITIVE, WHERE_POSITIVE))


def _leaky_relu(x, negative_slope):
    return select(x > 0.0, x, negative_slope * x)


def _leaky_relu_slope(x, negative_slope):
    return select(x > 0.0, 1.0, negative_slope)


activation("leaky_relu", _leaky_relu, _leaky_relu_slope, "x",
           lambda x, negative_slope: np.where(x > 0, x, x * negative_slope).astype(x.dtype),
           lambda x, negative_slope: np.where(x > 0, 1, negative_slope).astype(x.dtype),
           cases=({"negative_slope": 0.01}, {"negative_slope": 0.3}))


def _threshold(x, threshold, value):
    return select(x <= threshold, value, x)


def _threshold_slope(x, threshold, value):
    return select(x <= threshold, 0.0, 1.0)


activation("threshold", _threshold, _threshold_slope, "x",
           lambda x, threshold, value: np.where(x <= threshold, x.dtype.type(value), x),
           lambda x, threshold, value: np.where(x <= threshold, 0, 1).astype(x.dtype),
           cases=({"threshold": 0.0, "value": 0.0}, {"threshold": 0.25, "value": -1.5}))


def _hardtanh(x, min_val, max_val):
    return clamp(x, min_val, max_val)


def _hardtanh_slope(y, min_val, max_val):
    return select((y > min_val) & (y < max_val), 1.0, 0.0)


activation("hardtanh", _hardtanh, _hardtanh_slope, "y", lambda x, min_val, max_val: np.clip(x, min_val, max_val),
           lambda y, min_val, max_val: ((y > min_val) & (y < max_val)).astype(y.dtype),
           cases=({"min_val": -1.0, "max_val": 1.0}, {"min_val": -0.5, "max_val": 2.0}))

# Hard sigmoid (Courbariaux et al. 2015, arXiv:1511.00363) with torch's slope of 1/6 (Keras 2 had 1/5), and hard swish,
# x times it (Howard et al. 2019, arXiv:1905.02244).


def _hardsigmoid(x):
    return clamp((x + 3.0) / 6.0, 0.0, 1.0)


def _hardsigmoid_slope(x):
    return select((x > -3.0) & (x < 3.0), 1.0 / 6.0, 0.0)


activation("hardsigmoid", _hardsigmoid, _hardsigmoid_slope, "x", lambda x: np.clip(x / 6 + 0.5, 0, 1),
           lambda x: np.where(np.abs(x) < 3, 1 / 6, 0).astype(x.dtype))


def _hardswish(x):
    return select(x <= -3.0, 0.0, select(x >= 3.0, x, x * (x + 3.0) / 6.0))


def _hardswish_slope(x):
    return select(x <= -3.0, 0.0, select(x >= 3.0, 1.0, x / 3.0 + 0.5))


activation("hardswish", _hardswish, _hardswish_slope, "x",
           lambda x: np.where(x <= -3, 0, x * np.clip(x / 6 + 0.5, 0, 1)),
           lambda x: np.select([x <= -3, x < 3], [0, x / 3 + 0.5], 1).astype(x.dtype))


def _hardshrink(x, lambd):
    return select((x >= -lambd) & (x <= lambd), 0.0, x)


def _shrink_slope(y, lambd):
    return select(y == 0.0, 0.0, 1.0)


activation("hardshrink", _hardshrink, _shrink_slope, "y", lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x),
           lambda y, lambd: (y != 0).astype(y.dtype), cases=({"lambd": 0.5}, {"lambd": 1.25}))


def _softshrink(x, lambd):
    return x - clamp(x, -lambd, lambd)


activation("softshrink", _softshrink, _shrink_slope, "y",
           lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x - np.sign(x) * x.dtype.type(lambd)),
           lambda y, lambd: (y != 0).astype(y.dtype), cases=({"lambd": 0.5}, {"lambd": 1.25}))
