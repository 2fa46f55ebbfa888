"""The dense layer by feature: products whose vectors hold rows of the batch, not columns of the result.

In a program by feature a buffer is a sequence of blocks of PANEL rows of the batch. A block holds, feature after
feature, one number of each of its rows: two vectors. So a layer of any width fills whole vectors, and what goes element
by element, or along a row, has no padding either. The weights lie as they always do; here each is one number against a
vector of rows:

    Y'[o, b] = bias[o] + sum_i W'[o, i] X'[i, b]         the chain of operations of `tile`, not that of `dots`
    dX'[i, b] = sum_o W[i, o] dY'[o, b]                  the same again: W is the left matrix as it lies
    dW[i, o] = sum_b X'[i, b] dY'[o, b]                  lanes add up rows, and are added up at the end: see `cross`

Rows that fill up the last vector repeat the batch's last row, with zero for a gradient. A vector of the last block
without any row may hold anything, and reaches no result.
"""

from ._jit import kernel
from ._primitives import (
    LANES,
    PANEL,
    SIZE,
    SUMS,
    TILE,
    call,
    cross,
    ints,
    tile_by_block,
    tile_by_feature,
    transpose,
)

_TURNING, _ADDING = 8, 3  # operations for a row of a transposed square, and for a vector that is added up


@kernel
def dense_forward_by_feature(x, x_cols, w, y, y_cols, finish, chain, context, low, high):
    """Y = finish(X W + b) for blocks of rows [low, high), then the instruction `chain` (an activation) on them."""
    size = (x_cols + 1) * PANEL * SIZE
    for first in range(low, high, PANEL):
        given, made = x + first * x_cols * SIZE, y + first * y_cols * SIZE
        vectors = _vectors(high - first)
        for o in range(0, y_cols, PANEL):
            outputs = min(PANEL, y_cols - o)
            height = _height(outputs, vectors)
            j = 0
            while j < outputs:
                rows = _fitting(height, outputs - j)
                tile_by_feature(rows, vectors, x_cols, w + o // PANEL * size + j * SIZE, given,
                                made + (o + j) * PANEL * SIZE, finish)
                j += rows
    return _chained(chain, y_cols, context, low, high)


@kernel
def dense_input_gradient_by_feature(dy, dy_cols, w, dx, dx_cols, finish, mask, chain, context, low, high):
    """dX = finish(dY W') for blocks of rows [low, high), then the instruction `chain` on them."""
    for first in range(low, high, PANEL):
        given, made, gate = dy + first * dy_cols * SIZE, dx + first * dx_cols * SIZE, mask + first * dx_cols * SIZE
        vectors = _vectors(high - first)
        for o in range(0, dy_cols, PANEL):
            _by_block(dx_cols, vectors, min(PANEL, dy_cols - o), w + o * (dx_cols + 1) * SIZE, given + o * PANEL * SIZE,
                      made, o, finish, gate)
    return _chained(chain, dx_cols, context, low, high)


def unit_gradient_by_feature(x, x_cols, dy, dy_cols, target, room, batch, rows, columns):
    """`rows` x `columns` of dW, from the first of these features on, and what fills up the unit's last tiles.

    room: for PANEL x PANEL numbers. Few rows of the batch are not worth adding up lanes: blocks of dY are transposed
    instead, and a block's rows are steps of a product as the other dense kernels make it.
    """
    vectors, across, tiles, width = -(-batch // LANES), 1, rows * columns, 1
    while width <= SUMS:  # the shape that takes the fewest tiles
        count = -(-rows * width // SUMS) * -(-columns // width)
        if count < tiles:
            across, tiles = width, count
        width *= 2
    if -(-columns // LANES) * (rows * batch + vectors * LANES * _TURNING) < tiles * SUMS * (vectors + _ADDING):
        _turned(x, x_cols, dy, dy_cols, target, room, batch, rows, columns)
    else:
        _crossed(across, x, x_cols * PANEL, dy, dy_cols * PANEL, target, batch, rows, columns)


def _turned(x, x_cols, dy, dy_cols, target, room, batch, rows, columns):
    """`unit_gradient_by_feature` by transposing: a row of the batch is a step of a product."""
    for first in range(0, batch, PANEL):
        steps = min(PANEL, batch - first)
        for o in range(0, columns, LANES):
            for b in range(0, steps, LANES):
                transpose(dy + (first * dy_cols + o * PANEL + b) * SIZE, PANEL, room + (b * PANEL + o) * SIZE, PANEL)
        _by_block(rows, -(-columns // LANES), steps, x + first * x_cols * SIZE, room, target, first, 0, 0)


def _by_block(rows, vectors, depth, a, b, c, start, finish, mask):
    """`tile_by_block` for any number of rows."""
    height = _height(rows, vectors)
    i = 0
    while i < rows:
        place, taken = i * PANEL * SIZE, _fitting(height, rows - i)
        tile_by_block(taken, vectors, depth, a + place, b, c + place, start, finish, mask + place)
        i += taken


def bias_gradient_by_feature(ones, dy, dy_cols, target, batch, columns):
    """The sums of `columns` features of dY over the batch: products with 1. May write SUMS of them."""
    _crossed(SUMS, ones, 0, dy, dy_cols * PANEL, target, batch, 1, columns)


def _crossed(across, x, x_block, dy, dy_block, target, batch, rows, columns):
    """`cross` for any number of features; what fills up the last tiles is written, too."""
    for i in range(0, rows, SUMS // across):
        for o in range(0, columns, across):
            cross(across, -(-batch // LANES), x + i * PANEL * SIZE, x_block, dy + o * PANEL * SIZE, dy_block,
                  target + (i * PANEL + o) * SIZE)


def _vectors(rows):
    """Vectors that so many rows take in a block, which may be more."""
    if rows <= LANES:
        return 1
    return 2


def _height(features, vectors):
    """Features of a tile: as even as can be, since of few there are not enough sums to keep the multipliers busy."""
    most = 8
    if vectors == 2:
        most = min(most, TILE)
    tiles = -(-features // most)
    height = -(-features // tiles)
    if height > 4:
        return height + height % 2
    return height


def _fitting(height, features):
    """The largest of HEIGHTS up to `height` that so many features fill: beyond them lies what others may be at."""
    features = min(height, features)
    if features > 4:
        return features - features % 2
    return features


@kernel
def each_by_feature(y_cols, chain, context, low, high):
    """Run the elementwise instruction `chain` on blocks of rows [low, high) of buffers of `y_cols` features."""
    return _chained(chain, y_cols, context, low, high)


def _chained(chain, columns, context, low, high):
    """Run an elementwise instruction, made for one panel, on blocks of rows: as many rows of PANEL numbers."""
    if chain:
        return call(ints(chain, 1)[0], chain, context, low // PANEL * columns, -(-high // PANEL) * columns)
    return 0
