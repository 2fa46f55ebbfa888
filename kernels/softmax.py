"""Softmax and its logarithm, over the elements of a row; m = max_j x_j keeps the exponentials finite.

softmax:      y_i = exp(x_i - m) / sum_j exp(x_j - m),         dx_i = y_i (dy_i - sum_j dy_j y_j)
log_softmax:  y_i = (x_i - m) - log sum_j exp(x_j - m),        dx_i = dy_i - exp(y_i) sum_j dy_j
"""

import numpy as np

from ._block import WARPS, add_warps, block_kernel, blocks, lane, largest_of_warps, spot, warp
from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import BLOCK, add_columns, from_columns, group_rows, group_size, max_columns, to_columns, whole
from ._primitives import LANES, PANEL, SIZE, copy, ints, real, reals
from ._rows import (
    BLOCK_ROWS,
    added_line,
    clear_edge,
    exp_rows,
    fill_line,
    make_edge,
    max_rows,
    panel_at,
    scale_rows,
)
from .elementary import exp, log
from .exponential import RAISED, exp_raised

_INFINITY = float("inf")


@kernel
def softmax_forward(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Softmax over each row; y may be x."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
        max_columns(z, group, y_cols, count, top, context)
        exp_columns(z, group, y_cols, count, top, total, block, True)
        lines = whole(count)
        totals = reals(total, lines)
        for i in range(lines):
            totals[i] = 1.0 / totals[i]
        scale_columns(z, group, y_cols, count, total)
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def softmax_forward_wide(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Softmax over each row of many columns; y may be x."""
    block, edge = BLOCK_ROWS * PANEL * SIZE, ints(context, CONTEXT)[SCRATCH]
    most, total, shift = edge + block, edge + 2 * block, edge + 3 * block
    for first in range(low, high, BLOCK_ROWS):
        rows, row = min(BLOCK_ROWS, high - first), first * PANEL * SIZE
        max_rows(x + row, x_panel, y_cols, edge, most, context, 0, rows)
        exp_rows(x + row, x_panel, y_cols, edge, most, shift, y + row, y_panel, total, context, 0, rows)
        for i in range(rows):
            line = reals(total + i * PANEL * SIZE, PANEL)
            fill_line(line, 1.0 / line[0])
        scale_rows(y + row, y_panel, y_cols, total, rows)
    return 0


@kernel
def log_softmax_forward(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Logarithm of softmax over each row; y may be x."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
    top, total, block = z + size * SIZE, z + (size + group) * SIZE, z + (size + 2 * group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
        max_columns(z, group, y_cols, count, top, context)
        exp_columns(z, group, y_cols, count, top, total, block, False)
        lines = whole(count)
        tops, totals = reals(top, lines), reals(total, lines)
        for i in range(lines):
            totals[i] = log(totals[i] * RAISED[0])
        for c in range(y_cols):
            column = reals(z + c * group * SIZE, lines)
            for i in range(lines):
                column[i] = column[i] - tops[i] - totals[i]
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def log_softmax_forward_wide(x, x_panel, y, y_panel, y_cols, context, low, high):
    """Logarithm of softmax over each row of many columns; y may be x."""
    block, edge = BLOCK_ROWS * PANEL * SIZE, ints(context, CONTEXT)[SCRATCH]
    most, total, shift, powers = edge + block, edge + 2 * block, edge + 3 * block, edge + 4 * block
    for first in range(low, high, BLOCK_ROWS):
        rows, row = min(BLOCK_ROWS, high - first), first * PANEL * SIZE
        count = rows * PANEL
        max_rows(x + row, x_panel, y_cols, edge, most, context, 0, rows)
        exp_rows(x + row, x_panel, y_cols, edge, most, shift, powers, 0, total, context, 0, rows)
        for i in range(rows):
            line = reals(total + i * PANEL * SIZE, PANEL)
            fill_line(line, log(line[0] * RAISED[0]))
        tops, totals, shifts = reals(most, count), reals(total, count), reals(shift, count)
        for panel in range(-(-y_cols // PANEL)):
            numbers = reals(panel_at(x + row, x_panel, y_cols, panel, edge), count)
            for k in range(count):
                shifts[k] = numbers[k] - tops[k] - totals[k]
            copy(y + row + panel * y_panel * SIZE, shift, count)
        clear_edge(y + row, y_panel, y_cols, rows)
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
            lines = whole(count)
            to_columns(dy + row, dy_panel, dx_cols, up, group, context, 0, count)
            to_columns(y + row, y_panel, dx_cols, kept, group, context, 0, count)
            for c in range(dx_cols):
                ups, ys = reals(up + c * group * SIZE, lines), reals(kept + c * group * SIZE, lines)
                terms = reals(each + c * group * SIZE, lines)
                for i in range(lines):
                    terms[i] = term(ups[i], ys[i])
            add_columns(each, group, dx_cols, count, total, block)
            totals = reals(total, lines)
            for c in range(dx_cols):
                ups, ys = reals(up + c * group * SIZE, lines), reals(kept + c * group * SIZE, lines)
                for i in range(lines):
                    ups[i] = slope(ups[i], ys[i], totals[i])
            from_columns(up, group, dx_cols, dx + row, dx_panel, context, 0, count)
        return 0

    def backward_cuda(dy, y, dx, dx_cols, context, row, rows, column, columns):
        for block in blocks(row, rows):
            begin, count, total = spot(block, dx_cols, 0) * SIZE, dx_cols * PANEL, real(0.0)
            ups, ys, target = reals(dy + begin, count), reals(y + begin, count), reals(dx + begin, count)
            for c in range(warp(), dx_cols, WARPS):
                total += term(ups[c * PANEL + lane()], ys[c * PANEL + lane()])
            total = add_warps(total)
            for c in range(warp(), dx_cols, WARPS):
                target[c * PANEL + lane()] = slope(ups[c * PANEL + lane()], ys[c * PANEL + lane()], total)
        return 0

    backward = kernel(backward, name)
    block_kernel(backward, "dx")(backward_cuda)
    return backward


def _wide_backward_kernel(name, term, slope):
    """`_backward_kernel` for many columns."""

    def backward(dy, dy_panel, y, y_panel, dx, dx_panel, dx_cols, context, low, high):
        block, up_edge = BLOCK_ROWS * PANEL * SIZE, ints(context, CONTEXT)[SCRATCH]
        edge, total, made = up_edge + block, up_edge + 2 * block, up_edge + 3 * block
        for first in range(low, high, BLOCK_ROWS):
            rows, row = min(BLOCK_ROWS, high - first), first * PANEL * SIZE
            count = rows * PANEL
            totals, slopes = reals(total, count), reals(made, count)
            make_edge(dy + row, dy_panel, dx_cols, 0.0, up_edge, rows)
            make_edge(y + row, y_panel, dx_cols, 0.0, edge, rows)
            for k in range(count):
                totals[k] = 0.0
            for panel in range(-(-dx_cols // PANEL)):
                ups = reals(panel_at(dy + row, dy_panel, dx_cols, panel, up_edge), count)
                ys = reals(panel_at(y + row, y_panel, dx_cols, panel, edge), count)
                for k in range(count):
                    totals[k] = totals[k] + term(ups[k], ys[k])
            for i in range(rows):
                line = reals(total + i * PANEL * SIZE, PANEL)
                fill_line(line, added_line(line))
            for panel in range(-(-dx_cols // PANEL)):
                ups = reals(panel_at(dy + row, dy_panel, dx_cols, panel, up_edge), count)
                ys = reals(panel_at(y + row, y_panel, dx_cols, panel, edge), count)
                for k in range(count):
                    slopes[k] = slope(ups[k], ys[k], totals[k])
                copy(dx + row + panel * dx_panel * SIZE, made, count)
            clear_edge(dx + row, dx_panel, dx_cols, rows)
        return 0

    return kernel(backward, name)


# On CUDA a thread takes some columns of one row, and a row's threads exchange what they found.


def largest_of_row(numbers, cols):
    """The largest number of the thread's row, of a block with `cols` columns; NaN where one is NaN."""
    top = -_INFINITY
    for c in range(warp(), cols, WARPS):
        value = numbers[c * PANEL + lane()]
        if value > top or value != value:
            top = value
    return largest_of_warps(top)


def powers_of_row(numbers, cols, top):
    """The sum of exp(x - top) over the numbers x of the thread's row, `exp_raised`."""
    total = real(0.0)
    for c in range(warp(), cols, WARPS):
        total += exp_raised(numbers[c * PANEL + lane()] - top)
    return add_warps(total)


@block_kernel(softmax_forward, "y")
def softmax_cuda(x, y, y_cols, context, row, rows, column, columns):
    """Softmax over each row; y may be x."""
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, 0) * SIZE, y_cols * PANEL
        given, target = reals(x + begin, count), reals(y + begin, count)
        top = largest_of_row(given, y_cols)
        total = powers_of_row(given, y_cols, top)
        for c in range(warp(), y_cols, WARPS):
            target[c * PANEL + lane()] = exp_raised(given[c * PANEL + lane()] - top) / total
    return 0


@block_kernel(log_softmax_forward, "y")
def log_softmax_cuda(x, y, y_cols, context, row, rows, column, columns):
    """Logarithm of softmax over each row; y may be x."""
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, 0) * SIZE, y_cols * PANEL
        given, target = reals(x + begin, count), reals(y + begin, count)
        top = largest_of_row(given, y_cols)
        shift = log(powers_of_row(given, y_cols, top) * RAISED[0])
        for c in range(warp(), y_cols, WARPS):
            target[c * PANEL + lane()] = given[c * PANEL + lane()] - top - shift
    return 0


def exp_columns(z, stride, columns, rows, top, total, block, keep):
    """total[i] = sum of exp(z[c, i] - top[i]) over c, added up as by `add_columns`; if `keep`, z becomes what is added.

    Both are `exp_raised`; top[i] is the largest z[c, i].
    """
    lines = whole(rows)
    tops, totals, sums = reals(top, lines), reals(total, lines), reals(block, lines)
    for i in range(lines):
        totals[i] = 0.0
    for first in range(0, columns, BLOCK):
        for i in range(lines):
            sums[i] = 0.0
        for c in range(first, min(first + BLOCK, columns)):
            column = reals(z + c * stride * SIZE, lines)
            for i in range(lines):
                power = exp_raised(column[i] - tops[i])
                sums[i] = sums[i] + power
                if keep:
                    column[i] = power
        for i in range(lines):
            totals[i] = totals[i] + sums[i]


def scale_columns(z, stride, columns, rows, scale):
    """z[c, i] *= scale[i]."""
    lines = whole(rows)
    scales = reals(scale, lines)
    for c in range(columns):
        column = reals(z + c * stride * SIZE, lines)
        for i in range(lines):
            column[i] = column[i] * scales[i]


def _enter(name, forward, wide, reference, term, slope, reference_backward):
    """Enter an op and its backward op, which reads the output, into the table."""
    backward = f"{name}_backward"

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, node),)

    register(Op(name, one_shape, reference, gradient, "y", forward, tolerance="row", wide=wide))
    register(Op(backward, same_shape, reference_backward, None, "y", _backward_kernel(backward, term, slope),
                tolerance="row", wide=_wide_backward_kernel(f"{backward}_wide", term, slope)))


def _product(dy, y):
    return dy * y


def _softmax_slope(dy, y, total):
    return y * (dy - total)


def _softmax_reference(attributes, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_reference_backward(attributes, dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))


_enter("softmax", softmax_forward, softmax_forward_wide, _softmax_reference, _product, _softmax_slope,
       _softmax_reference_backward)


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


_enter("log_softmax", log_softmax_forward, log_softmax_forward_wide, lambda attributes, x: numpy_log_softmax(x),
       _gradient_alone, _log_softmax_slope, _log_softmax_reference_backward)
