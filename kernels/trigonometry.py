"""Sine and cosine."""

import math

import numpy as np

from ._primitives import DOUBLE, FUSED, ROUND, ByPrecision, chop, digit, fma, polynomial, real, select
from ._sums import two_product, two_sum, two_sum_ordered

# (sin(r) - r) / r**3 and (cos(r) - 1) / r**2 as functions of r**2, for |r| <= pi/4
_SIN = ByPrecision(
    single=(-0.1666666666374136766, 0.008333331830629428363, -0.0001984006304080411685, 2.724686872287794454e-6),
    double=(-0.1666666666666666667, 0.008333333333333331379, -0.0001984126984126482162, 2.755731921915078158e-6,
            -2.505210616733570639e-8, 1.605852134995498633e-10, -7.586094789672620074e-13))
_COS = ByPrecision(
    single=(-0.4999999996786843408, 0.04166665016054845687, -0.001388756314243062881, 0.00002446043218990978451),
    double=(-0.5, 0.04166666666666666664, -0.001388888888888888144, 0.00002480158730157774122,
            -2.75573192179561229e-7, 2.087675492243629518e-9, -1.147035355861005756e-11, 4.740704285421382792e-14))
_HALF_PI_BITS = 0xc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc7402  # pi/2 times 2**199


def _pieces(width, count, last):
    """pi/2 from above in `count` pieces of `width` bits and one of `last` bits."""
    ends = [width * (i + 1) for i in range(count)] + [width * count + last]
    starts = [0, *ends[:-1]]
    return tuple(math.ldexp(_HALF_PI_BITS >> 200 - end & (1 << end - start) - 1, 1 - end)
                 for start, end in zip(starts, ends, strict=True))


# k times a short piece is exact for the k of arguments up to NEAR
NEAR = ByPrecision(single=(2.0**13,), double=(2.0**20,))
_LONG = ByPrecision(single=_pieces(24, 2, 24), double=_pieces(53, 2, 53))
_SHORT = ByPrecision(single=_pieces(11, 4, 24), double=_pieces(33, 4, 53))
# 2/pi in pieces of 25 bits, float64 in both precisions, and what drops fractions and multiples of 4 of float64
_TWO_OVER_PI = 0xa2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = (
    np.float64((_TWO_OVER_PI >> 175 - shift & 0x1ffffff) / 2.0 ** (shift + 25)) for shift in range(0, 200, 25))
_HALF_PI, _HALF_PI_REST = np.float64(1.5707963267948966), np.float64(6.123233995736766e-17)
_TO_ONE, _TO_FOUR = np.float64(1.5 * 2.0**52), np.float64(1.5 * 2.0**54)
_NAN = float("nan")
_LARGEST = 3.4028234663852886e38  # the largest float32


def near_turn(x):
    """(r, rest, t) with x = r + rest + k pi/2, |r| <= pi/4 and t = k + ROUND, for |x| <= NEAR."""
    t = fma(x, 0.6366197723675814, ROUND)
    k = t - ROUND
    if FUSED:
        return fma(-k, _LONG[2], fma(-k, _LONG[1], fma(-k, _LONG[0], x))), -0.0, t
    before = (x - k * _SHORT[0]) - k * _SHORT[1]  # exact
    r, rest = two_sum_ordered(before, -k * _SHORT[2])
    r, low = two_sum_ordered(r, -k * _SHORT[3])
    return r, rest + low - k * _SHORT[4], t


def fraction(x, piece):
    """What x * piece, an exact product below 2**53, is above a multiple of 4."""
    t = np.float64(x) * piece
    return t - ((t + _TO_FOUR) - _TO_FOUR)


def quarters(x):
    """x in quarter turns without multiples of 4, as an unevaluated sum of float64, for x of 27 digits at most.

    The products of x and the pieces of 2/pi are exact. A product that is a multiple of 4 for all x so large drops out;
    those of the others that follow each other overlap so little that their sums are in order.
    """
    a = abs(x)
    near, middle, far = select(a < 2.0**53, x, 0.0), select(a < 2.0**78, x, 0.0), select(a < 2.0**103, x, 0.0)
    s, e1 = two_sum_ordered(fraction(near, _P0), fraction(middle, _P1))
    s, e2 = two_sum_ordered(s, fraction(far, _P2))
    s, e3 = two_sum_ordered(s, fraction(x, _P3))
    s, e4 = two_sum_ordered(s, fraction(x, _P4))
    s, e5 = two_sum_ordered(s, fraction(x, _P5))
    s, e6 = two_sum_ordered(s, fraction(x, _P6))
    s, e7 = two_sum_ordered(s, fraction(x, _P7))
    return s, e1 + (e2 + (e3 + (e4 + (e5 + (e6 + e7)))))


def far_turn(x):
    """As `near_turn`, but k is that of x without multiples of 4 or differs by 4; for |x| up to the largest float32."""
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
    k = real(whole - ((whole + _TO_FOUR) - _TO_FOUR))
    if DOUBLE:
        r, low = two_product(s, _HALF_PI)
        return r, fma(s, _HALF_PI_REST, fma(rest, _HALF_PI, low)), k + ROUND
    angle = s * _HALF_PI  # of which float32 takes two numbers; `rest` is further down
    r = real(angle)
    return r, real(angle - np.float64(r)), k + ROUND


def turn(x):
    """As `far_turn`; NaN beyond the largest float32."""
    near, near_rest, near_t = near_turn(x)
    r, rest, t = far_turn(select(abs(x) <= _LARGEST, x, _NAN))
    small = abs(x) <= NEAR[0]
    return select(small, near, r), select(small, near_rest, rest), select(small, near_t, t)


def wave(r, rest, t):
    """sin(r + rest + k pi/2) for |r| <= pi/4 and t = k + ROUND."""
    z = r * r
    sine = r + fma(r * z, polynomial(z, _SIN), rest)
    cosine = fma(z, polynomial(z, _COS), 1.0)
    value = select(digit(t, 0), cosine, sine)
    return select(digit(t, 1), -value, value)


def near_sin(x):
    """The sine for |x| <= NEAR, as `sin` gives it."""
    r, rest, t = near_turn(x)
    return select(x == 0.0, x, wave(r, rest, t))


def sin(x):
    """The sine, for every float32; in float64 NaN beyond the largest float32.

    In float64 the argument's place in the turn is known to 2**-104 up to 2**80: results above 2**-50 have units in
    the last place. Beyond 2**80 it is known to 2**-72.
    """
    r, rest, t = turn(x)
    return select(x == 0.0, x, wave(r, rest, t))


def near_cos(x):
    """The cosine for |x| <= NEAR, as `cos` gives it."""
    r, rest, t = near_turn(x)
    return wave(r, rest, t + 1.0)


def cos(x):
    """The cosine, where `sin` is accurate."""
    r, rest, t = turn(x)
    return wave(r, rest, t + 1.0)
