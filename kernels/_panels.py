"""Helpers for kernels that work along the rows of a matrix in panels; for many columns, see `_rows`, too.

They turn a group of rows into columns of the worker's scratch, [column][row of the group], and back: loops then run
over rows, and fill whole vectors however few columns there are.
"""

from ._context import CONTEXT, ZEROS
from ._jit import kernel
from ._primitives import BY_FEATURE, LANES, PANEL, SIZE, ints, reals, select, transpose, transpose_edge, widen

_GROUP_BYTES = 16384  # of scratch for one matrix: half of a first-level cache
_TURN = 4  # vectors that LLVM lets a loop take in one turn
_MOST = 256  # rows of a group
BLOCK = 16  # columns that are added up by themselves before their sum joins the others


def group_rows(columns, lanes, itemsize):
    """Rows of a group: whole turns of a loop, as many as keep it in the first-level cache, at least one."""
    turn = _TURN * lanes
    return max(turn, min(_MOST, _GROUP_BYTES // itemsize // columns // turn * turn))


def group_size(columns, lanes, itemsize):
    """Numbers of scratch that a group's columns take, whole vectors of them."""
    return (columns + lanes) * group_rows(columns, lanes, itemsize)


def take_columns(x, x_panel, columns, first, rows, target, stride, context):
    """target[c, i] = x[first + i, c], i < rows, from a buffer, however it lies; see `to_columns`."""
    if BY_FEATURE:
        for i in range(0, rows, PANEL):
            for c in range(columns):
                widen(x + ((first + i) * columns + c * PANEL) * SIZE, PANEL, target + (c * stride + i) * SIZE)
    else:
        to_columns(x + first * PANEL * SIZE, x_panel, columns, target, stride, context, 0, rows)


def give_columns(source, stride, columns, y, y_panel, first, rows, context):
    """y[first + i, c] = source[c, i], i < rows, and zero where no rows or no columns are; see `from_columns`."""
    if BY_FEATURE:
        for i in range(0, rows, PANEL):
            for c in range(columns):
                widen(source + (c * stride + i) * SIZE, min(PANEL, rows - i),
                      y + ((first + i) * columns + c * PANEL) * SIZE)
    else:
        from_columns(source, stride, columns, y + first * PANEL * SIZE, y_panel, context, 0, rows)


@kernel
def to_columns(x, x_panel, columns, target, stride, context, low, rows):
    """target[c, i] = x[i, c], i < rows; target's columns are `stride` apart, `stride` a multiple of LANES.

    What fills up a column's last vector is of the last row, or, of a single column, what was there.
    """
    if columns == 1:
        column = reals(target, rows)
        for i in range(rows):
            column[i] = reals(x + i * PANEL * SIZE, 1)[0]
        return 0
    full = rows - rows % LANES
    for first in range(0, columns, LANES):
        source, goal = x + (first // PANEL * x_panel + first % PANEL) * SIZE, target + first * stride * SIZE
        for i in range(0, full, LANES):
            transpose(source + i * PANEL * SIZE, PANEL, goal + i * SIZE, stride)
        if full < rows:
            transpose_edge(source + full * PANEL * SIZE, PANEL, rows - full, goal + full * SIZE, stride, LANES)
    return 0


@kernel
def from_columns(source, stride, columns, y, y_panel, context, low, rows):
    """y[i, c] = source[c, i], i < rows, and zero in columns that fill up the last vector, or a single one's panel."""
    if columns == 1:
        for i in range(rows):
            widen(source + i * SIZE, 1, y + i * PANEL * SIZE)
        return 0
    full = rows - rows % LANES
    for c in range(columns, -(-columns // LANES) * LANES):
        padding = reals(source + c * stride * SIZE, whole(rows))
        for i in range(whole(rows)):
            padding[i] = 0.0
    for first in range(0, columns, LANES):
        given, target = source + first * stride * SIZE, y + (first // PANEL * y_panel + first % PANEL) * SIZE
        for i in range(0, full, LANES):
            transpose(given + i * SIZE, stride, target + i * PANEL * SIZE, PANEL)
        if full < rows:
            transpose_edge(given + full * SIZE, stride, LANES, target + full * PANEL * SIZE, PANEL, rows - full)
    return 0


def whole(rows):
    """Rows filled up to whole vectors: how far loops over scratch may go, which would take the rest one by one."""
    return rows + LANES - 1 & -LANES


def add_columns(source, stride, columns, rows, total, block):
    """total[i] = sum of source[c, i] over c: blocks of columns first, then block after block. `block` is scratch."""
    lines = whole(rows)
    totals, sums = reals(total, rows), reals(block, lines)
    for i in range(rows):
        totals[i] = 0.0
    for first in range(0, columns, BLOCK):
        for i in range(lines):
            sums[i] = 0.0
        for c in range(first, min(first + BLOCK, columns)):
            column = reals(source + c * stride * SIZE, lines)
            for i in range(lines):
                sums[i] = sums[i] + column[i]
        for i in range(rows):
            totals[i] = totals[i] + sums[i]


def nothing(context):
    """-0, which changes no number that it is added to; but no compiler knows that it is.

    A choice between two numbers that is stored where one of them lies becomes a masked store, which takes some
    processors ten times as long as a store; a sum does not.
    """
    return -reals(ints(context, CONTEXT)[ZEROS], 1)[0]


def max_columns(source, stride, columns, rows, top, context):
    """top[i] = the largest source[c, i]; a NaN among them may or may not come out."""
    same, lines = nothing(context), whole(rows)
    tops, column = reals(top, lines), reals(source, lines)
    for i in range(lines):
        tops[i] = column[i]
    for c in range(1, columns):
        column = reals(source + c * stride * SIZE, lines)
        for i in range(lines):
            tops[i] = select(column[i] > tops[i], column[i], tops[i]) + same


def largest_columns(source, stride, columns, rows, top, context):
    """top[i] = the largest source[c, i], or NaN where one is; top may be the first column or lie before it."""
    same, lines = nothing(context), whole(rows)
    tops, column = reals(top, lines), reals(source, lines)
    for i in range(lines):
        tops[i] = column[i]
    for c in range(1, columns):
        column = reals(source + c * stride * SIZE, lines)
        for i in range(lines):
            tops[i] = select((column[i] > tops[i]) | (column[i] != column[i]), column[i], tops[i]) + same
