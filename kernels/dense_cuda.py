"""The dense layer on CUDA: products of matrices, tile by tile (see `_cuda_tiles`).

X and Y lie by feature, blocks of PANEL rows (see `dense_by_feature`), W in panels of PANEL outputs (see `dense`).
"""

from ._block import QUAD, added, barrier, cut, put_tile, repeat, spot, take_quad, take_tile, where_positive, zeros
from ._context import BATCH, CONTEXT
from ._cuda_tiles import SIZES, tiled
from ._primitives import PANEL, SIZE, ints, real
from .dense import dense_forward, dense_input_gradient, dense_parameter_gradient

# Numbers of operands, as `Tile` loads them


def _feature(x, cols, c, r, limit, extra):
    """X[r : r + QUAD, c], for rows below the limit."""
    given = 0
    if c < cols:
        given = limit - r
    return take_quad(x + (spot(r // PANEL, cols, c) + r % PANEL) * SIZE, given)


def _weight(w, inputs, k, o, outputs, extra):
    """W[k, o : o + QUAD]."""
    given = 0
    if k < inputs:
        given = outputs - o
    return take_quad(w + ((o // PANEL * (inputs + 1) + k) * PANEL + o % PANEL) * SIZE, given)


def _weight_turned(w, inputs, o, k, outputs, extra):
    """W[k, o : o + QUAD], for products with W'."""
    return _weight(w, inputs, k, o, outputs, extra)


def _row(x, cols, r, c, batch, ones):
    """X[r : r + QUAD, c] for rows of the batch; column `cols` is `ones`, for the bias, whatever the row."""
    values = _feature(x, cols, c, r, batch, ones)
    if c == cols:
        values = repeat((ones,), QUAD)
    return values


def _forward(tile):
    """The kernel that makes Y = finish(X W + b)."""
    rows_each, columns_each, deep = tile.rows, tile.columns, tile.deep
    load_x, load_w = tile.left(_feature), tile.right(_weight)
    corner, multiplied = tile.corner, tile.multiplied

    def dense_forward_cuda(x, x_cols, w, y, y_cols, finish, context, row, rows, column, columns):
        limit = (row + rows + PANEL - 1) // PANEL * PANEL
        i, j = corner()
        r, o = row + i, column + j
        given = min(max(y_cols - o, 0), columns_each)
        bias = w + ((o // PANEL * (x_cols + 1) + x_cols) * PANEL + o % PANEL) * SIZE
        sums = repeat(take_tile(bias, 0, 1, 1, columns_each, 1, given), rows_each)
        for first in range(0, x_cols, deep):
            barrier()
            load_x(x, x_cols, first, row, limit, 0)
            load_w(w, x_cols, first, column, y_cols, 0)
            barrier()
            sums = multiplied(sums, i, j)
        if finish == 1:
            sums = cut(sums)
        if r < limit:
            put_tile(sums, y + (spot(r // PANEL, y_cols, o) + r % PANEL) * SIZE, 1, PANEL, rows_each, columns_each,
                     rows_each, given)
        return 0

    return dense_forward_cuda


def _input_gradient(tile):
    """The kernel that makes dX = finish(dY W')."""
    rows_each, columns_each, deep, numbers = tile.rows, tile.columns, tile.deep, tile.numbers
    load_dy, load_w = tile.left(_feature), tile.right(_weight_turned, along_steps=True)
    corner, multiplied = tile.corner, tile.multiplied

    def dense_input_gradient_cuda(dy, dy_cols, w, dx, dx_cols, finish, mask, context, row, rows, column, columns):
        limit = (row + rows + PANEL - 1) // PANEL * PANEL
        i, j = corner()
        sums = zeros(numbers)
        for first in range(0, dy_cols, deep):
            barrier()
            load_dy(dy, dy_cols, first, row, limit, 0)
            load_w(w, dx_cols, first, column, dy_cols, 0)
            barrier()
            sums = multiplied(sums, i, j)
        r, k = row + i, column + j
        given = min(max(dx_cols - k, 0), columns_each)
        if r < limit:
            place = (spot(r // PANEL, dx_cols, k) + r % PANEL) * SIZE
            if finish == 1:
                sums = cut(sums)
            if finish == 2:
                of_mask = take_tile(mask + place, 1, PANEL, rows_each, columns_each, rows_each, given)
                sums = where_positive(of_mask, sums)
            put_tile(sums, dx + place, 1, PANEL, rows_each, columns_each, rows_each, given)
        return 0

    return dense_input_gradient_cuda


def _parameter_gradient(tile):
    """The kernel that makes dW, and dbias as its last row."""
    rows_each, columns_each, deep, numbers = tile.rows, tile.columns, tile.deep, tile.numbers
    load_x, load_dy = tile.left(_row, along_steps=True), tile.right(_row, along_steps=True)
    corner, multiplied = tile.corner, tile.multiplied

    def dense_parameter_gradient_cuda(x, x_cols, dy, dy_cols, w_first, bias, gradient, onto, context, row, rows, column,
                                      columns):
        batch, ones = ints(context, CONTEXT)[BATCH], real(0.0)
        if bias:
            ones = real(1.0)
        i, j = corner()
        sums = zeros(numbers)
        for first in range(0, batch, deep):
            barrier()
            load_x(x, x_cols, first, row, batch, ones)
            load_dy(dy, dy_cols, first, column, batch, real(0.0))
            barrier()
            sums = multiplied(sums, i, j)
        o = column + j
        place = gradient + (w_first + (o // PANEL * (x_cols + 1) + row + i) * PANEL + o % PANEL) * SIZE
        given_rows, given = min(max(rows - i, 0), rows_each), min(max(columns - j, 0), columns_each)
        if onto:
            sums = added(take_tile(place, PANEL, 1, rows_each, columns_each, given_rows, given), sums)
        put_tile(sums, place, PANEL, 1, rows_each, columns_each, given_rows, given)
        return 0

    return dense_parameter_gradient_cuda


tiled(dense_forward, _forward, "y", single=128)
tiled(dense_input_gradient, _input_gradient, "dx", single=128)
tiled(dense_parameter_gradient, _parameter_gradient, "w", (*SIZES[:2], (64, 64, 32)), single=128)
