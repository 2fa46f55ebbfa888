"""Worker threads: how jobs reach them, when they sleep, who gets how many, and that nothing of a run outlives it."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import hotloop as hl
from hotloop import team
from hotloop.kernels import _jit, _primitives, walk
from hotloop.kernels import team as posts
from hotloop.kernels._jit import kernel
from hotloop.kernels._primitives import acquire, atomic_add, atomic_load, compare_and_swap, ints, release

pytestmark = pytest.mark.usefixtures("by_panels")

ROUNDS = 300


@kernel
def swap(cell, expected, value, found, context, low, high):
    ints(found, 1)[0] = compare_and_swap(cell, expected, value)
    return 0


@kernel
def count_up(cell, turns, context, low, high):
    """Add 1, as often as told, by compare and swap alone."""
    for _ in range(turns):
        held = atomic_load(cell)
        while compare_and_swap(cell, held, held + 1) != held:
            held = atomic_load(cell)
    return 0


@kernel
def pass_on(acquirer, releaser, mine, other, turns, counts, context, low, high):
    """Take one lock and give the other, in turns; as `low` writes down whose turn it was."""
    for i in range(turns):
        acquire(acquirer, mine)
        ints(counts, 2 * turns)[2 * i + low] = atomic_add(counts + 16 * turns, 1)
        release(releaser, other)
    return 0


@kernel
def note(counts, context, low, high):
    """A job: count worker `low`."""
    atomic_add(counts + low * 8, 1)
    return 0


@kernel
def fails(counts, context, low, high):
    if low == 1:
        raise ValueError
    return 0


def task(function, counts):
    """A team for a job of that kernel, with its shared cells."""
    job = np.array([0] * _jit.HEADER + [counts.ctypes.data], np.int64)
    return team.Team(function, job, np.zeros(walk.SHARED, np.int64))


def trainer(threads, seed=0):
    net = hl.Sequential(hl.Dense(5, 7), hl.Tanh(), hl.Dense(7, 1), seed=seed)
    return hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.01), batch_size=16, threads=threads)


def data():
    generator = np.random.default_rng(0)
    return generator.standard_normal((100, 5)), generator.standard_normal((100, 1))


def together(*calls):
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits for ever"


# primitives


@pytest.mark.parametrize(("held", "expected", "after"), [(3, 3, 7), (3, 4, 3), (-(2**62), -(2**62), 7)])
def test_compare_and_swap(worker, held, expected, after):
    cell, found = np.array([held]), np.zeros(1, np.int64)
    worker().run(swap, 0, 0, cell=cell, expected=expected, value=7, found=found)
    plain = np.array([held])
    assert _primitives.compare_and_swap(plain.ctypes.data, expected, 7) == found[0] == held
    assert cell[0] == plain[0] == after


def test_swaps_of_several_threads_lose_nothing(worker):
    cell = np.zeros(1, np.int64)
    together(*[lambda: worker().run(count_up, 0, 0, cell=cell, turns=10_000)] * 3)
    assert cell[0] == 30_000


@pytest.mark.parametrize("compiled", [True, False])
def test_locks_are_the_interpreters(worker, compiled):
    turns = 50
    counts, locks = np.zeros(2 * turns + 1, np.int64), [team._locked(), team._locked()]
    addresses = {"acquirer": team._ACQUIRER, "releaser": team._RELEASER}

    def run(number):
        operands = addresses | {"mine": locks[number], "other": locks[1 - number], "turns": turns}
        if compiled:
            worker().run(pass_on, number, 0, counts=counts, **operands)
        else:
            pass_on(*operands.values(), counts.ctypes.data, 0, number, 0)

    _primitives.release(team._RELEASER, locks[0])
    together(lambda: run(0), lambda: run(1))
    assert counts.tolist() == [*range(2 * turns), 2 * turns]


# jobs


@pytest.mark.parametrize("gap", [0, 1e-4, 3e-3])
def test_each_worker_runs_once(gap):
    """Whether the helpers still watch, are about to sleep or sleep."""
    counts = np.zeros(4, np.int64)
    mine = task(note, counts)
    for number in range(20 if gap > 1e-3 else ROUNDS):
        workers = number % 4 + 1
        counts[:] = 0
        mine.run(workers)
        assert counts.tolist() == [1] * workers + [0] * (4 - workers)
        time.sleep(gap)


@pytest.mark.parametrize("turns", [(0, 0), (1, 0), (20, 2)])
def test_no_job_is_lost_while_a_helper_falls_asleep(monkeypatch, turns):
    monkeypatch.setattr(team, "turns", lambda: (*turns, 100))
    monkeypatch.setattr(team, "_idle", [])
    counts = np.zeros(3, np.int64)
    mine = task(note, counts)
    together(lambda: [mine.run(3) for _ in range(ROUNDS)])
    assert counts.tolist() == [ROUNDS] * 3
    for helper in team._idle:
        helper.quit()
        helper.join(60)
        assert not helper.is_alive()


def test_helpers_have_left_when_a_run_is_over():
    counts = np.zeros(3, np.int64)
    mine = task(note, counts)
    for _ in range(ROUNDS):
        mine.run(3)
        assert mine.shared[walk.LEFT] == 2


def test_a_job_that_raises_is_noted():
    mine = task(fails, np.zeros(1, np.int64))
    mine.run(2)
    assert mine.shared[walk.FAILED] == 1


def test_a_helper_that_no_job_comes_for_returns_to_sleep(worker):
    """As `low`, it comes back instead; `near` and `far` say when."""
    box = np.zeros(posts.BOX, np.int64)
    worker().run(posts.serve, 1, 0, box=box, near=10, far=10, yielder=team.YIELDER, acquirer=0)
    assert box[posts.JOB] == posts.EMPTY
    assert all(count > 0 for count in team.turns())


# processor time


def test_nothing_spins_while_no_training_runs():
    one = trainer(threads=3)
    one.fit(*data(), epochs=20)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


# lending


def test_cores_that_others_run_on_are_not_lent_twice(monkeypatch):
    monkeypatch.setattr(team, "_cores", lambda: 4)
    monkeypatch.setattr(team, "_running", {})
    assert team.spare() == 4
    team._running[object()] = 3
    assert team.spare() == 1
    team._running[object()] = 2
    assert team.spare() == 1


def test_runs_count_as_long_as_they_last(monkeypatch):
    seen = []
    one = trainer(threads=2)
    one.fit(*data())
    bound, = (bound for program, bound in one._backend._bound.items() if program.loss is not None)
    lead = bound.team.lead
    monkeypatch.setattr(bound.team, "lead", lambda *row: (seen.append(sum(team._running.values())), lead(*row)))
    one.fit(*data())
    assert set(seen) == {2}
    assert not team._running


def test_trainers_at_once_share_the_cores(monkeypatch):
    """How many workers each gets depends on the moment; what comes out does not."""
    expected = trainer(threads=1).fit(*data(), epochs=60).loss
    monkeypatch.setattr(team, "_cores", lambda: 3)
    monkeypatch.setattr("hotloop.cost.workers", lambda program, rows, most, lending: most)
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 1e-4)
    found = []
    together(*[lambda: found.append(trainer(threads=None).fit(*data(), epochs=60).loss)] * 4)
    assert found == [expected] * 4
    assert not team._running


def test_a_thread_that_cannot_start_changes_nothing(monkeypatch):
    one, twin = trainer(threads=5), trainer(threads=5)
    monkeypatch.setattr(team, "_idle", [])
    started = []

    class NoMore(team._Helper):
        def __init__(self):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            super().__init__()
            started.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(team, "_Helper", NoMore)
        with pytest.raises(RuntimeError, match="can't start"):
            one.fit(*data())
    assert team._idle == started[::-1]
    assert not team._running
    assert one.fit(*data(), epochs=2).loss == twin.fit(*data(), epochs=2).loss


# the end of the process


END = """
import atexit, threading, conftest, test_team as t
import hotloop.build
hotloop.build.narrow_rows = lambda program: 0  # else one worker is enough
one = t.trainer(threads=3)
atexit.register(lambda: one.fit(*t.data()))
one.fit(*t.data(), epochs=3)
print(threading.active_count() - 1)
"""


def test_a_process_ends_while_helpers_watch():
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, timeout=60,
                              env=os.environ | {"PYTHONPATH": paths})
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == 2
