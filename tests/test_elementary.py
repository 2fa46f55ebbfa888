"""Elementary functions: the coefficients derived again, the largest errors in units in the last place, the edges."""

import math

import mpmath
import numpy as np
import pytest

from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, elementary
from hotloop.kernels._jit import kernel
from hotloop.kernels._primitives import reals
from hotloop.kernels.activations import ACTIVATIONS
from hotloop.plan import plan

# Coefficients


def interpolated(function, low, high, degree):
    """Coefficients, lowest power first, of the polynomial through the Chebyshev nodes of [low, high]."""
    count = degree + 1
    nodes = [(high + low) / 2 + (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * count))
             for i in range(count)]
    powers = mpmath.matrix([[node**power for power in range(count)] for node in nodes])
    return mpmath.lu_solve(powers, mpmath.matrix([function(node) for node in nodes]))


def exp_rest(r):
    """(exp(r) - 1 - r) / r**2."""
    return mpmath.hyp1f1(1, 3, r) / 2


def log_rest(z):
    """2 (atanh(s) - s) / s**3 for s**2 = z."""
    return mpmath.hyp2f1(1, 1.5, 2.5, z) * 2 / 3


def erfc_rest(t):
    """(1 + 2u) exp(u**2) erfc(u) for t = (u - K) / (u + K)."""
    u = 3.75 * (1 + t) / (1 - t)
    if u < 50:
        return (1 + 2 * u) * mpmath.exp(u * u) * mpmath.erfc(u)
    series = sum((-1) ** n * mpmath.fac2(2 * n - 1) / (2 * u * u) ** n for n in range(30))
    return (2 + 1 / u) / mpmath.sqrt(mpmath.pi) * series


def tanh_rest(z):
    """(x - tanh x) / x**3 for x**2 = z."""
    x = mpmath.sqrt(z)
    return (x - mpmath.tanh(x)) / x**3


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(("name", "function", "interval"), [
    ("_EXP", exp_rest, lambda: [sign * mpmath.log(2) / 2 * mpmath.mpf("1.002") for sign in (-1, 1)]),
    ("_LOG", log_rest, lambda: [0, (3 - 2 * mpmath.sqrt(2)) ** 2 * mpmath.mpf("1.01")]),
    ("_TANH", tanh_rest, lambda: [0, mpmath.mpf("1.01")])])
def test_coefficients(name, function, interval, precision):
    table = getattr(elementary, name)
    table = table.single if precision == "single" else table
    with mpmath.workdps(50):
        derived = interpolated(function, *interval(), len(table) - 1)
        assert max(abs(given / exact - 1) for given, exact in zip(table, derived, strict=True)) <= 2.0**-52


# Errors

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def numpy_sigmoid(x):
    e = np.exp(-abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def numpy_cdf(x):
    return erfc(x * -math.sqrt(0.5)) / 2


def exact_cdf(x):
    return mpmath.erfc(-max(-1000, min(x, 1000)) / mpmath.sqrt(2)) / 2  # 0 and 1 in float64 long before


def exact_gelu_tanh(x):
    return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


def numpy_tanhshrink(x):
    return np.where(abs(x) < 0.01, x**3 / 3 - 2 * x**5 / 15, x - np.tanh(x))


def exact_tanhshrink(x):
    return x**3 / 3 if abs(x) < 1e-9 else x - mpmath.tanh(x)


def exact_mish(x):
    return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
# What judges float32, in float64, which holds the squares of its numbers exactly; what judges float64; and for each the
# largest error in units in the last place: measured, with and without fused multiply-adds, and rounded up. The
# argument of the tanh form of GELU grows with the cube of x, and its rounding with it.
FUNCTIONS = {
    "exp": (np.exp, mpmath.exp, 2, 1),
    "log": (np.log, mpmath.log, 1, 1),
    "log1p": (np.log1p, mpmath.log1p, 2, 1),
    "sigmoid": (numpy_sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), 3, 2),
    "tanh": (np.tanh, mpmath.tanh, 3, 2),
    "normal_cdf": (numpy_cdf, exact_cdf, 7, 3),
    "normal_pdf": (lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
                   lambda x: mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi), 3, 2),
    "expm1": (np.expm1, mpmath.expm1, 2, 1),
    "identity": (lambda x: x, lambda x: x, 0, 0),
    "relu": (lambda x: np.maximum(x, 0), lambda x: max(x, 0), 0, 0),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: x if x > 0 else x / 100, 1, 1),
    "gelu": (lambda x: x * numpy_cdf(x), lambda x: x * exact_cdf(x), 8, 4),
    "gelu_tanh": (lambda x: x * numpy_sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)), exact_gelu_tanh,
                  193, 834),
    "neg": (np.negative, lambda x: -x, 0, 0),
    "threshold": (lambda x: np.maximum(x, 0), lambda x: max(x, 0), 0, 0),
    "hardtanh": (lambda x: np.clip(x, -1, 1), lambda x: max(-1, min(x, 1)), 0, 0),
    "hardsigmoid": (lambda x: np.clip((x + 3) / 6, 0, 1), lambda x: max(0, min((x + 3) / 6, 1)), 1, 1),
    "hardswish": (lambda x: x * np.clip((x + 3) / 6, 0, 1), lambda x: x * max(0, min((x + 3) / 6, 1)), 2, 2),
    "hardshrink": (lambda x: np.where(abs(x) <= 0.5, 0, x), lambda x: 0 if abs(x) <= 0.5 else x, 0, 0),
    "softshrink": (lambda x: x - np.clip(x, -0.5, 0.5), lambda x: x - max(-0.5, min(x, 0.5)), 1, 1),
    "log_sigmoid": (lambda x: -np.logaddexp(0, -x), lambda x: -mpmath.log1p(mpmath.exp(-x)), 2, 2),
    "tanhshrink": (numpy_tanhshrink, exact_tanhshrink, 6, 3),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: x / (1 + abs(x)), 2, 2),
    "softplus": (lambda x: np.where(x > 20, x, np.logaddexp(0, x)),
                 lambda x: x if x > 20 else mpmath.log1p(mpmath.exp(x)), 2, 2),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: x if x > 0 else mpmath.expm1(x), 2, 1),
    "celu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: x if x > 0 else mpmath.expm1(x), 2, 1),
    "selu": (lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
             lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mpmath.expm1(x)), 3, 2),
    "silu": (lambda x: x * numpy_sigmoid(x), lambda x: x / (1 + mpmath.exp(-x)), 5, 4),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), exact_mish, 5, 4),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


def test_every_activation_is_judged():
    assert set(FUNCTIONS) >= set(ACTIVATIONS)


@pytest.fixture
def evaluate(worker):
    """Calls an activation, or else a function of `elementary`, on an array."""

    def function(name, x):
        value, y = getattr(elementary, name), np.full_like(x, np.nan)

        def run(x, y, count, context, low, high):
            source, target = reals(x, count), reals(y, count)
            for i in range(low, high):
                target[i] = value(source[i])
            return 0

        run.__name__ = run.__qualname__ = name
        assert worker(x.dtype).run(kernel(run), 0, x.size, x=x, y=y, count=x.size) == 0
        return y

    def activation(name, x):
        graph, x = Graph(), x.reshape(-1, 64)
        node = graph.apply(name, graph.input("x", (None, 64)), **OPS[name].cases[0])
        program, backend = plan(graph, layout(x.dtype), prediction=node), CpuBackend(x.dtype)
        backend.prepare(program, len(x))
        y = np.full_like(x, np.nan)
        backend.run(program, {"x": x, "prediction": y}, steps=1, start=0, rows=len(x), batch=len(x))
        return y.ravel()

    return lambda name, x: activation(name, x) if name in ACTIVATIONS else function(name, x)


def inside(name, x):
    """Where a function promises a finite argument its value."""
    lowest = {"log": np.finfo(x.dtype).tiny, "log1p": 0}.get(name, -np.inf)
    return np.isfinite(x) & (x >= lowest)


@functions
def test_single_precision(name, evaluate):
    """Random bit patterns, so that all magnitudes come alike; and the middle of the range."""
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32).view(np.float32)
    exactly, _, bound, _ = FUNCTIONS[name]
    for x in (bits, np.random.default_rng(1).uniform(-20, 20, 2**18).astype(np.float32)):
        y, chosen = evaluate(name, x), inside(name, x)
        assert np.isnan(y[np.isnan(x)]).all()
        with np.errstate(over="ignore"):
            exact = exactly(x[chosen].astype(np.float64))
            rounded = exact.astype(np.float32)
        y, finite = y[chosen], np.isfinite(rounded)
        np.testing.assert_array_equal(y[~finite], rounded[~finite])
        error = abs(y[finite] - exact[finite]) / np.spacing(abs(rounded[finite])).astype(np.float64)
        assert error.max() <= bound


@functions
def test_double_precision(name, evaluate):
    (_, exactly, _, bound), generator = FUNCTIONS[name], np.random.default_rng(0)
    bits = generator.integers(0, 2**64, 1024, np.uint64).view(np.float64)
    errors = []
    for x in (bits, generator.uniform(-20, 20, 1024), generator.uniform(-800, 800, 1024)):
        y, chosen = evaluate(name, x), inside(name, x)
        assert np.isnan(y[np.isnan(x)]).all()
        with mpmath.workdps(40):
            for given, value in zip(x[chosen].tolist(), y[chosen].tolist(), strict=True):
                exact = exactly(mpmath.mpf(given))
                rounded = float(exact)
                if math.isinf(rounded):
                    assert value == rounded
                else:
                    errors.append(float(abs(value - exact) / math.ulp(rounded)))
    assert np.max(errors) <= bound


INFINITY, NAN = math.inf, math.nan


@pytest.mark.parametrize(("name", "points"), {
    "exp": {-INFINITY: 0, -1000: 0, 0: 1, 1000: INFINITY, INFINITY: INFINITY},
    "log": {-INFINITY: NAN, -1: NAN, 0: -INFINITY, 1: 0, INFINITY: INFINITY},
    "log1p": {0: 0, INFINITY: INFINITY},
    "expm1": {-INFINITY: -1, -1000: -1, 0: 0, 1000: INFINITY, INFINITY: INFINITY},
    "softplus": {-INFINITY: 0, -1000: 0, 1000: 1000, INFINITY: INFINITY},
    "log_sigmoid": {-INFINITY: -INFINITY, -1000: -1000, 1000: 0, INFINITY: 0},
    "tanhshrink": {-INFINITY: -INFINITY, -1000: -999, 0: 0, 1000: 999, INFINITY: INFINITY},
    "softsign": {-1: -0.5, 0: 0, 1: 0.5},
    "elu": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "celu": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "silu": {-1000: 0, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "mish": {-1000: 0, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "sigmoid": {-INFINITY: 0, -1000: 0, 0: 0.5, 1000: 1, INFINITY: 1},
    "tanh": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1, INFINITY: 1},
    "normal_cdf": {-INFINITY: 0, -1000: 0, 0: 0.5, 1000: 1, INFINITY: 1},
    "normal_pdf": {-INFINITY: 0, -1000: 0, 1000: 0, INFINITY: 0},
}.items(), ids=str)
def test_edges(name, points, dtype, evaluate):
    x, expected = (np.resize(np.array([*values, NAN], dtype), 64) for values in (points, points.values()))
    np.testing.assert_array_equal(evaluate(name, x), expected)


@pytest.mark.parametrize("name", ["tanh", "identity"])
def test_zero_keeps_its_sign(name, dtype, evaluate):
    assert np.signbit(evaluate(name, np.resize(dtype.type(-0.0), 64))).all()
