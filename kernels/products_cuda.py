"""Products of matrices of general graphs on CUDA: tile by tile, as in `dense_cuda`, of arrays in C order.

Each number is one chain of fused multiply-adds over its part of the inner dimension, in order. A product of few numbers
with a long inner dimension is made in parts, which are added up then, so that many blocks have something to do.
"""

from ._block import (
    EDGE,
    PANEL_ROWS,
    THREADS,
    barrier,
    block_kernel,
    near_numbers,
    nears,
    outer,
    put_tile,
    thread,
    zeros,
)
from ._primitives import SIZE, real, reals
from .gemm import gemm_stack

_APART = 4  # see `dense_cuda`
_PART = 1024  # of the inner dimension, at least
_MOST = 2**20  # numbers that all parts have, about, where there is more than one


def parts_of(numbers, inner):
    """How many parts the inner dimension is cut into for a product of so many numbers, and how long they are."""
    parts = max(1, min(-(-inner // _PART), _MOST // max(numbers, 1)))
    part = max(1, -(-inner // parts))
    return max(1, -(-inner // part)), part


def _product(high, wide, deep):
    """The kernel that makes Z = X Y, for stacks of matrices, in tiles of `high` rows and `wide` columns.

    The rows of each matrix of Z are filled up to whole tiles, and those of all of them, part after part, pair after
    pair, are the rows that are cut into rectangles. Columns are counted from `z_first` on.
    """
    rows_each, columns_each, left_step, right_step = high // EDGE, wide // EDGE, high + _APART, wide + _APART
    rights_first, lefts, rights = deep * left_step, deep * high // THREADS, deep * wide // THREADS
    own = rows_each * columns_each

    def product_cuda(x, y, z, z_rows, z_cols, z_first, inner, parts, part, context, row, rows, column, columns):
        shared, tall = nears(0, rights_first + deep * right_step), (z_rows + high - 1) // high * high
        matrix, top, across = row // tall, row % tall, z_first + column
        start, pair = matrix % parts * part, matrix // parts
        stop = min(start + part, inner)
        left, right = x + pair * z_rows * inner * SIZE, y + pair * inner * z_cols * SIZE
        i, j = thread() // EDGE * rows_each, thread() % EDGE * columns_each
        sums = zeros(own)
        for first in range(start, stop, deep):
            barrier()
            for turn in range(lefts):
                place = turn * THREADS + thread()
                k, r, value = first + place % deep, top + place // deep, real(0.0)
                if k < stop and r < z_rows:
                    value = reals(left + (r * inner + k) * SIZE, 1)[0]
                shared[place % deep * left_step + place // deep] = value
            for turn in range(rights):
                place = turn * THREADS + thread()
                k, c, value = first + place // wide, across + place % wide, real(0.0)
                if k < stop and c < z_cols:
                    value = reals(right + (k * z_cols + c) * SIZE, 1)[0]
                shared[rights_first + place // wide * right_step + place % wide] = value
            barrier()
            for k in range(deep):
                sums = outer(sums, near_numbers(k * left_step + i, rows_each),
                             near_numbers(rights_first + k * right_step + j, columns_each))
        given_rows, given = min(max(z_rows - top - i, 0), rows_each), min(max(z_cols - across - j, 0), columns_each)
        put_tile(sums, z + ((matrix * z_rows + top + i) * z_cols + across + j) * SIZE, z_cols, 1, rows_each,
                 columns_each, given_rows, given)
        return 0

    return product_cuda


_larger: list = []
for _high, _wide, _deep in ((128, 128, 8), (64, 64, 16), (PANEL_ROWS, 64, 32)):
    _kernel = _product(_high, _wide, _deep)
    block_kernel(gemm_stack, "z", _high, _wide, _deep * (_high + _wide + 2 * _APART), in_place=False)(_kernel)
    _kernel.larger = tuple(_larger)  # those that do the same in larger tiles, the largest first
    _larger.append(_kernel)
