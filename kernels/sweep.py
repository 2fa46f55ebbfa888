"""Chains of elementwise instructions over long arrays, a block at a time, so that what lies between stays in cache."""

from ._block import THREADS, block_kernel, blocks, spot, thread
from ._context import CONTEXT, LOSS, UPDATE, WORKER
from ._elementwise import SPAN
from ._jit import kernel
from ._primitives import PANEL, SIZE, call, copy, doubles, finite, ints, reals
from ._steps import CONTEXT as CELLS
from ._steps import LOSS_STOP, LOSSES, STEP, STOPPED
from .tensors import RUN

BASE = 2  # cells for each address that moves with the block: the row's cell, the array's start


@kernel
def sweep(rows, row_bytes, count, bases, base_count, block, context, low, high):
    """Run `count` elementwise instructions on groups [low, high) of PANEL elements, `block` groups at a time.

    Each worker has rows and bases of its own, one after the other. An instruction finds an array of the program at
    the block's place in it, and a value that only this sweep knows always at the same place in the worker's scratch.
    """
    worker = ints(context, CONTEXT)[WORKER]
    first = rows + worker * count * row_bytes
    moving = ints(bases + worker * base_count * BASE * 8, base_count * BASE)
    status = 0
    for begin in range(low, high, block):
        for i in range(base_count):
            ints(moving[i * BASE], 1)[0] = moving[i * BASE + 1] + begin * PANEL * SIZE
        groups = min(block, high - begin)
        for i in range(count):
            row = first + i * row_bytes
            status |= call(ints(row, 1)[0], row, context, 0, groups)
    return status


@kernel
def fill(x, y, y_panel, y_panels, context, low, high):
    """y = x[0], everywhere."""
    count = (high - low) * PANEL
    value = reals(x, 1)[0]
    for panel in range(y_panels):
        target = reals(y + (panel * y_panel + low * PANEL) * SIZE, count)
        for i in range(count):
            target[i] = value
    return 0


@kernel
def observe(value, parameters, size, traces, update, gaps, gap_count, context, low, high):
    """Make `value` this step's loss; keep the parameters in the row of `traces` for this update, the first `update`.

    What fills up the gradient of each parameter, `gaps` of address and numbers, becomes 0: formulas made it of what
    fills up the parameter, and it may be NaN.
    """
    cells, gap = ints(context, CONTEXT), ints(gaps, 2 * gap_count)
    for i in range(gap_count):
        numbers = reals(gap[2 * i], gap[2 * i + 1])
        for j in range(gap[2 * i + 1]):
            numbers[j] = 0.0
    doubles(context, CONTEXT)[LOSS] = reals(value, 1)[0]
    if traces and cells[WORKER] == 0:
        copy(traces + (cells[UPDATE] - update) * size * SIZE, parameters, size)
    return 0


# On CUDA a sweep is a chain of instructions on the same rectangle.

GOAL_STOP = 3  # why a run has STOPPED, beside the reasons of `_steps`


@block_kernel(fill, "y", span=SPAN)
def fill_cuda(x, y, y_cols, context, row, rows, column, columns):
    """y = x[0], everywhere."""
    value = reals(x, 1)[0]
    for block in blocks(row, rows):
        target = reals(y + spot(block, y_cols, column) * SIZE, columns * PANEL)
        for i in range(thread(), columns * PANEL, THREADS):
            target[i] = value
    return 0


@block_kernel(observe)
def observe_cuda(value, goal: float, context, row, rows, column, columns):
    """Make `value` this step's loss; stop the run where it is not finite or below `goal`."""
    if thread() == 0:
        cells, loss = ints(context, CELLS), reals(value, 1)[0]
        reals(cells[LOSSES] + cells[STEP] * SIZE, 1)[0] = loss
        if not finite(loss):
            cells[STOPPED] = LOSS_STOP
        elif loss < goal:
            cells[STOPPED] = GOAL_STOP
    return 0


@block_kernel(None, "parameters", height=RUN)
def keep_parameters(parameters, traces, size, context, row, rows, column, columns):
    """Copy elements [row, row + rows) of `size` parameters to the row of `traces` for this step."""
    source = reals(parameters, size)
    target = reals(traces + ints(context, CELLS)[STEP] * size * SIZE, size)
    for i in range(row + thread(), row + rows, THREADS):
        target[i] = source[i]
    return 0
