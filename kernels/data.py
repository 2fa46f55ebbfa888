"""Moving rows between data sets and the arena: shuffled gather on the way in, plain store on the way out.

A check fails where a number of the batch is not in its range; standing first, it ends a run that has changed nothing.
"""

from ._block import PANEL_ROWS, THREADS, WARPS, barrier, block_kernel, blocks, lane, nears, spot, thread, warp
from ._context import CONTEXT, REST, SCRATCH, START
from ._jit import kernel
from ._primitives import (
    LANES,
    PANEL,
    SIZE,
    copy,
    draw_bits,
    ints,
    prefetch,
    real,
    reals,
    transpose,
    transpose_edge,
    widen,
)

WORDS = 512  # of 64 bits that are drawn at once
_UNDER_WAY = 1024  # bytes of rows that are asked for ahead
_DRAWN = 32  # swaps whose places are asked for ahead
SINGLE = 4  # columns up to which numbers are moved one by one


def row_of(order, place):
    """The row of the data set at a place of the epoch; without an order, the place itself."""
    if order:
        return ints(order, place + 1)[place]
    return place


def row_ahead(order, start, i, ahead, last):
    """The row that comes `ahead` places after place i of the batch, or at the epoch's last, start + last."""
    return row_of(order, start + max(i, min(i + ahead, last)))


@kernel
def gather(source, source_cols, order, y, y_panel, context, low, high):
    """y[i] = source[order[START + i]], row by row, into panels; without an order, source[START + i]."""
    cells, size = ints(context, CONTEXT), source_cols * SIZE
    start, last, ahead = cells[START], cells[REST] - 1, 1 + _UNDER_WAY // size
    if source_cols <= PANEL:  # the loop below, with one mask for all rows, made before the first
        for i in range(low, high):
            coming = source + row_ahead(order, start, i, ahead, last) * size
            prefetch(coming)
            prefetch(coming + size - 1)
            widen(source + row_of(order, start + i) * size, source_cols, y + i * PANEL * SIZE)
        return 0
    for i in range(low, high):
        row = row_of(order, start + i)
        coming = source + row_ahead(order, start, i, ahead, last) * size
        for first in range(0, source_cols, PANEL):
            place = y + (first // PANEL * y_panel + i * PANEL) * SIZE
            prefetch(coming + first * SIZE)
            widen(source + row * size + first * SIZE, min(PANEL, source_cols - first), place)
        prefetch(coming + size - 1)
    return 0


@kernel
def gather_by_feature(source, source_cols, order, y, context, low, high):
    """Blocks of y from rows order[START + i] of source; see `gather`. `low` is the first row of a block."""
    cells, size = ints(context, CONTEXT), source_cols * SIZE
    start, last, ahead, room = cells[START], cells[REST] - 1, 1 + _UNDER_WAY // size, cells[SCRATCH]
    for first in range(low, high, PANEL):
        count, block = min(PANEL, high - first), y + first * size
        if source_cols <= SINGLE:
            numbers = reals(block, source_cols * PANEL)
            for i in range(count):
                prefetch(source + row_ahead(order, start, first + i, ahead, last) * size)
                row = reals(source + row_of(order, start + first + i) * size, source_cols)
                for c in range(source_cols):
                    numbers[c * PANEL + i] = row[c]
            for c in range(source_cols):
                for i in range(count, PANEL):
                    numbers[c * PANEL + i] = numbers[c * PANEL + count - 1]
        else:
            for column in range(0, source_cols, PANEL):
                columns = min(PANEL, source_cols - column)
                for i in range(count):
                    coming = source + row_ahead(order, start, first + i, ahead, last) * size + column * SIZE
                    prefetch(coming)
                    prefetch(coming + columns * SIZE - 1)
                    widen(source + row_of(order, start + first + i) * size + column * SIZE, columns,
                          room + i * PANEL * SIZE)
                filled = -(-count // LANES) * LANES
                for i in range(count, filled):
                    widen(room + (count - 1) * PANEL * SIZE, columns, room + i * PANEL * SIZE)
                for i in range(0, filled, LANES):
                    for c in range(0, columns, LANES):
                        transpose_edge(room + (i * PANEL + c) * SIZE, PANEL, LANES,
                                       block + ((column + c) * PANEL + i) * SIZE, PANEL, min(LANES, columns - c))
    return 0


gather.by_feature = gather_by_feature


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
def store_by_feature(x, x_cols, target, context, low, high):
    """target[START + i] = x[i] from blocks of x; see `store`. `low` is the first row of a block."""
    cells, size = ints(context, CONTEXT), x_cols * SIZE
    start, room = cells[START], cells[SCRATCH]
    for first in range(low, high, PANEL):
        count, block, rows = min(PANEL, high - first), x + first * size, target + (start + first) * size
        if x_cols <= SINGLE:
            numbers, given = reals(rows, count * x_cols), reals(block, x_cols * PANEL)
            for i in range(count):
                for c in range(x_cols):
                    numbers[i * x_cols + c] = given[c * PANEL + i]
        else:
            for column in range(0, x_cols, LANES):
                columns = min(LANES, x_cols - column)
                for i in range(0, count, LANES):
                    transpose(block + (column * PANEL + i) * SIZE, PANEL, room + i * LANES * SIZE, LANES)
                for i in range(count):
                    copy(rows + i * size + column * SIZE, room + i * LANES * SIZE, columns)
    return 0


store.by_feature = store_by_feature


@kernel
def check_reals(source, source_cols, least: float, most: float, context, low, high):
    """Fail unless least <= x <= most for all numbers in rows [low, high) of the batch; NaN fails."""
    size = (high - low) * source_cols
    values = reals(source + (ints(context, CONTEXT)[START] + low) * source_cols * SIZE, size)
    floor, ceiling = real(least), real(most)
    outside = 0
    for i in range(size):
        if not (values[i] >= floor and values[i] <= ceiling):
            outside += 1
    return -1 if outside else 0


@kernel
def check_labels(source, least, most, context, low, high):
    """Fail unless least <= label <= most for all int64 labels in rows [low, high) of the batch."""
    size = high - low
    labels = ints(source + (ints(context, CONTEXT)[START] + low) * 8, size)
    outside = 0
    for i in range(size):
        if labels[i] < least or labels[i] > most:
            outside += 1
    return -1 if outside else 0


@kernel
def shuffle(order, rows, words, draw, state, context, low, high):
    """order = a permutation of 0 ... rows - 1 by Fisher and Yates, from words of 32 bits, two in each that is drawn.

    A word's last digits, as many as the limit has, are a place unless they are above the limit. So does NumPy's
    `Generator.permutation`, with this result. A refused place is no branch here, but a swap of a number with itself.
    draw: the address of the generator's function that makes 64 bits of its `state`. words: room for WORDS of them.
    """
    numbers, drawn = ints(order, rows), ints(words, WORDS)
    for i in range(rows):
        numbers[i] = i
    last, mask, used = rows - 1, 1, 2 * WORDS
    while mask < last:
        mask = 2 * mask + 1
    while last > 0:
        if used == 2 * WORDS:
            for i in range(WORDS):
                drawn[i] = draw_bits(draw, state)
            used = 0
        coming = min(used + _DRAWN, 2 * WORDS - 1)
        prefetch(order + (drawn[coming >> 1] >> (coming & 1) * 32 & mask) * 8)
        place = drawn[used >> 1] >> (used & 1) * 32 & mask
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


# On CUDA a square of rows and columns is turned in what a block shares, so both sides move whole lines.

_TURNED = PANEL_ROWS + 1  # reals from one column of the square to the next: threads of a warp do not meet in a bank


@block_kernel(gather, "y", span=PANEL_ROWS, near=PANEL_ROWS * _TURNED)
def gather_cuda(source, source_cols, order, y, context, row, rows, column, columns):
    """Blocks of y from rows order[START + i] of source, 0 where they hold no row; see `gather`."""
    start, square = ints(context, CONTEXT)[START], nears(0, PANEL * _TURNED)
    for block in blocks(row, rows):
        for i in range(warp(), PANEL, WARPS):
            value = real(0.0)
            if block * PANEL + i < row + rows and lane() < columns:
                place = row_of(order, start + block * PANEL + i) * source_cols + column + lane()
                value = reals(source + place * SIZE, 1)[0]
            square[lane() * _TURNED + i] = value
        barrier()
        target = reals(y + spot(block, source_cols, column) * SIZE, columns * PANEL)
        for c in range(warp(), columns, WARPS):
            target[c * PANEL + lane()] = square[c * _TURNED + lane()]
        barrier()
    return 0


@block_kernel(store, "x", span=PANEL_ROWS, near=PANEL_ROWS * _TURNED)
def store_cuda(x, x_cols, target, context, row, rows, column, columns):
    """target[START + i] = x[i] from blocks of x; see `store`."""
    start, square = ints(context, CONTEXT)[START], nears(0, PANEL * _TURNED)
    for block in blocks(row, rows):
        given = reals(x + spot(block, x_cols, column) * SIZE, columns * PANEL)
        for c in range(warp(), columns, WARPS):
            square[c * _TURNED + lane()] = given[c * PANEL + lane()]
        barrier()
        for i in range(warp(), PANEL, WARPS):
            if block * PANEL + i < row + rows and lane() < columns:
                place = (start + block * PANEL + i) * x_cols + column + lane()
                reals(target + place * SIZE, 1)[0] = square[lane() * _TURNED + i]
        barrier()
    return 0


@block_kernel(gather_labels, "y")
def gather_labels_cuda(source, order, y, context, row, rows, column, columns):
    """y[i] = source[order[START + i]] for int64 labels."""
    start, target = ints(context, CONTEXT)[START], ints(y, row + rows)
    for i in range(row + thread(), row + rows, THREADS):
        place = row_of(order, start + i)
        target[i] = ints(source, place + 1)[place]
    return 0


@block_kernel(gather_weights, "y")
def gather_weights_cuda(source, order, y, context, row, rows, column, columns):
    """y[i] = source[order[START + i]] for sample weights, one number a row."""
    start, target = ints(context, CONTEXT)[START], reals(y, row + rows)
    for i in range(row + thread(), row + rows, THREADS):
        place = row_of(order, start + i)
        target[i] = reals(source, place + 1)[place]
    return 0


_CHECKED = 2**14  # numbers that a block looks at


@block_kernel(check_reals, height=1, span=_CHECKED)
def check_reals_cuda(source, size, least: float, most: float, context, row, rows, column, columns):
    """1 unless least <= x <= most for the numbers of one row of _CHECKED of them, of `size` in all; NaN fails."""
    values, outside, first = reals(source, size), 0, row * _CHECKED
    for i in range(first + thread(), min(first + _CHECKED, size), THREADS):
        if not (values[i] >= least and values[i] <= most):
            outside = 1
    return outside


def take_parameters():
    """What stands for no kernel of the CPU; a device has `take_parameters.cuda`."""


@block_kernel(take_parameters, height=PANEL_ROWS, span=PANEL_ROWS, near=PANEL_ROWS * _TURNED)
def take_parameters_cuda(w, height, first, inputs, outputs, target, context, row, rows, column, columns):
    """target[o, k] = W[first + k, o] for `inputs` rows of panels of `height` rows: a matrix as torch has it."""
    square, panel = nears(0, PANEL * _TURNED), w + column // PANEL * height * PANEL * SIZE
    for i in range(warp(), PANEL, WARPS):
        value = real(0.0)
        if row + i < inputs:
            value = reals(panel + ((first + row + i) * PANEL + lane()) * SIZE, 1)[0]
        square[lane() * _TURNED + i] = value
    barrier()
    for i in range(warp(), PANEL, WARPS):
        if column + i < outputs and row + lane() < inputs:
            reals(target + ((column + i) * inputs + row + lane()) * SIZE, 1)[0] = square[i * _TURNED + lane()]
    return 0
