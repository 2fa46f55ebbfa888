"""Products of matrices of general graphs on CUDA: tile by tile, as in `dense_cuda`, of arrays in C order.

Each number is one chain of fused multiply-adds over its part of the inner dimension, in order. A product of few numbers
with a long inner dimension is made in parts, which are added up then, so that many blocks have something to do.
"""

from ._block import barrier, put_tile, take_quad, zeros
from ._cuda_tiles import tiled
from ._primitives import SIZE
from .gemm import gemm_stack

_PART = 1024  # of the inner dimension, at least
_MOST = 2**20  # numbers that all parts have, about, where there is more than one


def parts_of(numbers, inner):
    """How many parts the inner dimension is cut into for a product of so many numbers, and how long they are."""
    parts = max(1, min(-(-inner // _PART), _MOST // max(numbers, 1)))
    part = max(1, -(-inner // parts))
    return max(1, -(-inner // part)), part


def _of_row(x, inner, k, r, rows, stop):
    """X[r, k : k + QUAD], a matrix in C order, for k below `stop`."""
    given = 0
    if r < rows:
        given = stop - k
    return take_quad(x + (r * inner + k) * SIZE, given)


def _of_column(y, cols, k, c, limit, stop):
    """Y[k, c : c + QUAD] likewise."""
    return _of_row(y, cols, c, k, stop, limit)


def _product(tile):
    """The kernel that makes Z = X Y, for stacks of matrices.

    The rows of each matrix of Z are filled up to whole tiles, and those of all of them, part after part, pair after
    pair, are the rows that are cut into rectangles.
    """
    rows_each, columns_each, high, deep, numbers = tile.rows, tile.columns, tile.high, tile.deep, tile.numbers
    load_x, load_y = tile.left(_of_row, along_steps=True), tile.right(_of_column)
    corner, multiplied = tile.corner, tile.multiplied

    def product_cuda(x, y, z, z_rows, z_cols, inner, parts, part, context, row, rows, column, columns):
        tall = (z_rows + high - 1) // high * high
        matrix, top = row // tall, row % tall
        start, pair = matrix % parts * part, matrix // parts
        stop = min(start + part, inner)
        i, j = corner()
        sums = zeros(numbers)
        for first in range(start, stop, deep):
            barrier()
            load_x(x + pair * z_rows * inner * SIZE, inner, first, top, z_rows, stop)
            load_y(y + pair * inner * z_cols * SIZE, z_cols, first, column, z_cols, stop)
            barrier()
            sums = multiplied(sums, i, j)
        given_rows, given = min(max(z_rows - top - i, 0), rows_each), min(max(z_cols - column - j, 0), columns_each)
        put_tile(sums, z + ((matrix * z_rows + top + i) * z_cols + column + j) * SIZE, z_cols, 1, rows_each,
                 columns_each, given_rows, given)
        return 0

    return product_cuda


tiled(gemm_stack, _product, "z", in_place=False)
