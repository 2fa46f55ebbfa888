"""Arithmetic and elementary functions of graphs, element by element: formula, slopes as graph nodes, a line of NumPy.

Comparisons give 1 where they hold and 0 elsewhere, and have slope 0. Conventions at kinks: |x| has slope 0 at 0; where
maximum or minimum meet, each operand gets half of the gradient; where(c, a, b) takes a where c is not 0.
"""

import math

import numpy as np

from ._elementwise import elementwise_kernel, near_kernel
from ._op import Op, one_shape, register, same_shape, three_of_one_shape
from ._primitives import select
from .elementary import cos, exp, expm1, log, log1p, pow, sin
from .gates import erf_end, erf_far
from .trigonometry import NEAR, near_cos, near_sin

_SHAPES = {1: one_shape, 2: same_shape, 3: three_of_one_shape}


def elementwise(name, value, slopes, reference, arity=1, cpu=None):
    """Enter an elementwise op.

    value: its formula, that of one operand perhaps in two stages (see `_elementwise`). slopes: `(upstream, y,
    *operands) -> nodes`, upstream times the slope for each operand, or None where that is zero everywhere.
    reference: the line of NumPy. cpu: the kernel, made from the formula if not given.
    """
    def gradient(graph, node, upstream):
        found = slopes(upstream, node, *node.inputs)
        return found if isinstance(found, tuple) else (found,)

    register(Op(name, _SHAPES[arity], lambda attributes, *operands: reference(*operands), gradient, arity=arity,
                cpu=cpu or elementwise_kernel(name, value, arity)))


def _add(x, y):
    return x + y


def _subtract(x, y):
    return x - y


def _multiply(x, y):
    return x * y


def _divide(x, y):
    return x / y


elementwise("add", _add, lambda up, z, x, y: (up, up), lambda x, y: x + y, 2)
elementwise("subtract", _subtract, lambda up, z, x, y: (up, -up), lambda x, y: x - y, 2)
elementwise("multiply", _multiply, lambda up, z, x, y: (up * y, up * x), lambda x, y: x * y, 2)
elementwise("divide", _divide, lambda up, z, x, y: (up / y, -(up * z) / y), lambda x, y: x / y, 2)


def _negative(x):
    return -x


def _square(x):
    return x * x


def _reciprocal(x):
    return 1.0 / x


def _sqrt(x):
    return math.sqrt(x)


def _absolute(x):
    return select(x < 0.0, -x, select(x == 0.0, 0.0, x))


def _sign(x):
    return select(x > 0.0, 1.0, select(x < 0.0, -1.0, select(x == 0.0, 0.0, x)))


elementwise("negative", _negative, lambda up, y, x: -up, lambda x: -x)
elementwise("square", _square, lambda up, y, x: up * (2 * x), lambda x: x * x)
elementwise("reciprocal", _reciprocal, lambda up, y, x: -(up * y**2), lambda x: 1 / x)
elementwise("sqrt", _sqrt, lambda up, y, x: up / (2 * y), np.sqrt)
elementwise("absolute", _absolute, lambda up, y, x: up * np.sign(x), np.abs)
elementwise("sign", _sign, lambda up, y, x: None, np.sign)


def _detach(x):
    return x


elementwise("detach", _detach, lambda up, y, x: None, lambda x: x.copy())


elementwise("exp", exp, lambda up, y, x: up * y, np.exp)
elementwise("expm1", expm1, lambda up, y, x: up * np.exp(x), np.expm1)
elementwise("log", log, lambda up, y, x: up / x, np.log)
elementwise("log1p", log1p, lambda up, y, x: up / (1 + x), np.log1p)
def _device_sin(x):
    return np.sin(x)


def _device_cos(x):
    return np.cos(x)


# A device takes NVIDIA's functions: the formulas reduce angles in float64, which is slow on most devices.
elementwise("sin", sin, lambda up, y, x: up * np.cos(x), np.sin,
            cpu=near_kernel("sin", sin, near_sin, NEAR, _device_sin))
elementwise("cos", cos, lambda up, y, x: -(up * np.sin(x)), np.cos,
            cpu=near_kernel("cos", cos, near_cos, NEAR, _device_cos))
elementwise("erf", (erf_far, erf_end), lambda up, y, x: up * (2 / math.sqrt(math.pi)) * np.exp(-(x**2)),
            lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x))
elementwise("power", pow, lambda up, z, x, y: (up * y * x ** _one_less(y), _exponent_gradient(up, z, x)), np.power, 2)


def _one_less(y):
    """y - 1, but 0 where y is 0: the slope of x^0 is 0 at x = 0, too, where x^-1 is infinite."""
    source = y.inputs[0] if y.op == "broadcast_to" else y
    if source.op != "constant":
        return y.graph.elementwise("where", np.equal(y, 0.0), 0.0, y - 1)
    value = source.attributes["value"]
    less = np.where(value == 0, 0.0, value - 1)
    return less if less.ndim else less.item()


def _exponent_gradient(upstream, z, x):
    """upstream z log(x), whose limit at x = 0 is 0."""
    return upstream * z * np.log(x.graph.elementwise("where", np.equal(x, 0.0), 1.0, x))


def _maximum(x, y):
    return select(x > y, x, select(y != y, y, select(x != x, x, y)))


def _minimum(x, y):
    return select(x < y, x, select(y != y, y, select(x != x, x, y)))


def _greater(x, y):
    return select(x > y, 1.0, 0.0)


def _greater_equal(x, y):
    return select(x >= y, 1.0, 0.0)


def _equal(x, y):
    return select(x == y, 1.0, 0.0)


def _where(condition, yes, no):
    return select(condition != 0.0, yes, no)


def _share(x, y):
    """1 where x > y, one half where they are equal."""
    return (x > y) + 0.5 * np.equal(x, y)


elementwise("maximum", _maximum, lambda up, z, x, y: (up * _share(x, y), up * _share(y, x)), np.maximum, 2)
elementwise("minimum", _minimum, lambda up, z, x, y: (up * _share(y, x), up * _share(x, y)), np.minimum, 2)
for _name, _value, _reference in (("greater", _greater, np.greater), ("equal", _equal, np.equal),
                                  ("greater_equal", _greater_equal, np.greater_equal)):
    elementwise(_name, _value, lambda up, z, x, y: (None, None),
                lambda x, y, reference=_reference: reference(x, y).astype(x.dtype), 2)
elementwise("where", _where, lambda up, z, c, x, y: (None, up.graph.elementwise("where", c, up, 0.0),
                                                     up.graph.elementwise("where", c, 0.0, up)),
            lambda c, x, y: np.where(c != 0, x, y), 3)
