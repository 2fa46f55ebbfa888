"""Exponentials, logarithms and powers. Splitting constants for ln 2 are those of Cephes (S. Moshier)."""

from ._primitives import DOUBLE, ROUND, ByPrecision, exp2i, exponent, fma, mantissa, polynomial, select
from ._sums import product_sum, quotient, two_product, two_sum, two_sum_ordered

_INFINITY = float("inf")
_NAN = float("nan")
_LOG2E = 1.4426950408889634
_LN2 = ByPrecision(single=(0.693359375, -2.12194440e-4), double=(6.93145751953125e-1, 1.42860682030941723212e-6))
_EXP_RANGE = ByPrecision(single=(-105.0, 89.0), double=(-746.0, 710.0))  # beyond it exp is 0 or infinite
LIFT, LOWERED = 96, 2.0**-96  # exp(n) 2**LIFT is a normal number for n >= LEAST; its inverse
LEAST = ByPrecision(single=(-110.0,), double=(-752.0,))  # up to here n exp(n) is 0
RAISED = ByPrecision(single=(2.0**-24,), double=(2.0**-53,))  # times `exp_raised`, it is exp
_GONE = ByPrecision(single=(-104.0,), double=(-745.2,))  # below it exp rounds to 0
_WHOLE = ByPrecision(single=(2.0**23,), double=(2.0**52,))  # from here on all numbers are integers
_NORMAL = ByPrecision(single=(2.0**-126,), double=(2.0**-1022,))  # the smallest normal number
# (exp(r) - 1 - r) / r**2 for |r| <= ln(2)/2
_EXP = ByPrecision(
    single=(0.5, 0.1666657630556063827, 0.0416665537625676384, 0.008363292753030602311, 0.00139263256181334621),
    double=(0.5000000000000001042, 0.1666666666666666747, 0.04166666666662347676, 0.008333333333330011761,
            0.001388888891753829585, 0.000198412698633032233, 0.00002480152079257269284, 2.755726807289009826e-6,
            2.762032742826823816e-7, 2.510056927581368263e-8))
# 2 (atanh(s) - s) / s**3 as a function of s**2, for the logarithm of [sqrt(1/2), sqrt(2)]
_LOG = ByPrecision(
    single=(0.6666666654988317655, 0.4000012559455436709, 0.2855039695961801358, 0.2334194338871456087),
    double=(0.6666666666666666645, 0.4000000000000094127, 0.2857142857076445012, 0.222222224005477573,
            0.1818179470089779959, 0.1538629053465899199, 0.132674185964748834, 0.1310072138350349139))
_LOG_FIRST = ByPrecision(  # its first coefficient as an unevaluated sum
    single=(0.6666666865348816, -2.103604982629638626e-8), double=(0.6666666666666666, 3.482061674838672546e-17))
# (ln(1 + e) - e + e**2 / 2) / e**3 for 0 <= e <= 1
_LOG1P = ByPrecision(
    single=(0.3333333290145983812, -0.2499991323137701225, 0.1999707048809935025, -0.1662750935221437895,
            0.1401282844147583251, -0.1136546878136268586, 0.08062151639504573867, -0.04379907849887034693,
            0.01532625917700176764, -0.002504923436839683544),
    double=(0.333333333333333324, -0.2499999999999917981, 0.1999999999987905719, -0.1666666665955038052,
            0.1428571406291741936, -0.124999957078198063, 0.1111105559684279785, -0.099994894469318187,
            0.09087433233277973709, -0.08315293402254426972, 0.07619326311871891122, -0.06908669593699845424,
            0.06061944803668477892, -0.04976892288128594798, 0.0366725988059005377, -0.02317474770837094112,
            0.01196836491107236163, -0.004780308065566415395, 0.001371514566654392384, -0.0002498554919183404306,
            0.00002161110810474942789))


def clamp(x, low, high):
    """x, or the bound beyond which it lies; NaN stays NaN."""
    below = select(x > high, high, x)
    return select(below < low, low, below)


def scale(y, t):
    """y * 2**k, gradual to 0, for t = k + ROUND; in two factors, since 2**k alone may leave the range."""
    down = t < ROUND
    return y * exp2i(t + select(down, 64.0, -64.0), 0) * select(down, 2.0**-64, 2.0**64)


def exp_parts(x):
    """(m, t) with exp(x) = (1 + m) 2**k and t = k + ROUND; a NaN goes on in m."""
    t = fma(x, _LOG2E, ROUND)
    k = t - ROUND
    r = fma(-k, _LN2[1], fma(-k, _LN2[0], x))
    return fma(r * r, polynomial(r, _EXP), r), t


def exp_sum_parts(high, low):
    """As `exp_parts`, for an unevaluated sum."""
    t = fma(high, _LOG2E, ROUND)
    k = t - ROUND
    r, rest = two_sum_ordered(fma(-k, _LN2[0], high), fma(-k, _LN2[1], low))
    return r + fma(r * r, polynomial(r, _EXP), rest), t


def left(x, least):
    """-|x|, or `least` where that is more."""
    n = -abs(x)
    return select(n < least, least, n)


def exp_lifted(n):
    """exp(n) 2**LIFT for LEAST <= n <= 0."""
    m, t = exp_parts(n)
    power = exp2i(t, LIFT)
    return fma(m, power, power)


def exp_raised(n):
    """exp(n) over RAISED for n <= 0: a normal number, or 0 where exp(n) rounds to 0; for shares of a sum of such."""
    m, t = exp_parts(n)
    power = exp2i(t, 53 if DOUBLE else 24)
    return select(n < _GONE[0], 0.0, fma(m, power, power))


def exp(x):
    """e**x, gradual to 0 and infinite above the range of the type."""
    m, t = exp_parts(clamp(x, _EXP_RANGE[0], _EXP_RANGE[1]))
    return scale(m + 1.0, t)


def exp_sum(high, low):
    """exp(high + low) for an unevaluated sum."""
    m, t = exp_sum_parts(clamp(high, _EXP_RANGE[0], _EXP_RANGE[1]), low)
    return scale(m + 1.0, t)


def expm1(x):
    """e**x - 1, accurate near 0; computed as half of it, which is in the range of the type for longer."""
    m, t = exp_parts(clamp(x, -40.0, _EXP_RANGE[1]))
    power = exp2i(t, -1)
    return select(x * x == 0.0, x, 2.0 * fma(power, m, power - 0.5))


def log_parts(x):
    """(k, f) with x = 2**k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)], for positive finite x."""
    small = x < _NORMAL[0]
    x = select(small, x * 2.0**54, x)
    return exponent(x) - select(small, 54.0, 0.0), mantissa(x) - 1.0


def log_near(x, rest):
    """ln(x (1 + rest)) for positive finite x; `rest` is in the last places."""
    k, f = log_parts(x)
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    inner = fma(s, half + z * polynomial(z, _LOG), fma(k, _LN2[1], rest))
    return fma(k, _LN2[0], f - (half - inner))


def log_sum(x):
    """ln x as an unevaluated sum, for positive finite x."""
    k, f = log_parts(x)
    over, over_low = two_sum_ordered(2.0, f)
    s, s_low = quotient(f, -0.0, over, over_low)
    z, z_low = two_product(s, s)
    z_low = fma(2.0 * s, s_low, z_low)
    a, a_low = two_sum_ordered(_LOG_FIRST[0], _LOG_FIRST[1] + z * polynomial(z, _LOG[1:]))
    b, b_low = two_product(s, z)
    c, c_low = two_product(a, b)
    c_low += a * (b_low + s * z_low + s_low * z) + a_low * b
    high, low = two_sum_ordered(2.0 * s, c)
    top, top_low = two_sum(k * _LN2[0], high)
    return top, top_low + (low + fma(k, _LN2[1], fma(2.0, s_low, c_low)))


def log_edges(x, value):
    """`value` for positive finite x, and what ln x is elsewhere: -inf at 0, NaN below."""
    return select(x > 0.0, select(x < _INFINITY, value, x), select(x == 0.0, -_INFINITY, _NAN))


def log(x):
    """ln x; -inf at 0, NaN below."""
    return log_edges(x, log_near(x, -0.0))


def log1p(x):
    """ln(1 + x), accurate near 0; -inf at -1, NaN below. What 1 + x loses comes back to first order (W. Kahan)."""
    w = 1.0 + x
    return select(x == 0.0, x, log_edges(w, log_near(w, (x - (w - 1.0)) / w)))


def exp_left(x):
    """exp(-|x|), lifted."""
    return exp_lifted(left(x, LEAST[0]))


def softplus_end(x, lifted):
    """`softplus` from `exp_left`."""
    e = lifted * LOWERED
    high, low = product_sum(lifted, fma(e * e, polynomial(e, _LOG1P), -0.5 * e), lifted)
    return fma(high, LOWERED, fma(low, LOWERED, select(x < 0.0, 0.0, x)))


def softplus(x):
    """ln(1 + e**x) = max(x, 0) + ln(1 + e**-|x|)."""
    return softplus_end(x, exp_left(x))


def pow(x, y):
    """x**y with the special cases of C (C99 F.9.4.4, IEEE 754): pow(x, 0) = pow(1, y) = 1 also for NaN.

    A negative x has a power for an integral y; that of an infinite y has no sign.
    """
    a, b = abs(x), abs(y)
    high, low = log_sum(a)
    high = log_edges(a, high)
    p, rest = two_product(y, high)
    size = exp_sum(p, select(p * p < 1e6, rest + y * low, 0.0))
    size = select(a == 1.0, 1.0, size)
    odd = (whole(b) == b) & (whole(0.5 * b) != 0.5 * b)
    value = select(odd & ((x < 0.0) | (1.0 / x < 0.0)), -size, size)
    value = select((x < 0.0) & (x > -_INFINITY) & (whole(b) != b), _NAN, value)
    return select((x == 1.0) | (y == 0.0), 1.0, value)


def whole(x):
    """The integer nearest to x >= 0."""
    return select(x < _WHOLE[0], (x + _WHOLE[0]) - _WHOLE[0], x)
