"""How helper threads get their work without Python: jobs go through mailboxes, one a helper.

A helper lives in `serve`. After a job it watches its mailbox for a while, since the next step of a loop comes soon and
waking a thread takes longer than many a step; then it sleeps at a lock of its own, which takes no processor time. What
it does is settled by one cell: EMPTY while it watches or works, ASLEEP once it has left that to sleep, else the next
job's address. The helper that falls asleep and the leader that gives a job both swap it from EMPTY, so one of them
finds what the other did. A helper belongs to one leader at a time, from a job's coming until it has left that job.

A job is the row of a kernel that runs as worker `low` of a team, as `walk` does: the first cell is its address.
"""

from ._jit import kernel
from ._primitives import (
    acquire,
    atomic_add,
    atomic_load,
    atomic_store,
    call,
    compare_and_swap,
    ints,
    pause,
    release,
    yield_thread,
)
from .walk import FAILED, LEFT, join

JOB, WORKER, SHARED, LOCK = range(4)  # of a mailbox: the cell that settles all, the job's worker, its shared cells
BOX = 16  # cells of a mailbox: two cache lines, which come in pairs
EMPTY, ASLEEP, QUIT = 0, 1, 2  # what JOB holds if no address


@kernel
def serve(box, near, far, yielder, acquirer, context, low, high):
    """Do the jobs that come into the mailbox `box`, until QUIT.

    Between two jobs, watches for `near` turns, offers its core to others in each of `far` more, then sleeps; or, if
    `low`, returns.
    """
    cells = ints(box, BOX)
    while True:
        turns = 0
        while atomic_load(box) == EMPTY:
            turns += 1
            if turns <= near:
                pause()
            elif turns <= near + far:
                yield_thread(yielder)
            elif low:
                return 0
            elif compare_and_swap(box, EMPTY, ASLEEP) == EMPTY:
                while atomic_load(box) == ASLEEP:
                    acquire(acquirer, cells[LOCK])
        job = atomic_load(box)
        if job == QUIT:
            return 0
        shared = cells[SHARED]
        atomic_store(box, EMPTY)
        work(job, shared, cells[WORKER])
        atomic_add(shared + LEFT * 8, 1)


@kernel
def lead(job, shared, boxes, count, yielder, releaser, context, low, high):
    """Give the job to the `count` helpers whose mailboxes `boxes` lists, take part as worker 0, wait for them."""
    for i in range(count):
        box = ints(boxes, count)[i]
        cells = ints(box, BOX)
        cells[WORKER], cells[SHARED] = i + 1, shared
        if compare_and_swap(box, EMPTY, job) != EMPTY:
            atomic_store(box, job)
            release(releaser, cells[LOCK])
    work(job, shared, 0)
    join(shared, count + 1, yielder)
    return 0


def work(job, shared, worker):
    """Take part in the job; a kernel that raised has let the others down at their next barrier."""
    if call(ints(job, 1)[0], job, 0, worker, 0) < 0:
        atomic_add(shared + FAILED * 8, 1)
