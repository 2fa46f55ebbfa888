"""The coefficients of the elementary functions, derived again with 50 digits and more."""

import importlib
import math

import mpmath
import pytest

from hotloop.kernels import exponential, gates, trigonometry


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


def log1p_rest(e):
    """(ln(1 + e) - e + e**2 / 2) / e**3."""
    return (mpmath.log1p(e) - e + e * e / 2) / e**3


def tail_rest(t):
    """((1 + a) exp(a**2 / 2) P(Z > a) - 1/2) / w for w = a / (a + 5) = (1 + t) / 2."""
    w = (1 + t) / 2
    a = 5 * w / (1 - w)
    return ((1 + a) * mpmath.exp(a * a / 2) * mpmath.erfc(a / mpmath.sqrt(2)) - 1) / (2 * w)


def erf_rest(z):
    """(erf(x) - x) / x for x**2 = z."""
    return mpmath.erf(mpmath.sqrt(z)) / mpmath.sqrt(z) - 1


def sin_rest(z):
    """(sin(r) - r) / r**3 for r**2 = z."""
    r = mpmath.sqrt(z)
    return (mpmath.sin(r) - r) / r**3


def cos_rest(z):
    """(cos(r) - 1) / r**2 for r**2 = z."""
    return (mpmath.cos(mpmath.sqrt(z)) - 1) / z


def tail_interval(precision):
    far = mpmath.mpf({"single": 14.5, "double": 40}[precision])
    return -1, (far - 5) / (far + 5)


def quarter_interval(_):
    return 0, (mpmath.pi / 4) ** 2 * mpmath.mpf("1.01")


def log_interval(_):
    return 0, (3 - 2 * mpmath.sqrt(2)) ** 2 * mpmath.mpf("1.01")


def erf_far(precision):
    return mpmath.mpf({"single": "3.95", "double": "5.95"}[precision])


def unit_interval(_):
    return 0, mpmath.mpf("1.01")


def tanh_rest(z):
    """(x - tanh x) / x**3 for x**2 = z."""
    x = mpmath.sqrt(z)
    return (x - mpmath.tanh(x)) / x**3


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(("name", "function", "interval"), [
    ("exponential._EXP", exp_rest, lambda _: [sign * mpmath.log(2) / 2 * mpmath.mpf("1.002") for sign in (-1, 1)]),
    ("exponential._LOG", log_rest, log_interval),
    ("exponential._LOG1P", log1p_rest, lambda _: [0, 1]),
    ("gates._ERF", erf_rest, lambda _: [0, 1]),
    ("gates._ERFC", lambda a: mpmath.log(mpmath.erfc(a)), lambda precision: [1, erf_far(precision)]),
    ("gates._TAIL", tail_rest, tail_interval),
    ("gates._TANH", tanh_rest, unit_interval),
    ("gates._TANH_SHORT", tanh_rest, lambda _: [0, mpmath.mpf("0.0925")]),
    ("trigonometry._SIN", sin_rest, quarter_interval),
    ("trigonometry._COS", cos_rest, quarter_interval)])
def test_coefficients(name, function, interval, precision):
    module, _, name = name.partition(".")
    table = read(importlib.import_module(f"hotloop.kernels.{module}"), name, precision)
    with mpmath.workdps(60):
        derived = interpolated(function, *map(mpmath.mpf, interval(precision)), len(table) - 1)
        assert max(abs(given / exact - 1) for given, exact in zip(table, derived, strict=True)) <= 2.0**-52


def first(module, name, function, interval):
    """The exact first coefficient of a table, for a precision."""
    return lambda precision: interpolated(function, *interval(precision), len(read(module, name, precision)) - 1)[0]


@pytest.mark.parametrize(("precision", "digits"), [("single", 24), ("double", 53)])
@pytest.mark.parametrize(("module", "name", "exact"), [
    (exponential, "_LOG_FIRST", first(exponential, "_LOG", log_rest, log_interval)),
    (gates, "_TANH_FIRST", first(gates, "_TANH", tanh_rest, unit_interval)),
    (gates, "_GELU_THIRD", lambda _: 2 * mpmath.sqrt(2 / mpmath.pi) * mpmath.mpf("0.044715")),
], ids=["log", "tanh", "gelu cube"])
def test_unevaluated_constants(module, name, exact, precision, digits):
    high, low = read(module, name, precision)
    with mpmath.workdps(60):
        value = exact(precision)
        assert abs(mpmath.mpf(high) / value - 1) <= 2.0**-digits
        assert abs((mpmath.mpf(high) + mpmath.mpf(low)) / value - 1) <= 2.0 ** (2 - 2 * digits)


def read(module, name, precision):
    table = getattr(module, name)
    return table.single if precision == "single" else table


@pytest.mark.parametrize("precision", ["single", "double"])
def test_gelu_scale(precision):
    """In a short number, so that sums with it are exact, and what remains."""
    short, rest = read(gates, "_GELU_FIRST", precision)
    digits = 13 if precision == "single" else 27
    assert math.ldexp(short, digits) % 1 == 0
    with mpmath.workdps(60):
        assert abs((short + mpmath.mpf(rest)) / (2 * mpmath.sqrt(2 / mpmath.pi)) - 1) <= 2.0**-52 * rest / short


@pytest.mark.parametrize("pieces", ["_LONG", "_SHORT"])
@pytest.mark.parametrize(("precision", "digits"), [("single", 24), ("double", 53)])
def test_half_pi(pieces, precision, digits):
    """All pieces are numbers of the type, and the short ones leave room for the multiples that are taken of them."""
    table = read(trigonometry, pieces, precision)
    with mpmath.workdps(100):
        total = sum(map(mpmath.mpf, table))
        assert 0 <= 1 - total / (mpmath.pi / 2) <= 2.0 ** (-2 * digits - 16)
    room = math.ceil(math.log2(read(trigonometry, "NEAR", precision)[0] / (math.pi / 2))) if pieces == "_SHORT" else 0
    assert all((int(math.ldexp(piece, 200)).bit_length() - trailing(int(math.ldexp(piece, 200)))) <= digits - room
               for piece in table[:-1])


def trailing(number):
    """Zeros at the end of a number's binary digits."""
    return (number & -number).bit_length() - 1


def test_two_over_pi():
    with mpmath.workdps(100):
        assert mpmath.floor(2 / mpmath.pi * mpmath.mpf(2) ** 200) == trigonometry._TWO_OVER_PI
    pieces = [getattr(trigonometry, f"_P{i}") for i in range(8)]
    assert sum(int(mpmath.ldexp(piece, 200)) for piece in pieces) == trigonometry._TWO_OVER_PI
