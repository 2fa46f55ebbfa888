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


def quotient(high, low, over_high, over_low):
    """(high + low) / (over_high + over_low) as an unevaluated sum."""
    inverse = 1.0 / over_high
    q = high * inverse
    if FUSED:
        rest = fma(-q, over_high, high)
    else:
        p, rest = two_product(q, over_high)
        rest = (high - p) - rest
    return q, (rest + fma(-q, over_low, low)) * inverse
