"""Several epochs in one run of the backend: only where nobody listens, and with the same bits as one by one."""

import numpy as np
import pytest

import hotloop as hl

ROWS = 70


def data(loss):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 5))
    return x, generator.integers(0, 3, ROWS) if loss == "classes" else generator.standard_normal((ROWS, 3))


def make(loss="classes", batch_size=16, lr=0.05, optimizer=None, **options):
    net = hl.Sequential(hl.Dense(5, 9), hl.Tanh(), hl.Dropout(0.25), hl.Dense(9, 3), seed=1)
    losses = {"classes": hl.CrossEntropyLoss, "numbers": hl.MSELoss, "sum": lambda: hl.MSELoss(reduction="sum")}
    return hl.Trainer(net, losses[loss](), optimizer or hl.SGD(lr=lr, momentum=0.5), batch_size=batch_size, seed=3,
                      **options)


class Listener:
    def on_batch_chunk(self, trainer, logs):
        pass


@pytest.fixture(params=["cpu", "numpy"])
def backend(request):
    return request.param


@pytest.fixture(autouse=True)
def long_runs(monkeypatch):
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 10)


def runs(trainer, monkeypatch):
    """Steps of each run that the trainer's backend is told to make, as they come."""
    trainer.predict(np.zeros((1, 5)))
    told, run = [], trainer._backend.run

    def note(*arguments, steps, **others):
        told.append(steps)
        return run(*arguments, steps=steps, **others)

    monkeypatch.setattr(trainer._backend, "run", note)
    return told


def same(one, other):
    assert one.progress() == other.progress()
    assert one.lr == other.lr
    state, expected = one.state_dict(), other.state_dict()
    assert [value.tobytes() for value in state.values()] == [value.tobytes() for value in expected.values()]


SCHEDULES = {
    "none": lambda: None, "epochs": lambda: hl.ExponentialLR(0.9),
    "updates": lambda: hl.CosineAnnealingLR(40, by="update"),
    "cycle": lambda: hl.OneCycleLR(max_lr=0.1, total_steps=50),
    "chain": lambda: hl.ChainedScheduler([hl.StepLR(2), hl.LinearLR(by="update")]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch_size", [16, 35, 1000])
def test_schedules_and_batches_leave_no_trace(monkeypatch, backend, batch_size, schedule):
    one, other = (make(batch_size=batch_size, backend=backend, schedule=SCHEDULES[schedule]()) for _ in range(2))
    told = runs(one, monkeypatch)
    found = one.fit(*data("classes"), epochs=7)
    expected = other.fit(*data("classes"), epochs=7, callbacks=[Listener()])
    batches = -(-ROWS // batch_size)
    assert told == [1, 7 * batches - 1]  # the first one tells how long a step takes
    assert (found.loss, found.lr) == (expected.loss, expected.lr)
    assert len(found.seconds) == 7 and min(found.seconds) > 0
    same(one, other)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("loss", ["classes", "numbers", "sum"])
def test_losses_and_weights_leave_no_trace(loss, weighed, shuffle, threads):
    weights = np.random.default_rng(1).uniform(0, 2, ROWS) if weighed else None
    one, other = (make(loss, shuffle=shuffle, threads=threads, lr=0.001) for _ in range(2))
    for epochs in (3, 5):
        found = one.fit(*data(loss), epochs=epochs, sample_weight=weights)
        expected = other.fit(*data(loss), epochs=epochs, sample_weight=weights, callbacks=[Listener()])
        assert found.loss == expected.loss
    same(one, other)


def test_an_unfinished_epoch_is_the_first(monkeypatch, backend):
    one, other = make(backend=backend), make(backend=backend)
    for trainer in (one, other):
        stop = type("Stop", (Listener,), {"on_batch_chunk": lambda _, trainer, logs: trainer.stop()})
        trainer.fit(*data("classes"), callbacks=[stop()])
        assert trainer.progress()["position"] == 1
    told = runs(one, monkeypatch)
    assert one.fit(*data("classes"), epochs=4).loss == other.fit(*data("classes"), 4, callbacks=[Listener()]).loss
    assert told == [4 * 5 - 1]
    same(one, other)


@pytest.mark.parametrize("places", [1, ROWS, 2 * ROWS, 3 * ROWS - 1])
def test_orders_take_bounded_memory(monkeypatch, places):
    monkeypatch.setattr("hotloop.epochs._PLACES", places)
    one, other = make(), make()
    told = runs(one, monkeypatch)
    assert one.fit(*data("classes"), epochs=5).loss == other.fit(*data("classes"), 5, callbacks=[Listener()]).loss
    assert max(told) <= 5 * max(1, places // ROWS)
    assert (max(told) > 5) == (places >= 2 * ROWS)
    same(one, other)


def test_runs_are_as_long_as_they_may(monkeypatch):
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    one, other = make(), make()
    told = runs(one, monkeypatch)
    assert one.fit(*data("classes"), epochs=3).loss == other.fit(*data("classes"), 3, callbacks=[Listener()]).loss
    assert told == [1] * 15


@pytest.mark.parametrize("listening", ["callback", "validation", "plateau", "plateau in a chain"])
def test_whoever_listens_hears_each_epoch(monkeypatch, listening):
    plateau = hl.ReduceLROnPlateau(patience=0, threshold=0.5)
    schedule = {"plateau": plateau, "plateau in a chain": hl.ChainedScheduler([plateau, hl.StepLR(2)])}.get(listening)
    one = make(schedule=schedule)
    told = runs(one, monkeypatch)
    monkeypatch.setattr(one, "evaluate", lambda *_: {"loss": 1.0, "accuracy": 0.0})
    options = {"callback": {"callbacks": [Listener()]}, "validation": {"validation_data": data("classes")}}
    one.fit(*data("classes"), epochs=4, **options.get(listening, {}))
    assert told == [1, 4, 5, 5, 5]


@pytest.mark.parametrize("kind", ["loss", "update"])
def test_what_is_not_finite_ends_the_run_where_it_came(monkeypatch, backend, kind):
    """In the third epoch: its last update overflows, or parameters after its first one are too large for a loss."""
    x, y = data("numbers")
    rate, last, said = (1e30, 10, "the loss is") if kind == "loss" else (3e38, 14, "an update is not finite")

    known = dict(hl.schedules.SCHEDULES)
    for module in ("schedules", "trainer"):
        monkeypatch.setattr(f"hotloop.{module}.SCHEDULES", known)

    class Explosion(hl.schedules._Schedule):
        by = None

        def rates(self, lr, epoch, updates):
            return np.where(updates < last, lr, rate)

    errors, trainers, told = [], [], None
    for callbacks in ([], [Listener()]):
        trainer = make("numbers", backend=backend, schedule=Explosion(), optimizer=hl.SGD(lr=0.01))
        if not callbacks:
            told = runs(trainer, monkeypatch)
        with pytest.raises(hl.NonFiniteError, match=said) as raised:
            trainer.fit(x, 1e3 * y, epochs=9, callbacks=callbacks)
        errors.append((str(raised.value), raised.value.args))
        trainers.append(trainer)
    assert told == [1, 9 * 5 - 1]
    assert errors[0] == errors[1]
    same(*trainers)
    assert trainers[0].epoch == 2 and trainers[0].progress()["position"] == 0
