"""Helpers for kernels of many columns, which take the rows of a matrix in panels as they lie, panel by panel.

BLOCK_ROWS rows at a time, whose share of a panel is one run of numbers. What belongs to a row fills a line of PANEL
numbers, so that loops run over whole vectors; sums are kept for each place of a line and added up in the end, in
halves. The last panel, if it is not full, is read from a copy, its edge, with numbers in the missing columns that
change nothing. LLVM does not vectorise a loop that reads and writes one array under two names: what may lie where an
operand does is made in scratch.
"""

from ._jit import kernel
from ._panels import nothing
from ._primitives import PANEL, SIZE, reals, select, widen
from .exponential import exp_raised

BLOCK_ROWS = 16
_WIDE = 8  # panels: up to about so many, turning rows into columns (`_panels`) takes no longer
_INFINITY = float("inf")


def many(columns, panel):
    """Whether rows of so many columns are taken as they lie."""
    return columns > _WIDE * panel


def scratch_size(panel):
    """Numbers of scratch for such a kernel: five blocks of lines."""
    return 5 * BLOCK_ROWS * panel


def make_edge(x, x_panel, columns, fill, edge, rows):
    """Copy the last panel of x, unless it is full, with `fill` in the missing columns."""
    full = columns // PANEL
    rest = columns - full * PANEL
    if rest:
        for i in range(rows):
            widen(x + (full * x_panel + i * PANEL) * SIZE, rest, edge + i * PANEL * SIZE)
            line = reals(edge + i * PANEL * SIZE, PANEL)
            for j in range(rest, PANEL):
                line[j] = fill


def panel_at(x, x_panel, columns, panel, edge):
    """Where the numbers of a panel are read."""
    if (panel + 1) * PANEL > columns:
        return edge
    return x + panel * x_panel * SIZE


def clear_edge(y, y_panel, columns, rows):
    """Write zeros into the missing columns."""
    full = columns // PANEL
    rest = columns - full * PANEL
    if rest:
        for i in range(rows):
            line = y + (full * y_panel + i * PANEL) * SIZE
            widen(line, rest, line)


def fill_line(line, number):
    """All numbers of a line."""
    for j in range(PANEL):
        line[j] = number


def added_line(line):
    """The sum of a line, which is scratch."""
    half = PANEL // 2
    while half:
        for j in range(half):
            line[j] = line[j] + line[j + half]
        half //= 2
    return line[0]


def scale_rows(y, y_panel, columns, scale, rows):
    """y[i, :] *= scale[i], and zero in the missing columns."""
    count = rows * PANEL
    scales = reals(scale, count)
    for panel in range(-(-columns // PANEL)):
        numbers = reals(y + panel * y_panel * SIZE, count)
        for k in range(count):
            numbers[k] = numbers[k] * scales[k]
    clear_edge(y, y_panel, columns, rows)


@kernel
def max_rows(x, x_panel, columns, edge, most, context, low, rows):
    """most[i] = the largest x[i, :]; a NaN among them may or may not come out. Leaves an edge of -inf."""
    same, count = nothing(context), rows * PANEL
    tops = reals(most, count)
    make_edge(x, x_panel, columns, -_INFINITY, edge, rows)
    for k in range(count):
        tops[k] = -_INFINITY
    for panel in range(-(-columns // PANEL)):
        numbers = reals(panel_at(x, x_panel, columns, panel, edge), count)
        for k in range(count):
            tops[k] = select(numbers[k] > tops[k], numbers[k], tops[k]) + same
    for i in range(rows):
        line, half = reals(most + i * PANEL * SIZE, PANEL), PANEL // 2
        while half:
            for j in range(half):
                line[j] = select(line[j] > line[j + half], line[j], line[j + half]) + same
            half //= 2
        fill_line(line, line[0])
    return 0


@kernel
def exp_rows(x, x_panel, columns, edge, most, shift, y, y_panel, total, context, low, rows):
    """y[i, :] = exp(x[i, :] - most[i]), and total[i, 0] their sum, as `exp_raised`; y may be x, but not `shift`.

    With y_panel = 0 all panels go to one place, where nobody wants them.
    """
    count = rows * PANEL
    tops, shifts, totals = reals(most, count), reals(shift, count), reals(total, count)
    for k in range(count):
        totals[k] = 0.0
    for panel in range(-(-columns // PANEL)):
        numbers = reals(panel_at(x, x_panel, columns, panel, edge), count)
        powers = reals(y + panel * y_panel * SIZE, count)
        for k in range(count):
            shifts[k] = numbers[k] - tops[k]
        for k in range(count):
            power = exp_raised(shifts[k])
            powers[k] = power
            totals[k] = totals[k] + power
    for i in range(rows):
        added_line(reals(total + i * PANEL * SIZE, PANEL))
    return 0
