"""Which calls are made in brief, of few rows and of many, with what memory, and from several threads."""

import threading

import numpy as np
import pytest
from test_brief import data, everything, make
from test_threads import growth

import hotloop as hl
from hotloop import brief, cost
from hotloop.pace import Pace

pytestmark = pytest.mark.usefixtures("either_way")


def frozen(array):
    array.flags.writeable = False
    return array


def test_small_calls_are_made_in_brief(monkeypatch):
    trainer = make()
    for _ in range(2):  # the room that predictions take may move what steps had found out
        trainer.step(*data()), trainer.predict(data()[0])
    monkeypatch.setattr(trainer, "_examples", None)
    monkeypatch.setattr(trainer, "_forward", None)
    for rows in (32, 1, 256):
        trainer.step(*data(rows=rows)), trainer.predict(data(rows=rows)[0])
    with pytest.raises(TypeError):
        trainer.step(*data(rows=257))


def test_large_calls_are_not():
    net = hl.Sequential(hl.Dense(600, 900), hl.ReLU(), hl.Dense(900, 2))
    trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD())
    x, y = np.ones((1000, 600), np.float32), np.zeros(1000, np.int64)
    trainer.step(x, y)
    assert not trainer._briefs.get("train")


def test_more_rows_than_before_are_made_room_for(monkeypatch):
    trainer = make()
    for rows in (3, 300) * 2:
        trainer.step(*data(rows=rows)), trainer.predict(data(rows=rows)[0])
    monkeypatch.setattr(trainer, "_examples", None)
    monkeypatch.setattr(trainer, "_forward", None)
    for rows in (300, 257, 1):
        trainer.step(*data(rows=rows)), trainer.predict(data(rows=rows)[0])


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, 0)[::2], frozen,
                                    lambda x: x.astype(np.float64)], ids=["C", "F", "strided", "read-only", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_large_batches(generally, threads, layout):
    """Arrays too large to be copied, work for several workers, predictions in several steps of which the last is short.

    The arrays are other ones in each call, and gone afterwards.
    """
    def run():
        net = hl.Sequential(hl.Dense(70, 90), hl.ReLU(), hl.Dense(90, 30), seed=1)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=0.01), threads=threads, schedule=hl.ExponentialLR(0.5))
        generator, found = np.random.default_rng(2), []
        for rows in (700, 700, 5, 641, 700, 100):
            x, y = (layout(generator.standard_normal((rows, columns), np.float32)) for columns in (70, 30))
            found += [trainer.step(x, y), trainer.predict(x).tobytes(), trainer.predict(x[1:]).tobytes()]
        return found, everything(trainer), {goal: [brief.most for brief in briefs.values()]
                                                    for goal, briefs in trainer._briefs.items()}

    found = run()
    assert found[2]["predict"] == [700] and max(found[2]["train"]) == 700  # smaller ones may have another program
    assert generally(run)[:2] == found[:2]


def test_large_batches_with_wrong_numbers():
    net = hl.Sequential(hl.Dense(70, 90), hl.ReLU(), hl.Dense(90, 30), seed=1)
    trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(), threads=2)
    x, y = np.ones((700, 70), np.float32), np.zeros(700, np.int64)
    trainer.step(x, y), trainer.predict(x)
    before = everything(trainer)
    x[699, 69] = np.inf
    for call in (lambda: trainer.step(x, y), lambda: trainer.predict(x)):
        with pytest.raises(ValueError, match="inf in row 699, column 69"):
            call()
    x[:], y[698] = 1, 30
    with pytest.raises(ValueError, match="label 30 in row 698"):
        trainer.step(x, y)
    assert everything(trainer) == before


def test_memory_is_flat_over_many_calls():
    trainer = make(schedule=hl.CosineAnnealingLR(T_max=50, by="update"))
    x, y = data()

    def work():
        for _ in range(5000):
            trainer.step(x, y)
            trainer.predict(x)

    work()
    assert growth(work) < 4_000


@pytest.mark.parametrize("width", [16, 512])
def test_several_threads_may_use_one_trainer(width):
    """Calls wait for each other: predictions of other sizes, evaluation, and steps that change nothing."""
    net = hl.Sequential(hl.Dense(64, width), hl.ReLU(), hl.Dense(width, 10))
    trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(lr=1e-30))
    x, y = np.random.default_rng(0).standard_normal((700, 64), np.float32), np.zeros(700, np.int64)
    sizes = (1, 10, 300, 700)
    expected = {rows: trainer.predict(x[:rows]) for rows in sizes}
    loss, wrong = trainer.evaluate(x, y)["loss"], []

    def work(rows):
        for _ in range(60):
            wrong.extend(["predict"] * (not np.array_equal(trainer.predict(x[:rows]), expected[rows])))
            trainer.step(x[:rows], y[:rows])
            wrong.extend(["evaluate"] * (trainer.evaluate(x, y)["loss"] != loss))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert trainer.updates == 240


def test_fewer_rows_than_a_brief_call_had_are_not_weighed_again(monkeypatch):
    """The model of what a step costs takes longer than the call."""
    trainer, (x, _) = make(), data(rows=64)
    trainer.predict(x), trainer.predict(x)
    asked = []
    monkeypatch.setattr(brief, "work", lambda *load: asked.append(load) or cost.work(*load))
    for rows in (63, 1, 64, 17):
        trainer.predict(x[:rows])
    assert not asked
    trainer.predict(data(rows=65)[0])
    assert len(asked) == 1


def test_a_refused_batch_is_no_reading_of_the_clock(monkeypatch):
    told = []
    monkeypatch.setattr(Pace, "tell", lambda self, workers, steps, seconds: told.append(steps))
    net = hl.Sequential(hl.Dense(64, 512), hl.ReLU(), hl.Dense(512, 512), hl.ReLU(), hl.Dense(512, 2))
    trainer, x = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD()), np.ones((128, 64), np.float32)
    trainer.predict(x), trainer.predict(x)
    assert told[-1] > 0
    told.clear()
    x[100, 3] = np.nan
    with pytest.raises(ValueError, match="X holds nan"):
        trainer.predict(x)
    assert told == [0]
