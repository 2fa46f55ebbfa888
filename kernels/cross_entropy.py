"""Cross-entropy of softmax(x) against weights t of the classes, w_c times a distribution.

loss = sum_c t_c (lse - x_c),   lse = max x + log sum_c exp(x_c - max x),   dx_c = softmax(x)_c sum t - t_c
"""

import numpy as np

from ._block import WARPS, add_warps, block_kernel, blocks, lane, spot, warp
from ._context import CONTEXT, SCRATCH
from ._jit import by_feature, kernel
from ._panels import add_columns, give_columns, group_rows, group_size, max_columns, take_columns, whole
from ._primitives import LANES, PANEL, SIZE, copy, ints, real, reals, select
from ._rows import BLOCK_ROWS, exp_rows, fill_line, max_rows, scale_rows
from .class_losses import PLAIN, WEIGHTED, at, class_of, class_operands, class_weights, known_labels
from .elementary import log
from .exponential import RAISED, exp_raised
from .losses import (
    Loss,
    factor_of,
    factor_of_cuda,
    keep_row,
    labels_shape,
    register_loss,
    row_factors,
    row_weight,
    sample_weight,
    targets_shape,
    weigh,
)
from .softmax import exp_columns, largest_of_row, numpy_log_softmax, powers_of_row, scale_columns


@kernel
def cross_entropy(x, x_panel, x_cols, target, sample, weight, ignored, share: float, scale: float, loss, dx, dx_panel,
                  context, low, high):
    """Cross-entropy against class indices (int64); dx may be x."""
    factor, z = factor_of(context, share, scale), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    weight_of, cost = z + (size + 3 * group) * SIZE, z + (size + 4 * group) * SIZE
    for first in range(low, high, group):
        count = min(group, high - first)
        lines = whole(count)
        take_columns(x, x_panel, x_cols, first, count, z, group, context)
        max_columns(z, group, x_cols, count, top, context)
        labels, every, tops = ints(target + first * 8, count), reals(z, size), reals(top, lines)
        totals, weights, costs = reals(total, lines), reals(weight_of, lines), reals(cost, lines)
        for i in range(count):
            costs[i] = tops[i] - every[class_of(labels[i], ignored) * group + i]
        if sample or weight:
            for i in range(count):
                weights[i] = row_weight(labels[i], sample, first + i, weight, ignored)
        else:  # a loop that fills vectors
            for i in range(count):
                weights[i] = select(labels[i] == ignored, 0.0, 1.0)
        exp_columns(z, group, x_cols, count, top, total, block, True)
        for i in range(lines):
            costs[i] = (costs[i] + log(totals[i] * RAISED[0])) * weights[i]
            weights[i] = weights[i] * factor
            totals[i] = weights[i] / totals[i]
        copy(loss + first * SIZE, cost, count)
        scale_columns(z, group, x_cols, count, total)
        for i in range(count):
            place = class_of(labels[i], ignored) * group + i
            every[place] = every[place] - weights[i]
        give_columns(z, group, x_cols, dx, dx_panel, first, count, context)
    return 0


@kernel
def cross_entropy_wide(x, x_panel, x_cols, target, sample, weight, ignored, share: float, scale: float, loss, dx,
                       dx_panel, context, low, high):
    """Cross-entropy of many classes against class indices (int64); dx may be x."""
    factor, block, edge = factor_of(context, share, scale), BLOCK_ROWS * PANEL * SIZE, ints(context, CONTEXT)[SCRATCH]
    most, total, shift = edge + block, edge + 2 * block, edge + 3 * block
    for first in range(low, high, BLOCK_ROWS):
        rows, row = min(BLOCK_ROWS, high - first), first * PANEL * SIZE
        labels, shares = ints(target + first * 8, rows), reals(loss + first * SIZE, rows)
        weights = reals(shift, rows)  # free after `exp_rows`
        max_rows(x + row, x_panel, x_cols, edge, most, context, 0, rows)
        for i in range(rows):
            own = at(x + row, x_panel, i, class_of(labels[i], ignored))
            shares[i] = reals(most + i * PANEL * SIZE, PANEL)[0] - own
        exp_rows(x + row, x_panel, x_cols, edge, most, shift, dx + row, dx_panel, total, context, 0, rows)
        for i in range(rows):
            line = reals(total + i * PANEL * SIZE, PANEL)
            weights[i] = row_weight(labels[i], sample, first + i, weight, ignored)
            shares[i] = (shares[i] + log(line[0] * RAISED[0])) * weights[i]
            weights[i] = weights[i] * factor
            fill_line(line, weights[i] / line[0])
        scale_rows(dx + row, dx_panel, x_cols, total, rows)
        for i in range(rows):
            c = class_of(labels[i], ignored)
            slope = reals(dx + row + (c // PANEL * dx_panel + i * PANEL + c % PANEL) * SIZE, 1)
            slope[0] = slope[0] - weights[i]
    return 0


@kernel
def cross_entropy_smooth(x, x_panel, x_cols, target, sample, weight, ignored, smoothing: float, share: float,
                         scale: float, loss, dx, dx_panel, context, low, high):
    """Cross-entropy against smoothed labels (C. Szegedy et al. 2016, arXiv:1512.00567): 1 - s for it, s / C for all."""
    factor, z = factor_of(context, share, scale), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    goal, factors = z + size * SIZE, z + (3 * size + 4 * group) * SIZE
    kept, spread = real(1.0 - smoothing), real(smoothing / x_cols)
    for first in range(low, high, group):
        count = min(group, high - first)
        lines = whole(count)
        take_columns(x, x_panel, x_cols, first, count, z, group, context)
        labels, shares = ints(target + first * 8, count), reals(loss + first * SIZE, count)
        every, scales = reals(goal, size), reals(factors, count)
        for c in range(x_cols):
            wanted, share_of_class = reals(goal + c * group * SIZE, lines), spread * class_weight(weight, c)
            for i in range(lines):
                wanted[i] = share_of_class
        for i in range(count):
            label = class_of(labels[i], ignored)
            every[label * group + i] = every[label * group + i] + kept * class_weight(weight, label)
            scales[i] = factor * row_weight(labels[i], sample, first + i, 0, ignored)
        against(z, group, size, x_cols, count, loss + first * SIZE, factors, context)
        for i in range(count):
            shares[i] = shares[i] * row_weight(labels[i], sample, first + i, 0, ignored)
        give_columns(z, group, x_cols, dx, dx_panel, first, count, context)
    return 0


@kernel
def cross_entropy_probabilities(x, x_panel, x_cols, target, target_panel, sample, weight, smoothing: float,
                                share: float, scale: float, loss, dx, dx_panel, context, low, high):
    """Cross-entropy against a distribution over the classes for each row; a class of probability 0 costs nothing."""
    factor, z = factor_of(context, share, scale), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    goal, factors = z + size * SIZE, z + (3 * size + 4 * group) * SIZE
    kept, spread = real(1.0 - smoothing), real(smoothing / x_cols)
    for first in range(low, high, group):
        count = min(group, high - first)
        lines = whole(count)
        take_columns(x, x_panel, x_cols, first, count, z, group, context)
        take_columns(target, target_panel, x_cols, first, count, goal, group, context)
        for c in range(x_cols):
            wanted, scale = reals(goal + c * group * SIZE, lines), class_weight(weight, c)
            for i in range(lines):
                wanted[i] = scale * (kept * wanted[i] + spread)
        row_factors(sample, first, count, factor, factors)
        against(z, group, size, x_cols, count, loss + first * SIZE, factors, context)
        weigh(sample, first, count, loss)
        give_columns(z, group, x_cols, dx, dx_panel, first, count, context)
    return 0


def class_weight(weight, c):
    """The weight of class c."""
    if weight:
        return reals(weight, c + 1)[c]
    return real(1.0)


def against(z, group, size, columns, count, loss, factors, context):
    """The losses of logits z against the columns that follow them, size further; z becomes the gradient times factors.

    Uses a third matrix and four columns of scratch after it.
    """
    goal, terms = z + size * SIZE, z + 2 * size * SIZE
    top, total = z + 3 * size * SIZE, z + (3 * size + group) * SIZE
    mass, block = z + (3 * size + 2 * group) * SIZE, z + (3 * size + 3 * group) * SIZE
    lines = whole(count)
    max_columns(z, group, columns, count, top, context)
    shares, tops, scales = reals(loss, count), reals(top, lines), reals(factors, lines)
    totals, masses = reals(total, lines), reals(mass, lines)
    for c in range(columns):
        given, wanted = reals(z + c * group * SIZE, lines), reals(goal + c * group * SIZE, lines)
        costs = reals(terms + c * group * SIZE, lines)
        for i in range(lines):
            costs[i] = select(wanted[i] == 0.0, 0.0, wanted[i] * (tops[i] - given[i]))
    add_columns(terms, group, columns, count, loss, block)
    add_columns(goal, group, columns, count, mass, block)
    exp_columns(z, group, columns, count, top, total, block, True)
    for i in range(lines):
        tops[i] = masses[i] * log(totals[i] * RAISED[0])
        totals[i] = masses[i] / totals[i]
    for i in range(count):
        shares[i] = shares[i] + tops[i]
    for c in range(columns):
        given, wanted = reals(z + c * group * SIZE, lines), reals(goal + c * group * SIZE, lines)
        for i in range(lines):
            given[i] = (given[i] * totals[i] - wanted[i]) * scales[i]


# On CUDA


@block_kernel(cross_entropy, "x")
def cross_entropy_cuda(x, x_cols, target, sample, weight, ignored, share: float, scale: float, loss, dx, context,
                       row, rows, column, columns):
    """Cross-entropy against class indices (int64); dx may be x."""
    factor = factor_of_cuda(context, share, scale)
    for block in blocks(row, rows):
        i, begin, label, counted = block * PANEL + lane(), spot(block, x_cols, 0), ignored, real(0.0)
        if i < row + rows:
            label = ints(target, i + 1)[i]
            counted = row_weight(label, sample, i, weight, ignored)
        own = class_of(label, ignored)
        given, slopes = reals(x + begin * SIZE, x_cols * PANEL), reals(dx + begin * SIZE, x_cols * PANEL)
        mine, top = given[own * PANEL + lane()], largest_of_row(given, x_cols)
        total = powers_of_row(given, x_cols, top)
        keep_row(loss, i, row + rows, (top - mine + log(total * RAISED[0])) * counted)
        counted = counted * factor
        for c in range(warp(), x_cols, WARPS):
            slope = exp_raised(given[c * PANEL + lane()] - top) * (counted / total)
            slopes[c * PANEL + lane()] = slope - select(c == own, counted, 0.0)
    return 0


@block_kernel(cross_entropy_smooth, "x")
def cross_entropy_smooth_cuda(x, x_cols, target, sample, weight, ignored, smoothing: float, share: float, scale: float,
                              loss, dx, context, row, rows, column, columns):
    """Cross-entropy against class indices (int64), some of whose probability is that of all classes; dx may be x."""
    factor, kept, spread = factor_of_cuda(context, share, scale), 1.0 - smoothing, smoothing / real(x_cols)
    for block in blocks(row, rows):
        i, begin, label, counted = block * PANEL + lane(), spot(block, x_cols, 0), ignored, real(0.0)
        if i < row + rows:
            label = ints(target, i + 1)[i]
            counted = row_weight(label, sample, i, 0, ignored)
        own = class_of(label, ignored)
        given, slopes = reals(x + begin * SIZE, x_cols * PANEL), reals(dx + begin * SIZE, x_cols * PANEL)
        top, cost, mass = largest_of_row(given, x_cols), real(0.0), real(0.0)
        for c in range(warp(), x_cols, WARPS):
            goal = (spread + select(c == own, kept, 0.0)) * class_weight(weight, c)
            cost += select(goal == 0.0, 0.0, goal * (top - given[c * PANEL + lane()]))
            mass += goal
        cost, mass, total = add_warps(cost), add_warps(mass), powers_of_row(given, x_cols, top)
        keep_row(loss, i, row + rows, (cost + mass * log(total * RAISED[0])) * counted)
        for c in range(warp(), x_cols, WARPS):
            goal = (spread + select(c == own, kept, 0.0)) * class_weight(weight, c)
            power = exp_raised(given[c * PANEL + lane()] - top)
            slopes[c * PANEL + lane()] = (power * (mass / total) - goal) * (counted * factor)
    return 0


@block_kernel(cross_entropy_probabilities, "x")
def cross_entropy_probabilities_cuda(x, x_cols, target, sample, weight, smoothing: float, share: float, scale: float,
                                     loss, dx, context, row, rows, column, columns):
    """Cross-entropy against a distribution over the classes for each row; a class of probability 0 costs nothing."""
    factor, kept, spread = factor_of_cuda(context, share, scale), 1.0 - smoothing, smoothing / real(x_cols)
    for block in blocks(row, rows):
        i, begin, count = block * PANEL + lane(), spot(block, x_cols, 0) * SIZE, x_cols * PANEL
        counted = sample_weight(sample, i, row + rows)
        given, wanted, slopes = reals(x + begin, count), reals(target + begin, count), reals(dx + begin, count)
        top, cost, mass = largest_of_row(given, x_cols), real(0.0), real(0.0)
        for c in range(warp(), x_cols, WARPS):
            goal = class_weight(weight, c) * (kept * wanted[c * PANEL + lane()] + spread)
            cost += select(goal == 0.0, 0.0, goal * (top - given[c * PANEL + lane()]))
            mass += goal
        cost, mass, total = add_warps(cost), add_warps(mass), powers_of_row(given, x_cols, top)
        keep_row(loss, i, row + rows, (cost + mass * log(total * RAISED[0])) * counted)
        for c in range(warp(), x_cols, WARPS):
            goal = class_weight(weight, c) * (kept * wanted[c * PANEL + lane()] + spread)
            power = exp_raised(given[c * PANEL + lane()] - top)
            slopes[c * PANEL + lane()] = (power * (mass / total) - goal) * (counted * factor)
    return 0


def _against(x, goals):
    """Cross-entropy and its gradient in x for each row."""
    losses = -np.where(goals == 0, 0, goals * numpy_log_softmax(x)).sum(-1)
    return losses, np.exp(numpy_log_softmax(x)) * goals.sum(-1, keepdims=True) - goals


def _label_terms(attributes, x, y):
    (known, table), weights = known_labels(attributes, x, y), class_weights(attributes, x)
    s = attributes.get("label_smoothing", 0)
    goals = weights * (table * (1 - s) + known[:, None] * s / x.shape[1])
    return *_against(x, goals), (table * weights).sum(-1)


def _probability_terms(attributes, x, y):
    s = attributes["label_smoothing"]
    goals = class_weights(attributes, x) * (y * (1 - s) + s / x.shape[1])
    return *_against(x, goals), np.ones(len(x), x.dtype)


_SMOOTH = {"label_smoothing": 0.1}
for _kernel in (cross_entropy, cross_entropy_smooth, cross_entropy_probabilities):
    by_feature(_kernel)
register_loss("cross_entropy", labels_shape, _label_terms, cross_entropy, Loss(class_operands, True, True),
              (PLAIN, WEIGHTED), wide=cross_entropy_wide)
register_loss("cross_entropy_smooth", labels_shape, _label_terms, cross_entropy_smooth,
              Loss(class_operands, True, True), (PLAIN | _SMOOTH, WEIGHTED | _SMOOTH))
register_loss("cross_entropy_probabilities", targets_shape, _probability_terms, cross_entropy_probabilities,
              Loss(class_operands), ({"weight": None, "label_smoothing": 0.0},
                                     {"weight": (0.5, 2.0, 0.0, 1.5)} | _SMOOTH))
