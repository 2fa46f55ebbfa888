"""A large batch of a small net, group by group: what the rows phase makes of some rows is used up while it is in cache.

A batch is cut into GROUPS groups of rows, whatever its size and the number of workers. A worker takes a group some rows
at a time: forward, loss, backward, and the gradients of the parameters, which are added to the group's own. Afterwards
the groups' gradients are added up, in order, and handed to the optimizer. So activations lie in a worker's own memory,
room for those few rows, and no worker reads another's.
"""

from ._context import BATCH, CONTEXT, REST, SCRATCH, START, WORKER
from ._jit import kernel
from ._primitives import SIZE, call, copy, ints, reals
from .parameters import update

GROUPS = 16
PIECE = 512  # numbers of a gradient that are added up at once: a unit
MOVING = 4  # cells for each address that moves on: the row's cell, what it holds at first, bytes a row, bytes a group


@kernel
def groups(rows, row_bytes, count, stride, moving, moving_count, height, slots, elements, context, low, high):
    """Run `count` instructions on the rows of groups [low, high), up to `height` rows at a time.

    Each worker has instructions and moving addresses of its own, `stride` bytes and `moving_count` rows apart. An
    instruction with units is given all of them. `slots` has a gradient of `elements` numbers for each group.
    """
    cells = ints(context, CONTEXT)
    first_row = rows + cells[WORKER] * stride
    table = ints(moving + cells[WORKER] * moving_count * MOVING * 8, moving_count * MOVING)
    batch, start, rest = cells[BATCH], cells[START], cells[REST]
    status = 0
    for group in range(low, high):
        begin, last = batch * group // GROUPS, batch * (group + 1) // GROUPS
        gradient = reals(slots + group * elements * SIZE, elements)
        for i in range(elements):
            gradient[i] = 0.0
        parts = (last - begin + height - 1) // height
        while begin < last:
            size = (last - begin + parts - 1) // parts
            parts -= 1
            cells[BATCH], cells[START], cells[REST] = size, start + begin, rest - begin
            for i in range(moving_count):
                cell = i * MOVING
                ints(table[cell], 1)[0] = table[cell + 1] + begin * table[cell + 2] + group * table[cell + 3]
            for i in range(count):
                row = first_row + i * row_bytes
                units = ints(row, 2)[1]
                status |= call(ints(row, 1)[0], row, context, 0, units if units else size)
            begin += size
    cells[BATCH], cells[START], cells[REST] = batch, start, rest
    return status


@kernel
def add_groups(slots, elements, w_first, size, gradient, chain, context, low, high):
    """Add up the groups' gradients of one block of parameters, pieces [low, high) of it, for the optimizer `chain`.

    The sum goes to `gradient`, which is laid out as all parameters are, or, where that is 0, no further.
    """
    scratch = ints(context, CONTEXT)[SCRATCH]
    status = 0
    for piece in range(low, high):
        count = min(PIECE, size - piece * PIECE)
        first = w_first + piece * PIECE
        sums = reals(scratch, count)
        copy(scratch, slots + first * SIZE, count)
        for group in range(1, GROUPS):
            parts = reals(slots + (group * elements + first) * SIZE, count)
            for i in range(count):
                sums[i] = sums[i] + parts[i]
        place = scratch
        if gradient:
            place = gradient + first * SIZE
            copy(place, scratch, count)
        status |= update(chain, place, first, count, 0, context)
    return status
