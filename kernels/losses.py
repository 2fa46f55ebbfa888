"""Losses: value, gradient and reduction of each in one place.

A loss kernel writes, for each row of the batch, the row's share of the loss and the gradient with respect to the
prediction; `total_loss` joins the shares in a fixed order. `mean` divides value and gradient alike: by the batch for
cross-entropy, by all elements for the elementwise losses, as torch does (scikit-learn divides by the batch there).
`sum` divides by nothing.
"""

import numpy as np

from ._context import BATCH, CONTEXT, LOSS, SCRATCH
from ._jit import kernel
from ._op import Op, register
from ._panels import add_columns, from_columns, group_rows, group_size, max_columns, to_columns
from ._primitives import LANES, PANEL, SIZE, doubles, ints, real, reals, select
from .elementary import exp, log, log1p, sigmoid
from .softmax import exp_columns, numpy_log_softmax, scale_columns

LOSSES: set[str] = set()
_REDUCTIONS = ({"reduction": "mean"}, {"reduction": "sum"})


@kernel
def total_loss(loss, share, sums, count, context, low, high):
    """Put the batch's loss into the worker's context: the sum of the rows' losses over batch * share, or over 1.

    `share` is the number of elements a row counts for under the mean, 0 for the sum. Four float64 partial sums. What
    does not come from rows is added to it: `count` float64 `sums`, such as those of penalties.
    """
    batch = ints(context, CONTEXT)[BATCH]
    values = reals(loss, batch)
    a, b, c, d = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    whole = batch - batch % 4
    for i in range(0, whole, 4):
        a += np.float64(values[i])
        b += np.float64(values[i + 1])
        c += np.float64(values[i + 2])
        d += np.float64(values[i + 3])
    total = (a + b) + (c + d)
    for i in range(whole, batch):
        total += np.float64(values[i])
    if share:
        total /= np.float64(batch * share)
    for i in range(count):
        total += doubles(sums, count)[i]
    doubles(context, CONTEXT)[LOSS] = total
    return 0


def factor_of(context, share):
    """What the reduction multiplies each row's gradient with."""
    if share:
        return real(np.float64(1.0) / np.float64(ints(context, CONTEXT)[BATCH] * share))
    return real(1.0)


def elementwise_loss(name, value, slope, reference, reference_slope):
    """Enter a loss that sums `value(x, y)` over predictions x and targets y, with d value / dx = `slope(x, y)`."""

    def rows(x, x_panel, x_cols, target, target_panel, loss, dx, dx_panel, share, context, low, high):
        factor, given = factor_of(context, share), ints(context, CONTEXT)[SCRATCH]
        group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
        wanted, block = given + size * SIZE, given + 2 * size * SIZE
        for first in range(low, high, group):
            count, row = min(group, high - first), first * PANEL * SIZE
            to_columns(x + row, x_panel, x_cols, given, group, context, 0, count)
            to_columns(target + row, target_panel, x_cols, wanted, group, context, 0, count)
            for c in range(x_cols):
                predictions, targets = reals(given + c * group * SIZE, count), reals(wanted + c * group * SIZE, count)
                for i in range(count):
                    prediction, goal = predictions[i], targets[i]
                    targets[i] = value(prediction, goal)
                    predictions[i] = slope(prediction, goal) * factor
            add_columns(wanted, group, x_cols, count, loss + first * SIZE, block)
            from_columns(given, group, x_cols, dx + row, dx_panel, context, 0, count)
        return 0

    def evaluate(attributes, x, y):
        terms = reference(x, y)
        return terms.mean() if attributes["reduction"] == "mean" else terms.sum()

    def evaluate_backward(attributes, upstream, x, y):
        return upstream * reference_slope(x, y) / (x.size if attributes["reduction"] == "mean" else 1)

    _register(name, _targets_shape, evaluate, evaluate_backward, kernel(rows, name))


def _register(name, shape, evaluate, evaluate_backward, rows):
    backward = f"{name}_backward"

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, *node.inputs, **node.attributes), None)

    LOSSES.add(name)
    register(Op(name, shape, evaluate, gradient, cpu=rows, tolerance="row", cases=_REDUCTIONS))
    register(Op(backward, lambda attributes, upstream, x, y: x, evaluate_backward, cpu=rows, tolerance="row",
                cases=_REDUCTIONS))


def _targets_shape(attributes, x, y):
    if x != y:
        raise ValueError(f"the targets need the shape of the predictions, {x}; got {y}")
    return ()


def _labels_shape(attributes, x, y):
    if len(x) != 2 or y != x[:1]:
        raise ValueError(f"class labels for logits {x} need shape {x[:1]}; got {y}")
    return ()


def _square(x, y):
    return (x - y) * (x - y)


def _square_slope(x, y):
    return 2.0 * (x - y)


elementwise_loss("mse_loss", _square, _square_slope, lambda x, y: (x - y) ** 2, lambda x, y: 2 * (x - y))


def _absolute(x, y):
    return select(x > y, x - y, y - x)


def _absolute_slope(x, y):
    return select(x > y, 1.0, select(x < y, -1.0, x - y))


elementwise_loss("l1_loss", _absolute, _absolute_slope, lambda x, y: np.abs(x - y), lambda x, y: np.sign(x - y))


def _logits(x, y):
    """-y log s(x) - (1 - y) log(1 - s(x)), in the form that neither overflows nor cancels (torch, TensorFlow)."""
    return select(x > 0.0, x, 0.0) - x * y + log1p(exp(select(x > 0.0, -x, x)))


def _logits_slope(x, y):
    return sigmoid(x) - y


def _numpy_sigmoid(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


elementwise_loss("bce_with_logits_loss", _logits, _logits_slope,
                 lambda x, y: np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x))),
                 lambda x, y: _numpy_sigmoid(x) - y)

# Cross-entropy of softmax(x) against a class or a distribution t over classes:
#     loss = sum_c t_c (lse - x_c),   lse = max x + log sum_c exp(x_c - max x),   dx_c = softmax(x)_c sum t - t_c


@kernel
def cross_entropy(x, x_panel, x_cols, target, loss, dx, dx_panel, share, context, low, high):
    """Cross-entropy against class indices (int64); dx may be x."""
    factor, z = factor_of(context, share), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        max_columns(z, group, x_cols, count, top)
        labels, shares = ints(target + first * 8, count), reals(loss + first * SIZE, count)
        every, tops, totals = reals(z, size), reals(top, count), reals(total, count)
        for i in range(count):
            shares[i] = tops[i] - every[labels[i] * group + i]
        exp_columns(z, group, x_cols, count, top)
        add_columns(z, group, x_cols, count, total, block)
        for i in range(count):
            shares[i] = shares[i] + log(totals[i])
            totals[i] = factor / totals[i]
        scale_columns(z, group, x_cols, count, total)
        for i in range(count):
            place = labels[i] * group + i
            every[place] = every[place] - factor
        from_columns(z, group, x_cols, dx + row, dx_panel, context, 0, count)
    return 0


@kernel
def cross_entropy_probabilities(x, x_panel, x_cols, target, target_panel, loss, dx, dx_panel, share,
                                context, low, high):
    """Cross-entropy against a distribution over the classes for each row; a class of probability 0 costs nothing."""
    factor, z = factor_of(context, share), ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    goal, terms = z + size * SIZE, z + 2 * size * SIZE
    top, total = z + 3 * size * SIZE, z + (3 * size + group) * SIZE
    weight, block = z + (3 * size + 2 * group) * SIZE, z + (3 * size + 3 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        to_columns(target + row, target_panel, x_cols, goal, group, context, 0, count)
        max_columns(z, group, x_cols, count, top)
        shares, tops = reals(loss + first * SIZE, count), reals(top, count)
        totals, weights = reals(total, count), reals(weight, count)
        for c in range(x_cols):
            given, wanted = reals(z + c * group * SIZE, count), reals(goal + c * group * SIZE, count)
            costs = reals(terms + c * group * SIZE, count)
            for i in range(count):
                costs[i] = select(wanted[i] == 0.0, 0.0, wanted[i] * (tops[i] - given[i]))
        add_columns(terms, group, x_cols, count, loss + first * SIZE, block)
        add_columns(goal, group, x_cols, count, weight, block)
        exp_columns(z, group, x_cols, count, top)
        add_columns(z, group, x_cols, count, total, block)
        for i in range(count):
            shares[i] = shares[i] + weights[i] * log(totals[i])
            totals[i] = weights[i] / totals[i]
        for c in range(x_cols):
            given, wanted = reals(z + c * group * SIZE, count), reals(goal + c * group * SIZE, count)
            for i in range(count):
                given[i] = (given[i] * totals[i] - wanted[i]) * factor
        from_columns(z, group, x_cols, dx + row, dx_panel, context, 0, count)
    return 0


def _one_hot(labels, like):
    table = np.zeros_like(like)
    table[np.arange(len(labels)), labels] = 1
    return table


def _cross_entropy_reference(attributes, x, y):
    losses = -numpy_log_softmax(x)[np.arange(len(y)), y]
    return losses.mean() if attributes["reduction"] == "mean" else losses.sum()


def _probabilities_reference(attributes, x, y):
    losses = -np.where(y == 0, 0, y * numpy_log_softmax(x)).sum(-1)
    return losses.mean() if attributes["reduction"] == "mean" else losses.sum()


def _probabilities_reference_backward(attributes, upstream, x, y):
    slope = np.exp(numpy_log_softmax(x)) * y.sum(-1, keepdims=True) - y
    return upstream * slope / (len(x) if attributes["reduction"] == "mean" else 1)


def _cross_entropy_reference_backward(attributes, upstream, x, y):
    return _probabilities_reference_backward(attributes, upstream, x, _one_hot(y, x))


_register("cross_entropy", _labels_shape, _cross_entropy_reference, _cross_entropy_reference_backward, cross_entropy)
_register("cross_entropy_probabilities", _targets_shape, _probabilities_reference, _probabilities_reference_backward,
          cross_entropy_probabilities)
