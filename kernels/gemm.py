"""Matrix products on panels: the one loop nest under every dense kernel.

    C[m, n] = finish(start[m, n] + sum_k A[m, k] B[k, n])         m in [low, high), k < depth, n < width

B lies in panels of PANEL columns (two vectors; the last may be one vector wide), each panel's rows B_ROW apart.
Every element of C is one chain of fused multiply-adds in the order of k whatever the tile, the block or the thread,
so results do not depend on how the work was cut. Blocks of DEPTH rows keep the panel in the first-level cache.
"""

from ._jit import kernel
from ._primitives import LANES, PANEL, SIZE, TILE, tile

PLAIN, POSITIVE, WHERE_POSITIVE = 0, 1, 2  # what FINISH may be: see `tile`
_BLOCK = 256


@kernel
def gemm(a, a_row, a_col, b, b_row, b_panel, c, c_row, start, start_row, start_panel, finish, mask, mask_row,
         depth, width, context, low, high):
    """Compute rows [low, high) of C; the addresses are those of row 0. Strides count elements.

    C, start and mask hold their columns side by side, but the panels of start lie `start_panel` apart: a bias does
    so, as the last row of each weight panel. `finish` is PLAIN, POSITIVE or WHERE_POSITIVE (of mask): see `tile`.
    """
    k = 0
    while k == 0 or k < depth:
        block = min(_BLOCK, depth - k)
        last = finish if k + block == depth else PLAIN
        for n in range(0, width, PANEL):
            vectors = min(2, (width - n) // LANES)
            panel = n // PANEL
            c_now = c + n * SIZE
            start_now, start_step = start + panel * start_panel * SIZE, start_row
            if k > 0:
                start_now, start_step = c_now, c_row
            a_now, b_now = a + k * a_col * SIZE, b + (panel * b_panel + k * b_row) * SIZE
            mask_now = mask + n * SIZE
            for m in range(low, high, TILE):
                tile(min(TILE, high - m), vectors, block, a_now + m * a_row * SIZE, a_row, a_col, b_now, b_row,
                     c_now + m * c_row * SIZE, c_row, start_now + m * start_step * SIZE, start_step,
                     last, mask_now + m * mask_row * SIZE, mask_row)
        k += _BLOCK
    return 0
