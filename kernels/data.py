"""Moving rows between data sets and the arena: shuffled gather on the way in, plain store on the way out.

A check fails where a number of the batch is not in its range; standing first, it ends a run that has changed nothing.
"""

from ._context import BATCH, CONTEXT, START
from ._jit import kernel
from ._primitives import PANEL, SIZE, copy, ints, real, reals, widen


def row_of(order, place):
    """The row of the data set at a place of the epoch; without an order, the place itself."""
    if order:
        return ints(order, place + 1)[place]
    return place


@kernel
def gather(source, source_cols, order, y, y_panel, context, low, high):
    """y[i] = source[order[START + i]], row by row, into panels; without an order, source[START + i]."""
    start = ints(context, CONTEXT)[START]
    for i in range(low, high):
        row = row_of(order, start + i)
        for first in range(0, source_cols, PANEL):
            place = y + (first // PANEL * y_panel + i * PANEL) * SIZE
            widen(source + (row * source_cols + first) * SIZE, min(PANEL, source_cols - first), place)
    return 0


@kernel
def gather_labels(source, order, y, context, low, high):
    """y[i] = source[order[START + i]] for int64 labels."""
    start = ints(context, CONTEXT)[START]
    target = ints(y, high)
    for i in range(low, high):
        row = row_of(order, start + i)
        target[i] = ints(source, row + 1)[row]
    return 0


@kernel
def gather_weights(source, order, y, context, low, high):
    """y[i] = source[order[START + i]] for sample weights, one number a row."""
    start = ints(context, CONTEXT)[START]
    target = reals(y, high)
    for i in range(low, high):
        row = row_of(order, start + i)
        target[i] = reals(source, row + 1)[row]
    return 0


@kernel
def store(x, x_panel, x_cols, target, context, low, high):
    """target[START + i] = x[i], row by row, from panels into an array without gaps."""
    start = ints(context, CONTEXT)[START]
    for i in range(low, high):
        for first in range(0, x_cols, PANEL):
            place = x + (first // PANEL * x_panel + i * PANEL) * SIZE
            copy(target + ((start + i) * x_cols + first) * SIZE, place, min(PANEL, x_cols - first))
    return 0


@kernel
def check_reals(source, source_cols, least: float, most: float, context, low, high):
    """Fail unless least <= x <= most for all numbers of the batch; NaN fails."""
    cells = ints(context, CONTEXT)
    size = cells[BATCH] * source_cols
    values = reals(source + cells[START] * source_cols * SIZE, size)
    floor, ceiling = real(least), real(most)
    outside = 0
    for i in range(size):
        if not (values[i] >= floor and values[i] <= ceiling):
            outside += 1
    return -1 if outside else 0


@kernel
def check_labels(source, least, most, context, low, high):
    """Fail unless least <= label <= most for all int64 labels of the batch."""
    cells = ints(context, CONTEXT)
    size = cells[BATCH]
    labels = ints(source + cells[START] * 8, size)
    outside = 0
    for i in range(size):
        if labels[i] < least or labels[i] > most:
            outside += 1
    return -1 if outside else 0


@kernel
def shuffle(order, rows, draws, draw_count, context, low, high):
    """order = a permutation of 0 ... rows - 1 by Fisher and Yates, from random words of 32 bits, two in each int64.

    A word's last digits, as many as the limit has, are a place unless they are above the limit. So does NumPy's
    `Generator.permutation`, with this result. A refused place is no branch here, but a swap of a number with itself.
    Gives 1 where the words do not suffice.
    """
    numbers, words = ints(order, rows), ints(draws, draw_count // 2)
    for i in range(rows):
        numbers[i] = i
    last, mask, used = rows - 1, 1, 0
    while mask < last:
        mask = 2 * mask + 1
    while last > 0:
        if used == draw_count:
            return 1
        place = words[used >> 1] >> (used & 1) * 32 & mask
        used += 1
        taken = place <= last
        other = place if taken else last
        number = numbers[last]
        numbers[last] = numbers[other]
        numbers[other] = number
        last -= taken
        if last <= mask >> 1:
            mask >>= 1
    return 0
