"""Penalties on parameters: l1 sum |w| + l2 / 2 sum w^2, added to the loss, and their slope, added to the gradient.

With the half, l2 is what a coupled weight_decay adds to the gradient. scikit-learn's alpha divides by the batch: it is
l2 * rows. Keras' L2 has no half. |w| has slope 0 at 0.
"""

import numpy as np

from ._block import PANEL_ROWS, THREADS, add_threads, block_kernel, thread
from ._context import CONTEXT, GRADIENT, SCRATCH
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, call, doubles, fma, ints, real, reals, select
from .optimizers import element, update_shape


@kernel
def penalty(w, rows, penalized, l1: float, l2: float, sums, first, context, low, high):
    """sums[first + i] = penalty of panel i, low <= i < high, of weights with `rows` rows, the first `penalized` count.

    Float64; PANEL partial sums over the rows, then their sum.
    """
    totals, found = doubles(ints(context, CONTEXT)[SCRATCH], PANEL), doubles(sums, first + high)
    size = penalized * PANEL
    for panel in range(low, high):
        weights = reals(w + panel * rows * PANEL * SIZE, size)
        for j in range(PANEL):
            totals[j] = 0.0
        for i in range(0, size, PANEL):
            for j in range(PANEL):
                weight = np.float64(weights[i + j])
                totals[j] += l1 * abs(weight) + 0.5 * l2 * weight * weight
        total = np.float64(0.0)
        for j in range(PANEL):
            total += totals[j]
        found[first + panel] = total
    return 0


@kernel
def penalty_gradient(w, first, rows, penalized, l1: float, l2: float, chain, context, low, high):
    """g += l1 sign(w) + l2 w for elements [low, high), then the instruction `chain` on all of them.

    They lie in one panel of `rows` rows, the first `penalized` of which count, of weights from element `first` on.
    """
    row = (low - first) // PANEL % rows
    count = max(0, min(high - low, (penalized - row) * PANEL))
    weights = reals(w + low * SIZE, count)
    slopes = reals(ints(context, CONTEXT)[GRADIENT] + low * SIZE, count)
    flat, steep = real(l1), real(l2)
    for i in range(count):
        weight = weights[i]
        slopes[i] += fma(steep, weight, select(weight > 0.0, flat, select(weight < 0.0, -flat, 0.0)))
    if chain:
        return call(ints(chain, 1)[0], chain, context, low, high)
    return 0


@block_kernel(penalty, "w", height=1, span=PANEL_ROWS)
def penalty_cuda(w, block_height, penalized, l1: float, l2: float, sums, first, context, row, rows, column, columns):
    """sums[first + i] = penalty of panel i of weights, the first `penalized` of whose rows count; in pairs."""
    panel, size, total = column // PANEL, penalized * PANEL, real(0.0)
    weights = reals(w + panel * block_height * PANEL * SIZE, size)
    for i in range(thread(), size, THREADS):
        weight = weights[i]
        total += fma(0.5 * l2 * weight, weight, l1 * abs(weight))
    total = add_threads(total)
    if thread() == 0:
        reals(sums, first + panel + 1)[first + panel] = total
    return 0


@block_kernel(penalty_gradient, "w", height=PANEL_ROWS, span=PANEL_ROWS)
def penalty_gradient_cuda(w, penalized, l1: float, l2: float, slopes, block_place, block_height, context, row, rows,
                          column, columns):
    """g += l1 sign(w) + l2 w for a rectangle of a block of parameters, in its first `penalized` rows."""
    for i in range(thread(), rows * columns, THREADS):
        if row + i // PANEL % rows < penalized:
            at = element(block_place, block_height, row, rows, column, columns, i) * SIZE
            weight, slope = reals(w + at, 1)[0], reals(slopes + at, 1)
            slope[0] += fma(l2, weight, select(weight > 0.0, l1, select(weight < 0.0, -l1, 0.0)))
    return 0


def _penalty_reference(attributes, loss, *parameters):
    return loss + sum(attributes["l1"] * abs(w).sum() + attributes["l2"] / 2 * (w * w).sum() for w in parameters)


def _slope_reference(attributes, g, w):
    return g + attributes["l1"] * np.sign(w) + attributes["l2"] * w


_CASES = ({"l1": 0.25, "l2": 0.0}, {"l1": 0.0, "l2": 0.5}, {"l1": 0.25, "l2": 0.5})
register(Op("penalty", lambda attributes, loss, *parameters: loss, _penalty_reference, cpu=penalty, tolerance="row",
            cases=_CASES))
register(Op("penalty_gradient", update_shape, _slope_reference, cpu=penalty_gradient, cases=_CASES))
