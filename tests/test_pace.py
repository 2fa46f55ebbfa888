"""How the number of workers is found by the clock."""

import itertools

import numpy as np
import pytest

import hotloop as hl
from hotloop import pace
from hotloop.pace import Pace

pytestmark = pytest.mark.usefixtures("by_panels")


def run(chosen, seconds, steps=100, runs=2000):
    """Tell it runs of a machine on which a step of so many workers takes `seconds(workers)`; the counts of all runs."""
    counts = []
    for _ in range(runs):
        counts.append(chosen.count)
        chosen.tell(chosen.count, steps, steps * seconds(chosen.count))
    return counts


@pytest.mark.parametrize("guess", [1, 2, 8, 64])
@pytest.mark.parametrize("best", [1, 2, 3, 16, 64])
def test_the_best_number_is_found_from_any_guess(guess, best):
    chosen = Pace(guess, 64)
    run(chosen, lambda count: 1e-5 * (1 + abs(np.log2(count / best))))
    assert 1 / 1.5 <= chosen.count / best <= 1.5


def test_what_was_for_the_better_is_followed_at_once():
    counts = run(Pace(64, 64), lambda count: 1e-5 * count, runs=1000)
    tried = [count for count, _ in itertools.groupby(counts)]
    assert tried[:7] == [64, 32, 64, 32, 16, 32, 16]  # one trial a step, none of them the other way
    assert 1 in tried


def test_trials_take_little_of_the_time_and_become_rare():
    counts = run(Pace(2, 2), lambda count: 1e-5 * (1 if count == 2 else 4), runs=20_000)
    assert 0 < counts.count(1) < 0.01 * len(counts)
    later = counts[len(counts) // 2 :]
    assert later.count(1) < counts.count(1) / 2


def test_noise_alone_changes_nothing_for_long():
    rng = np.random.default_rng(0)
    chosen = Pace(2, 2)
    counts = run(chosen, lambda count: 1e-5 * (1 if count == 2 else 1.5) * rng.uniform(0.9, 1.2), runs=20_000)
    assert counts.count(2) > 0.97 * len(counts)


def test_long_steps_and_one_core_are_not_tried():
    assert set(run(Pace(2, 4), lambda count: 0.01, steps=5)) == {2}
    chosen = Pace(1, 1)
    assert set(run(chosen, lambda count: 1e-5)) == {1} and not chosen.trying


def test_runs_of_another_number_and_of_no_steps_say_nothing():
    chosen = Pace(2, 2)
    for _ in range(1000):
        chosen.tell(1, 1000, 1.0)
        chosen.tell(2, 0, 1.0)
        assert chosen.count == 2 and not chosen.trying


def test_a_trainer_that_tries_numbers_of_workers_computes_the_same(monkeypatch):
    monkeypatch.setattr(pace, "_FIRST", 0.0)
    monkeypatch.setattr(pace, "_LAST", 0.0)
    monkeypatch.setattr(pace, "PORTION", 1e-5)
    monkeypatch.setattr("hotloop.epochs.PORTION", 1e-5)
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 2e-5)
    monkeypatch.setattr("hotloop.cost.cores", lambda: 4)
    monkeypatch.setattr("hotloop.team.spare", lambda: 4)
    taken, told = set(), Pace.tell
    monkeypatch.setattr(Pace, "tell", lambda self, workers, *rest: (taken.add(workers), told(self, workers, *rest))[0])

    def losses(threads):
        net = hl.Sequential(hl.Dense(6, 40), hl.Tanh(), hl.Dense(40, 3), seed=0)
        rng = np.random.default_rng(0)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(), batch_size=32, threads=threads)
        return trainer.fit(rng.normal(size=(320, 6)), rng.normal(size=(320, 3)), epochs=20).loss

    assert losses(None) == losses(1)
    assert len(taken) > 1
