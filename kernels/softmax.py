"""Softmax and its logarithm, over the elements of a row; m = max_j x_j keeps the exponentials finite.

softmax:      y_i = exp(x_i - m) / sum_j exp(x_j - m),         dx_i = y_i (dy_i - sum_j dy_j y_j)
log_softmax:  y_i = (x_i - m) - log sum_j exp(x_j - m),        dx_i = dy_i - exp(y_i) sum_j dy_j
"""

import numpy as np

from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import add_columns, from_columns, group_rows, group_size, max_columns, nothing, to_columns
from ._primitives import LANES, PANEL, SIZE, copy, ints, reals, select
from .elementary import exp, log

_INFINITY = float("inf")


@kernel
def softmax_forward(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Softmax over each row; y may be x."""
    z = ints(context, CONTEXT)[SCRATCH]
    if many_columns(y_cols):
        unit = PANEL * PANEL * SIZE
        top, parts, own, total = z, z + unit, z + 2 * unit, z + 3 * unit
        for first in range(low, high, PANEL):
            count, row = min(PANEL, high - first), first * PANEL * SIZE
            max_rows(x + row, x_panel, y_cols, count, total, top, own, context)
            exp_rows(x + row, x_panel, y_cols, count, top, y + row, y_panel, total, parts, own, context)
            totals = reals(total, count)
            for i in range(count):
                totals[i] = 1.0 / totals[i]
            spread(total, count, top)
            scale_rows(y + row, y_panel, y_cols, count, top)
        return 0
    group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
        max_columns(z, group, y_cols, count, top, context)
        exp_columns(z, group, y_cols, count, top)
        add_columns(z, group, y_cols, count, total, block)
        totals = reals(total, count)
        for i in range(count):
            totals[i] = 1.0 / totals[i]
        scale_columns(z, group, y_cols, count, total)
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def log_softmax_forward(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Logarithm of softmax over each row; y may be x."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
    power, top = z + size * SIZE, z + 2 * size * SIZE
    total, block = top + group * SIZE, top + 2 * group * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
        max_columns(z, group, y_cols, count, top, context)
        tops, totals = reals(top, count), reals(total, count)
        for c in range(y_cols):
            column, powers = reals(z + c * group * SIZE, count), reals(power + c * group * SIZE, count)
            for i in range(count):
                column[i] = column[i] - tops[i]
                powers[i] = exp(column[i])
        add_columns(power, group, y_cols, count, total, block)
        for i in range(count):
            totals[i] = log(totals[i])
        for c in range(y_cols):
            column = reals(z + c * group * SIZE, count)
            for i in range(count):
                column[i] = column[i] - totals[i]
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


def _backward_kernel(name, term, slope):
    """The kernel that makes dx_i = slope(dy_i, y_i, sum_j term(dy_j, y_j)) along each row; dx may be dy."""

    def backward(dy, dy_panel, y, y_panel, dx, dx_panel, dx_cols, context, low, high):
        up = ints(context, CONTEXT)[SCRATCH]
        group, size = group_rows(dx_cols, LANES, SIZE), group_size(dx_cols, LANES, SIZE)
        kept, each = up + size * SIZE, up + 2 * size * SIZE
        total, block = up + 3 * size * SIZE, up + (3 * size + group) * SIZE
        for first in range(low, high, group):
            count, row = min(group, high - first), first * PANEL * SIZE
            to_columns(dy + row, dy_panel, dx_cols, up, group, context, 0, count)
            to_columns(y + row, y_panel, dx_cols, kept, group, context, 0, count)
            for c in range(dx_cols):
                ups, ys = reals(up + c * group * SIZE, count), reals(kept + c * group * SIZE, count)
                terms = reals(each + c * group * SIZE, count)
                for i in range(count):
                    terms[i] = term(ups[i], ys[i])
            add_columns(each, group, dx_cols, count, total, block)
            totals = reals(total, count)
            for c in range(dx_cols):
                ups, ys = reals(up + c * group * SIZE, count), reals(kept + c * group * SIZE, count)
                for i in range(count):
                    ups[i] = slope(ups[i], ys[i], totals[i])
            from_columns(up, group, dx_cols, dx + row, dx_panel, context, 0, count)
        return 0

    return kernel(backward, name)


# Rows of many columns are taken as they lie, PANEL of them at a time and a panel after the other. What belongs to a row
# is spread over PANEL places, so that loops run over all numbers of the rows in a panel. `own` is scratch.


def many_columns(columns):
    """Whether turning rows into columns, few of which would fit in the cache, takes more time than it saves."""
    return columns > 8 * PANEL


def part(x, x_panel, columns, panel, rows, own):
    """Copy a panel of x to `own`, with -inf in the columns that do not exist."""
    copy(own, x + panel * x_panel * SIZE, rows * PANEL)
    for i in range(rows):
        line = reals(own + i * PANEL * SIZE, PANEL)
        for j in range(columns - panel * PANEL, PANEL):
            line[j] = -_INFINITY


def max_rows(x, x_panel, columns, rows, most, top, own, context):
    """most[i] = the largest x[i, :], and spread in `top`; a NaN among them may or may not come out."""
    same = nothing(context)
    count = rows * PANEL
    tops, numbers = reals(top, count), reals(own, count)
    for panel in range(-(-columns // PANEL)):
        part(x, x_panel, columns, panel, rows, own)
        if panel == 0:
            copy(top, own, count)
        for k in range(count):
            tops[k] = select(numbers[k] > tops[k], numbers[k], tops[k]) + same
    to_columns(top, 0, PANEL, own, PANEL, context, 0, rows)
    max_columns(own, PANEL, PANEL, rows, most, context)
    spread(most, rows, top)


def exp_rows(x, x_panel, columns, rows, top, y, y_panel, total, parts, own, context):
    """y[i, :] = exp(x[i, :] - top[i]), total[i] the sum of it, in `parts` before; y may be x."""
    count = rows * PANEL
    tops, totals, numbers = reals(top, count), reals(parts, count), reals(own, count)
    for k in range(count):
        totals[k] = 0.0
    for panel in range(-(-columns // PANEL)):
        part(x, x_panel, columns, panel, rows, own)
        powers = reals(y + panel * y_panel * SIZE, count)
        for k in range(count):
            powers[k] = exp(numbers[k] - tops[k])
        for k in range(count):
            totals[k] = totals[k] + powers[k]
    to_columns(parts, 0, PANEL, own, PANEL, context, 0, rows)
    add_columns(own, PANEL, PANEL, rows, total, parts)


def scale_rows(y, y_panel, columns, rows, scale):
    """y[i, :] *= scale[i]."""
    factors = reals(scale, rows * PANEL)
    for panel in range(-(-columns // PANEL)):
        numbers = reals(y + panel * y_panel * SIZE, rows * PANEL)
        for k in range(rows * PANEL):
            numbers[k] = numbers[k] * factors[k]


def spread(values, rows, target):
    """target[i, :] = values[i]."""
    numbers = reals(values, rows)
    for i in range(rows):
        line, value = reals(target + i * PANEL * SIZE, PANEL), numbers[i]
        for j in range(PANEL):
            line[j] = value


def exp_columns(z, stride, columns, rows, top):
    """z[c, i] = exp(z[c, i] - top[i])."""
    tops = reals(top, rows)
    for c in range(columns):
        column = reals(z + c * stride * SIZE, rows)
        for i in range(rows):
            column[i] = exp(column[i] - tops[i])


def scale_columns(z, stride, columns, rows, scale):
    """z[c, i] *= scale[i]."""
    scales = reals(scale, rows)
    for c in range(columns):
        column = reals(z + c * stride * SIZE, rows)
        for i in range(rows):
            column[i] = column[i] * scales[i]


def _enter(name, forward, reference, term, slope, reference_backward):
    """Enter an op and its backward op, which reads the output, into the table."""
    backward = f"{name}_backward"

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, node),)

    register(Op(name, one_shape, reference, gradient, "y", forward, tolerance="row"))
    register(Op(backward, same_shape, reference_backward, None, "y", _backward_kernel(backward, term, slope),
                tolerance="row"))


def _product(dy, y):
    return dy * y


def _softmax_slope(dy, y, total):
    return y * (dy - total)


def _softmax_reference(attributes, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_reference_backward(attributes, dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))


_enter("softmax", softmax_forward, _softmax_reference, _product, _softmax_slope, _softmax_reference_backward)


def _gradient_alone(dy, y):
    return dy


def _log_softmax_slope(dy, y, total):
    return dy - exp(y) * total


def numpy_log_softmax(x):
    """The logarithm of softmax over each row, in NumPy."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _log_softmax_reference_backward(attributes, dy, y):
    return dy - np.exp(y) * dy.sum(-1, keepdims=True)


_enter("log_softmax", log_softmax_forward, lambda attributes, x: numpy_log_softmax(x), _gradient_alone,
       _log_softmax_slope, _log_softmax_reference_backward)
