"""What kernels for CUDA may use beside `_primitives`: the threads of a block, what they share, wide loads.

As there, each function is the plain-Python meaning, here for a thread of Numba's simulator, and `_cuda_lowering` has
the instructions. A kernel for CUDA is run by all THREADS threads of a block together, on a rectangle of its result:
rows [row, row + rows) and columns [column, column + columns); its last five parameters are `context, row, rows, column,
columns`. Nothing but addresses and sizes decides what a block does, so results do not depend on how blocks are dealt
out.
"""

import os

import numpy as np

from ._primitives import PANEL, SIZE, real, reals

_asked = os.environ.get("NUMBA_ENABLE_CUDASIM", "").strip()
SIMULATED = _asked.isdigit() and int(_asked) != 0  # as Numba reads it
EDGE = 16
THREADS = EDGE * EDGE  # of a block: EDGE rows of EDGE threads, or WARPS warps of PANEL threads
NEAR = 4352  # reals that a block's threads share, at most
QUAD = 4  # reals that are loaded, or written, at once
PANEL_ROWS = 32  # PANEL on this target: rows of the batch that lie together, a warp of threads
WARPS = THREADS // PANEL_ROWS
COLUMNS = WARPS  # that a block sums over the batch, a warp each


strand = None  # gives the simulator's thread that runs; `_cuda_simulator` says how


def block_x():
    """The block's place along the grid's first axis."""
    return strand().block[0]


def block_y():
    """The block's place along the grid's second axis."""
    return strand().block[1]


def block_z():
    """The block's place along the grid's third axis."""
    return strand().block[2]


def thread():
    """The thread's number in its block."""
    return strand().number


def barrier():
    """Wait until every thread of the block is here; what any wrote before is seen by all after."""
    strand().wait("block")


def meet():
    """Wait until every block of the grid is here; what any wrote before is seen by all after."""
    strand().wait("grid")


_near = np.full(NEAR, np.nan)


def nears(first, size):
    """View `size` reals that the threads of a block share, from number `first` on."""
    return reals(_near.ctypes.data, NEAR)[first : first + size]


def near_numbers(first, count):
    """`count` reals that the block shares, from number `first` on, a multiple of QUAD or of `count`, a literal."""
    return tuple(nears(first, count))


def put_near_numbers(first, numbers):
    """Write QUAD reals to where the block shares them, from number `first` on, a multiple of QUAD."""
    shared = nears(first, QUAD)
    for i in range(QUAD):
        shared[i] = numbers[i]


def take_quad(address, given):
    """QUAD reals from `address` on, 0 from number `given` on. At a multiple of 16 bytes a whole one is read at once."""
    return tuple(reals(address + i * SIZE, 1)[0] if i < given else real(0) for i in range(QUAD))


def numbers(address, count):
    """`count` reals at `address` as a tuple; `count` is a literal."""
    return tuple(reals(address, count))


def zeros(count):
    """A tuple of `count` zeros, a literal number."""
    return (real(0),) * count


# Tiles: tuples of rows * columns numbers in registers, row after row.


def repeat(numbers, count):
    """A tile of `count` rows, a literal number, each of these numbers."""
    return numbers * count


def outer(sums, left, right):
    """The tile sums[i, j] + left[i] * right[j], each a fused multiply-add."""
    products = [a * b for a in left for b in right]
    return tuple(total + product for total, product in zip(sums, products, strict=True))


def added(left, right):
    """The sum of two tiles."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def cut(tile):
    """The tile with 0 for what is negative; NaN stays."""
    return tuple(real(0) if number <= 0 else number for number in tile)


def where_positive(mask, tile):
    """The tile with 0 where the tile `mask` is not positive."""
    return tuple(number if of_mask > 0 else real(0) for of_mask, number in zip(mask, tile, strict=True))


def take_tile(address, row_step, column_step, rows, columns, given_rows, given_columns):
    """A tile whose number [i, j] lies i row_step + j column_step reals from `address`, 0 where none is given.

    rows and columns are literals.
    """
    return tuple(reals(address + (i * row_step + j * column_step) * SIZE, 1)[0]
                 if i < given_rows and j < given_columns else real(0) for i in range(rows) for j in range(columns))


def put_tile(tile, address, row_step, column_step, rows, columns, given_rows, given_columns):
    """Write a tile to where `take_tile` would find it, as far as rows and columns are given."""
    for i in range(min(rows, given_rows)):
        for j in range(min(columns, given_columns)):
            reals(address + (i * row_step + j * column_step) * SIZE, 1)[0] = tile[i * columns + j]


# Of threads


def lane():
    """The thread's place in its warp: the row of a block of PANEL rows that it works on."""
    return thread() % PANEL


def warp():
    """The number of the thread's warp: it takes every WARPS-th column, from this one on."""
    return thread() // PANEL


def exchanged(value):
    """The values of all threads of the block, by their numbers."""
    barrier()  # what was exchanged before is read
    shared = nears(0, THREADS)
    shared[thread()] = value
    barrier()
    return shared


def add_warps(value):
    """The sum over warps of the values of threads in the same lane, in the order of warps."""
    shared, total = exchanged(value), real(0.0)
    for i in range(WARPS):
        total += shared[i * PANEL + lane()]
    return total


def largest_of_warps(value):
    """The largest over warps of the values of threads in the same lane; NaN where one is NaN."""
    shared, top = exchanged(value), value
    for i in range(WARPS):
        other = shared[i * PANEL + lane()]
        if other > top or other != other:
            top = other
    return top


def add_lanes(value):
    """The sum over lanes of the values of threads in the same warp, in four chains."""
    shared, first = exchanged(value), thread() - lane()
    a, b, c, d = real(0.0), real(0.0), real(0.0), real(0.0)
    for i in range(first, first + PANEL, 4):
        a += shared[i]
        b += shared[i + 1]
        c += shared[i + 2]
        d += shared[i + 3]
    return (a + b) + (c + d)


def add_threads(value):
    """The sum over all threads of the block."""
    return add_lanes(add_warps(value))


# Where things lie: buffers are by feature (see `dense_by_feature`), blocks of parameters in panels.


def blocks(row, rows):
    """The blocks of PANEL rows that hold rows [row, row + rows), `row` the first of one."""
    return range(row // PANEL, (row + rows + PANEL - 1) // PANEL)


def spot(block, cols, column):
    """Where the numbers of a column stand in a block of PANEL rows of a buffer with `cols` columns."""
    return (block * cols + column) * PANEL


# How kernels are marked

ALL = 0  # columns: a rectangle has all of them
BLOCK_KERNELS = []  # every kernel for CUDA; its place here is how programs name it


def block_kernel(of, over=None, height=PANEL_ROWS, span=ALL, near=THREADS, in_place=True, single=False):
    """Mark a function as what does on CUDA what the CPU kernel `of`, if there is one, does; it becomes `of.cuda`.

    over: the operand whose rows and columns are cut into rectangles for blocks: a buffer has the batch's rows, a block
    of parameters its inputs, and one row for what stands beside them; for None one block runs it, on nothing. height,
    span: rows and columns of a rectangle; a height of 1 is for what works on columns alone. near: reals that the block
    shares. in_place: whether the result may lie where an operand of its shape does. single: whether it is for float32
    alone, since float64's numbers do not fit into registers.
    """

    def mark(function):
        function.over, function.height, function.span, function.near = over, height, span, near
        function.in_place, function.single = in_place, single
        function.kind = len(BLOCK_KERNELS)
        BLOCK_KERNELS.append(function)
        if of is not None:
            of.cuda = function
        return function

    return mark


def operands(function):
    """The operand names of a kernel for CUDA, in the order of its row."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount - 5]
