"""Losses: what all of them share; formulas stand in the files `*_losses` and `cross_entropy`.

A loss kernel writes, for each row i of the batch, the row's loss l_i and the gradient with respect to the prediction;
`total_loss` joins the rows in a fixed order. Value and gradient are reduced alike:

    sum     sum_i s_i l_i
    mean    sum_i s_i l_i / (share sum_i s_i k_i)

s_i is the sample weight of the row, 1 without such weights. k_i is what the loss counts the row for: 1, but the weight
of its class for cross-entropy and nll_loss, and 0 where they ignore its label. `share` is the number of elements that a
row counts for: all of them for the elementwise losses, as in torch (scikit-learn divides by the rows there), one for
losses of classes. Where nothing counts, the mean is 0, with gradient 0 (torch: NaN, with gradient 0).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._block import THREADS, WARPS, add_threads, add_warps, block_kernel, blocks, lane, spot, thread, warp
from ._context import BATCH, CONTEXT, LOSS, SCRATCH, START, WEIGHT
from ._jit import by_feature, kernel
from ._op import Op, register
from ._panels import add_columns, give_columns, group_rows, group_size, take_columns, whole
from ._primitives import LANES, PANEL, SIZE, doubles, ints, real, reals
from ._steps import number
from .data import row_of

NOTHING = -1  # an ignored label that no row has


@dataclass(frozen=True)
class Loss:
    """What a loss says of itself beyond its entry in the op table.

    operands: `(attributes, columns) -> numbers, and tuples of them, that its kernel takes`, among them `share`, which
        is 0 for a sum.
    labels: whether its targets are class indices, (rows,), instead of numbers of the prediction's shape.
    counts: whether k_i depends on the label, through the operands `weight` and `ignored`.
    """

    operands: Callable[[Mapping[str, Any], int], dict[str, Any]]
    labels: bool = False
    counts: bool = False


LOSSES: dict[str, Loss] = {}


@kernel
def total_weight(labels, order, sample, weight, ignored, context, low, high):
    """Put sum_i s_i k_i of the batch into the worker's context: what its rows count for, in float64."""
    cells = ints(context, CONTEXT)
    total = np.float64(0.0)
    for i in range(cells[BATCH]):
        row = row_of(order, cells[START] + i)
        label = 0
        if labels:
            label = ints(labels, row + 1)[row]
        total += np.float64(row_weight(label, sample, row, weight, ignored))
    doubles(context, CONTEXT)[WEIGHT] = total
    return 0


def row_weight(label, sample, row, weight, ignored):
    """s_i k_i of one row: 0 where its label is ignored, else its sample weight times the weight of its class."""
    result = real(1.0)
    if label == ignored:
        return real(0.0)
    if sample:
        result = reals(sample, row + 1)[row]
    if weight:
        result = result * reals(weight, label + 1)[label]
    return result


@kernel
def total_loss(loss, share: float, scale: float, sums, count, context, low, high):
    """Add to the loss in the worker's context `scale` times the rows' losses, over what they count for if share.

    Four float64 partial sums. What does not come from rows is added to it: `count` float64 `sums`, such as those of
    penalties.
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
    cells = doubles(context, CONTEXT)
    counted = share * cells[WEIGHT]
    if counted > 0.0:
        total /= counted
    total *= scale
    for i in range(count):
        total += doubles(sums, count)[i]
    cells[LOSS] += total
    return 0


@block_kernel(total_weight)
def total_weight_cuda(labels, order, sample, weight, ignored, context, row, rows, column, columns):
    """Put sum_i s_i k_i of the batch into the context."""
    cells, total = ints(context, CONTEXT), real(0.0)
    for i in range(thread(), cells[BATCH], THREADS):
        place, label = row_of(order, cells[START] + i), 0
        if labels:
            label = ints(labels, place + 1)[place]
        total += row_weight(label, sample, place, weight, ignored)
    total = add_threads(total)
    if thread() == 0:
        number(context, WEIGHT)[0] = total
    return 0


@block_kernel(total_loss)
def total_loss_cuda(loss, share: float, scale: float, sums, count, context, row, rows, column, columns):
    """Add to the loss in the context as `total_loss` does, with `real` sums in pairs."""
    batch = ints(context, CONTEXT)[BATCH]
    values, others = reals(loss, batch), reals(sums, count)
    total, rest = real(0.0), real(0.0)
    for i in range(thread(), batch, THREADS):
        total += values[i]
    for i in range(thread(), count, THREADS):
        rest += others[i]
    total = add_threads(total) * factor_of_cuda(context, share, scale)
    rest = add_threads(rest)
    if thread() == 0:
        found = number(context, LOSS)
        found[0] = found[0] + (total + rest)
    return 0


def factor_of_cuda(context, share, scale):
    """As `factor_of`, of a device's context."""
    counted = share * number(context, WEIGHT)[0]
    if counted > 0.0:
        return scale / counted
    return scale


def factor_of(context, share, scale):
    """What reduction and the loss's factor multiply each row's gradient with, its sample weight apart."""
    counted = share * doubles(context, CONTEXT)[WEIGHT]
    if counted > 0.0:
        return real(scale / counted)
    return real(scale)


def row_factors(sample, first, rows, factor, factors):
    """factors[i] = factor s_i for the rows from `first` on."""
    scales = reals(factors, rows)
    for i in range(rows):
        scales[i] = factor
    if sample:
        weights = reals(sample + first * SIZE, rows)
        for i in range(rows):
            scales[i] = factor * weights[i]


def weigh(sample, first, rows, loss):
    """Multiply the losses of the rows from `first` on with their sample weights."""
    if sample:
        shares, weights = reals(loss + first * SIZE, rows), reals(sample + first * SIZE, rows)
        for i in range(rows):
            shares[i] = shares[i] * weights[i]


def sample_weight(sample, i, rows):
    """On CUDA, s_i; 1 without weights and for what is no row."""
    if sample and i < rows:
        return reals(sample, i + 1)[i]
    return real(1.0)


def keep_row(loss, i, rows, value):
    """On CUDA, write the loss of row i down, in the first warp, if it is a row."""
    if warp() == 0 and i < rows:
        reals(loss, i + 1)[i] = value


def elementwise_loss(name, value, slope, reference, reference_slope, parameter="", weight=False, per_row=False,
                     cases=({},), reductions=("mean", "sum"), narrow=True):
    """Enter a loss that sums `value(x, y, p)` over predictions x and targets y, with d value / dx = `slope(x, y, p)`.

    parameter: the attribute that p comes from: a number, or one for each column, or None for 1s. weight: whether it has
    the attribute `weight`, None or a factor for each column. per_row: the columns of a row are averaged, whatever the
    reduction. The references take arrays x, y and p. narrow: whether there may be programs by feature with it.
    """

    def rows(x, x_panel, x_cols, target, target_panel, sample, weight, parameters, p: float, share: float,
             scale: float, loss, dx, dx_panel, context, low, high):
        factor, given = factor_of(context, share, scale), ints(context, CONTEXT)[SCRATCH]
        group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
        wanted, block, factors = given + size * SIZE, given + 2 * size * SIZE, given + (2 * size + group) * SIZE
        for first in range(low, high, group):
            count = min(group, high - first)
            lines = whole(count)
            take_columns(x, x_panel, x_cols, first, count, given, group, context)
            take_columns(target, target_panel, x_cols, first, count, wanted, group, context)
            row_factors(sample, first, count, factor, factors)
            scales = reals(factors, lines)
            for c in range(x_cols):
                predictions, targets = reals(given + c * group * SIZE, lines), reals(wanted + c * group * SIZE, lines)
                parameter, scale = real(p), real(1.0)
                if parameters:
                    parameter = reals(parameters, x_cols)[c]
                if weight:
                    scale = reals(weight, x_cols)[c]
                for i in range(lines):
                    prediction, goal = predictions[i], targets[i]
                    targets[i] = scale * value(prediction, goal, parameter)
                    predictions[i] = slope(prediction, goal, parameter) * (scale * scales[i])
            add_columns(wanted, group, x_cols, count, loss + first * SIZE, block)
            weigh(sample, first, count, loss)
            give_columns(given, group, x_cols, dx, dx_panel, first, count, context)
        return 0

    def rows_cuda(x, x_cols, target, sample, weight, parameters, p: float, share: float, scale: float, loss, dx,
                  context, row, rows, column, columns):
        factor = factor_of_cuda(context, share, scale)
        for block in blocks(row, rows):
            i, begin, count = block * PANEL + lane(), spot(block, x_cols, 0) * SIZE, x_cols * PANEL
            own, total = sample_weight(sample, i, row + rows), real(0.0)
            predictions, targets = reals(x + begin, count), reals(target + begin, count)
            slopes = reals(dx + begin, count)
            for c in range(warp(), x_cols, WARPS):
                prediction, goal = predictions[c * PANEL + lane()], targets[c * PANEL + lane()]
                parameter, counted = p, real(1.0)
                if parameters:
                    parameter = reals(parameters, x_cols)[c]
                if weight:
                    counted = reals(weight, x_cols)[c]
                total += counted * value(prediction, goal, parameter)
                slopes[c * PANEL + lane()] = slope(prediction, goal, parameter) * (counted * (factor * own))
            keep_row(loss, i, row + rows, add_warps(total) * own)
        return 0

    def operands(attributes, columns):
        given, weights = attributes[parameter] if parameter else 0.0, attributes.get("weight")
        if per_row:
            weights = tuple(number / columns for number in weights or (1.0,) * columns)
        share = {"mean": 1.0 if per_row else float(columns), "batchmean": 1.0, "sum": 0.0}[attributes["reduction"]]
        given = 1.0 if given is None else given
        vector = isinstance(given, tuple)
        return {"weight": weights, "parameters": given if vector else None, "p": 0.0 if vector else float(given),
                "share": share}

    def terms(attributes, x, y):
        p, scale = (np.asarray(1 if attributes.get(key) is None else attributes[key], x.dtype)
                    for key in (parameter, "weight"))
        scale = scale / x.dtype.type(x.shape[1]) if per_row else scale
        counted = 1 if per_row or attributes["reduction"] == "batchmean" else x.shape[1]
        return ((scale * reference(x, y, p)).sum(-1), scale * reference_slope(x, y, p),
                np.full(len(x), counted, x.dtype))

    names = ({parameter} if parameter else set()) | ({"weight"} if weight else set())
    assert all(case.keys() == names for case in cases), name
    rows = kernel(rows, name)
    block_kernel(rows, "x")(rows_cuda)
    if narrow:
        by_feature(rows)
    register_loss(name, targets_shape, terms, rows, Loss(operands), cases, reductions)


def register_loss(name, shape, terms, rows, loss, cases=({},), reductions=("mean", "sum"), gradient=True, wide=None):
    """Enter a loss, and its backward op, into the tables.

    shape: of the op, given attributes, prediction and target. terms: the reference `(attributes, x, y) -> l_i, dl_i/dx
    and share k_i for each row`. rows: the kernel; wide: that of many columns, if it has one. Without `gradient` it can
    be evaluated alone.
    """
    backward, cases = f"{name}_backward", tuple({"reduction": how} | case for how in reductions for case in cases)

    def shape_of(attributes, x, y, sample=None):
        shape(x, y)
        for vector in ("weight", "pos_weight"):
            if attributes.get(vector) is not None and len(attributes[vector]) != x[1]:
                raise ValueError(f"{vector} needs {x[1]} numbers, one for each output; got {len(attributes[vector])}")
        if sample not in (None, x[:1]):
            raise ValueError(f"the sample weights of predictions {x} need shape {x[:1]}; got {sample}")
        return ()

    def evaluate(attributes, x, y, sample=None):
        costs, _, counts = terms(attributes, x, y)
        total = (costs if sample is None else sample * costs).sum()
        return total / divisor(attributes, counts, sample)

    def evaluate_backward(attributes, upstream, x, y, sample=None):
        _, slopes, counts = terms(attributes, x, y)
        slopes = slopes if sample is None else slopes * sample[:, None]
        return upstream * slopes / divisor(attributes, counts, sample)

    def divisor(attributes, counts, sample):
        if attributes["reduction"] == "sum":
            return 1
        return (counts if sample is None else sample * counts).sum() or 1

    def gradient_of(graph, node, upstream):
        return (graph.apply(backward, upstream, *node.inputs, **node.attributes), *(None for _ in node.inputs[1:]))

    LOSSES[name] = loss
    register(Op(name, shape_of, evaluate, gradient_of if gradient else None, cpu=rows, wide=wide,
                tolerance="row", cases=cases))
    if gradient:
        register(Op(backward, lambda attributes, upstream, x, y, sample=None: x, evaluate_backward, cpu=rows,
                    wide=wide, tolerance="row", cases=cases))


def targets_shape(x, y):
    """The shapes of a loss of numbers."""
    if x != y:
        raise ValueError(f"the targets need the shape of the predictions, {x}; got {y}")


def labels_shape(x, y):
    """The shapes of a loss of class indices."""
    if len(x) != 2 or y != x[:1]:
        raise ValueError(f"class labels for logits {x} need shape {x[:1]}; got {y}")
