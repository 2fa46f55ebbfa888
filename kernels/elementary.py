"""Elementary functions for the loops of kernels: no branch, no table, no call, so that loops over them vectorise.

Each is a plain formula over `real` values; float literals are `real`. docs/accuracy.md says how far they lie from the
exact values. Polynomials were fitted at Chebyshev nodes with 50 digits (tests/test_elementary.py derives them again).
Splitting constants for ln 2 are those of Cephes (S. Moshier).
"""

import numpy as np

from ._primitives import DOUBLE, ByPrecision, chop, exp2i, exponent, fma, horner, mantissa, real, select
from ._sums import quotient, two_product, two_sum, two_sum_ordered

_INFINITY = float("inf")
_NAN = float("nan")
_LOG2E = 1.4426950408889634
_LN2 = ByPrecision(single=(0.693359375, -2.12194440e-4), double=(6.93145751953125e-1, 1.42860682030941723212e-6))
EXP_RANGE = ByPrecision(single=(-150.0, 89.0), double=(-850.0, 710.0))  # beyond: exp is 0, also 1e9 times it; infinite
_ROUND = ByPrecision(single=(1.5 * 2.0**23,), double=(1.5 * 2.0**52,))  # adding it drops the fraction
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
# (erf(x) - x) / x as a function of x**2, for |x| <= 1
_ERF = ByPrecision(
    single=(0.1283791670946767327, -0.3761263888963530677, 0.1128379130860458145, -0.02686613323509559156,
            0.005223783477189248115, -0.0008542637997087229627, 0.0001195656256820732956, -0.00001390934002187459859,
            1.058938064107501918e-6),
    double=(0.1283791670955125739, -0.3761263890318375246, 0.1128379167095512563, -0.02686617064513121852,
            0.005223977625441674014, -0.0008548327023403000609, 0.0001205533297887948387, -0.00001492565023696750174,
            1.646211078201863639e-6, -1.636576864883207212e-7, 1.480602714612875166e-8, -1.227773448679552385e-9,
            9.323723518153026634e-11, -6.196736428787699983e-12, 2.806712819561126247e-13))
# ((1 + a) exp(a**2 / 2) P(Z > a) - 1/2) / w, Z standard normal and w = a / (a + 5), as a function of 2w - 1, for
# 0 <= a <= _FAR, after M. Shepherd and J. Laframboise (Mathematics of Computation 36, 1981)
_FAR = ByPrecision(single=(14.5,), double=(40.0,))  # P(Z > a) is 0
_TAIL = ByPrecision(
    single=(-0.07696834584176033016, -0.1061361870141717651, 0.1681975101211294165, -0.1481935154624252794,
            0.09538086404674959369, -0.04630786706763668331, 0.01603241697565136406, -0.002933286680964855815,
            -0.000553145027849673179, 0.0003715691474942674067),
    double=(-0.07696834029992444982, -0.1061362233680932694, 0.1681969602200196331, -0.1481922554495985674,
            0.09539016951701610091, -0.04631624302846795189, 0.01597541222324355651, -0.002931410904957695628,
            -0.0004207337883766983255, 0.0004363171211555112052, -0.00007164875874832066552, -0.00003556706370673248891,
            0.00001577437617694336786, 2.347233151084207771e-6, -2.48606188190971079e-6, -1.324076267700559171e-7,
            3.839322816064125787e-7, 1.231456058711167658e-8, -5.915373397263116992e-8, -4.305164992801357988e-9,
            7.277662384523662728e-9, 1.071986655670700084e-9, -2.776604097009657671e-10))
# (sin(pi r / 2) - pi r / 2) / r**3 and (cos(pi r / 2) - 1) / r**2 as functions of r**2, for |r| <= 1/2
_SIN = ByPrecision(
    single=(-0.6459640973928679657, 0.07969261187563656623, -0.004681469378187914246, 0.0001586337141182885487),
    double=(-0.6459640975062462536, 0.07969262624616702643, -0.004681754135317503661, 0.0001604411847592093831,
            -3.59884291657160627e-6, 5.691987725039359618e-8, -6.634625604859975978e-10))
_COS = ByPrecision(
    single=(-1.233700549343355216, 0.2536694074106748064, -0.02086148926598047342, 0.0009066155058611330598),
    double=(-1.233700550136169827, 0.2536695079010480135, -0.02086348076335294969, 0.0009192602748390722292,
            -0.00002520204236754619165, 4.710874312750065353e-7, -6.386384806938852484e-9, 6.512697375123567795e-11))
_HALF_PI = ByPrecision(
    single=(1.5707963705062866, -4.371139000186242831e-8), double=(1.5707963267948966, 6.123233995736765886e-17))
# 2/pi in pieces of 25 bits, float64 in both precisions, and what drops fractions and multiples of 4 of float64
_TWO_OVER_PI = 0xa2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = (
    np.float64((_TWO_OVER_PI >> 175 - shift & 0x1ffffff) / 2.0 ** (shift + 25)) for shift in range(0, 200, 25))
_TO_ONE, _TO_FOUR = np.float64(1.5 * 2.0**52), np.float64(1.5 * 2.0**54)
_SMALL = ByPrecision(single=(2.0**-12,), double=(2.0**-26,))  # sin(x) is x below
_LARGEST = 3.4028234663852886e38  # the largest float32
# (x - tanh x) / x**3 as a function of x**2, for |x| <= 1, and its first coefficient as an unevaluated sum
_TANH = ByPrecision(
    single=(0.3333333314446477504, -0.1333330932097050132, 0.05396317989572338561, -0.02182801225764438855,
            0.008693095495666356916, -0.003199306830809984279, 0.0009176687777148156184, -0.0001410192392367202548),
    double=(0.3333333333333333279, -0.1333333333333305789, 0.05396825396802122716, -0.02186948852835533978,
            0.00886323539213936591, -0.003592126559203570279, 0.001455823936068360959, -0.0005899760398307975054,
            0.0002389471723111170951, -0.0000964412906661871219, 0.00003835599677362593362,
            -0.00001456863917811378426, 4.95867143379535513e-6, -1.364270208160344767e-6, 2.587688210927311016e-7,
            -2.453389404960139365e-8))
_TANH_FIRST = ByPrecision(
    single=(0.3333333432674408, -1.182279304549094e-08), double=(0.3333333333333333, 1.307447949979908e-17))


def clamp(x, low, high):
    """x, or the bound beyond which it lies; NaN stays NaN."""
    return select(x < low, low, select(x > high, high, x))


def rint(x):
    """The integer nearest to x, for |x| < 2**22."""
    return (x + _ROUND[0]) - _ROUND[0]


def scale(x, k):
    """x * 2**k, gradual to 0, in two factors, since 2**k alone may leave the range."""
    half = rint(k * 0.5)
    return x * exp2i(half) * exp2i(k - half)


def scale_below(x, y, k):
    """y, times 2**k where x is negative."""
    return select(x < 0.0, scale(y, k), y)


def exp_parts(high, low):
    """(m, k) with exp(high + low) = (1 + m) 2**k, k integral; `low` is small against `high`."""
    x = clamp(high, EXP_RANGE[0], EXP_RANGE[1])
    k = rint((x + low) * _LOG2E)
    k = select(k == k, k, 0.0)  # NaN goes on in m alone
    r = fma(-k, _LN2[0], x) + fma(-k, _LN2[1], low)
    return fma(r * r, horner(r, _EXP), r), k


def exp_sum(high, low):
    """exp(high + low) for an unevaluated sum."""
    m, k = exp_parts(high, low)
    return scale(m + 1.0, k)


def exp(x):
    """e**x, gradual to 0 and infinite above the range of the type."""
    return exp_sum(x, 0.0)


def half_expm1_sum(x):
    """(e**x - 1) / 2 as an unevaluated sum, for x >= -40; the half is in the range of the type for longer."""
    m, k = exp_parts(x, 0.0)
    power = exp2i(k - 1.0)
    return two_sum_ordered(power - 0.5, power * m)


def expm1(x):
    """e**x - 1, accurate near 0."""
    high, low = half_expm1_sum(select(x < -40.0, -40.0, x))
    return select(x * x == 0.0, x, 2.0 * (high + low))


def log_parts(x):
    """(k, f) with x = 2**k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)], for positive finite x."""
    small = x < _NORMAL[0]
    x = select(small, x * 2.0**54, x)
    k, f = exponent(x) - select(small, 54.0, 0.0), mantissa(x)
    large = f > 1.4142135
    return select(large, k + 1.0, k), select(large, 0.5 * f, f) - 1.0


def log_near(x, rest):
    """ln(x (1 + rest)) for positive finite x; `rest` is in the last places."""
    k, f = log_parts(x)
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    inner = fma(s, half + z * horner(z, _LOG), fma(k, _LN2[1], rest))
    return fma(k, _LN2[0], f - (half - inner))


def log_sum(x):
    """ln x as an unevaluated sum, for positive finite x."""
    k, f = log_parts(x)
    over, over_low = two_sum_ordered(2.0, f)
    s, s_low = quotient(f, 0.0, over, over_low)
    z, z_low = two_product(s, s)
    z_low = fma(2.0 * s, s_low, z_low)
    a, a_low = two_sum_ordered(_LOG_FIRST[0], _LOG_FIRST[1] + z * horner(z, _LOG[1:]))
    b, b_low = two_product(s, z)
    c, c_low = two_product(a, b)
    c_low += a * (b_low + s * z_low + s_low * z) + a_low * b
    high, low = two_sum_ordered(2.0 * s, c)
    top, top_low = two_sum(k * _LN2[0], high)
    return top, top_low + (low + fma(k, _LN2[1], fma(2.0, s_low, c_low)))


def log_edges(x, value):
    """`value` for positive finite x, and what ln x is elsewhere: -inf at 0, NaN below."""
    edge = select(x > 0.0, x, select(x == 0.0, -_INFINITY, _NAN))
    return select(x > 0.0, select(x < _INFINITY, value, edge), edge)


def positive(x):
    """x where it is positive and finite, else 1."""
    return select(x > 0.0, select(x < _INFINITY, x, 1.0), 1.0)


def log(x):
    """ln x; -inf at 0, NaN below."""
    return log_edges(x, log_near(positive(x), 0.0))


def log1p(x):
    """ln(1 + x), accurate near 0; -inf at -1, NaN below. What 1 + x loses comes back to first order (W. Kahan)."""
    w = 1.0 + x
    safe = positive(w)
    value = log_near(safe, (x - (w - 1.0)) / safe)
    return select(x == 0.0, x, log_edges(w, value))


def softplus(x):
    """ln(1 + e**x) = max(x, 0) + ln(1 + e**-|x|)."""
    e = exp(select(x < 0.0, x, -x))
    w = 1.0 + e
    return select(x > 0.0, x, 0.0) + log_near(w, (e - (w - 1.0)) / w)


def pow(x, y):
    """x**y with the special cases of C (C99 F.9.4.4, IEEE 754): pow(x, 0) = pow(1, y) = 1 also for NaN.

    A negative x has a power for an integral y; that of an infinite y has no sign.
    """
    a, b = select(x < 0.0, -x, x), select(y < 0.0, -y, y)
    high, low = log_sum(positive(a))
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


def sigmoid_parts(high, low):
    """(s, rest, k) with s + rest, times 2**k where high < 0, equal to 1 / (1 + exp(-(high + low)))."""
    negative = high < 0.0
    m, k = exp_parts(select(negative, high, -high), select(negative, low, -low))
    e, e_low = two_sum_ordered(1.0, m)
    power = scale(1.0, k)
    over, over_low = two_sum_ordered(1.0, e * power)
    s, rest = quotient(select(negative, e, 1.0), select(negative, e_low, 0.0), over, over_low + e_low * power)
    return s, rest, k


def sigmoid(x):
    """1 / (1 + exp(-x)), relative accuracy at both ends."""
    s, rest, k = sigmoid_parts(x, 0.0)
    return scale_below(x, s + rest, k)


def sigmoid_slope(x):
    """s(x) (1 - s(x)) without the cancellation of 1 - s."""
    e = exp(select(x < 0.0, x, -x))
    q = 1.0 / (1.0 + e)
    return e * q * q


def signed(x, value):
    """`value`, which is 0 or more and 0 where x is, with the sign of x, that of a zero too."""
    return select(x == 0.0, x, select(x < 0.0, -value, value))


def tanh(x):
    """h / (h + 1) with h = (exp(2|x|) - 1) / 2, and the sign of x."""
    a = select(x < 0.0, -x, x)
    a = select(a > 20.0, 20.0, a)  # 1 to the last bit of either type
    high, low = half_expm1_sum(2.0 * a)
    over, over_low = two_sum_ordered(1.0, high)
    t, rest = quotient(high, low, over, over_low + low)
    return signed(x, t + rest)


def tanhshrink(x):
    """x - tanh x = x - 1 + 2 / (1 + exp(2x)), by a polynomial where x and tanh x are close."""
    a = select(x < 0.0, -x, x)
    z, z_low = two_product(a, a)
    cube, cube_low = two_product(a, z)
    p, p_low = two_sum_ordered(_TANH_FIRST[0], _TANH_FIRST[1] + z * horner(z, _TANH[1:]))
    near = fma(cube, p, fma(cube, p_low, fma(a, z_low, cube_low) * p))
    m, k = exp_parts(2.0 * select(a > 20.0, 20.0, a), 0.0)
    power = scale(1.0, k)  # the last place of a quotient below 1/4 is no larger than the result's
    return signed(x, select(a < 0.975, near, (a - 1.0) + 2.0 / fma(power, m, 1.0 + power)))


def half_square_exp_parts(a):
    """(m, k) with exp(-a*a/2) = (1 + m) 2**k for 0 <= a <= 40, the square split so that its error does not grow."""
    h = chop(a)
    return exp_parts(-0.5 * (h * h), -0.5 * ((a - h) * (a + h)))


def normal_pdf(x):
    """Density of the standard normal distribution."""
    a = select(x < 0.0, -x, x)
    m, k = half_square_exp_parts(select(a > 40.0, 40.0, a))
    return scale(fma(m, 0.3989422804014327, 0.3989422804014327), k)


def normal_tail_parts(a):
    """(p, rest, k) with (p + rest) 2**k = P(Z > a) for a standard normal Z and a >= 0."""
    a = select(a > _FAR[0], _FAR[0], a)
    m, k = half_square_exp_parts(a)
    w = a / (a + 5.0)
    q, rest = two_sum_ordered(0.5, w * horner(2.0 * w - 1.0, _TAIL))
    e, e_low = two_sum_ordered(1.0, m)
    high, low = two_product(q, e)
    over, over_low = two_sum(1.0, a)
    p, rest = quotient(high, low + fma(q, e_low, rest * e), over, over_low)
    return p, rest, k


def normal_cdf_parts(x):
    """(p, rest, k) with p + rest, times 2**k where x < 0, equal to P(Z <= x) for a standard normal Z."""
    negative = x < 0.0
    p, rest, k = normal_tail_parts(select(negative, -x, x))
    high, low = two_sum_ordered(1.0, -scale(p + rest, k))
    return select(negative, p, high), select(negative, rest, low), k


def normal_cdf(x):
    """P(Z <= x) = erfc(-x / sqrt 2) / 2 for a standard normal Z, relative accuracy in the lower tail."""
    p, rest, k = normal_cdf_parts(x)
    return scale_below(x, p + rest, k)


def erf(x):
    """The error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x."""
    a = select(x < 0.0, -x, x)
    p, rest, k = normal_tail_parts(a * 1.4142135623730951)
    large = 1.0 - 2.0 * scale(p + rest, k)
    large = select(x < 0.0, -large, large)
    return select(a < 1.0, fma(x, horner(x * x, _ERF), x), large)


def fraction(x, piece):
    """What x * piece, an exact product below 2**53, is above a multiple of 4."""
    t = np.float64(x) * piece
    return t - ((t + _TO_FOUR) - _TO_FOUR)


def quarters(x):
    """x in quarter turns without multiples of 4, as an unevaluated sum of float64, for x of 27 digits at most.

    The products of x and the pieces of 2/pi are exact. A product that is a multiple of 4 for all x so large drops out;
    those of the others that follow each other overlap so little that their sums are in order.
    """
    a = select(x < 0.0, -x, x)
    near, middle, far = select(a < 2.0**53, x, 0.0), select(a < 2.0**78, x, 0.0), select(a < 2.0**103, x, 0.0)
    s, e1 = two_sum_ordered(fraction(near, _P0), fraction(middle, _P1))
    s, e2 = two_sum_ordered(s, fraction(far, _P2))
    s, e3 = two_sum_ordered(s, fraction(x, _P3))
    s, e4 = two_sum_ordered(s, fraction(x, _P4))
    s, e5 = two_sum_ordered(s, fraction(x, _P5))
    s, e6 = two_sum_ordered(s, fraction(x, _P6))
    s, e7 = two_sum_ordered(s, fraction(x, _P7))
    return s, e1 + (e2 + (e3 + (e4 + (e5 + (e6 + e7)))))


def turned_sin(x, turns):
    """sin(x + turns pi/2)."""
    x = select((x <= _LARGEST) & (x >= -_LARGEST), x, _NAN)
    if DOUBLE:
        high = chop(x)
        s, s_low = quarters(high)
        t, t_low = quarters(x - high)
        s, rest = two_sum(s, t)
        rest += s_low + t_low
    else:
        s, rest = quarters(x)
    whole = (s + _TO_ONE) - _TO_ONE
    s, rest = two_sum(s - whole, rest)
    r = real(s)
    rest = real((s - np.float64(r)) + rest)
    whole += np.float64(turns)
    j = real(whole - ((whole + _TO_FOUR) - _TO_FOUR))  # -2 ... 2
    z = r * r
    sine = fma(r, _HALF_PI[0], fma(r, fma(z, horner(z, _SIN), _HALF_PI[1]), rest * _HALF_PI[0]))
    cosine = fma(z, horner(z, _COS), 1.0)
    value = select(j * j == 1.0, cosine, sine)
    return select((j < 0.0) | (j > 1.0), -value, value)


def sin(x):
    """The sine, for every float32; in float64 NaN beyond the largest float32.

    In float64 the argument's place in the turn is known to 2**-104 up to 2**80: results above 2**-50 have units in
    the last place. Beyond 2**80 it is known to 2**-72.
    """
    a = select(x < 0.0, -x, x)
    return select(a < _SMALL[0], x, turned_sin(x, 0.0))


def cos(x):
    """The cosine, where `sin` is accurate."""
    return turned_sin(x, 1.0)
