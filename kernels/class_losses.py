"""Losses of classes: every row has one prediction for each class, and a label; `cross_entropy` has its own file.

Rows with the label `ignored` cost nothing. `weight` has a factor for each class, or is 0; see `losses` for reductions.
"""

import numpy as np

from ._block import WARPS, add_warps, barrier, block_kernel, blocks, lane, spot, warp
from ._context import CONTEXT, SCRATCH
from ._jit import by_feature, kernel
from ._panels import add_columns, give_columns, group_rows, group_size, take_columns, whole
from ._primitives import LANES, PANEL, SIZE, ints, real, reals, select
from .losses import (
    NOTHING,
    Loss,
    factor_of,
    factor_of_cuda,
    keep_row,
    labels_shape,
    register_loss,
    row_weight,
    sample_weight,
    targets_shape,
)

_INFINITY = float("inf")


def class_of(label, ignored):
    """A class that can be looked up, whatever the label."""
    if label == ignored:
        return 0
    return label


def at(matrix, panel, row, column):
    """An element of a matrix in panels."""
    shift = row * PANEL + column % PANEL
    return reals(matrix + column // PANEL * panel * SIZE, shift + 1)[shift]


def class_weights(attributes, x):
    """The weight of every class, as the prediction's dtype."""
    return np.broadcast_to(np.asarray(attributes["weight"] or 1, x.dtype), x.shape[1])


def known_labels(attributes, x, y):
    """Which labels count, as ones and zeros, and one-hot rows of them, zero for the others."""
    known = (y != attributes.get("ignore_index", NOTHING)).astype(x.dtype)
    table = np.zeros_like(x)
    table[np.arange(len(y)), np.where(known, y, 0)] = known
    return known, table


def class_operands(attributes, columns):
    """Of every loss of classes: what its attributes say, those that it has."""
    operands = {"weight": attributes.get("weight"), "ignored": attributes.get("ignore_index", NOTHING)}
    for name, attribute, kind in (("smoothing", "label_smoothing", float), ("margin", "margin", float),
                                  ("power", "p", int)):
        if attribute in attributes:
            operands[name] = kind(attributes[attribute])
    return operands | {"share": 1.0 if attributes["reduction"] == "mean" else 0.0}


PLAIN = {"weight": None, "ignore_index": -100}
WEIGHTED = {"weight": (0.5, 2.0, 0.0, 1.5), "ignore_index": 0}

# Negative log-likelihood of log-probabilities x: -w_y x_y


@kernel
def nll_loss(x, x_panel, x_cols, target, sample, weight, ignored, share: float, scale: float, loss, dx, dx_panel,
             dx_panels, context, low, high):
    """Negative log-likelihood; dx may be x."""
    factor, labels, shares = factor_of(context, share, scale), ints(target, high), reals(loss, high)
    for i in range(low, high):
        c = class_of(labels[i], ignored)
        shift = i * PANEL + c % PANEL
        weighted = row_weight(labels[i], sample, i, weight, ignored)
        shares[i] = -weighted * at(x, x_panel, i, c)
        for panel in range(dx_panels):
            line = reals(dx + (panel * dx_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                line[j] = 0.0
        reals(dx + c // PANEL * dx_panel * SIZE, shift + 1)[shift] = -weighted * factor
    return 0


@block_kernel(nll_loss, "x")
def nll_loss_cuda(x, x_cols, target, sample, weight, ignored, share: float, scale: float, loss, dx, context, row, rows,
                  column, columns):
    """Negative log-likelihood; dx may be x."""
    factor = factor_of_cuda(context, share, scale)
    for block in blocks(row, rows):
        i, begin, label, counted = block * PANEL + lane(), spot(block, x_cols, 0) * SIZE, ignored, real(0.0)
        if i < row + rows:
            label = ints(target, i + 1)[i]
            counted = row_weight(label, sample, i, weight, ignored)
        given, slopes = reals(x + begin, x_cols * PANEL), reals(dx + begin, x_cols * PANEL)
        own = class_of(label, ignored)
        keep_row(loss, i, row + rows, -counted * given[own * PANEL + lane()])
        barrier()  # the label's prediction is read
        for c in range(warp(), x_cols, WARPS):
            slopes[c * PANEL + lane()] = select(c == own, -counted * factor, 0.0)
    return 0


def _nll_terms(attributes, x, y):
    _, table = known_labels(attributes, x, y)
    table = table * class_weights(attributes, x)
    return -np.where(table == 0, 0, table * x).sum(-1), -table, table.sum(-1)


register_loss("nll_loss", labels_shape, _nll_terms, nll_loss, Loss(class_operands, True, True), (PLAIN, WEIGHTED))

# Multi-class hinge (K. Crammer and Y. Singer 2001 sum likewise): w_y / C sum_{c != y} max(0, m - x_y + x_c)^p, p = 1, 2


@kernel
def multi_margin_loss(x, x_panel, x_cols, target, sample, weight, power, margin: float, share: float, scale: float,
                      loss, dx, dx_panel, context, low, high):
    """Multi-class hinge, averaged over the classes; dx may be x."""
    factor, z = factor_of(context, share, scale), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    terms, own, factors = z + size * SIZE, z + 2 * size * SIZE, z + (2 * size + group) * SIZE
    total, block, distance = z + (2 * size + 2 * group) * SIZE, z + (2 * size + 3 * group) * SIZE, real(margin)
    for first in range(low, high, group):
        count = min(group, high - first)
        take_columns(x, x_panel, x_cols, first, count, z, group, context)
        labels, shares = ints(target + first * 8, count), reals(loss + first * SIZE, count)
        lines = whole(count)
        every, owns, scales, totals = reals(z, size), reals(own, lines), reals(factors, lines), reals(total, count)
        for i in range(count):
            owns[i] = every[labels[i] * group + i]
            every[labels[i] * group + i] = -_INFINITY  # no margin to itself
            scales[i] = row_weight(labels[i], sample, first + i, weight, NOTHING) / real(x_cols)
        for c in range(x_cols):
            given, costs = reals(z + c * group * SIZE, lines), reals(terms + c * group * SIZE, lines)
            for i in range(lines):
                gap = distance - owns[i] + given[i]
                gap = select(gap <= 0.0, 0.0, gap)
                squared = power == 2
                costs[i] = select(squared, gap * gap, gap)
                given[i] = select(squared, 2.0 * gap, select(gap == 0.0, 0.0, 1.0)) * (scales[i] * factor)
        add_columns(terms, group, x_cols, count, loss + first * SIZE, block)
        add_columns(z, group, x_cols, count, total, block)
        for i in range(count):
            shares[i] = shares[i] * scales[i]
            every[labels[i] * group + i] = -totals[i]
        give_columns(z, group, x_cols, dx, dx_panel, first, count, context)
    return 0


@block_kernel(multi_margin_loss, "x")
def multi_margin_loss_cuda(x, x_cols, target, sample, weight, power, margin: float, share: float, scale: float, loss,
                           dx, context, row, rows, column, columns):
    """Multi-class hinge, averaged over the classes; dx may be x."""
    factor, squared = factor_of_cuda(context, share, scale), power == 2
    for block in blocks(row, rows):
        i, begin, label, counted = block * PANEL + lane(), spot(block, x_cols, 0) * SIZE, 0, real(0.0)
        if i < row + rows:
            label = ints(target, i + 1)[i]
            counted = row_weight(label, sample, i, weight, NOTHING) / real(x_cols)
        given, slopes = reals(x + begin, x_cols * PANEL), reals(dx + begin, x_cols * PANEL)
        own, cost, total = given[label * PANEL + lane()], real(0.0), real(0.0)
        barrier()  # the label's prediction is read
        for c in range(warp(), x_cols, WARPS):
            gap = select(c == label, 0.0, margin - own + given[c * PANEL + lane()])
            gap = select(gap <= 0.0, 0.0, gap)
            slope = select(squared, 2.0 * gap, select(gap == 0.0, 0.0, 1.0)) * (counted * factor)
            cost += select(squared, gap * gap, gap)
            total += slope
            slopes[c * PANEL + lane()] = slope
        cost, total = add_warps(cost), add_warps(total)
        keep_row(loss, i, row + rows, cost * counted)
        if warp() == label % WARPS:
            slopes[label * PANEL + lane()] = -total
    return 0


def _multi_margin_terms(attributes, x, y):
    p, rows = attributes["p"], np.arange(len(x))
    gaps = np.maximum(0, x.dtype.type(attributes["margin"]) - x[rows, y][:, None] + x)
    gaps[rows, y] = 0
    scale = (class_weights(attributes, x)[y] / x.dtype.type(x.shape[1]))[:, None]
    slopes = scale * (2 * gaps if p == 2 else (gaps > 0).astype(x.dtype))
    slopes[rows, y] = -slopes.sum(-1)
    return (scale * gaps**p).sum(-1), slopes, np.ones(len(x), x.dtype)


by_feature(multi_margin_loss)
register_loss("multi_margin_loss", labels_shape, _multi_margin_terms, multi_margin_loss, Loss(class_operands, True),
              ({"p": 1, "margin": 1.0, "weight": None}, {"p": 2, "margin": 2.5, "weight": (0.5, 2.0, 0.0, 1.5)}))

# Several labels in a row of targets, up to a -1: 1 / C sum over labels j and other classes c of max(0, 1 - x_j + x_c)


@kernel
def multilabel_margin_loss(x, x_panel, x_cols, target, target_panel, sample, share: float, scale: float, loss, dx,
                           dx_panel, context, low, high):
    """Multi-class hinge of several labels, averaged over the classes; dx may be x. What is no class ends the labels."""
    factor, shares, room = factor_of(context, share, scale), reals(loss, high), ints(context, CONTEXT)[SCRATCH]
    values, others = reals(room, x_cols), reals(room + x_cols * SIZE, x_cols)
    slopes, costs = reals(room + 2 * x_cols * SIZE, x_cols), reals(room + 3 * x_cols * SIZE, x_cols)
    for i in range(low, high):
        for c in range(x_cols):
            values[c] = at(x, x_panel, i, c)
            others[c], slopes[c], costs[c] = 1.0, 0.0, 0.0
        labels, total, classes = 0, real(0.0), real(x_cols)
        while labels < x_cols and 0.0 <= at(target, target_panel, i, labels) < classes:
            others[int(at(target, target_panel, i, labels))] = 0.0
            labels += 1
        for place in range(labels):
            label = int(at(target, target_panel, i, place))
            own, pushed = 1.0 - values[label], real(0.0)
            for c in range(x_cols):
                gap = select(others[c] == 0.0, 0.0, own + values[c])
                active = select(gap <= 0.0, 0.0, others[c])
                costs[c] = costs[c] + select(gap <= 0.0, 0.0, gap)
                slopes[c] = slopes[c] + active
                pushed += active
            slopes[label] = slopes[label] - pushed
        for c in range(x_cols):
            total += costs[c]
        counted = row_weight(0, sample, i, 0, NOTHING) / classes
        shares[i] = total * counted
        for c in range(x_cols):
            line = reals(dx + c // PANEL * dx_panel * SIZE, i * PANEL + c % PANEL + 1)
            line[i * PANEL + c % PANEL] = slopes[c] * (counted * factor)
        for c in range(x_cols, -(-x_cols // LANES) * LANES):
            line = reals(dx + c // PANEL * dx_panel * SIZE, i * PANEL + c % PANEL + 1)
            line[i * PANEL + c % PANEL] = 0.0
    return 0


@block_kernel(multilabel_margin_loss, "x", in_place=False)
def multilabel_margin_loss_cuda(x, x_cols, target, sample, share: float, scale: float, loss, dx, context, row, rows,
                                column, columns):
    """Multi-class hinge of several labels, averaged over the classes; what is no class ends the labels.

    For each class its thread goes through all labels of the row, and for a label through all classes again.
    """
    factor, classes = factor_of_cuda(context, share, scale), real(x_cols)
    for block in blocks(row, rows):
        i, begin, count = block * PANEL + lane(), spot(block, x_cols, 0) * SIZE, x_cols * PANEL
        given, slopes, wanted = reals(x + begin, count), reals(dx + begin, count), reals(target + begin, count)
        counted, cost, labels = sample_weight(sample, i, row + rows) / classes, real(0.0), 0
        while labels < x_cols and 0.0 <= wanted[labels * PANEL + lane()] < classes:
            labels += 1
        for c in range(warp(), x_cols, WARPS):
            value, slope = given[c * PANEL + lane()], real(0.0)
            if among(wanted, labels, c):
                for place in range(labels):
                    if int(wanted[place * PANEL + lane()]) == c:
                        for other in range(x_cols):
                            if not among(wanted, labels, other):
                                slope -= select(1.0 - value + given[other * PANEL + lane()] <= 0.0, 0.0, 1.0)
            else:
                for place in range(labels):
                    gap = 1.0 - given[int(wanted[place * PANEL + lane()]) * PANEL + lane()] + value
                    cost += select(gap <= 0.0, 0.0, gap)
                    slope += select(gap <= 0.0, 0.0, 1.0)
            slopes[c * PANEL + lane()] = slope * (counted * factor)
        keep_row(loss, i, row + rows, add_warps(cost) * counted)
    return 0


def among(wanted, labels, c):
    """Whether class c is among the labels of the thread's row."""
    found = False
    for place in range(labels):
        found |= int(wanted[place * PANEL + lane()]) == c
    return found


def _multilabel_margin_terms(attributes, x, y):
    costs, slopes = np.zeros(len(x), x.dtype), np.zeros_like(x)
    for row in range(len(x)):
        labels = [int(label) for label in y[row][np.cumprod(y[row] >= 0).astype(bool)]]
        others = np.setdiff1d(np.arange(x.shape[1]), labels)
        for label in labels:
            gaps = 1 - x[row, label] + x[row, others]
            costs[row] += np.maximum(gaps, 0).sum() / x.shape[1]
            slopes[row, others] += (gaps > 0) / x.shape[1]
            slopes[row, label] -= (gaps > 0).sum() / x.shape[1]
    return costs, slopes, np.ones(len(x), x.dtype)


register_loss("multilabel_margin_loss", targets_shape, _multilabel_margin_terms, multilabel_margin_loss,
              Loss(lambda attributes, columns: {"share": 0.0 if attributes["reduction"] == "sum" else 1.0}))


@kernel
def zero_one_loss(x, x_panel, x_cols, target, sample, loss, context, low, high):
    """1 where the largest prediction, the first of several, is not the label's; NaN where one is NaN."""
    labels, shares = ints(target, high), reals(loss, high)
    for i in range(low, high):
        best, place, doubt = -_INFINITY, 0, 0.0
        for c in range(x_cols):
            value = at(x, x_panel, i, c)
            if value > best:
                best, place = value, c
            if value != value:
                doubt = value
        wrong = select(place == labels[i], 0.0, 1.0)
        shares[i] = (wrong + doubt) * row_weight(0, sample, i, 0, NOTHING)
    return 0


@block_kernel(zero_one_loss, "x")
def zero_one_loss_cuda(x, x_cols, target, sample, loss, context, row, rows, column, columns):
    """1 where the largest prediction, the first of several, is not the label's; NaN where one is NaN."""
    for block in blocks(row, rows):
        i, given = block * PANEL + lane(), reals(x + spot(block, x_cols, 0) * SIZE, x_cols * PANEL)
        if warp() == 0 and i < row + rows:
            best, place, doubt = -_INFINITY, 0, 0.0
            for c in range(x_cols):
                value = given[c * PANEL + lane()]
                if value > best:
                    best, place = value, c
                if value != value:
                    doubt = value
            wrong = select(place == ints(target, i + 1)[i], 0.0, 1.0)
            keep_row(loss, i, row + rows, (wrong + doubt) * sample_weight(sample, i, row + rows))
    return 0


def _zero_one_terms(attributes, x, y):
    wrong = (x.argmax(-1) != y).astype(x.dtype)
    return np.where(np.isnan(x).any(-1), x.dtype.type(np.nan), wrong), np.zeros_like(x), np.ones(len(x), x.dtype)


register_loss("zero_one_loss", labels_shape, _zero_one_terms, zero_one_loss, Loss(class_operands, True), gradient=False)
