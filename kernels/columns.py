"""The dense layer on few rows: workers take columns of the result, so that each reads its part of the matrix alone.

Rows are dealt out where there are many of them. Where there are few, each worker would read the whole matrix, most of
which others have just changed, and that takes longer than the arithmetic.
"""

from ._context import BATCH, CONTEXT, SCRATCH
from ._jit import kernel
from ._primitives import PANEL, SIZE, WIDE, WIDE_ROWS, call, ints, tile_wide
from .dense import input_gradient_panel
from .gemm import dotted, gemm


@kernel
def dense_columns(x, x_panel, x_cols, w, y, y_panel, y_cols, finish, chain, context, low, high):
    """Y = finish(X W + b) for panels [low, high) of Y and all rows, then the activation `chain` on the same numbers."""
    rows, size, bias = ints(context, CONTEXT)[BATCH], (x_cols + 1) * PANEL, x_cols * PANEL * SIZE
    panel = low
    if rows <= WIDE_ROWS:
        wide, whole = WIDE // rows, high
        if dotted(y_cols, x_cols):  # the last panel has columns that go by themselves
            whole = min(high, y_cols // PANEL)
        while panel + wide <= whole:
            place = w + panel * size * SIZE
            tile_wide(rows, x_cols, x, x_panel, place, size, y + panel * y_panel * SIZE, y_panel, place + bias, finish)
            panel += wide
    if panel < high:
        place, columns = w + panel * size * SIZE, min(y_cols, high * PANEL) - panel * PANEL
        gemm(x, x_panel, place, size, y + panel * y_panel * SIZE, y_panel, place + bias, 0, size, finish, 0, 0, x_cols,
             columns, ints(context, CONTEXT)[SCRATCH], 0, 0, 0, context, 0, rows)
    return _chained(chain, y_panel, rows, context, low, high)


@kernel
def dense_input_gradient_columns(dy, dy_panel, dy_cols, w, dx, dx_panel, dx_cols, dx_width, finish, mask, mask_panel,
                                 chain, context, low, high):
    """dX = finish(dY W') for panels [low, high) of dX and all rows, then the slope `chain` on the same numbers."""
    rows = ints(context, CONTEXT)[BATCH]
    for panel in range(low, high):
        input_gradient_panel(dy, dy_panel, dy_cols, w, dx, dx_panel, dx_cols, dx_width, finish, mask, mask_panel, panel,
                             context, 0, rows)
    return _chained(chain, dx_panel, rows, context, low, high)


def _chained(chain, y_panel, rows, context, low, high):
    """Run an elementwise instruction, made for one panel, on panels [low, high): they are one, with gaps."""
    status = 0
    if chain:
        for panel in range(low, high):
            first = panel * y_panel // PANEL
            status |= call(ints(chain, 1)[0], chain, context, first, first + rows)
    return status
