"""General ops on the features of each row of a batch, which networks hold in panels (see `dense`).

A node of shape (batch, a, b) is a matrix of a b features. Formulas and references of the ops stand in `tensors` and
`reductions`, whose own kernels work on flat arrays. Elementwise kernels serve both.
"""

from ._block import THREADS, block_kernel, blocks, lane, spot, thread
from ._context import CONTEXT, SCRATCH
from ._elementwise import SPAN
from ._jit import kernel
from ._panels import add_columns, from_columns, group_rows, group_size, largest_columns, to_columns
from ._primitives import LANES, PANEL, SIZE, copy, ints, real, reals, select
from .tensors import DIMENSIONS


@kernel
def move_features(x, x_panel, y, y_panel, views, dimensions, x_first, y_first, context, low, high):
    """y[i, view] = x[i, view] for rows [low, high); `views` gives (size, x step, y step) of each dimension.

    Steps count features, from x_first and y_first on.
    """
    cells = ints(views, dimensions * DIMENSIONS)
    count = 1
    for place in range(dimensions - 1):
        count *= cells[place * DIMENSIONS]
    inner = (dimensions - 1) * DIMENSIONS
    size, x_step, y_step = cells[inner], cells[inner + 1], cells[inner + 2]
    for number in range(count):
        source, target, rest = x_first, y_first, number
        for back in range(dimensions - 1):
            place = (dimensions - 2 - back) * DIMENSIONS
            index = rest % cells[place]
            rest //= cells[place]
            source += index * cells[place + 1]
            target += index * cells[place + 2]
        done = 0
        while done < size:
            begin, end = source + done * x_step, target + done * y_step
            run = 1
            if x_step == 1 and y_step == 1:  # as far as both panels reach
                run = min(size - done, PANEL - begin % PANEL, PANEL - end % PANEL)
            copy_columns(x + (begin // PANEL * x_panel + low * PANEL + begin % PANEL) * SIZE,
                         y + (end // PANEL * y_panel + low * PANEL + end % PANEL) * SIZE, run, high - low)
            done += run
    return 0


def copy_columns(source, target, columns, rows):
    """Copy some columns of one panel to one of another."""
    if columns == PANEL:
        copy(target, source, rows * PANEL)
    elif columns == 1:
        for i in range(rows):
            reals(target + i * PANEL * SIZE, 1)[0] = reals(source + i * PANEL * SIZE, 1)[0]
    else:
        for i in range(rows):
            copy(target + i * PANEL * SIZE, source + i * PANEL * SIZE, columns)


@kernel
def fill_features(values, y, y_panel, y_panels, context, low, high):
    """y[i] = values, numbers for whole panels, for rows [low, high)."""
    for panel in range(y_panels):
        line = reals(values + panel * PANEL * SIZE, PANEL)
        for i in range(low, high):
            target = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                target[j] = line[j]
    return 0


# Reductions: x has features (outer, length, inner), y has (outer, inner).


@kernel
def sum_features(x, x_panel, x_cols, y, y_panel, y_cols, inner, context, low, high):
    """y[i, o, j] = the sum of x[i, o, :, j], for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size, length = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE), x_cols // y_cols
    sums, block = z + size * SIZE, z + 2 * size * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        for c in range(y_cols):
            begin = c // inner * length * inner + c % inner
            add_columns(z + begin * group * SIZE, inner * group, length, count, sums + c * group * SIZE, block)
        from_columns(sums, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def max_features(x, x_panel, x_cols, y, y_panel, y_cols, inner, context, low, high):
    """y[i, o, j] = the largest of x[i, o, :, j], NaN if there is one, for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size, length = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE), x_cols // y_cols
    top = z + size * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        for c in range(y_cols):
            begin = c // inner * length * inner + c % inner
            largest_columns(z + begin * group * SIZE, inner * group, length, count, top + c * group * SIZE, context)
        from_columns(top, group, y_cols, y + row, y_panel, context, 0, count)
    return 0


@kernel
def first_max_features(x, x_panel, x_cols, y, y_panel, length, inner, context, low, high):
    """y[i, o, k, j] = 1 at the first k where x[i, o, :, j] is largest, else 0, for rows [low, high)."""
    z = ints(context, CONTEXT)[SCRATCH]
    group, size = group_rows(x_cols, LANES, SIZE), group_size(x_cols, LANES, SIZE)
    top, free = z + size * SIZE, z + (size + group) * SIZE
    for first in range(low, high, group):
        count, row = min(group, high - first), first * PANEL * SIZE
        to_columns(x + row, x_panel, x_cols, z, group, context, 0, count)
        for c in range(x_cols // length):
            begin = z + (c // inner * length * inner + c % inner) * group * SIZE
            largest_columns(begin, inner * group, length, count, top, context)
            tops, unmarked = reals(top, count), reals(free, count)
            for i in range(count):
                unmarked[i] = 1.0
            for k in range(length):
                column = reals(begin + k * inner * group * SIZE, count)
                for i in range(count):
                    same = (column[i] == tops[i]) | ((column[i] != column[i]) & (tops[i] != tops[i]))
                    column[i] = select(same, unmarked[i], 0.0)
                    unmarked[i] = unmarked[i] - column[i]
        from_columns(z, group, x_cols, y + row, y_panel, context, 0, count)
    return 0


# On CUDA


@block_kernel(move_features, "y")
def move_features_cuda(x, x_cols, y, y_cols, views, dimensions, x_first, y_first, context, row, rows, column, columns):
    """y[i, view] = x[i, view]; see `move_features`."""
    cells, count = ints(views, dimensions * DIMENSIONS), 1
    for place in range(dimensions):
        count *= cells[place * DIMENSIONS]
    for block in blocks(row, rows):
        given = reals(x + spot(block, x_cols, 0) * SIZE, x_cols * PANEL)
        moved = reals(y + spot(block, y_cols, 0) * SIZE, y_cols * PANEL)
        for number in range(thread(), count * PANEL, THREADS):
            source, target, rest = x_first, y_first, number // PANEL
            for back in range(dimensions):
                place = (dimensions - 1 - back) * DIMENSIONS
                index = rest % cells[place]
                rest //= cells[place]
                source += index * cells[place + 1]
                target += index * cells[place + 2]
            moved[target * PANEL + lane()] = given[source * PANEL + lane()]
    return 0


@block_kernel(fill_features, "y", span=SPAN)
def fill_features_cuda(values, y, y_cols, context, row, rows, column, columns):
    """y[i] = values."""
    given = reals(values + column * SIZE, columns)
    for block in blocks(row, rows):
        target = reals(y + spot(block, y_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            target[i] = given[i // PANEL]
    return 0


@block_kernel(sum_features, "y", span=SPAN)
def sum_features_cuda(x, x_cols, y, y_cols, inner, context, row, rows, column, columns):
    """y[i, o, j] = the sum of x[i, o, :, j], _ADDED numbers at a time."""
    length = x_cols // y_cols
    for block in blocks(row, rows):
        given = reals(x + spot(block, x_cols, 0) * SIZE, x_cols * PANEL)
        target = reals(y + spot(block, y_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            c, total = column + i // PANEL, real(0.0)
            begin = c // inner * length * inner + c % inner
            for first in range(0, length, _ADDED):
                part = real(0.0)
                for k in range(first, min(first + _ADDED, length)):
                    part += given[(begin + k * inner) * PANEL + lane()]
                total += part
            target[i] = total
    return 0


@block_kernel(max_features, "y", span=SPAN)
def max_features_cuda(x, x_cols, y, y_cols, inner, context, row, rows, column, columns):
    """y[i, o, j] = the largest of x[i, o, :, j], NaN if there is one."""
    length = x_cols // y_cols
    for block in blocks(row, rows):
        given = reals(x + spot(block, x_cols, 0) * SIZE, x_cols * PANEL)
        target = reals(y + spot(block, y_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            c = column + i // PANEL
            target[i] = largest_apart(given, c // inner * length * inner + c % inner, length, inner)
    return 0


@block_kernel(first_max_features, "x")
def first_max_features_cuda(x, x_cols, y, length, inner, context, row, rows, column, columns):
    """y[i, o, k, j] = 1 at the first k where x[i, o, :, j] is largest, else 0."""
    for block in blocks(row, rows):
        begin, count = spot(block, x_cols, 0) * SIZE, x_cols * PANEL
        given, marks = reals(x + begin, count), reals(y + begin, count)
        for number in range(thread(), x_cols // length * PANEL, THREADS):
            c, unmarked = number // PANEL, real(1.0)
            first = c // inner * length * inner + c % inner
            top = largest_apart(given, first, length, inner)
            for k in range(length):
                value = given[(first + k * inner) * PANEL + lane()]
                mark = select((value == top) | ((value != value) & (top != top)), unmarked, 0.0)
                marks[(first + k * inner) * PANEL + lane()] = mark
                unmarked -= mark
    return 0


def largest_apart(numbers, first, count, step):
    """The largest of `count` columns of the thread's row, `step` apart; NaN where one is NaN."""
    top = numbers[first * PANEL + lane()]
    for k in range(1, count):
        value = numbers[(first + k * step) * PANEL + lane()]
        top = select((value > top) | (value != value), value, top)
    return top


_ADDED = 16  # columns that are added up by themselves before their sum joins the others
