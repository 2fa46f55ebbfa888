"""Elementary functions for the loops of kernels: no branch, no table, no call, so that loops over them vectorise.

Each is a plain formula over `real` values; float literals are `real`. Polynomials were fitted at Chebyshev nodes with
50 digits (tests/test_elementary.py derives them again). Splitting constants for ln 2 are those of Cephes (S. Moshier).
"""

from ._primitives import ByPrecision, chop, exp2i, exponent, fma, horner, mantissa, select

_INFINITY = float("inf")
_NAN = float("nan")
_LOG2E = 1.4426950408889634
_LN2 = ByPrecision(single=(0.693359375, -2.12194440e-4), double=(6.93145751953125e-1, 1.42860682030941723212e-6))
_RANGE = ByPrecision(single=(-104.0, 89.0), double=(-746.0, 710.0))  # beyond: exp is 0, infinite
_ROUND = ByPrecision(single=(1.5 * 2.0**23,), double=(1.5 * 2.0**52,))  # adding it drops the fraction
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
# (1 + 2u) exp(u**2) erfc(u) as a function of (u - K) / (u + K), K = 3.75 (Shepherd and Laframboise 1981)
_ERFCX = ByPrecision(
    single=(1.237512618462571671, -0.140240608010006919, 0.00358631010168885169, 0.08227741756036867103,
            -0.108814584961741436, 0.09229636796120300134, -0.05864598286771249598, 0.02839648212065826801,
            -0.00984549109495929539, 0.001688662231115674536, 0.0003967046382800548906, -0.000228747233590847735),
    double=(1.237512630837827527, -0.1402405985855470144, 0.003585415485479575166, 0.08227673849014977256,
            -0.1088039301424664478, 0.09230432116025893611, -0.05869339857631061253, 0.02836227742037733368,
            -0.009746579685962171614, 0.001755625843431864142, 0.0002937143905788559806, -0.0002901540420335270398,
            0.00005164649341002876966, 0.00002238413852565675639, -0.00001143798037449553408,
            -9.733875167494142857e-7, 1.741901194519436625e-6, -5.741076073013915709e-8, -2.485110865021070613e-7,
            2.339853431304089694e-8, 3.195398612057818066e-8, -3.798189797736207192e-9, -2.618520156503144799e-9,
            3.205262337928915708e-10))


def rint(x):
    """The integer nearest to x, for |x| < 2**22."""
    return (x + _ROUND[0]) - _ROUND[0]


def exp_parts(high, low):
    """(m, k) with exp(high + low) - 1 = 2**k * m + (2**k - 1), k integral; `low` is small against `high`."""
    x = select(high < _RANGE[0], _RANGE[0], select(high > _RANGE[1], _RANGE[1], high))
    k = rint(x * _LOG2E)
    k = select(k == k, k, 0.0)  # NaN goes on in m alone
    r = fma(-k, _LN2[1], fma(-k, _LN2[0], x)) + low
    return fma(r * r, horner(r, _EXP), r), k


def exp_sum(high, low):
    """exp(high + low), accurate to the last bits of an unevaluated sum."""
    m, k = exp_parts(high, low)
    half = rint(k * 0.5)  # two factors, since 2**k alone leaves the range for the smallest and largest results
    return (m + 1.0) * exp2i(half) * exp2i(k - half)


def exp(x):
    """e**x, gradual to 0 below and infinite above the range of the type."""
    return exp_sum(x, 0.0)


def log(x):
    """ln x for positive normal x; -inf at 0, NaN below."""
    safe = select(x > 0.0, select(x < _INFINITY, x, 1.0), 1.0)
    k, f = exponent(safe), mantissa(safe)
    large = f > 1.4142135
    k, f = select(large, k + 1.0, k), select(large, 0.5 * f, f) - 1.0
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    inner = fma(s, half + z * horner(z, _LOG), k * _LN2[1])
    value = fma(k, _LN2[0], f - (half - inner))
    edge = select(x > 0.0, x, select(x == 0.0, -_INFINITY, _NAN))
    return select(x > 0.0, select(x < _INFINITY, value, edge), edge)


def log1p(x):
    """ln(1 + x) for x >= -1, accurate near 0 (W. Kahan's correction of the rounded sum)."""
    w = 1.0 + x
    return select(x < _INFINITY, log(w) + select(w > 0.0, (x - (w - 1.0)) / w, 0.0), x)


def sigmoid(x):
    """1 / (1 + exp(-x)), relative accuracy at both ends."""
    e = exp(select(x < 0.0, x, -x))
    return select(x < 0.0, e, 1.0) / (1.0 + e)


def sigmoid_slope(x):
    """s(x) (1 - s(x)) without the cancellation of 1 - s."""
    e = exp(select(x < 0.0, x, -x))
    q = 1.0 / (1.0 + e)
    return e * q * q


def tanh(x):
    """(exp(2a) - 1) / (exp(2a) + 1) with a = |x|, from exp(2a) - 1 without cancellation."""
    a = select(x < 0.0, -x, x)
    a = select(a > 20.0, 20.0, a)  # 1 to the last bit of either type
    m, k = exp_parts(2.0 * a, 0.0)
    power = exp2i(k)
    e = fma(power, m, power - 1.0)
    t = e / (e + 2.0)
    return select(a == 0.0, x, select(x < 0.0, -t, t))


def half_square_exp(x):
    """exp(-x*x/2), the square split so that its rounding error does not grow."""
    limit = 40.0
    a = select(x < 0.0, -x, x)
    a = select(a > limit, limit, a)
    h = chop(a)
    return exp_sum(-0.5 * (h * h), -0.5 * ((a - h) * (a + h)))


def normal_pdf(x):
    """Density of the standard normal distribution."""
    return 0.3989422804014327 * half_square_exp(x)


def normal_cdf(x):
    """P(Z <= x) = erfc(-x / sqrt 2) / 2 for a standard normal Z, relative accuracy in the lower tail."""
    a = select(x < 0.0, -x, x)
    a = select(a > 40.0, 40.0, a)
    u = a * 0.7071067811865476
    tail = 0.5 * half_square_exp(a) * horner((u - 3.75) / (u + 3.75), _ERFCX) / (1.0 + 2.0 * u)
    return select(x < 0.0, tail, 1.0 - tail)
