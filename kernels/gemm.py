"""Matrix products on panels: the loop nests under every dense kernel.

    gemm              C[m, n] = finish(start[m, n] + sum_k A[m, k] B[k, n])
    gemm_stack        the same of each pair of matrices in two stacks
    gemm_transposed   C[m, n] = start[m, n] + sum_k A[k, m] B[k, n]
    dot_column        one column of the first

Every matrix lies in panels of PANEL columns (two vectors), whose rows follow each other without a gap: a tile then
reads and writes memory at fixed distances, in whole cache lines. Every element of C is one chain of fused
multiply-adds in the order of k whatever the tile, the block or the thread, or LANES such chains, added up, in those
columns that `dotted` counts; so results do not depend on how the work was cut. Blocks of steps of k keep what several
tiles read in the first-level cache.
"""

from ._jit import kernel
from ._primitives import AHEAD, LANES, NARROW, PANEL, SHALLOW, SIZE, TILE, dots, outer, reals, tile, tile_transposed

PLAIN, POSITIVE, WHERE_POSITIVE = 0, 1, 2  # what `finish` may be: see `tile`
_BLOCK = 256
_DEEP = 128  # of `gemm_transposed`: as much of A, and of B, is 8 KB, a quarter of the first-level cache each


@kernel
def gemm(a, a_panel, b, b_panel, c, c_panel, start, start_row, start_panel, finish, mask, mask_panel, depth, columns,
         line, ahead, ahead_panel, ahead_chunk, context, low, high):
    """Compute rows [low, high) of C; the addresses are those of row 0. Columns that fill up a vector may be written.

    The panels of each matrix are `<matrix>_panel` values apart, the rows of start `start_row` (0 repeats one row, as
    for a bias). `finish` is PLAIN, POSITIVE or WHERE_POSITIVE (of mask). Columns go by themselves where `line` is room
    for one of B, depth numbers filled up to whole panels, and start is one row; with `line` 0 none does.

    `ahead` is where in memory that lies which is read after the first panel of B, squares of PANEL x PANEL numbers
    `ahead_chunk` apart; what is read after the next panel lies `ahead_panel` on. Each tile asks for a square. 0 for
    what is in cache.
    """
    tiled = columns
    if line:
        tiled -= dotted(columns, depth)
    width = -(-tiled // LANES) * LANES
    for column in range(tiled, columns):
        shift, mask_shift = column // PANEL * c_panel + column % PANEL, column // PANEL * mask_panel + column % PANEL
        dot_column(a, a_panel, b + (column // PANEL * b_panel + column % PANEL) * SIZE, depth, line, c + shift * SIZE,
                   start + (column // PANEL * start_panel + column % PANEL) * SIZE, finish, mask + mask_shift * SIZE,
                   context, low, high)
    k = 0
    while width and (k == 0 or k < depth):
        block = min(_BLOCK, depth - k)
        last = finish if k + block == depth else PLAIN
        for n in range(0, width, PANEL):
            panel = n // PANEL
            vectors = min(2, (width - n) // LANES)
            c_now, mask_now = c + panel * c_panel * SIZE, mask + panel * mask_panel * SIZE
            start_now, start_step = start + panel * start_panel * SIZE, start_row
            if k > 0:
                start_now, start_step = c_now, PANEL
            a_now, b_now = a + k // PANEL * a_panel * SIZE, b + (panel * b_panel + k * PANEL) * SIZE
            height, asked, chunk, chunks = tile_height(vectors), b_now, 0, 0
            if ahead and AHEAD:
                asked = ahead + (panel * ahead_panel + k // PANEL * ahead_chunk) * SIZE
                chunk, chunks = ahead_chunk * SIZE, -(-block // PANEL)
            m = low
            while m < high:  # `range` would divide by the height
                tile(min(height, high - m), vectors, block, a_now + m * PANEL * SIZE, a_panel, b_now,
                     c_now + m * PANEL * SIZE, start_now + m * start_step * SIZE, start_step, last,
                     mask_now + m * PANEL * SIZE, asked)
                m += height
                asked += chunk
                chunks -= 1
                if chunks == 0:  # all that a block takes
                    asked, chunk = b_now, 0
        k += _BLOCK
    return 0


@kernel
def dot_column(a, a_panel, b, depth, line, c, start, finish, mask, context, low, high):
    """Compute rows [low, high) of one column of C from one of B; the addresses are those of their first numbers."""
    size = -(-depth // PANEL) * PANEL
    numbers, column = reals(line, size), reals(b, depth * PANEL)
    for k in range(depth):
        numbers[k] = column[k * PANEL]
    for k in range(depth, size):
        numbers[k] = 0.0
    for m in range(low, high, LANES):
        dots(min(LANES, high - m), depth, a + m * PANEL * SIZE, a_panel, line, start, c + m * PANEL * SIZE, finish,
             mask + m * PANEL * SIZE)
    return 0


def dotted(columns, depth):
    """How many columns, the last, go by themselves: a few beyond whole vectors, with which a tile is mostly empty."""
    rest = columns % LANES
    if rest > LANES // 4 or depth < min(rest, 2) * LANES:
        return 0
    return rest


@kernel
def gemm_stack(a, a_panel, b, b_panel, c, c_panel, start, depth, width, rows, context, low, high):
    """Compute rows [low, high) of a stack of products, `rows` rows of C each.

    The matrices of a stack follow each other in the rows of its panels: so many of A, `depth` of B. start: one row.
    """
    while low < high:
        first = low // rows * rows
        stop = min(high, first + rows)
        gemm(a + first * PANEL * SIZE, a_panel, b + low // rows * depth * PANEL * SIZE, b_panel,
             c + first * PANEL * SIZE, c_panel, start, 0, 0, PLAIN, 0, 0, depth, width, 0, 0, 0, 0, context,
             low - first, stop - first)
        low = stop
    return 0


@kernel
def gemm_transposed(a, b, c, start, start_row, depth, vectors, context, low, high):
    """Compute rows [low, high) of C, one panel of 1 or 2 vectors, from columns [low, high) of the panel A."""
    if 0 < depth <= SHALLOW:
        outer(high - low, vectors, depth, a + low * SIZE, b, c + low * PANEL * SIZE, start + low * start_row * SIZE,
              start_row)
        return 0
    height = tile_height(vectors)
    k = 0
    while k == 0 or k < depth:
        block = min(_DEEP, depth - k)
        start_now, start_step = (c, PANEL) if k > 0 else (start, start_row)
        m = low
        while m < high:
            tile_transposed(min(height, high - m), vectors, block, a + (k * PANEL + m) * SIZE, b + k * PANEL * SIZE,
                            c + m * PANEL * SIZE, start_now + m * start_step * SIZE, start_step)
            m += height
        k += _DEEP
    return 0


def tile_height(vectors):
    """Rows of a tile so many vectors wide."""
    if vectors == 1:
        return NARROW
    return TILE
