"""The executor of programs: one compiled function that a team of workers runs together, step after step.

A step goes through phases. In a ROWS phase each worker takes a contiguous slice of the batch and runs all the phase's
instructions on it, a block of rows at a time, so that what one instruction wrote is in cache when the next reads it.
In a UNITS phase the units of each of its instructions are dealt out. An EACH phase is run by every worker for
itself. Workers meet at a barrier after ROWS and UNITS phases and at the end of a step: twice in a step of training. At
the end of the run worker 0 waits for the others to have left it, so that its memory is nobody's any more (`team.py`).
Which worker computes an element changes nothing in how it is computed.
"""

import numpy as np

from ._context import BATCH, CONTEXT, LOSS, REST, START, UPDATE, WEIGHT
from ._jit import HEADER, kernel
from ._primitives import (
    atomic_add,
    atomic_load,
    atomic_store,
    call,
    doubles,
    flush_subnormals,
    ints,
    pause,
    restore_rounding,
    yield_thread,
)

ROWS, UNITS, EACH = 0, 1, 2
PHASE = 3  # cells of a phase: kind, address of its first row, number of rows
KIND, FIRST, COUNT = range(PHASE)
ADDRESS, ROW_UNITS, ROW_COST = range(HEADER)  # the head of an instruction's row

_MANY = 8  # units a worker from which on one more or less is little

# Cells that the team shares, a cache line apart: arrivals and generation of the barrier, the verdict on the run, how
# many helpers have left it; and, with the last, for how many turns a worker waits before it offers its core to others.
ARRIVED, GENERATION, FAILED, OVERFLOWED, DONE, LEFT, SPINS = 0, 8, 16, 24, 32, 40, 41
SHARED = 48


@kernel
def walk(phases, phase_count, row_bytes, flush, grain, steps, start, rows, ahead, batch, update, block, strict,
         goal: float, changing, changes, change_count, losses, contexts, workers, shared, yielder, context, low, high):
    """Run `steps` steps as worker `low`; the batches follow each other from row `start` of `rows`.

    After the last row comes the first one again, `ahead` places further on in the order, which may be those of several
    epochs after each other.

    `changing` are the addresses of `change_count` cells of the program that `changes`, a row a step, gives new numbers
    before each step. Who reads them does so after the step's first barrier.

    Workers' slices of a batch begin at multiples of `grain` rows.

    With `flush`, which is for training, results below the normal numbers become 0: the moments of what gets no gradient
    any more would end there and stay, and x86 takes a hundred cycles for an operation on them.

    Puts the loss of each step into `losses` (float64; 0 if there is none) and the number of completed steps into
    shared[DONE]. Ends early where a kernel failed (shared[FAILED]), an update was not finite (shared[OVERFLOWED]), a
    loss is below `goal` or, if `strict`, not finite; the update that would follow from that loss is not made.
    """
    if not flush:
        return walked(phases, phase_count, row_bytes, grain, steps, start, rows, ahead, batch, update, block, strict,
                      goal, changing, changes, change_count, losses, contexts, workers, shared, yielder, low)
    before = flush_subnormals()
    done = walked(phases, phase_count, row_bytes, grain, steps, start, rows, ahead, batch, update, block, strict, goal,
                  changing, changes, change_count, losses, contexts, workers, shared, yielder, low)
    restore_rounding(before)
    return done


def walked(phases, phase_count, row_bytes, grain, steps, start, rows, ahead, batch, update, block, strict, goal,
           changing, changes, change_count, losses, contexts, workers, shared, yielder, worker):
    """`walk`, as the thread rounds."""
    own = contexts + worker * CONTEXT * 8
    cells, numbers = ints(own, CONTEXT), doubles(own, CONTEXT)
    verdict = ints(shared, SHARED)
    done, before = 0, 0
    for step in range(steps):
        size = min(batch, rows - start)
        cells[BATCH], cells[START], cells[REST], cells[UPDATE] = size, before + start, rows - start, update + step
        numbers[LOSS], numbers[WEIGHT] = 0.0, size
        if worker == 0:
            for i in range(change_count):
                ints(ints(changing, change_count)[i], 1)[0] = ints(changes, (step + 1) * change_count)[
                    step * change_count + i]
        for number in range(phase_count):
            phase = ints(phases + number * PHASE * 8, PHASE)
            if phase[KIND] == ROWS:
                grains = (size + grain - 1) // grain
                first = grains * worker // workers * grain
                last = min(grains * (worker + 1) // workers * grain, size)
                status = 0
                for begin in range(first, last, block):
                    end = min(begin + block, last)
                    for i in range(phase[COUNT]):
                        row = phase[FIRST] + i * row_bytes
                        status |= call(ints(row, 1)[0], row, own, begin, end)
            elif phase[KIND] == UNITS:
                status = deal(phase[FIRST], phase[COUNT], row_bytes, worker, workers, own)
            else:
                for i in range(phase[COUNT]):
                    row = phase[FIRST] + i * row_bytes
                    status = call(ints(row, 1)[0], row, own, 0, 0)
                loss = numbers[LOSS]
                if losses and worker == 0:
                    doubles(losses, step + 1)[step] = loss
                if (strict and not np.isfinite(loss)) or loss < goal:
                    return done
            if status:
                atomic_add(shared + (FAILED if status < 0 else OVERFLOWED) * 8, 1)
            if number == phase_count - 1 and step == steps - 1:
                if worker:
                    return done  # helpers touch nothing of the run any more, so they need not see the others arrive
                join(shared, workers, yielder)
                if atomic_load(shared + FAILED * 8):
                    return done
            elif phase[KIND] != EACH or number == phase_count - 1:
                if not meet(shared, workers, yielder) or atomic_load(shared + FAILED * 8):
                    return done
        done += 1
        if worker == 0:
            verdict[DONE] = done
        if atomic_load(shared + OVERFLOWED * 8):
            return done
        start += size
        if start >= rows:
            start = 0
            before += ahead
    return done


def deal(first, count, row_bytes, worker, workers, own):
    """Run this worker's share of the units of `count` instructions, of each those that follow each other.

    Where units are many every instruction is cut in equal parts, so who changes some columns of a matrix is, but for
    what lies at the cuts, who multiplies by them in the next step. The others are dealt out together, by cost: to whose
    part of the total a unit's cost begins in.
    """
    total = 0
    for i in range(count):
        head = ints(first + i * row_bytes, HEADER)
        if head[ROW_UNITS] < _MANY * workers:
            total += head[ROW_UNITS] * head[ROW_COST]
    begin, end = total * worker // workers, total * (worker + 1) // workers
    before, status = 0, 0
    for i in range(count):
        row = first + i * row_bytes
        head = ints(row, HEADER)
        units, cost = head[ROW_UNITS], head[ROW_COST]
        if units < _MANY * workers:
            low = min(max(-((before - begin) // cost), 0), units)
            high = min(max(-((before - end) // cost), 0), units)
            before += units * cost
        else:
            low, high = units * worker // workers, units * (worker + 1) // workers
        if low < high:
            status |= call(head[ADDRESS], row, own, low, high)
    return status


def meet(shared, workers, yielder):
    """Wait until every worker of the team is here; False if a worker failed meanwhile.

    What any worker wrote before is seen by all after.
    """
    if workers == 1:
        return True
    generation = atomic_load(shared + GENERATION * 8)
    if atomic_add(shared + ARRIVED * 8, 1) == workers - 1:
        atomic_store(shared + ARRIVED * 8, 0)
        atomic_add(shared + GENERATION * 8, 1)
        return True
    limit = ints(shared, SHARED)[SPINS]
    spins = 0
    while atomic_load(shared + GENERATION * 8) == generation:
        spins += 1
        if spins < limit:
            pause()
        else:
            yield_thread(yielder)
            if atomic_load(shared + FAILED * 8):
                return False
    return True


def join(shared, workers, yielder):
    """Wait, as worker 0, until the others have left the run; what they wrote is seen after."""
    limit = ints(shared, SHARED)[SPINS]
    spins = 0
    while atomic_load(shared + LEFT * 8) < workers - 1:
        spins += 1
        if spins < limit:
            pause()
        else:
            yield_thread(yielder)
