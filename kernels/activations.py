"""Activations: y = f(x) for each element, and dx = dy f'(x).

An entry is a value formula, a slope formula, and two lines of NumPy that judge them; the kernels of a target are made
from the formulas. `p` is the op's parameter (the negative slope of leaky ReLU), unused by most. The slope formula and
its reference are given x or y, whichever the entry saves. NaN passes through all of them. Conventions are torch's:
relu'(0) = 0. Softmax, which mixes the elements of a row, follows at the end.
"""

import math

import numpy as np

from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import add_columns, from_columns, group_rows, group_size, max_columns, to_columns
from ._primitives import LANES, PANEL, SIZE, ByPrecision, copy, fma, ints, real, reals, select
from ._sums import two_product, two_sum
from .elementary import (
    exp,
    normal_cdf,
    normal_cdf_parts,
    normal_pdf,
    scale_below,
    sigmoid,
    sigmoid_parts,
    sigmoid_slope,
    tanh,
)
from .gemm import PLAIN, POSITIVE, WHERE_POSITIVE

ACTIVATIONS: dict[str, str] = {}  # name -> the attribute that holds its parameter, "" for none


def activation(name, value, slope, saves, reference, reference_slope, parameter="", cases=({},), finish=(None, None)):
    """Enter an activation and its backward op into the table, with CPU kernels made from the formulas."""
    backward = f"{name}_backward"

    def parameter_of(attributes):
        return attributes[parameter] if parameter else 0.0

    def evaluate(attributes, x):
        return reference(x, parameter_of(attributes))

    def evaluate_backward(attributes, dy, saved):
        return dy * reference_slope(saved, parameter_of(attributes))

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, node.inputs[0] if saves == "x" else node, **node.attributes),)

    ACTIVATIONS[name] = parameter
    register(Op(name, one_shape, evaluate, gradient, saves, _forward_kernel(name, value), finish[0], cases=cases))
    register(Op(backward, same_shape, evaluate_backward, None, saves, _backward_kernel(name, slope), finish[1],
                cases=cases))


def _forward_kernel(name, value):
    def forward(x, x_panel, y, y_panel, y_panels, p: float, context, low, high):
        parameter, count = real(p), (high - low) * PANEL
        for panel in range(y_panels):
            target = _moved(x + (panel * x_panel + low * PANEL) * SIZE,
                            y + (panel * y_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = value(target[i], parameter)
        return 0

    return _named(forward, f"{name}_forward")


def _backward_kernel(name, slope):
    def backward(dy, dy_panel, saved, saved_panel, dx, dx_panel, dx_panels, p: float, context, low, high):
        parameter, count = real(p), (high - low) * PANEL
        for panel in range(dx_panels):
            kept = reals(saved + (panel * saved_panel + low * PANEL) * SIZE, count)
            target = _moved(dy + (panel * dy_panel + low * PANEL) * SIZE,
                            dx + (panel * dx_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = target[i] * slope(kept[i], parameter)
        return 0

    return _named(backward, f"{name}_backward")


def _moved(source, target, count):
    """View the target, with the source's values in it: a loop over two spans that are the same would not vectorise."""
    if source != target:
        copy(target, source, count)
    return reals(target, count)


def _named(function, name):
    function.__name__ = function.__qualname__ = name
    return kernel(function)


def _identity(x, p):
    return x


def _one(x, p):
    return 1.0


activation("identity", _identity, _one, "y", lambda x, p: +x, lambda y, p: np.ones_like(y), finish=(PLAIN, PLAIN))


def _relu(x, p):
    return select(x <= 0.0, 0.0, x)


def _relu_slope(y, p):
    return select(y > 0.0, 1.0, 0.0)


activation("relu", _relu, _relu_slope, "y", lambda x, p: np.where(x <= 0, 0, x).astype(x.dtype),
           lambda y, p: (y > 0).astype(y.dtype), finish=(POSITIVE, WHERE_POSITIVE))


def _leaky_relu(x, p):
    return select(x > 0.0, x, p * x)


def _leaky_relu_slope(x, p):
    return select(x > 0.0, 1.0, p)


activation("leaky_relu", _leaky_relu, _leaky_relu_slope, "x",
           lambda x, p: np.where(x > 0, x, x * p).astype(x.dtype),
           lambda x, p: np.where(x > 0, 1, p).astype(x.dtype),
           parameter="negative_slope", cases=({"negative_slope": 0.01}, {"negative_slope": 0.3}))


def _sigmoid(x, p):
    return sigmoid(x)


def _sigmoid_slope(y, p):
    return y * (1.0 - y)


def _numpy_sigmoid(x, p):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


activation("sigmoid", _sigmoid, _sigmoid_slope, "y", _numpy_sigmoid, lambda y, p: y * (1 - y))


def _tanh(x, p):
    return tanh(x)


def _tanh_slope(y, p):
    return 1.0 - y * y


activation("tanh", _tanh, _tanh_slope, "y", lambda x, p: np.tanh(x), lambda y, p: 1 - y * y)

# GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): x P(Z <= x), exactly, and with the paper's tanh for P. Beyond
# _GELU_FAR P is 0 or 1; -inf has the limit 0, not the product.

_GELU_FAR = 40.0


def _near(x):
    return select(x < -_GELU_FAR, -_GELU_FAR, select(x > _GELU_FAR, _GELU_FAR, x))


def _gated(x, high, low, k):
    """x times the parts of a gate."""
    return scale_below(x, fma(select(x > _GELU_FAR, x, _near(x)), high, _near(x) * low), k)


def _gelu(x, p):
    high, low, k = normal_cdf_parts(x)
    return _gated(x, high, low, k)


def _gelu_slope(x, p):
    return normal_cdf(x) + x * normal_pdf(x)


def _numpy_normal_cdf(x):
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    return (0.5 * erfc(np.asarray(x, np.float64) * -math.sqrt(0.5))).astype(x.dtype)


def _numpy_normal_pdf(x):
    return np.exp(-0.5 * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi))


activation("gelu", _gelu, _gelu_slope, "x", lambda x, p: np.maximum(x, -_GELU_FAR) * _numpy_normal_cdf(x),
           lambda x, p: _numpy_normal_cdf(x) + x * _numpy_normal_pdf(x))

_GELU_SCALE = 1.5957691216057308  # 2 sqrt(2/pi)
_GELU_CUBE = 0.044715
# 2 sqrt(2/pi), and its product with the cube's coefficient, as unevaluated sums
_GELU_FIRST = ByPrecision(single=(1.5957691669464111, -4.534068042105271576e-8),
                          double=(1.5957691216057308, -9.969308809110920315e-17))
_GELU_THIRD = ByPrecision(single=(0.07135481387376785, 2.398832395993135627e-9),
                          double=(0.07135481627260025, -6.175149918155315453e-19))


def _gelu_tanh(x, p):
    """(1 + tanh u) / 2 = sigmoid(2u); the exponential in it would magnify a rounding of u."""
    a = _near(x)
    square, square_low = two_product(a, a)
    third, third_low = two_product(_GELU_THIRD[0], square)
    slope, slope_low = two_sum(_GELU_FIRST[0], third)
    slope_low += _GELU_FIRST[1] + (third_low + _GELU_THIRD[0] * square_low + _GELU_THIRD[1] * square)
    u, u_low = two_product(a, slope)
    high, low, k = sigmoid_parts(u, u_low + a * slope_low)
    return _gated(x, high, low, k)


def _gelu_tanh_slope(x, p):
    u = _GELU_SCALE * (x + _GELU_CUBE * (x * x * x))
    return sigmoid(u) + x * sigmoid_slope(u) * (_GELU_SCALE * (1.0 + 3.0 * _GELU_CUBE * (x * x)))


def _numpy_gelu_tanh(x, p):
    x = np.maximum(x, -_GELU_FAR)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + _GELU_CUBE * x**3)))


def _numpy_gelu_tanh_slope(x, p):
    v = math.sqrt(2 / math.pi) * (x + _GELU_CUBE * x**3)
    e = np.exp(-2 * np.abs(v))
    return 0.5 * (1 + np.tanh(v)) + x * 2 * e / (1 + e) ** 2 * math.sqrt(2 / math.pi) * (1 + 3 * _GELU_CUBE * x * x)


activation("gelu_tanh", _gelu_tanh, _gelu_tanh_slope, "x", _numpy_gelu_tanh, _numpy_gelu_tanh_slope)

# Softmax over a row: y_i = exp(x_i - max x) / sum_j exp(x_j - max x); dx_i = y_i (dy_i - sum_j dy_j y_j).


@kernel
def softmax_forward(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Softmax over each row; y may be x."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
        max_columns(z, group, y_cols, count, top)
        exp_columns(z, group, y_cols, count, top)
        add_columns(z, group, y_cols, count, total, block)
        totals = reals(total, count)
        for i in range(count):
            totals[i] = 1.0 / totals[i]
        scale_columns(z, group, y_cols, count, total)
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def softmax_backward(dy, dy_panel, y, y_panel, dx, dx_panel, dx_cols, context, low, high):
    """Pass dy back through softmax, given its output y; dx may be dy."""
    up = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(dx_cols, LANES, SIZE), group_size(dx_cols, LANES, SIZE)
    kept, product = up + size * SIZE, up + 2 * size * SIZE
    total, block = up + 3 * size * SIZE, up + (3 * size + group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(dy + row, dy_panel, dx_cols, up, group, context, 0, count)
        to_columns(y + row, y_panel, dx_cols, kept, group, context, 0, count)
        for c in range(dx_cols):
            ups, ys = reals(up + c * group * SIZE, count), reals(kept + c * group * SIZE, count)
            products = reals(product + c * group * SIZE, count)
            for i in range(count):
                products[i] = ups[i] * ys[i]
        add_columns(product, group, dx_cols, count, total, block)
        totals = reals(total, count)
        for c in range(dx_cols):
            ups, ys = reals(up + c * group * SIZE, count), reals(kept + c * group * SIZE, count)
            for i in range(count):
                ups[i] = ys[i] * (ups[i] - totals[i])
        from_columns(up, group, dx_cols, dx + row, dx_panel, context, 0, count)
    return 0


def exp_columns(z, stride, columns, rows, top):
    """z[c, i] = exp(z[c, i] - top[i])."""
    tops = reals(top, rows)
    for c in range(columns):
        column = reals(z + c * stride * SIZE, rows)
        for i in range(rows):
            column[i] = exp(column[i] - tops[i])


def scale_columns(z, stride, columns, rows, scale):
    """z[c, i] *= scale[i]."""
    scales = reals(scale, rows)
    for c in range(columns):
        column = reals(z + c * stride * SIZE, rows)
        for i in range(rows):
            column[i] = column[i] * scales[i]


def _softmax_reference(attributes, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_reference_backward(attributes, dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def _softmax_gradient(graph, node, upstream):
    return (graph.apply("softmax_backward", upstream, node),)


register(Op("softmax", one_shape, _softmax_reference, _softmax_gradient, "y", softmax_forward, tolerance="row"))
register(Op("softmax_backward", same_shape, _softmax_reference_backward, None, "y", softmax_backward,
            tolerance="row"))
