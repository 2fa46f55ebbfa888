"""Layers that make one feature of several: gated linear units and maxout.

They work in columns of the worker's scratch: a feature and its partners need not stand in one panel.
"""

import numpy as np

from ._block import THREADS, block_kernel, blocks, lane, spot, thread
from ._context import CONTEXT, SCRATCH
from ._elementwise import SPAN
from ._jit import kernel
from ._op import Op, register
from ._panels import from_columns, group_rows, group_size, largest_columns, to_columns, whole
from ._primitives import LANES, PANEL, SIZE, ints, reals, select
from .elementary import sigmoid

# GLU (Dauphin et al. 2017, arXiv:1612.08083): y = a s(b), where x = [a, b] and s is the sigmoid.


@kernel
def glu(x, x_panel, x_cols, y, y_panel, y_cols, context, low, high):
    """Y = A s(B) for rows [low, high), X = [A, B]."""
    z = ints(context, CONTEXT)[SCRATCH]
    group = group_rows(x_cols, LANES, SIZE)
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        lines = whole(count)
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        for c in range(y_cols):
            value, gate = reals(z + c * group * SIZE, lines), reals(z + (c + y_cols) * group * SIZE, lines)
            for i in range(lines):
                value[i] = value[i] * sigmoid(gate[i])
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def glu_backward(dy, dy_panel, dy_cols, x, x_panel, dx, dx_panel, dx_cols, context, low, high):
    """dA = dY s(B), dB = dY A s(B) (1 - s(B)) for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group = group_rows(dx_cols, LANES, SIZE)
    up = z + group_size(dx_cols, LANES, SIZE) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        lines = whole(count)
        to_columns(x + row, x_panel, dx_cols, z, group, context, 0, count)
        to_columns(dy + row, dy_panel, dy_cols, up, group, context, 0, count)
        for c in range(dy_cols):
            value, gate = reals(z + c * group * SIZE, lines), reals(z + (c + dy_cols) * group * SIZE, lines)
            slope = reals(up + c * group * SIZE, lines)
            for i in range(lines):
                opened = sigmoid(gate[i])
                gate[i] = slope[i] * value[i] * opened * (1.0 - opened)
                value[i] = slope[i] * opened
        from_columns(z, group, dx_cols, dx + row, dx_panel, context, 0, count)
    return 0


@block_kernel(glu, "y", span=SPAN)
def glu_cuda(x, x_cols, y, y_cols, context, row, rows, column, columns):
    """Y = A s(B), X = [A, B]."""
    for block in blocks(row, rows):
        count = columns * PANEL
        values = reals(x + spot(block, x_cols, column) * SIZE, count)
        gates = reals(x + spot(block, x_cols, column + y_cols) * SIZE, count)
        target = reals(y + spot(block, y_cols, column) * SIZE, count)
        for i in range(thread(), count, THREADS):
            target[i] = values[i] * sigmoid(gates[i])
    return 0


@block_kernel(glu_backward, "dy", span=SPAN)
def glu_backward_cuda(dy, dy_cols, x, dx, dx_cols, context, row, rows, column, columns):
    """dA = dY s(B), dB = dY A s(B) (1 - s(B))."""
    for block in blocks(row, rows):
        count, ups = columns * PANEL, reals(dy + spot(block, dy_cols, column) * SIZE, columns * PANEL)
        first, second = spot(block, dx_cols, column) * SIZE, spot(block, dx_cols, column + dy_cols) * SIZE
        values, gates = reals(x + first, count), reals(x + second, count)
        of_values, of_gates = reals(dx + first, count), reals(dx + second, count)
        for i in range(thread(), count, THREADS):
            opened, value = sigmoid(gates[i]), values[i]
            of_gates[i] = ups[i] * value * opened * (1.0 - opened)
            of_values[i] = ups[i] * opened
    return 0


def _glu_shape(attributes, x):
    if len(x) != 2 or x[1] % 2:
        raise ValueError(f"glu halves the features: it needs x (batch, an even number), got {x}")
    return (x[0], x[1] // 2)


def _glu_reference(attributes, x):
    a, b = np.split(x, 2, axis=-1)
    return a * _numpy_sigmoid(b)


def _glu_reference_backward(attributes, dy, x):
    a, b = np.split(x, 2, axis=-1)
    s = _numpy_sigmoid(b)
    return np.concatenate([dy * s, dy * a * s * (1 - s)], axis=-1)


def _numpy_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _glu_gradient(graph, node, dy):
    return (graph.apply("glu_backward", dy, node.inputs[0]),)


register(Op("glu", _glu_shape, _glu_reference, _glu_gradient, cpu=glu, tolerance="row"))
register(Op("glu_backward", lambda attributes, dy, x: x, _glu_reference_backward, cpu=glu_backward, tolerance="row"))

# Maxout (Goodfellow et al. 2013, arXiv:1302.4389): y_j = max of x_jk ... x_jk+k-1. Ties send the gradient to the first.


@kernel
def maxout(x, x_panel, x_cols, y, y_panel, y_cols, context, low, high):
    """Y = the largest of each x_cols / y_cols features that follow each other, for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, pool = group_rows(x_cols, LANES, SIZE), x_cols // y_cols
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        for c in range(y_cols):
            largest_columns(z + c * pool * group * SIZE, group, pool, count, z + c * group * SIZE, context)
        from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def maxout_backward(dy, dy_panel, dy_cols, x, x_panel, dx, dx_panel, dx_cols, context, low, high):
    """dX = dY at the first largest of each group, 0 elsewhere, for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size, pool = group_rows(dx_cols, LANES, SIZE), group_size(dx_cols, LANES, SIZE), dx_cols // dy_cols
    up, top = z + size * SIZE, z + 2 * size * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, dx_cols, z, group, context, 0, count)
        to_columns(dy + row, dy_panel, dy_cols, up, group, context, 0, count)
        for c in range(dy_cols):
            slopes, tops = reals(up + c * group * SIZE, count), reals(top, count)
            largest_columns(z + c * pool * group * SIZE, group, pool, count, top, context)
            for member in range(c * pool, (c + 1) * pool):
                column = reals(z + member * group * SIZE, count)
                for i in range(count):
                    chosen = column[i] == tops[i]
                    column[i] = select(chosen, slopes[i], 0.0)
                    slopes[i] = select(chosen, 0.0, slopes[i])
        from_columns(z, group, dx_cols, dx + row, dx_panel, context, 0, count)
    return 0


@block_kernel(maxout, "y", span=SPAN)
def maxout_cuda(x, x_cols, y, y_cols, context, row, rows, column, columns):
    """Y = the largest of each x_cols / y_cols features that follow each other, NaN where one is NaN."""
    pool = x_cols // y_cols
    for block in blocks(row, rows):
        given = reals(x + spot(block, x_cols, 0) * SIZE, x_cols * PANEL)
        target = reals(y + spot(block, y_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            target[i] = largest(given, (column + i // PANEL) * pool, pool)
    return 0


@block_kernel(maxout_backward, "dy", span=SPAN)
def maxout_backward_cuda(dy, dy_cols, x, dx, dx_cols, context, row, rows, column, columns):
    """dX = dY at the first largest of each group, 0 elsewhere."""
    pool = dx_cols // dy_cols
    for block in blocks(row, rows):
        begin, count = spot(block, dx_cols, 0) * SIZE, dx_cols * PANEL
        given, target = reals(x + begin, count), reals(dx + begin, count)
        ups = reals(dy + spot(block, dy_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            first, slope = (column + i // PANEL) * pool, ups[i]
            top = largest(given, first, pool)
            for member in range(first, first + pool):
                chosen = given[member * PANEL + lane()] == top
                target[member * PANEL + lane()] = select(chosen, slope, 0.0)
                slope = select(chosen, 0.0, slope)
    return 0


def largest(numbers, first, count):
    """On CUDA, the largest of `count` columns of the thread's row, from `first` on; NaN where one is NaN."""
    top = numbers[first * PANEL + lane()]
    for c in range(first + 1, first + count):
        value = numbers[c * PANEL + lane()]
        top = select((value > top) | (value != value), value, top)
    return top


def _maxout_shape(attributes, x):
    if len(x) != 2 or x[1] % attributes["pool"]:
        raise ValueError(f"maxout over groups of {attributes['pool']} needs x (batch, a multiple of it), got {x}")
    return (x[0], x[1] // attributes["pool"])


def _groups(attributes, x):
    return x.reshape(len(x), x.shape[1] // attributes["pool"], attributes["pool"])


def _maxout_reference_backward(attributes, dy, x):
    groups = _groups(attributes, x)
    first = np.arange(attributes["pool"]) == groups.argmax(-1)[..., None]
    return np.where(first, dy[..., None], 0).reshape(x.shape).astype(x.dtype)


def _maxout_gradient(graph, node, dy):
    return (graph.apply("maxout_backward", dy, node.inputs[0], **node.attributes),)


_POOLS = ({"pool": 2}, {"pool": 1}, {"pool": 5})
register(Op("maxout", _maxout_shape, lambda attributes, x: _groups(attributes, x).max(-1), _maxout_gradient,
            cpu=maxout, cases=_POOLS))
register(Op("maxout_backward", lambda attributes, dy, x: x, _maxout_reference_backward, cpu=maxout_backward,
            cases=_POOLS))
