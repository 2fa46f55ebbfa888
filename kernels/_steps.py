"""The steps of a run on a device: cells that its kernels read, and what happens between two steps.

The first cells are those of `_context`, of which the loss and what rows count for are `real` here. The host sets the
others before a run and reads DONE, STOPPED and FLAWED after it; between, a device needs nothing of it.
"""

from . import _context
from ._block import block_kernel, thread
from ._context import BATCH, LOSS, REST, START, UPDATE, WEIGHT
from ._primitives import SIZE, finite, ints, real, reals

(STEP, MOST, TOTAL, BEFORE, AHEAD, NEXT, FIRST_UPDATE, STRICT, LOSSES, COEFFICIENTS, TABLE, WIDTH, STOPPED, FLAWED, DONE
 ) = range(_context.CONTEXT, _context.CONTEXT + 15)
CONTEXT = _context.CONTEXT + 16  # cells
LOSS_STOP, UPDATE_STOP = 1, 2  # why a run has STOPPED


@block_kernel(None)
def begin_step(context, row, rows, column, columns):
    """Put what this step's kernels read into the context."""
    if thread() == 0:
        cells = ints(context, CONTEXT)
        size, place = min(cells[MOST], cells[TOTAL] - cells[NEXT]), cells[STEP]
        cells[BATCH], cells[START], cells[REST] = size, cells[BEFORE] + cells[NEXT], cells[TOTAL] - cells[NEXT]
        cells[UPDATE] = cells[FIRST_UPDATE] + place
        cells[COEFFICIENTS] = cells[TABLE] + place * cells[WIDTH] * SIZE
        number(context, LOSS)[0] = 0.0
        number(context, WEIGHT)[0] = real(size)
    return 0


@block_kernel(None)
def keep_loss(context, row, rows, column, columns):
    """Write the step's loss down; stop the run if it is not finite and the run is strict."""
    if thread() == 0:
        cells, loss = ints(context, CONTEXT), number(context, LOSS)[0]
        reals(cells[LOSSES] + cells[STEP] * SIZE, 1)[0] = loss
        if cells[STRICT] and not finite(loss):
            cells[STOPPED] = LOSS_STOP
    return 0


@block_kernel(None)
def end_step(context, row, rows, column, columns):
    """Go on to the next batch, or stop the run after an update that was not finite."""
    if thread() == 0:
        cells = ints(context, CONTEXT)
        cells[DONE] += 1
        cells[STEP] += 1
        if cells[FLAWED]:
            cells[STOPPED] = UPDATE_STOP
        cells[NEXT] += cells[BATCH]
        if cells[NEXT] >= cells[TOTAL]:
            cells[NEXT] = 0
            cells[BEFORE] += cells[AHEAD]
    return 0


def number(context, cell):
    """View a cell that holds a `real`."""
    return reals(context + 8 * cell, 1)
