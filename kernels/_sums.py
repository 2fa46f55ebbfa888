"""Unevaluated sums: pairs (high, low) whose exact sum has about twice the digits of `real`, |low| far below |high|.

Sum and product after D. Knuth (The Art of Computer Programming 2, section 4.2.2) and T. Dekker (Numerische Mathematik
18, 1971).
"""

from ._primitives import FUSED, chop, fma


def two_sum(a, b):
    """(s, rest) with s + rest = a + b exactly; s is the rounded sum."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_sum_ordered(a, b):
    """As `two_sum`, where |a| >= |b| or a is a multiple of the last place of b."""
    s = a + b
    return s, b - (s - a)


def two_product(a, b):
    """(p, rest) with p + rest = a * b, to the last bit or nearly; p is the rounded product."""
    p = a * b
    if FUSED:
        rest = fma(a, b, -p)
    else:
        ah, bh = chop(a), chop(b)
        al, bl = a - ah, b - bh
        rest = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    return p, rest


def product_sum(a, b, c):
    """(s, rest) with s + rest = a * b + c, to the last bit or nearly, where |a b| <= |c| / 2 or c has few digits."""
    if FUSED:
        s = fma(a, b, c)
        return s, fma(a, b, c - s)
    p, rest = two_product(a, b)
    s, low = two_sum_ordered(c, p)
    return s, low + rest


def multiplied_and_added(a, b, c):
    """a * b + c, rounded once or nearly, under the conditions of `product_sum`."""
    if FUSED:
        return fma(a, b, c)
    high, low = product_sum(a, b, c)
    return high + low


def quotient(high, low, over_high, over_low):
    """(high + low) / (over_high + over_low) as an unevaluated sum."""
    inverse, q, rest = _division(high, low, over_high, over_low)
    return q, rest * inverse


def divided(high, low, over_high, over_low):
    """(high + low) / (over_high + over_low), rounded once or nearly; a `low` of -0.0 is nothing."""
    inverse, q, rest = _division(high, low, over_high, over_low)
    return fma(rest, inverse, q)


def _division(high, low, over_high, over_low):
    """(1 / over_high, q, rest): the quotient is q + rest / over_high."""
    inverse = 1.0 / over_high
    q = high * inverse
    if FUSED:
        rest = fma(-q, over_high, high)
    else:
        p, rest = two_product(q, over_high)
        rest = (high - p) - rest
    return inverse, q, fma(-q, over_low, rest) + low
