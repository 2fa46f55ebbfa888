"""Functions that go from 0 to 1, or from -1 to 1: sigmoid, tanh, the normal distribution, the error function.

A gate g has g(x) + g(-x) = 1, so its value left of 0, at n = -|x|, gives all: g(x) = 1 - g(n) for x > 0, and x g(x) =
max(x, 0) + n g(n), without cancellation. Where g(n) may be subnormal it is computed times 2**LIFT, "lifted".
"""

from ._primitives import ByPrecision, exp2i, fma, polynomial, select, signed
from ._sums import divided, multiplied_and_added, product_sum, quotient, two_product, two_sum_ordered
from .exponential import LIFT, LOWERED, exp_left, exp_lifted, exp_parts, exp_sum_parts, left

# (erf(x) - x) / x as a function of x**2, for |x| <= 1
_ERF = ByPrecision(
    single=(0.1283791670946767327, -0.3761263888963530677, 0.1128379130860458145, -0.02686613323509559156,
            0.005223783477189248115, -0.0008542637997087229627, 0.0001195656256820732956, -0.00001390934002187459859,
            1.058938064107501918e-6),
    double=(0.1283791670955125739, -0.3761263890318375246, 0.1128379167095512563, -0.02686617064513121852,
            0.005223977625441674014, -0.0008548327023403000609, 0.0001205533297887948387, -0.00001492565023696750174,
            1.646211078201863639e-6, -1.636576864883207212e-7, 1.480602714612875166e-8, -1.227773448679552385e-9,
            9.323723518153026634e-11, -6.196736428787699983e-12, 2.806712819561126247e-13))
# ln(1 - erf(a)) for 1 <= a <= _ERF_FAR, from where on erf is 1
_ERF_FAR = ByPrecision(single=(3.95,), double=(5.95,))
_ERFC = ByPrecision(
    single=(0.0003293570891617509788, -1.130272074667407212, -0.6317575504911180476, -0.1101471794737946766,
            0.0264608791517185354, -0.004774191028112514009, 0.0006000554789651303301, -0.00004645992365415975849,
            1.658320521566165751e-6),
    double=(9.861327319175277842e-8, -1.128380281655537789, -0.6366137910476964668, -0.1027928943867453176,
            0.01917731514438826219, 0.0001202585948831914695, -0.001569133770050283016, 0.0004440103362809008536,
            0.0001115063210832527433, -0.000171087653956989643, 0.00009814292657184266148,
            -0.00003952321711005255848, 0.00001253437631025504665, -3.260483406118888019e-6,
            7.072480409895020701e-7, -1.286241756284341457e-7, 1.958866445178894111e-8, -2.482491344485744239e-9,
            2.588818402521083743e-10, -2.183865419573903611e-11, 1.453031993686042484e-12,
            -7.337956561552618788e-14, 2.642491346208003145e-15, -6.043009445240860856e-17,
            6.593162643369413045e-19))
# ((1 - n) exp(n**2 / 2) P(Z <= n) - 1/2) / w, Z standard normal and w = n / (n - 5), as a function of 2w - 1, for
# -14.5 <= n <= 0 in float32, -40 in float64, after M. Shepherd and J. Laframboise (Mathematics of Computation 36, 1981)
_TAIL = ByPrecision(
    single=(-0.07696834030910834937, -0.1061362230319166703, 0.1681969604040826465, -0.1481922751924018494,
            0.09539018457100850533, -0.04631590489572873777, 0.01597522977171759716, -0.002934016399651726453,
            -0.0004208009198600202256, 0.0004458887623795081, -0.00006573361740953868724,
            -0.00004856743260976699888),
    double=(-0.07696834029992444982, -0.1061362233680932694, 0.1681969602200196331, -0.1481922554495985674,
            0.09539016951701610091, -0.04631624302846795189, 0.01597541222324355651, -0.002931410904957695628,
            -0.0004207337883766983255, 0.0004363171211555112052, -0.00007164875874832066552, -0.00003556706370673248891,
            0.00001577437617694336786, 2.347233151084207771e-6, -2.48606188190971079e-6, -1.324076267700559171e-7,
            3.839322816064125787e-7, 1.231456058711167658e-8, -5.915373397263116992e-8, -4.305164992801357988e-9,
            7.277662384523662728e-9, 1.071986655670700084e-9, -2.776604097009657671e-10))
NORMAL_LEAST = ByPrecision(single=(-14.6,), double=(-38.8,))  # up to here n P(Z <= n) and its slope are 0
# (x - tanh x) / x**3 as a function of x**2, for |x| <= 1, and its first coefficient as an unevaluated sum
_TANH = ByPrecision(
    single=(0.333333333171718186, -0.1333333073454036069, 0.05396755901515994658, -0.02186224973575653478,
            0.00882487639750898167, -0.00347525501182571551, 0.001238221731013328979, -0.0003351244620981691802,
            0.00004779025845770032945),
    double=(0.3333333333333333279, -0.1333333333333305789, 0.05396825396802122716, -0.02186948852835533978,
            0.00886323539213936591, -0.003592126559203570279, 0.001455823936068360959, -0.0005899760398307975054,
            0.0002389471723111170951, -0.0000964412906661871219, 0.00003835599677362593362,
            -0.00001456863917811378426, 4.95867143379535513e-6, -1.364270208160344767e-6, 2.587688210927311016e-7,
            -2.453389404960139365e-8))
_TANH_FIRST = ByPrecision(
    single=(0.3333333432674408, -1.009572260991149e-8), double=(0.3333333333333333, 1.307447949979908e-17))
# the same for |x| <= _TANH_NEAR
_TANH_NEAR = 0.304
_TANH_SHORT = ByPrecision(
    single=(0.3333333286253449463, -0.1333317027157648677, 0.05387955475388922661, -0.02031071462933626378),
    double=(0.333333333333333333, -0.1333333333333327896, 0.05396825396809703587, -0.02186948851869797762,
            0.008863234555768479228, -0.003592097439341127784, 0.001455267904209793048, -0.0005838736007483829345,
            0.0002024771996045037508))
_ROOT = 0.3989422804014327  # 1 / sqrt(2 pi)
# u = 2 sqrt(2/pi) (x + 0.044715 x^3) for the GELU with tanh, x (1 + tanh(u/2)) / 2 = x s(u), s the logistic function
_GELU_SCALE = 1.5957691216057308  # 2 sqrt(2/pi)
_GELU_CUBE = 0.044715
_GELU_LEAST = ByPrecision(single=(-11.0,), double=(-21.65,))  # up to here x s(u) and its slope are 0
# 2 sqrt(2/pi) as a short number and what remains, and its product with the cube's coefficient as an unevaluated sum
_GELU_FIRST = ByPrecision(single=(1.595703125, 0.00006599660573071175978),
                          double=(1.5957691073417664, 1.426396435433790924e-8))
_GELU_THIRD = ByPrecision(single=(0.07135481387376785, 2.398832395993135627e-9),
                          double=(0.07135481627260025, -6.175149918155315453e-19))


def both_sides(x, lifted):
    """A gate at x from its lifted value at -|x|."""
    return select(x < 0.0, lifted * LOWERED, fma(-lifted, LOWERED, 1.0))


def gated(x, lifted):
    """x g(x) from the lifted n g(n), n being -|x|, or a bound up to which that is 0. A zero has the sign of x."""
    return fma(select(lifted < -0.0, lifted, -0.0), LOWERED, select(x < -0.0, -0.0, x))


# The logistic function


def one_more(e):
    """1 + e for a lifted e, as an unevaluated sum."""
    over = fma(e, LOWERED, 1.0)
    return over, fma(e, LOWERED, 1.0 - over)


def sigmoid_end(x, e):
    """`sigmoid` from `exp_left`."""
    over, over_low = one_more(e)
    return both_sides(x, divided(e, -0.0, over, over_low))


def sigmoid(x):
    """1 / (1 + exp(-x)), relative accuracy at both ends."""
    return sigmoid_end(x, exp_left(x))


def gated_sigmoid(x, n, e):
    """x s(u) for the sigmoid s and an odd function u of x, from n = -|x| and e = exp(u(n)), lifted."""
    over, over_low = one_more(e)
    high, low = two_product(n, e)
    return gated(x, divided(high, low, over, over_low))


def sigmoid_slope(x):
    """s(x) (1 - s(x)) without the cancellation of 1 - s."""
    e = exp_left(x)
    q = 1.0 / fma(e, LOWERED, 1.0)
    return e * q * q * LOWERED


def gelu_tanh_exp(x):
    """exp(u) at n = -|x|, lifted; an unevaluated sum for u, as the exponential would magnify its rounding."""
    n = left(x, _GELU_LEAST[0])
    square, square_low = two_product(n, n)
    slope, slope_low = product_sum(_GELU_THIRD[0], square, _GELU_FIRST[0])
    slope_low += fma(_GELU_THIRD[1], square, fma(_GELU_THIRD[0], square_low, _GELU_FIRST[1]))
    u, u_low = two_product(n, slope)
    m, t = exp_sum_parts(u, fma(n, slope_low, u_low))
    power = exp2i(t, LIFT)
    return fma(m, power, power)


def gelu_tanh_end(x, e):
    """x s(u) from `gelu_tanh_exp`."""
    return gated_sigmoid(x, left(x, _GELU_LEAST[0]), e)


def gelu_tanh_slope_exp(x):
    """`gelu_tanh_exp` with the accuracy that a slope needs."""
    n = left(x, _GELU_LEAST[0])
    return exp_lifted(_GELU_SCALE * n * fma(_GELU_CUBE, n * n, 1.0))


def gelu_tanh_slope_end(x, e):
    """s(u) + x u'(x) s'(u) from `gelu_tanh_slope_exp`."""
    n = left(x, _GELU_LEAST[0])
    q = 1.0 / fma(e, LOWERED, 1.0)
    slope = fma(3.0 * _GELU_CUBE * _GELU_SCALE, n * n, _GELU_SCALE)
    return both_sides(x, e * q * fma(n * slope, q, 1.0))


def tanh_growth(x):
    """exp(2|x|) - 1."""
    m, t = exp_parts(-2.0 * left(x, -20.0))  # from there on tanh is 1 to the last bit of either type
    power = exp2i(t, 0)
    return fma(power, m, power - 1.0)


def tanh_end(x, e):
    """e / (e + 2) from `tanh_growth`, with the sign of x; by a polynomial near 0."""
    a = abs(x)
    z = a * a
    near = fma(-a * z, polynomial(z, _TANH_SHORT), a)
    return signed(select(a < _TANH_NEAR, near, e / (e + 2.0)), x)


def tanh(x):
    """tanh x."""
    return tanh_end(x, tanh_growth(x))


def tanhshrink_far(x):
    """|x| - tanh |x| = |x| - 1 + 2 / (1 + exp(2|x|)), accurate where tanh |x| > 3/4."""
    m, t = exp_parts(-2.0 * left(x, -20.0))
    power = exp2i(t, 0)  # the last place of a quotient below 1/4 is no larger than the result's
    return (abs(x) - 1.0) + 2.0 / fma(power, m, 1.0 + power)


def tanhshrink_end(x, far):
    """`tanhshrink` from `tanhshrink_far`, by a polynomial where x and tanh x are close."""
    a = abs(x)
    z, z_low = two_product(a, a)
    cube, cube_low = two_product(a, z)
    p, p_low = two_sum_ordered(_TANH_FIRST[0], _TANH_FIRST[1] + z * polynomial(z, _TANH[1:]))
    near = fma(cube, p, fma(cube, p_low, fma(a, z_low, cube_low) * p))
    return signed(select(a < 0.975, near, far), x)


def tanhshrink(x):
    """x - tanh x."""
    return tanhshrink_end(x, tanhshrink_far(x))


# The normal distribution


def normal_parts(n):
    """(m, power) with (1 + m) power = exp(-n*n/2), lifted, for NORMAL_LEAST <= n <= 0; the square is exact."""
    half, rest = two_product(-0.5 * n, n)
    m, t = exp_sum_parts(half, rest)
    return m, exp2i(t, LIFT)


def normal_times(n, factor):
    """factor exp(-n*n/2), lifted, for NORMAL_LEAST <= n <= 0."""
    m, power = normal_parts(n)
    factor *= power
    return multiplied_and_added(factor, m, factor)


def normal_ratio(n):
    """(1 - n) exp(n*n/2) P(Z <= n) for a standard normal Z and NORMAL_LEAST <= n <= 0, as an unevaluated sum."""
    w = n / (n - 5.0)
    return product_sum(w, polynomial(fma(2.0, w, -1.0), _TAIL), 0.5)


def normal_pdf(x):
    """Density of the standard normal distribution."""
    return normal_times(left(x, NORMAL_LEAST[0]), _ROOT) * LOWERED


def normal_cdf(x):
    """P(Z <= x) = erfc(-x / sqrt 2) / 2 for a standard normal Z, relative accuracy in the lower tail."""
    n = left(x, NORMAL_LEAST[0])
    q, q_low = normal_ratio(n)
    over = 1.0 - n
    high, low = quotient(q, q_low, over, (1.0 - over) - n)
    m, power = normal_parts(n)
    return both_sides(x, (high + fma(high, m, fma(low, m, low))) * power)


def gelu_tail(x):
    """n exp(n*n/2) P(Z <= n) for a standard normal Z and n = -|x|."""
    n = left(x, NORMAL_LEAST[0])
    q, q_low = normal_ratio(n)
    high, low = two_product(n, q)
    over = 1.0 - n
    return divided(high, fma(n, q_low, low), over, (1.0 - over) - n)


def gelu_end(x, tail):
    """x P(Z <= x) from `gelu_tail`."""
    return gated(x, normal_times(left(x, NORMAL_LEAST[0]), tail))


def gelu_slope_tail(x):
    """exp(n*n/2) (P(Z <= n) + n p(n)) for a standard normal Z of density p and n = -|x|."""
    n = left(x, NORMAL_LEAST[0])
    ratio, _ = normal_ratio(n)
    return fma(_ROOT, n, ratio / (1.0 - n))


def gelu_slope_end(x, tail):
    """P(Z <= x) + x p(x) from `gelu_slope_tail`."""
    return both_sides(x, normal_times(left(x, NORMAL_LEAST[0]), tail))


def erf_far(x):
    """The error function of |x|, accurate from 1 on."""
    m, t = exp_parts(polynomial(-left(x, -_ERF_FAR[0]), _ERFC))
    power = exp2i(t, 0)
    return 1.0 - fma(m, power, power)


def erf_end(x, far):
    """`erf` from `erf_far`."""
    return select(abs(x) < 1.0, fma(x, polynomial(x * x, _ERF), x), signed(far, x))


def erf(x):
    """The error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x."""
    return erf_end(x, erf_far(x))
