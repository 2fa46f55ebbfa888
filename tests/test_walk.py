"""The compiled executor: who gets which units, who waits for whom, and what ends a run early."""

import ctypes
import platform
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hotloop as hl
from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import walk
from hotloop.kernels._context import CONTEXT, START
from hotloop.kernels._jit import HEADER, kernel
from hotloop.kernels._primitives import ints
from hotloop.kernels.walk import deal, meet
from hotloop.plan import plan
from hotloop.team import YIELDER

CALLBACK = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)


@kernel
def deal_units(first, count, row_bytes, worker, workers, own, context, low, high):
    return deal(first, count, row_bytes, worker, workers, own)


@kernel
def count_rounds(rounds, counts, workers, shared, yielder, context, low, high):
    """As worker `low`, say which round it is and meet; how often another worker said otherwise, -2 if let go."""
    said = ints(counts, workers)
    wrong = 0
    for i in range(1, rounds + 1):
        said[low] = i
        if not meet(shared, workers, yielder):
            return -2
        for other in range(workers):
            if said[other] != i:
                wrong += 1
        if not meet(shared, workers, yielder):
            return -2
    return wrong


@kernel
def fails(context, low, high):
    return -1


@kernel
def raises(context, low, high):
    if low <= high:
        raise ValueError
    return 0


@kernel
def fails_later(context, low, high):
    return -1 if low == 0 and ints(context, CONTEXT)[START] else 0


@kernel
def overflows(context, low, high):
    return 1


@given(instructions=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 1000)), min_size=1, max_size=5),
       workers=st.integers(1, 9))
def test_each_unit_goes_to_one_worker(worker, instructions, workers):
    """In order; many are cut in equal parts, and of the others no worker gets more than its part and one unit."""
    dealt = []

    @CALLBACK
    def note(row, context, low, high):
        dealt.append(((row - table.ctypes.data) // table[0].nbytes, low, high))
        return 0

    units, costs = np.array(instructions).T
    few = units < 8 * workers
    table = np.zeros((len(units), HEADER), np.int64)
    table[:, walk.ADDRESS] = ctypes.cast(note, ctypes.c_void_p).value
    table[:, walk.ROW_UNITS], table[:, walk.ROW_COST] = units, costs
    arguments = {"first": table, "count": len(units), "row_bytes": table[0].nbytes, "workers": workers}
    found = []
    for number in range(workers):
        dealt.clear()
        assert worker().run(deal_units, 0, 0, worker=number, own=0, **arguments) == 0
        assert dealt == sorted(dealt) and len({place for place, _, _ in dealt}) == len(dealt)
        for place in np.flatnonzero(~few):
            cut = [int(units[place]) * edge // workers for edge in (number, number + 1)]
            assert (place, *cut) in dealt
        own = sum((high - low) * costs[place] for place, low, high in dealt if few[place])
        assert own <= (units * costs)[few].sum() / workers + costs.max()
        found += [(place, unit) for place, low, high in dealt for unit in range(low, high)]
    assert sorted(found) == [(place, unit) for place, count in enumerate(units) for unit in range(count)]


@pytest.mark.parametrize("workers", range(1, 9))
def test_workers_wait_for_each_other(worker, workers):
    counts, shared = np.zeros(workers, np.int64), np.zeros(walk.SHARED, np.int64)
    found = []

    def run(number):
        found.append(worker().run(count_rounds, number, 0, rounds=1000, counts=counts, workers=workers, shared=shared,
                                  yielder=YIELDER))

    threads = [threading.Thread(target=run, args=[number]) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * workers


def test_a_waiting_worker_can_be_let_go(worker):
    counts, shared = np.zeros(2, np.int64), np.zeros(walk.SHARED, np.int64)
    found = []

    def run():
        found.append(worker().run(count_rounds, 0, 0, rounds=1, counts=counts, workers=2, shared=shared,
                                  yielder=YIELDER))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(0.05)
    assert found == []
    shared[walk.FAILED] = 1
    thread.join(60)
    assert found == [-2]


def losses_of(x, kernel=None, threads=None, **run):
    """Outcome of a program whose loss is the sum of the batch, or whose loss kernel is another."""
    graph = Graph()
    inputs = graph.input("x", (None, 1))
    loss = graph.apply("l1_loss", inputs, graph.target("y", (None, 1)), reduction="sum")
    program = plan(graph, layout("float64"), loss=loss)
    if kernel:
        one, = (instruction for instruction in program.instructions if instruction.op == "l1_loss")
        one.kernel, one.operands = kernel, {}
    executor = CpuBackend("float64", threads)
    executor.prepare(program, run["batch"])
    x = np.array(x, np.float64).reshape(-1, 1)
    shared = executor.bind(program).shared
    rescue = threading.Timer(20, shared.__setitem__, (walk.FAILED, 1))  # workers that lose each other wait for ever
    rescue.start()
    try:
        return executor.run(program, {"x": x, "y": np.zeros_like(x)}, rows=len(x), **run)
    finally:
        assert not rescue.finished.is_set(), "the workers waited for each other for 20 seconds"
        rescue.cancel()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("broken", [fails, raises])
def test_a_failing_kernel_ends_the_run(broken, threads):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in step 7"):
            losses_of(np.ones(12), broken, threads, steps=3, start=0, batch=4, update=7)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_no_worker_waits_for_one_that_saw_the_failure(threads):
    """The first fails a step later, when others may have only just left the barrier."""
    for _ in range(20):
        with pytest.raises(RuntimeError, match="in step 2"):
            losses_of(np.ones(12), fails_later, threads, steps=3, start=0, batch=4)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_an_overflow_ends_the_run_after_its_step(threads):
    outcome = losses_of(np.ones(12), overflows, threads, steps=3, start=0, batch=4)
    assert (outcome.stopped, outcome.done, len(outcome.losses)) == ("update", 1, 1)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_batches_follow_each_other(threads):
    """The last of the rows make a short batch, then the first come again; no worker runs ahead of another's loss."""
    x = 2.0 ** np.arange(11)
    outcome = losses_of(x, threads=threads, steps=3 * 200, start=4, batch=4)
    assert outcome.losses.tolist() == [x[4:8].sum(), x[8:].sum(), x[:4].sum()] * 200
    assert (outcome.stopped, outcome.done) == (None, 600)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_loss_that_is_not_finite_ends_a_strict_run(threads):
    x = np.where(np.arange(12) == 5, np.nan, 1)
    outcome = losses_of(x, threads=threads, steps=3, start=0, batch=4, strict=True)
    assert (outcome.stopped, outcome.done) == ("loss", 1)
    np.testing.assert_array_equal(outcome.losses, [4, np.nan])
    outcome = losses_of(x, threads=threads, steps=3, start=0, batch=4, strict=False)
    assert (outcome.stopped, outcome.done) == (None, 3)
    np.testing.assert_array_equal(outcome.losses, [4, np.nan, 4])


def test_moments_without_gradient_do_not_end_in_subnormal_numbers_and_callers_round_as_before():
    """Where they ended in subnormal numbers, x86 took a hundred cycles for each operation on them."""
    net = hl.Sequential(hl.Dense(1, 1, bias=False))
    net.load_state_dict({"0.weight": np.array([[-1.0]])})
    trainer = hl.Trainer(net, hl.HingeLoss(), hl.Adam(lr=1.0, betas=(0.9, 0.9)), batch_size=1)
    X, y = np.full((2000, 1), 9, np.float32), np.ones((2000, 1), np.float32)
    trainer.fit(X, y)  # a margin above 1 after a few updates, from where on the gradient is 0
    program = trainer.program(X, y)
    for state in ("state 0", "state 1"):
        moment = trainer._backend.read(program, state, "0.weight")
        subnormal = 0 < abs(moment) < np.finfo(np.float32).tiny
        assert not subnormal or platform.machine().lower() not in ("x86_64", "amd64")
    assert np.float32(1e-38) * np.float32(0.01) > 0
    g = hl.Graph()
    x = g.parameter("x", 1e-38)
    assert g.compile(x * 0.01, dtype="float32")() > 0  # graphs round gradually
