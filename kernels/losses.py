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
from ._panels import clear_padding, panels_max, panels_sum
from ._primitives import PANEL, SIZE, doubles, ints, real, reals, row_sum, select
from .elementary import exp, log, log1p, sigmoid

LOSSES: set[str] = set()
_REDUCTIONS = ({"reduction": "mean"}, {"reduction": "sum"})


@kernel
def total_loss(loss, share, context, low, high):
    """Put the batch's loss into the worker's context: the sum of the rows' losses over batch * share, or over 1.

    `share` is the number of elements a row counts for under the mean, 0 for the sum. Four float64 partial sums.
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
    doubles(context, CONTEXT)[LOSS] = total
    return 0


def factor_of(context, share):
    """What the reduction multiplies each row's gradient with."""
    if share:
        return real(np.float64(1.0) / np.float64(ints(context, CONTEXT)[BATCH] * share))
    return real(1.0)


def elementwise_loss(name, value, slope, reference, reference_slope):
    """Enter a loss that sums `value(x, y)` over predictions x and targets y, with d value / dx = `slope(x, y)`."""

    def rows(x, x_panel, x_cols, target, target_panel, loss, dx, dx_panel, dx_panels, share, context, low, high):
        factor, scratch = factor_of(context, share), ints(context, CONTEXT)[SCRATCH]
        terms, shares = reals(scratch, PANEL), reals(loss, high)
        for i in range(low, high):
            total = real(0.0)
            for panel in range(dx_panels):
                count = min(PANEL, x_cols - panel * PANEL)
                given = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
                wanted = reals(target + (panel * target_panel + i * PANEL) * SIZE, PANEL)
                down = reals(dx + (panel * dx_panel + i * PANEL) * SIZE, PANEL)
                for j in range(count):
                    terms[j] = value(given[j], wanted[j])
                    down[j] = slope(given[j], wanted[j]) * factor
                total += row_sum(scratch, count)
            clear_padding(dx + i * PANEL * SIZE, dx_panel, x_cols)
            shares[i] = total
        return 0

    rows.__name__ = rows.__qualname__ = name

    def evaluate(attributes, x, y):
        terms = reference(x, y)
        return terms.mean() if attributes["reduction"] == "mean" else terms.sum()

    def evaluate_backward(attributes, upstream, x, y):
        return upstream * reference_slope(x, y) / (x.size if attributes["reduction"] == "mean" else 1)

    _register(name, _targets_shape, evaluate, evaluate_backward, kernel(rows))


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
def cross_entropy(x, x_panel, x_cols, target, loss, dx, dx_panel, dx_panels, share, context, low, high):
    """Cross-entropy against class indices (int64); dx may be x."""
    factor = factor_of(context, share)
    labels, shares = ints(target, high), reals(loss, high)
    for i in range(low, high):
        row, label = i * PANEL * SIZE, labels[i]
        top = panels_max(x + row, x_panel, x_cols)
        shares[i] = top - reals(x + row + label // PANEL * x_panel * SIZE, PANEL)[label % PANEL]
        for panel in range(dx_panels):
            given = reals(x + row + panel * x_panel * SIZE, PANEL)
            down = reals(dx + row + panel * dx_panel * SIZE, PANEL)
            for j in range(PANEL):
                down[j] = given[j] - top
    count = (high - low) * PANEL
    for panel in range(dx_panels):
        values = reals(dx + (panel * dx_panel + low * PANEL) * SIZE, count)
        for i in range(count):
            values[i] = exp(values[i])
    for i in range(low, high):
        row, label = i * PANEL * SIZE, labels[i]
        total = panels_sum(dx + row, dx_panel, x_cols)
        shares[i] = shares[i] + log(total)
        scale = factor / total
        for panel in range(dx_panels):
            down = reals(dx + row + panel * dx_panel * SIZE, PANEL)
            for j in range(PANEL):
                down[j] = down[j] * scale
        clear_padding(dx + row, dx_panel, x_cols)
        down = reals(dx + row + label // PANEL * dx_panel * SIZE, PANEL)
        down[label % PANEL] = down[label % PANEL] - factor
    return 0


@kernel
def cross_entropy_probabilities(x, x_panel, x_cols, target, target_panel, loss, dx, dx_panel, dx_panels, share,
                                context, low, high):
    """Cross-entropy against a distribution over the classes for each row; a class of probability 0 costs nothing."""
    factor, scratch = factor_of(context, share), ints(context, CONTEXT)[SCRATCH]
    terms, shares = reals(scratch, PANEL), reals(loss, high)
    for i in range(low, high):
        row = i * PANEL * SIZE
        top = panels_max(x + row, x_panel, x_cols)
        weight = panels_sum(target + row, target_panel, x_cols)
        value, total = real(0.0), real(0.0)
        for panel in range(dx_panels):
            count = min(PANEL, x_cols - panel * PANEL)
            given = reals(x + row + panel * x_panel * SIZE, PANEL)
            wanted = reals(target + row + panel * target_panel * SIZE, PANEL)
            down = reals(dx + row + panel * dx_panel * SIZE, PANEL)
            for j in range(count):
                terms[j] = select(wanted[j] == 0.0, 0.0, wanted[j] * (top - given[j]))
                down[j] = exp(given[j] - top)
            value += row_sum(scratch, count)
            total += row_sum(dx + row + panel * dx_panel * SIZE, count)
        shares[i] = value + weight * log(total)
        for panel in range(dx_panels):
            wanted = reals(target + row + panel * target_panel * SIZE, PANEL)
            down = reals(dx + row + panel * dx_panel * SIZE, PANEL)
            for j in range(PANEL):
                down[j] = (down[j] * (weight / total) - wanted[j]) * factor
        clear_padding(dx + row, dx_panel, x_cols)
    return 0


def _log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _one_hot(labels, like):
    table = np.zeros_like(like)
    table[np.arange(len(labels)), labels] = 1
    return table


def _cross_entropy_reference(attributes, x, y):
    losses = -_log_softmax(x)[np.arange(len(y)), y]
    return losses.mean() if attributes["reduction"] == "mean" else losses.sum()


def _probabilities_reference(attributes, x, y):
    losses = -np.where(y == 0, 0, y * _log_softmax(x)).sum(-1)
    return losses.mean() if attributes["reduction"] == "mean" else losses.sum()


def _probabilities_reference_backward(attributes, upstream, x, y):
    slope = np.exp(_log_softmax(x)) * y.sum(-1, keepdims=True) - y
    return upstream * slope / (len(x) if attributes["reduction"] == "mean" else 1)


def _cross_entropy_reference_backward(attributes, upstream, x, y):
    return _probabilities_reference_backward(attributes, upstream, x, _one_hot(y, x))


_register("cross_entropy", _labels_shape, _cross_entropy_reference, _cross_entropy_reference_backward, cross_entropy)
_register("cross_entropy_probabilities", _targets_shape, _probabilities_reference, _probabilities_reference_backward,
          cross_entropy_probabilities)
