"""Elementary functions: the largest errors in units in the last place, and the edges."""

import itertools
import math

import accuracy
import mpmath
import numpy as np
import pytest

from hotloop.kernels import _jit, elementary
from hotloop.kernels._jit import kernel
from hotloop.kernels._primitives import reals

# Errors


def exact_cdf(x):
    return mpmath.erfc(-max(-1000, min(x, 1000)) / mpmath.sqrt(2)) / 2  # 0 and 1 in float64 long before


def exact_gelu_tanh(x):
    return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


def exact_tanhshrink(x):
    return x**3 / 3 if abs(x) < 1e-9 else x - mpmath.tanh(x)


def exact_mish(x):
    return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
# What judges float64, and the largest error in units in the last place: measured, with and without fused
# multiply-adds, and rounded up.
FUNCTIONS = {
    "exp": (mpmath.exp, 2),
    "expm1": (mpmath.expm1, 2),
    "log": (mpmath.log, 1),
    "log1p": (mpmath.log1p, 1),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), 2),
    "softplus": (lambda x: x if x > 20 else mpmath.log1p(mpmath.exp(x)), 2),
    "tanh": (mpmath.tanh, 2),
    "sin": (mpmath.sin, 2),
    "cos": (mpmath.cos, 2),
    "erf": (mpmath.erf, 2),
    "normal_cdf": (exact_cdf, 2),
    "normal_pdf": (lambda x: mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi), 2),
    "identity": (lambda x: x, 0),
    "relu": (lambda x: max(x, 0), 0),
    "leaky_relu": (lambda x: x if x > 0 else x * mpmath.mpf(float(np.float32(0.01))), 1),
    "gelu": (lambda x: x * exact_cdf(x), 2),
    "gelu_tanh": (exact_gelu_tanh, 2),
    "threshold": (lambda x: max(x, 0), 0),
    "hardtanh": (lambda x: max(-1, min(x, 1)), 0),
    "hardsigmoid": (lambda x: max(0, min((x + 3) / 6, 1)), 1),
    "hardswish": (lambda x: x * max(0, min((x + 3) / 6, 1)), 2),
    "hardshrink": (lambda x: 0 if abs(x) <= 0.5 else x, 0),
    "softshrink": (lambda x: x - max(-0.5, min(x, 0.5)), 1),
    "log_sigmoid": (lambda x: -mpmath.log1p(mpmath.exp(-x)), 2),
    "tanhshrink": (exact_tanhshrink, 2),
    "softsign": (lambda x: x / (1 + abs(x)), 2),
    "elu": (lambda x: x if x > 0 else mpmath.expm1(x), 2),
    "celu": (lambda x: x if x > 0 else mpmath.expm1(x), 2),
    "selu": (lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mpmath.expm1(x)), 2),
    "silu": (lambda x: x / (1 + mpmath.exp(-x)), 2),
    "mish": (exact_mish, 2),
    "square": (lambda x: x * x, 1),
    "reciprocal": (lambda x: 1 / x, 1),
    "sqrt": (mpmath.sqrt, 1),
    "absolute": (abs, 0),
    "negative": (lambda x: -x, 0),
    "sign": (mpmath.sign, 0),
    "detach": (lambda x: x, 0),
}


@pytest.mark.parametrize(("x", "y", "exact", "findings"), [
    (1, 1, 1, (0, 0, "none")), (1, 1, 1 + 2.0**-25, (0.5, 0, "none")), (1, 1 + 2.0**-22, 1, (2, 0, "none")),
    (1, -(2.0**-149), 2.0**-149, (2, 0, "gradual")), (1, 0, 2.0**-140, (2.0**9, 0, "flushed")),
    (1, math.inf, 2.0**127, (2.0**23, 0, "none")), (1, 2.0**127, 1e300, (2.0**23, 0, "none")),
    (math.inf, 1, math.inf, (0, 1, "none")), (1, math.nan, 1, (0, 1, "none")), (1, 1, math.nan, (0, 1, "none")),
    (1, -math.nan, math.nan, (0, 0, "none")), (1, -0.0, 0, (0, 1, "none"))])
def test_judge(x, y, exact, findings):
    x, y = np.array([[1, x, 1], [1, y, 1]], np.float32)
    found = accuracy.judge(x, y, np.array([1, exact, 1.0]))
    assert (found.error, found.wrong, found.subnormals) == findings
    assert not found.error or found.at == x[1]


def test_every_function_is_judged():
    assert set(FUNCTIONS) >= set(accuracy.names())


@pytest.mark.parametrize("heading", ["With fused multiply-adds", "Without fused multiply-adds"])
def test_every_function_is_published(heading):
    """And nothing else. Add what is missing, and take up what has changed, by running tests/accuracy.py."""
    published = accuracy.published(heading)
    assert set(published) == set(accuracy.names())
    assert all(float(error) <= 2 and wrong == "0" for error, _, wrong, *_ in published.values())


EDGES = [0, 1, 2, 0x7fffff, 0x800000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000]  # bits from zero to NaN


@pytest.mark.parametrize("name", accuracy.names())
def test_single_precision(name):
    """Random bit patterns, so that all magnitudes come alike, and the edges among them; and the middle of the range."""
    error, _, wrong, subnormals, *_ = accuracy.published(accuracy.section())[name]
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32)
    bits[: 2 * len(EDGES)] = [edge | sign for edge in EDGES for sign in (0, 1 << 31)]
    evaluate, exactly = accuracy.compiled(name, np.float32), accuracy.reference(name)
    for x in (bits.view(np.float32), np.random.default_rng(1).uniform(-20, 20, 2**18).astype(np.float32)):
        with np.errstate(all="ignore"):
            findings = accuracy.judge(x, evaluate(x), exactly(x.astype(np.float64)))
        assert findings.error <= float(error)
        assert findings.wrong <= int(wrong)
        assert findings.subnormals in (subnormals, "none")


@pytest.mark.parametrize("name", accuracy.names())
def test_double_precision(name):
    (exactly, bound), generator = FUNCTIONS[name], np.random.default_rng(0)
    bits = generator.integers(0, 2**64, 1024, np.uint64).view(np.float64)
    spread = np.ldexp(generator.uniform(-1, 1, 1024), generator.integers(-60, 80, 1024))
    evaluate = accuracy.compiled(name, np.float64)
    for x in (bits, spread, generator.uniform(-20, 20, 1024), generator.uniform(-800, 800, 1024)):
        y = evaluate(x)
        assert np.isnan(y[np.isnan(x)]).all()
        inside = np.isfinite(x) & (x > {"log": 0, "log1p": -1, "sqrt": 0}.get(name, -np.inf))
        if name in ("sin", "cos"):
            inside &= abs(x) < 2.0**80
        with mpmath.workdps(60):
            assert max(distance(*pair, exactly) for pair in zip(x[inside], y[inside], strict=True)) <= bound


def distance(x, y, exactly):
    """Units in the last place between y and the exact value at x; infinity counts as 2**1024."""
    exact = exactly(mpmath.mpf(float(x)))
    limit = mpmath.mpf(2) ** 1024
    unit = math.ulp(float(max(-limit * (1 - 2.0**-53), min(exact, limit * (1 - 2.0**-53)))))
    y = mpmath.mpf(float(y)) if math.isfinite(y) else math.copysign(1, y) * limit
    return float(abs(y - max(-limit, min(exact, limit))) / unit)


def near_quarters(digits, exponents):
    """The numbers m 2**e, m < 2**digits, that are nearest to a multiple of pi / 2: m is a convergent's denominator."""
    with mpmath.workdps(120):
        for e in exponents:
            rest, m, before = mpmath.ldexp(2 / mpmath.pi, e), 1, 0
            while m < 2**digits:
                yield math.ldexp(m, e)
                rest = 1 / (rest - mpmath.floor(rest))
                m, before = int(mpmath.floor(rest)) * m + before, m


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_arguments_near_multiples_of_a_quarter_turn(name, dtype):
    digits, exponents = (24, range(-23, 105)) if dtype == np.float32 else (53, range(-52, 28))
    x = np.array([*near_quarters(digits, exponents)]).astype(dtype)
    y = accuracy.compiled(name, dtype)(np.resize(x, -(-x.size // 64) * 64))[: x.size].astype(np.float64)
    with mpmath.workdps(120):
        exact = [getattr(mpmath, name)(mpmath.mpf(float(value))) for value in x]
        units = [float(np.spacing(dtype.type(abs(float(value))))) for value in exact]
        assert all(abs(given - value) <= 2 * unit + 2.0**-104
                   for given, value, unit in zip(y, exact, units, strict=True))


# Powers


def power(x, y):
    """The compiled x**y."""
    z, value = np.full_like(x, np.nan), elementary.pow

    def power(x, y, z, context, low, high):
        base, exponent, target = reals(x, high), reals(y, high), reals(z, high)
        for i in range(low, high):
            target[i] = value(base[i], exponent[i])
        return 0

    cells = np.array([0] * _jit.HEADER + [array.ctypes.data for array in (x, y, z)])
    assert _jit.caller(kernel(power), x.dtype)(cells.ctypes.data, 0, 0, x.size) == 0
    return z


def test_power_in_single_precision():
    """Results of all magnitudes, from bases of all magnitudes, near 1 among them; and integral powers."""
    generator = np.random.default_rng(0)
    x = abs(generator.integers(0, 2**31, 2**20, np.uint32).view(np.float32))
    x = np.where(np.isfinite(x) & (x > 0), x, np.float32(0.3))
    x[::2] = np.exp2(generator.uniform(-1, 1, 2**19) * np.exp2(generator.uniform(-22, 2, 2**19)))
    with np.errstate(all="ignore"):
        y = (generator.uniform(-105, 90, 2**20) / np.log(x.astype(np.float64))).astype(np.float32)
        y[::3] = np.rint(y[::3])
        x[::6] *= -1
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        findings = accuracy.judge(x, power(x, y), exact)
    assert findings.error <= 1.5
    assert findings.wrong == 0
    assert findings.subnormals == "gradual"


def test_power_in_double_precision():
    generator = np.random.default_rng(0)
    x = np.exp2(generator.uniform(-1, 1, 2048) * np.exp2(generator.uniform(-40, 10, 2048)))
    y = generator.uniform(-745, 709.7, 2048) / np.log(x)
    with mpmath.workdps(60):
        assert max(distance(base, value, lambda x, y=exponent: x ** mpmath.mpf(float(y)))
                   for base, exponent, value in zip(x, y, power(x, y), strict=True)) <= 1.5


def test_special_powers(dtype):
    """NumPy's, which are those of C: every pair of numbers that some rule names."""
    largest, smallest = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    odd = 2.0 ** (24 if dtype == np.float32 else 53) - 1
    numbers = [0, smallest, 0.5, 1, 1.5, 2, 3, 4, odd, odd + 1, 2 * odd + 2, largest, math.inf, math.nan]
    numbers = [sign * number for number in numbers for sign in (1.0, -1.0)]
    x, y = np.array([*itertools.product(numbers, repeat=2)], dtype).T.copy()
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    z = power(x, y)
    np.testing.assert_allclose(z, expected, rtol=4 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_array_equal(np.signbit(z)[~np.isnan(z)], np.signbit(expected)[~np.isnan(z)])


# Edges

INFINITY, NAN = math.inf, math.nan


@pytest.mark.parametrize(("name", "points"), {
    "exp": {-INFINITY: 0, -1000: 0, 0: 1, 1000: INFINITY, INFINITY: INFINITY},
    "expm1": {-INFINITY: -1, -1000: -1, 0: 0, 1000: INFINITY, INFINITY: INFINITY},
    "log": {-INFINITY: NAN, -1: NAN, 0: -INFINITY, 1: 0, INFINITY: INFINITY},
    "log1p": {-INFINITY: NAN, -2: NAN, -1: -INFINITY, 0: 0, INFINITY: INFINITY},
    "log_sigmoid": {-INFINITY: -INFINITY, -1000: -1000, 1000: 0, INFINITY: 0},
    "tanhshrink": {-INFINITY: -INFINITY, -1000: -999, 0: 0, 1000: 999, INFINITY: INFINITY},
    "softsign": {-1: -0.5, 0: 0, 1: 0.5},
    "elu": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "celu": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "silu": {-INFINITY: 0, -1000: 0, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "mish": {-INFINITY: 0, -1000: 0, 0: 0, 1000: 1000, INFINITY: INFINITY},
    "sigmoid": {-INFINITY: 0, -1000: 0, 0: 0.5, 1000: 1, INFINITY: 1},
    "softplus": {-INFINITY: 0, -1000: 0, 100: 100, 1000: 1000, INFINITY: INFINITY},
    "tanh": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1, INFINITY: 1},
    "sin": {-INFINITY: NAN, 0: 0, INFINITY: NAN},
    "cos": {-INFINITY: NAN, 0: 1, INFINITY: NAN},
    "erf": {-INFINITY: -1, -1000: -1, 0: 0, 1000: 1, INFINITY: 1},
    "normal_cdf": {-INFINITY: 0, -1000: 0, 0: 0.5, 1000: 1, INFINITY: 1},
    "normal_pdf": {-INFINITY: 0, -1000: 0, 1000: 0, INFINITY: 0},
    "gelu": {-INFINITY: 0, -1000: 0, -40: 0, 0: 0, 10: 10, 40: 40, 1000: 1000, INFINITY: INFINITY},
    "gelu_tanh": {-INFINITY: 0, -1000: 0, -40: 0, 0: 0, 10: 10, 40: 40, 1000: 1000, INFINITY: INFINITY},
}.items(), ids=str)
def test_edges(name, points, dtype):
    x, expected = (np.resize(np.array([*values, NAN], dtype), 64) for values in (points, points.values()))
    np.testing.assert_array_equal(accuracy.compiled(name, dtype)(x), expected)


@pytest.mark.parametrize("name", [
    "expm1", "log1p", "tanh", "tanhshrink", "sin", "erf", "identity", "elu", "celu", "selu", "gelu", "gelu_tanh",
    "silu", "mish"])
def test_zero_keeps_its_sign(name, dtype):
    x = np.resize(np.array([-0.0, 0.0], dtype), 64)
    y = accuracy.compiled(name, dtype)(x)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


def test_logarithms_of_subnormal_numbers(dtype):
    x = np.resize(np.finfo(dtype).smallest_subnormal * np.array([1, 2, 3, 1000], dtype), 64)
    np.testing.assert_allclose(accuracy.compiled("log", dtype)(x), np.log(x.astype(np.longdouble)).astype(dtype),
                               rtol=np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_neighbours_do_not_change_a_bit(name, dtype):
    """A block of small arguments takes the short reduction, one with a large argument among them the general one."""
    bound = 2.0 ** (13 if dtype == np.float32 else 20)
    x = np.random.default_rng(0).uniform(-bound, bound, 2**14).astype(dtype)
    mixed, evaluate = x.copy(), accuracy.compiled(name, dtype)
    mixed[::64] = 1e20
    same = mixed == x
    np.testing.assert_array_equal(evaluate(mixed)[same], evaluate(x)[same])


def test_sines_beyond_the_range_of_single_precision():
    """Are not a number, rather than a wrong one."""
    assert np.isnan(accuracy.compiled("sin", np.float64)(np.full(64, 1e39))).all()
