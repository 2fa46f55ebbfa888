"""The dense layer on CUDA: products of matrices, tile by tile, in what a block of threads shares.

A block makes a tile of `high` x `wide` numbers, each thread a smaller one of it in its registers. The operands come in
stretches of `deep` steps, turned so that a step's numbers lie together. Each number is one chain of fused multiply-adds
in the order of steps, so neither the tile's size nor its place changes a bit.

X and Y lie by feature, blocks of PANEL rows (see `dense_by_feature`), W in panels of PANEL outputs (see `dense`).
"""

from ._block import (
    EDGE,
    PANEL_ROWS,
    THREADS,
    added,
    barrier,
    block_kernel,
    cut,
    near_numbers,
    nears,
    outer,
    put_tile,
    repeat,
    spot,
    take_tile,
    thread,
    where_positive,
    zeros,
)
from ._context import BATCH, CONTEXT
from ._primitives import PANEL, SIZE, ints, real, reals
from .dense import dense_forward, dense_input_gradient, dense_parameter_gradient

_APART = 4  # reals that a stretch's steps lie further apart than they are long: a warp's stores meet in fewer banks


def _forward(high, wide, deep):
    """The kernel that makes Y = finish(X W + b) in tiles of `high` rows and `wide` columns."""
    rows_each, columns_each, left_step, right_step = high // EDGE, wide // EDGE, high + _APART, wide + _APART
    right, lefts, rights = deep * left_step, deep * high // THREADS, deep * wide // THREADS

    def dense_forward_cuda(x, x_cols, w, y, y_cols, finish, context, row, rows, column, columns):
        size, shared = (x_cols + 1) * PANEL, nears(0, right + deep * right_step)
        limit = (row + rows + PANEL - 1) // PANEL * PANEL
        i, j = thread() // EDGE * rows_each, thread() % EDGE * columns_each
        panel = w + ((column + j) // PANEL * size + (column + j) % PANEL) * SIZE
        given = min(max(y_cols - column - j, 0), columns_each)
        bias = take_tile(panel + x_cols * PANEL * SIZE, 0, 1, 1, columns_each, 1, given)
        sums = repeat(bias, rows_each)
        for first in range(0, x_cols, deep):
            barrier()
            for turn in range(lefts):
                place = turn * THREADS + thread()
                k, r, value = first + place // high, row + place % high, real(0.0)
                if k < x_cols and r < limit:
                    value = reals(x + (spot(r // PANEL, x_cols, k) + r % PANEL) * SIZE, 1)[0]
                shared[place // high * left_step + place % high] = value
            for turn in range(rights):
                place = turn * THREADS + thread()
                k, c, value = first + place // wide, column + place % wide, real(0.0)
                if k < x_cols and c < y_cols:
                    value = reals(w + (c // PANEL * size + k * PANEL + c % PANEL) * SIZE, 1)[0]
                shared[right + place // wide * right_step + place % wide] = value
            barrier()
            for k in range(deep):
                sums = outer(sums, near_numbers(k * left_step + i, rows_each),
                             near_numbers(right + k * right_step + j, columns_each))
        if finish == 1:
            sums = cut(sums)
        r = row + i
        if r < limit:
            put_tile(sums, y + (spot(r // PANEL, y_cols, column + j) + r % PANEL) * SIZE, 1, PANEL, rows_each,
                     columns_each, rows_each, given)
        return 0

    return dense_forward_cuda


def _input_gradient(high, wide, deep):
    """The kernel that makes dX = finish(dY W') in tiles of `high` rows and `wide` columns."""
    rows_each, columns_each, left_step, right_step = high // EDGE, wide // EDGE, high + _APART, wide + _APART
    right, lefts, rights = deep * left_step, deep * high // THREADS, deep * wide // THREADS
    own = rows_each * columns_each

    def dense_input_gradient_cuda(dy, dy_cols, w, dx, dx_cols, finish, mask, context, row, rows, column, columns):
        size, shared = (dx_cols + 1) * PANEL, nears(0, right + deep * right_step)
        limit = (row + rows + PANEL - 1) // PANEL * PANEL
        i, j = thread() // EDGE * rows_each, thread() % EDGE * columns_each
        sums = zeros(own)
        for first in range(0, dy_cols, deep):
            barrier()
            for turn in range(lefts):
                place = turn * THREADS + thread()
                o, r, value = first + place // high, row + place % high, real(0.0)
                if o < dy_cols and r < limit:
                    value = reals(dy + (spot(r // PANEL, dy_cols, o) + r % PANEL) * SIZE, 1)[0]
                shared[place // high * left_step + place % high] = value
            for turn in range(rights):
                place = turn * THREADS + thread()
                o, c, value = first + place % deep, column + place // deep, real(0.0)
                if o < dy_cols and c < dx_cols:
                    value = reals(w + (o // PANEL * size + c * PANEL + o % PANEL) * SIZE, 1)[0]
                shared[right + place % deep * right_step + place // deep] = value
            barrier()
            for k in range(deep):
                sums = outer(sums, near_numbers(k * left_step + i, rows_each),
                             near_numbers(right + k * right_step + j, columns_each))
        r, given = row + i, min(max(dx_cols - column - j, 0), columns_each)
        if r < limit:
            place = (spot(r // PANEL, dx_cols, column + j) + r % PANEL) * SIZE
            if finish == 1:
                sums = cut(sums)
            if finish == 2:
                of_mask = take_tile(mask + place, 1, PANEL, rows_each, columns_each, rows_each, given)
                sums = where_positive(of_mask, sums)
            put_tile(sums, dx + place, 1, PANEL, rows_each, columns_each, rows_each, given)
        return 0

    return dense_input_gradient_cuda


def _parameter_gradient(high, wide, deep):
    """The kernel that makes dW, and dbias as its last row, in tiles of `high` inputs and `wide` outputs."""
    rows_each, columns_each, left_step, right_step = high // EDGE, wide // EDGE, high + _APART, wide + _APART
    right, lefts, rights = deep * left_step, deep * high // THREADS, deep * wide // THREADS
    own = rows_each * columns_each

    def dense_parameter_gradient_cuda(x, x_cols, dy, dy_cols, w_first, bias, gradient, onto, context, row, rows, column,
                                      columns):
        batch, shared = ints(context, CONTEXT)[BATCH], nears(0, right + deep * right_step)
        i, j = thread() // EDGE * rows_each, thread() % EDGE * columns_each
        sums, ones = zeros(own), real(0.0)
        if bias:
            ones = real(1.0)
        for first in range(0, batch, deep):
            barrier()
            for turn in range(lefts):
                place = turn * THREADS + thread()
                r, k, value = first + place % deep, row + place // deep, real(0.0)
                if r < batch:
                    if k < x_cols:
                        value = reals(x + (spot(r // PANEL, x_cols, k) + r % PANEL) * SIZE, 1)[0]
                    elif k == x_cols:
                        value = ones
                shared[place % deep * left_step + place // deep] = value
            for turn in range(rights):
                place = turn * THREADS + thread()
                r, o, value = first + place % deep, column + place // deep, real(0.0)
                if r < batch and o < dy_cols:
                    value = reals(dy + (spot(r // PANEL, dy_cols, o) + r % PANEL) * SIZE, 1)[0]
                shared[right + place % deep * right_step + place // deep] = value
            barrier()
            for k in range(deep):
                sums = outer(sums, near_numbers(k * left_step + i, rows_each),
                             near_numbers(right + k * right_step + j, columns_each))
        o = column + j
        place = gradient + (w_first + (o // PANEL * (x_cols + 1) + row + i) * PANEL + o % PANEL) * SIZE
        given_rows, given = min(max(rows - i, 0), rows_each), min(max(columns - j, 0), columns_each)
        if onto:
            sums = added(take_tile(place, PANEL, 1, rows_each, columns_each, given_rows, given), sums)
        put_tile(sums, place, PANEL, 1, rows_each, columns_each, given_rows, given)
        return 0

    return dense_parameter_gradient_cuda


_MAKERS = ((dense_forward, _forward, "y"), (dense_input_gradient, _input_gradient, "dx"),
           (dense_parameter_gradient, _parameter_gradient, "w"))
_SIZES = ((128, 128, 8), (64, 64, 16))  # of tiles where there are many, beside the least

for _cpu, _make, _over in _MAKERS:
    _larger: list = []
    for _high, _wide, _deep in (*_SIZES, (64 if _over == "w" else PANEL_ROWS, 64, 32)):
        _kernel = _make(_high, _wide, _deep)
        block_kernel(_cpu, _over, _high, _wide, _deep * (_high + _wide + 2 * _APART), single=_high > 64)(_kernel)
        _kernel.larger = tuple(_larger)  # those that do the same in larger tiles, the largest first
        _larger.append(_kernel)
