"""Smooth activations: sigmoids, units that bend a line (with a kink at 0 for most parameters of ELU), gates.

Their exponentials take two stages, see `_elementwise`; NaN passes through.
"""

import math

import numpy as np

from ._primitives import fma, select
from ._sums import divided, two_product, two_sum_ordered
from .activations import activation
from .elementary import exp, expm1, tanh
from .exponential import LEAST, LOWERED, exp_left, left, softplus_end
from .gates import (
    both_sides,
    gated,
    gated_sigmoid,
    gelu_end,
    gelu_slope_end,
    gelu_slope_tail,
    gelu_tail,
    gelu_tanh_end,
    gelu_tanh_exp,
    gelu_tanh_slope_end,
    gelu_tanh_slope_exp,
    sigmoid_end,
    tanh_end,
    tanh_growth,
    tanhshrink_end,
    tanhshrink_far,
)

# Sigmoids


def _sigmoid_slope(y):
    return y * (1.0 - y)


def _numpy_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


activation("sigmoid", (exp_left, sigmoid_end), _sigmoid_slope, "y", _numpy_sigmoid, lambda y: y * (1 - y))


def _log_sigmoid_end(x, e):
    return -softplus_end(-x, e)


def _log_sigmoid_slope_end(x, e):
    return sigmoid_end(-x, e)


activation("log_sigmoid", (exp_left, _log_sigmoid_end), (exp_left, _log_sigmoid_slope_end), "x",
           lambda x: -np.logaddexp(0, -x), lambda x: _numpy_sigmoid(-x))


def _tanh_slope(y):
    return 1.0 - y * y


activation("tanh", (tanh_growth, tanh_end), _tanh_slope, "y", np.tanh, lambda y: 1 - y * y)


def _tanhshrink_slope(x):
    return tanh(x) * tanh(x)


activation("tanhshrink", (tanhshrink_far, tanhshrink_end), _tanhshrink_slope, "x",
           lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2)

# Softsign (Glorot and Bengio 2010, section 2)


def _softsign(x):
    return x / (1.0 + select(x < 0.0, -x, x))


def _softsign_slope(x):
    q = 1.0 / (1.0 + select(x < 0.0, -x, x))
    return q * q


activation("softsign", _softsign, _softsign_slope, "x", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2)

# Softplus (Dugas et al. 2001), linear from beta x = threshold on, as in torch; TensorFlow has no such limit.


def _softplus_exp(x, beta, threshold):
    return exp_left(beta * x)


def _softplus_end(x, e, beta, threshold):
    u = beta * x
    return select(u > threshold, x, softplus_end(u, e) / beta)


def _softplus_slope_end(x, e, beta, threshold):
    u = beta * x
    return select(u > threshold, 1.0, sigmoid_end(u, e))


activation("softplus", (_softplus_exp, _softplus_end), (_softplus_exp, _softplus_slope_end), "x",
           lambda x, beta, threshold: np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta),
           lambda x, beta, threshold: np.where(beta * x > threshold, 1, _numpy_sigmoid(beta * x)),
           cases=({"beta": 1.0, "threshold": 20.0}, {"beta": 2.5, "threshold": 4.0}))

# ELU (Clevert et al. 2016, arXiv:1511.07289), CELU (Barron 2017, arXiv:1704.07483), SELU (Klambauer et al. 2017,
# arXiv:1706.02515). The slope at 0 is that from below, as in torch.


def _elu(x, alpha):
    return select(x > 0.0, x, alpha * expm1(x))


def _elu_slope(x, alpha):
    return select(x > 0.0, 1.0, alpha * exp(x))


activation("elu", _elu, _elu_slope, "x",
           lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(-np.abs(x))),
           lambda x, alpha: np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))),
           cases=({"alpha": 1.0}, {"alpha": 0.3}))


def _celu(x, alpha):
    return select(x > 0.0, x, alpha * expm1(x / alpha))


def _celu_slope(x, alpha):
    return select(x > 0.0, 1.0, exp(x / alpha))


activation("celu", _celu, _celu_slope, "x",
           lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(-np.abs(x) / alpha)),
           lambda x, alpha: np.exp(np.minimum(x, 0) / alpha),
           cases=({"alpha": 1.0}, {"alpha": 0.3}))

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


def _selu(x):
    return select(x > 0.0, _SELU_SCALE * x, _elu(x, _SELU_SCALE * _SELU_ALPHA))


def _selu_slope(x):
    return _SELU_SCALE * _elu_slope(x, _SELU_ALPHA)


activation("selu", _selu, _selu_slope, "x",
           lambda x: _SELU_SCALE * np.where(x >= 0, x, _SELU_ALPHA * np.expm1(-np.abs(x))),
           lambda x: _SELU_SCALE * np.where(x > 0, 1, _SELU_ALPHA * np.exp(np.minimum(x, 0))).astype(x.dtype))

# GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): x P(Z <= x), exactly, and with the paper's tanh for P; 0 at -inf.


_ZERO = 40.0  # P is 0 below -_ZERO


def _numpy_normal_cdf(x):
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    return (0.5 * erfc(np.asarray(x, np.float64) * -math.sqrt(0.5))).astype(x.dtype)


def _numpy_normal_pdf(x):
    return np.exp(-0.5 * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi))


activation("gelu", (gelu_tail, gelu_end), (gelu_slope_tail, gelu_slope_end), "x",
           lambda x: np.maximum(x, -_ZERO) * _numpy_normal_cdf(x),
           lambda x: _numpy_normal_cdf(x) + x * _numpy_normal_pdf(x))


def _numpy_gelu_tanh(x):
    x = np.maximum(x, -_ZERO)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _numpy_gelu_tanh_slope(x):
    x = np.clip(x, -40, 40)
    v = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    e = np.exp(-2 * np.abs(v))
    return 0.5 * (1 + np.tanh(v)) + x * 2 * e / (1 + e) ** 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


activation("gelu_tanh", (gelu_tanh_exp, gelu_tanh_end), (gelu_tanh_slope_exp, gelu_tanh_slope_end), "x",
           _numpy_gelu_tanh, _numpy_gelu_tanh_slope)

# SiLU (Hendrycks and Gimpel 2016; swish in Ramachandran et al. 2017, arXiv:1710.05941): x sigmoid(x), 0 at -inf.


def _silu_end(x, e):
    return gated_sigmoid(x, left(x, LEAST[0]), e)


def _silu_slope_end(x, e):
    n = left(x, LEAST[0])
    q = 1.0 / fma(e, LOWERED, 1.0)
    return both_sides(x, e * q * fma(n, q, 1.0))


activation("silu", (exp_left, _silu_end), (exp_left, _silu_slope_end), "x",
           lambda x: np.maximum(x, -1000) * _numpy_sigmoid(x),
           lambda x: _numpy_sigmoid(x) * (1 + x * _numpy_sigmoid(-x)))

# Mish (Misra 2019, arXiv:1908.08681): x tanh(ln(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2), 0 at -inf. With
# e = exp(-|x|), the factor of x is n / (n + 2) where x < 0, and 1 - n / (n + 1 + 2e) with n = 2e e elsewhere. The slope
# is for x < 0 (n + 4x e (1 + e) / (n + 2)) / (n + 2), else (n + 4x e^2 (1 + e) / d) / d, n = 1 + 2e, d = n + 2e^2.


def _mish_end(x, lifted):
    x_left, below = left(x, LEAST[0]), x < 0.0
    e = lifted * LOWERED
    b = select(below, e + 2.0, 2.0 * e)
    n, n_low = two_product(lifted, b)
    n_low += lifted * select(below, e - (b - 2.0), 0.0)
    d, d_low = two_sum_ordered(select(below, 2.0, fma(2.0, e, 1.0)), n * LOWERED)
    d_low = fma(n_low, LOWERED, d_low)
    high, low = two_product(x_left, n)
    return gated(x, divided(high, fma(x_left, n_low, low), d, d_low))


def _mish_slope_end(x, lifted):
    x_left, below = left(x, LEAST[0]), x < 0.0
    e = lifted * LOWERED
    n = select(below, e * (e + 2.0), fma(2.0, e, 1.0))
    inverse = 1.0 / (n + select(below, 2.0, 2.0 * e * e))
    return fma(4.0 * x_left * e * select(below, 1.0, -e), (1.0 + e) * inverse, n) * inverse


def _numpy_mish_slope(x):
    s = np.logaddexp(0, x)
    return np.tanh(s) + x * _numpy_sigmoid(x) / np.cosh(s) ** 2


activation("mish", (exp_left, _mish_end), (exp_left, _mish_slope_end), "x",
           lambda x: np.maximum(x, -1000) * np.tanh(np.logaddexp(0, x)),
           _numpy_mish_slope)
