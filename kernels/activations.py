"""Activations: y = f(x) for each element, and dx = dy f'(x); here how they are made, and the smooth ones.

An entry is a value formula, a slope formula, and two lines of NumPy that judge them; the kernels of a target are made
from the formulas. What a formula takes beside x are the op's parameters, under the names of its attributes. The slope
formula and its reference are given x or y, whichever the entry saves. NaN passes through all of them. Conventions are
torch's. Those in pieces with kinks between them stand in `piecewise`.
"""

import math
from inspect import signature
from itertools import zip_longest

import numpy as np

from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import nothing
from ._primitives import PANEL, SIZE, ByPrecision, copy, fma, real, reals, select
from ._sums import quotient, two_product, two_sum, two_sum_ordered
from ._trace import trace
from .elementary import (
    EXP_RANGE,
    clamp,
    exp,
    exp_parts,
    expm1,
    normal_cdf,
    normal_cdf_parts,
    normal_pdf,
    scale,
    scale_below,
    sigmoid,
    sigmoid_parts,
    sigmoid_slope,
    signed,
    softplus,
    tanh,
    tanhshrink,
)
from .gemm import PLAIN

ACTIVATIONS: dict[str, tuple[str, ...]] = {}  # name -> names of its parameters
_OPERANDS = ("p", "q")  # of the kernels, for the parameters


def activation(name, value, slope, saves, reference, reference_slope, cases=({},), finish=(None, None)):
    """Enter an activation and its backward op into the table, with CPU kernels made from the formulas.

    value, slope, reference, reference_slope: functions of x (the slopes: of what `saves` names, "x" or "y"), then of
    the parameters, at most two. cases: parameters to test the op with; finish: see `Op`, forward and backward.
    Raises ValueError where the name is taken, there are more parameters, or the cases do not name them.
    """
    parameters = tuple(signature(value).parameters)[1:]
    if len(parameters) > len(_OPERANDS):
        raise ValueError(f"an activation has at most {len(_OPERANDS)} parameters, {name!r} has {parameters}")
    if any(case.keys() != set(parameters) for case in cases):
        raise ValueError(f"cases of {name!r} must give its parameters {parameters}, got {cases}")
    backward = f"{name}_backward"

    def evaluate(attributes, x):
        return reference(x, **attributes)

    def evaluate_backward(attributes, dy, saved):
        return dy * reference_slope(saved, **attributes)

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, node.inputs[0] if saves == "x" else node, **node.attributes),)

    def gradient_of_backward(graph, node, upstream):
        dy, saved = node.inputs
        bend = trace(slope, saved, *(node.attributes[parameter] for parameter in parameters))
        second = None
        if isinstance(bend, type(saved)) and bend.depends_on(saved):
            (second,) = graph.gradient(bend, [saved], seed=upstream * dy)
        return graph.apply(backward, upstream, saved, **node.attributes), second

    ACTIVATIONS[name] = parameters
    register(Op(name, one_shape, evaluate, gradient, saves, _forward_kernel(name, value), finish[0], cases=cases,
                arity=1))
    register(Op(backward, same_shape, evaluate_backward, gradient_of_backward, saves, _backward_kernel(name, slope),
                finish[1], cases=cases, arity=2))


def scalar_operands(name, attributes):
    """What the kernels of the activation `name` get for its parameters."""
    values = [float(attributes[parameter]) for parameter in ACTIVATIONS[name]]
    return dict(zip_longest(_OPERANDS, values, fillvalue=0.0))


def _of_two(formula):
    """`formula` as a function of x and two parameters, whatever it has itself."""
    padded = (lambda x, p, q: formula(x), lambda x, p, q: formula(x, p), formula)
    return padded[len(signature(formula).parameters) - 1]


def _forward_kernel(name, formula):
    value = _of_two(formula)

    def forward(x, x_panel, y, y_panel, y_panels, p: float, q: float, context, low, high):
        first, second, count = real(p), real(q), (high - low) * PANEL
        same = nothing(context)
        for panel in range(y_panels):
            target = _moved(x + (panel * x_panel + low * PANEL) * SIZE,
                            y + (panel * y_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = value(target[i], first, second) + same
        return 0

    return kernel(forward, f"{name}_forward")


def _backward_kernel(name, formula):
    slope = _of_two(formula)

    def backward(dy, dy_panel, saved, saved_panel, dx, dx_panel, dx_panels, p: float, q: float, context, low, high):
        first, second, count = real(p), real(q), (high - low) * PANEL
        for panel in range(dx_panels):
            kept = reals(saved + (panel * saved_panel + low * PANEL) * SIZE, count)
            target = _moved(dy + (panel * dy_panel + low * PANEL) * SIZE,
                            dx + (panel * dx_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = target[i] * slope(kept[i], first, second)
        return 0

    return kernel(backward, f"{name}_backward")


def _moved(source, target, count):
    """View the target, with the source's values in it: a loop over two spans that are the same would not vectorise."""
    if source != target:
        copy(target, source, count)
    return reals(target, count)


def _identity(x):
    return x


def _identity_slope(y):
    return 1.0


activation("identity", _identity, _identity_slope, "y", lambda x: +x, np.ones_like, finish=(PLAIN, PLAIN))


# Sigmoids


def _sigmoid_slope(y):
    return y * (1.0 - y)


def _numpy_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


activation("sigmoid", sigmoid, _sigmoid_slope, "y", _numpy_sigmoid, lambda y: y * (1 - y))


def _log_sigmoid(x):
    return -softplus(-x)


def _log_sigmoid_slope(x):
    return sigmoid(-x)


activation("log_sigmoid", _log_sigmoid, _log_sigmoid_slope, "x", lambda x: -np.logaddexp(0, -x),
           lambda x: _numpy_sigmoid(-x))


def _tanh_slope(y):
    return 1.0 - y * y


activation("tanh", tanh, _tanh_slope, "y", np.tanh, lambda y: 1 - y * y)


def _tanhshrink_slope(x):
    return tanh(x) * tanh(x)


activation("tanhshrink", tanhshrink, _tanhshrink_slope, "x", lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2)

# Softsign (Glorot and Bengio 2010, section 2)


def _softsign(x):
    return x / (1.0 + select(x < 0.0, -x, x))


def _softsign_slope(x):
    q = 1.0 / (1.0 + select(x < 0.0, -x, x))
    return q * q


activation("softsign", _softsign, _softsign_slope, "x", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2)

# Softplus (Dugas et al. 2001), linear from beta x = threshold on, as in torch; TensorFlow has no such limit.


def _softplus(x, beta, threshold):
    u = beta * x
    return select(u > threshold, x, softplus(u) / beta)


def _softplus_slope(x, beta, threshold):
    u = beta * x
    return select(u > threshold, 1.0, sigmoid(u))


activation("softplus", _softplus, _softplus_slope, "x",
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

# GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): x P(Z <= x), exactly, and with the paper's tanh for P. Beyond
# _GELU_FAR P is 0 or 1; -inf has the limit 0, not the product.

_GELU_FAR = 40.0


def _gated(x, far, high, low, k):
    """x times the parts of a gate that is 0 below -far and 1 above far."""
    size = select(x < 0.0, -x, x)
    near = select(size > far, far, size)
    return scale_below(x, signed(x, fma(select(x > far, x, near), high, near * low)), k)


def _gelu(x):
    high, low, k = normal_cdf_parts(x)
    return _gated(x, _GELU_FAR, high, low, k)


def _gelu_slope(x):
    return normal_cdf(x) + x * normal_pdf(x)


def _numpy_normal_cdf(x):
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    return (0.5 * erfc(np.asarray(x, np.float64) * -math.sqrt(0.5))).astype(x.dtype)


def _numpy_normal_pdf(x):
    return np.exp(-0.5 * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi))


activation("gelu", _gelu, _gelu_slope, "x", lambda x: np.maximum(x, -_GELU_FAR) * _numpy_normal_cdf(x),
           lambda x: _numpy_normal_cdf(x) + x * _numpy_normal_pdf(x))

_GELU_SCALE = 1.5957691216057308  # 2 sqrt(2/pi)
_GELU_CUBE = 0.044715
# 2 sqrt(2/pi), and its product with the cube's coefficient, as unevaluated sums
_GELU_FIRST = ByPrecision(single=(1.5957691669464111, -4.534068042105271576e-8),
                          double=(1.5957691216057308, -9.969308809110920315e-17))
_GELU_THIRD = ByPrecision(single=(0.07135481387376785, 2.398832395993135627e-9),
                          double=(0.07135481627260025, -6.175149918155315453e-19))


def _gelu_tanh(x):
    """(1 + tanh u) / 2 = sigmoid(2u); the exponential in it would magnify a rounding of u."""
    a = clamp(x, -_GELU_FAR, _GELU_FAR)
    square, square_low = two_product(a, a)
    third, third_low = two_product(_GELU_THIRD[0], square)
    slope, slope_low = two_sum(_GELU_FIRST[0], third)
    slope_low += _GELU_FIRST[1] + (third_low + _GELU_THIRD[0] * square_low + _GELU_THIRD[1] * square)
    u, u_low = two_product(a, slope)
    high, low, k = sigmoid_parts(u, u_low + a * slope_low)
    return _gated(x, _GELU_FAR, high, low, k)


def _gelu_tanh_slope(x):
    x = clamp(x, -40.0, 40.0)  # 0 and 1 to the last bit, and no power of x overflows
    u = _GELU_SCALE * (x + _GELU_CUBE * (x * x * x))
    return sigmoid(u) + x * sigmoid_slope(u) * (_GELU_SCALE * (1.0 + 3.0 * _GELU_CUBE * (x * x)))


def _numpy_gelu_tanh(x):
    x = np.maximum(x, -_GELU_FAR)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + _GELU_CUBE * x**3)))


def _numpy_gelu_tanh_slope(x):
    x = np.clip(x, -40, 40)
    v = math.sqrt(2 / math.pi) * (x + _GELU_CUBE * x**3)
    e = np.exp(-2 * np.abs(v))
    return 0.5 * (1 + np.tanh(v)) + x * 2 * e / (1 + e) ** 2 * math.sqrt(2 / math.pi) * (1 + 3 * _GELU_CUBE * x * x)


activation("gelu_tanh", _gelu_tanh, _gelu_tanh_slope, "x", _numpy_gelu_tanh, _numpy_gelu_tanh_slope)

# SiLU (Hendrycks and Gimpel 2016; swish in Ramachandran et al. 2017, arXiv:1710.05941): x sigmoid(x), 0 at -inf.


def _silu(x):
    high, low, k = sigmoid_parts(x, 0.0)
    return _gated(x, -EXP_RANGE[0], high, low, k)


def _silu_slope(x):
    return sigmoid(x) + x * sigmoid_slope(x)


activation("silu", _silu, _silu_slope, "x", lambda x: np.maximum(x, -1000) * _numpy_sigmoid(x),
           lambda x: _numpy_sigmoid(x) * (1 + x * _numpy_sigmoid(-x)))

# Mish (Misra 2019, arXiv:1908.08681): x tanh(ln(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2), 0 at -inf. With
# e = exp(-|x|) and n = e (e + 2) for x < 0, 1 + 2e else, the slope is
#     n/d + 4x e (1 + e) / d^2, the second term times e for x >= 0;  d = n + 2 for x < 0, n + 2e^2 else.


def _mish(x):
    m, k = exp_parts(select(x > 20.0, 20.0, x), 0.0)  # n / (n + 2) is 1 to the last bit of either type
    power, below = scale(1.0, k), x < 0.0
    outer, inner = select(below, 1.0, power), select(below, power, 1.0)  # e^x < 1 multiplies what underflows at the end
    e, e_low = two_sum_ordered(outer, outer * m)
    a, a_low = two_sum(2.0, e * inner)
    a_low += e_low * inner
    n, n_low = two_product(e, a)
    n_low += e * a_low + e_low * a
    d, d_low = two_sum(2.0, n * inner)
    high, low = quotient(n, n_low, d, d_low + n_low * inner)
    return _gated(x, -EXP_RANGE[0], high, low, k)


def _mish_slope(x):
    below = x < 0.0
    e = exp(select(below, x, -x))
    n = select(below, e * (e + 2.0), 1.0 + 2.0 * e)
    d = n + select(below, 2.0, 2.0 * e * e)
    return (n + 4.0 * x * e * (1.0 + e) * select(below, 1.0, e) / d) / d


def _numpy_mish_slope(x):
    s = np.logaddexp(0, x)
    return np.tanh(s) + x * _numpy_sigmoid(x) / np.cosh(s) ** 2


activation("mish", _mish, _mish_slope, "x", lambda x: np.maximum(x, -1000) * np.tanh(np.logaddexp(0, x)),
           _numpy_mish_slope)
