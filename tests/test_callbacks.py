"""What `fit` tells: its history, and callbacks, which may look, change settings, stop and fail."""

import numpy as np
import pytest
from test_trainer import INPUTS, ROWS, data, make, same
from tolerances import close

import hotloop as hl

pytestmark = pytest.mark.parametrize("backend", ["numpy", "cpu"])


class Recorder:
    """Keeps what a callback is told."""

    def __init__(self):
        self.chunks, self.epochs = [], []

    def on_batch_chunk(self, trainer, logs):
        self.chunks.append(logs)

    def on_epoch_end(self, trainer, logs):
        self.epochs.append(logs)


def test_history(backend):
    trainer, (x, y) = make(backend), data()
    xv, yv = data(rows=23)
    history = trainer.fit(x, y, epochs=4, validation_data=(xv, yv))
    assert list(map(len, (history.loss, history.val_loss, history.val_accuracy, history.seconds))) == [4] * 4
    assert history.loss[3] < history.loss[0] and min(history.seconds) > 0
    assert {"loss": history.val_loss[-1], "accuracy": history.val_accuracy[-1]} == trainer.evaluate(xv, yv)
    history = trainer.fit(x, y, epochs=2)
    assert (len(history.loss), history.val_loss, history.val_accuracy) == (2, [], [])
    assert (trainer.epoch, trainer.updates) == (6, 6 * 7)


def test_history_without_accuracy(backend):
    trainer, (x, y) = make(backend, "mse"), data("mse")
    history = trainer.fit(x, y, validation_data=(x, y))
    assert (len(history.val_loss), history.val_accuracy) == (1, [])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_history_is_the_mean_of_the_losses_before_their_updates(backend, reduction):
    one, other = (make(backend, reduction=reduction, shuffle=False, optimizer=hl.SGD(lr=0.01)) for _ in range(2))
    x, y = data()
    losses = [other.step(x[i:i + 8], y[i:i + 8]) for i in range(0, ROWS, 8)]
    weights = [8] * 6 + [2] if reduction == "mean" else [1] * 7
    close(one.fit(x, y).loss, [np.average(losses, weights=weights)], "float64", "training", ROWS)


def test_no_epochs(backend):
    trainer = make(backend)
    before = trainer.net.state_dict()
    assert trainer.fit(*data(), epochs=0).loss == [] and trainer.epoch == 0
    assert all(np.array_equal(value, before[name]) for name, value in trainer.net.state_dict().items())


def test_callbacks_are_told(backend, step_by_step):
    trainer, (x, y), recorder = make(backend), data(), Recorder()
    history = trainer.fit(x, y, epochs=2, validation_data=(x, y), callbacks=[recorder])
    assert [(log["epoch"], log["batch"], log["batches"]) for log in recorder.chunks] == [
        (epoch, batch, 7) for epoch in (0, 1) for batch in range(1, 8)]
    assert recorder.chunks[6]["loss"] == recorder.epochs[0]["loss"]
    assert [log["epoch"] for log in recorder.epochs] == [0, 1]
    for name in ("loss", "lr", "seconds", "val_loss", "val_accuracy"):
        assert [log[name] for log in recorder.epochs] == getattr(history, name)
    trainer.fit(x, y, callbacks=[recorder])
    assert recorder.epochs[-1].keys() == {"epoch", "loss", "lr", "seconds"} and recorder.epochs[-1]["epoch"] == 2


class OnlyEpochs:
    def __init__(self):
        self.seen = []

    def on_epoch_end(self, trainer, logs):
        self.seen.append(trainer.epoch)


class OnlyChunks:
    def __init__(self):
        self.seen = []

    def on_batch_chunk(self, trainer, logs):
        self.seen.append(trainer.updates)


def test_both_methods_are_optional(backend, step_by_step):
    epochs, chunks = OnlyEpochs(), OnlyChunks()
    make(backend).fit(*data(), epochs=2, callbacks=(epochs, chunks))
    assert epochs.seen == [1, 2] and chunks.seen == list(range(1, 15))


class StopAt:
    """Stops the training at an update, or at the end of an epoch."""

    def __init__(self, update=None, epoch=None):
        self.update, self.epoch = update, epoch

    def on_batch_chunk(self, trainer, logs):
        if trainer.updates == self.update:
            trainer.stop()

    def on_epoch_end(self, trainer, logs):
        if trainer.epoch == self.epoch:
            trainer.stop()


def test_stop_at_the_end_of_an_epoch(backend):
    trainer, twin = make(backend), make(backend)
    assert len(trainer.fit(*data(), epochs=10, callbacks=[StopAt(epoch=3)]).loss) == 3
    twin.fit(*data(), epochs=3)
    same(trainer, twin)
    assert len(trainer.fit(*data(), epochs=2).loss) == 2


@pytest.mark.parametrize("update", [1, 3, 7, 8, 13])
def test_a_stopped_epoch_is_finished_by_the_next_fit(backend, step_by_step, update):
    trainer, twin, x, y = make(backend), make(backend), *data()
    losses = trainer.fit(x, y, epochs=3, callbacks=[StopAt(update)]).loss
    assert (trainer.updates, trainer.epoch) == (update, update // 7)
    losses += trainer.fit(x, y, epochs=3 - trainer.epoch).loss
    assert losses == twin.fit(x, y, epochs=3).loss
    same(trainer, twin)


def test_other_data_begin_a_new_epoch(backend, step_by_step):
    trainer, twin, x, y = make(backend, optimizer=hl.SGD()), make(backend, optimizer=hl.SGD()), *data()
    trainer.fit(x, y, callbacks=[StopAt(3)])
    twin.net.load_state_dict(trainer.net.state_dict())
    assert trainer.fit(x[:40], y[:40]).loss == twin.fit(x[:40], y[:40]).loss
    assert (trainer.updates, trainer.epoch) == (3 + 5, 1)
    same(trainer, twin)


def test_a_step_leaves_an_unfinished_epoch_alone(backend, step_by_step):
    trainer, twin, x, y = make(backend, optimizer=hl.SGD(lr=0.1)), make(backend, optimizer=hl.SGD(lr=0.1)), *data()
    for one in (trainer, twin):
        one.fit(x, y, callbacks=[StopAt(3)])
    state = trainer.state_dict()
    trainer.step(x[:5], y[:5])
    trainer.load_state_dict(state)
    assert trainer.fit(x, y).loss == twin.fit(x, y).loss
    same(trainer, twin)


def test_a_new_rate_holds_from_the_next_step(backend, step_by_step):
    class Slower:
        def on_batch_chunk(self, trainer, logs):
            trainer.optimizer.lr *= 0.8

    trainer, twin, x, y = make(backend, shuffle=False), make(backend, shuffle=False), *data()
    trainer.fit(x, y, callbacks=[Slower()])
    for i in range(0, ROWS, 8):
        twin.step(x[i:i + 8], y[i:i + 8])
        twin.optimizer.lr *= 0.8
    same(trainer, twin)


def test_callbacks_may_use_the_trainer(backend, step_by_step):
    """Predictions of any size, evaluations and gradients between steps change nothing."""
    class Curious:
        def on_batch_chunk(self, trainer, logs):
            trainer.predict(np.zeros((3 * trainer.updates, INPUTS)))
            trainer.evaluate(*data())
            trainer.gradients(*data(rows=9))
            trainer.net.load_state_dict(trainer.net.state_dict())

    trainer, twin = make(backend), make(backend)
    assert trainer.fit(*data(), epochs=2, callbacks=[Curious()]).loss == twin.fit(*data(), epochs=2).loss
    same(trainer, twin)


def test_an_exception_in_a_callback_leaves_the_trainer_usable(backend, step_by_step):
    class Faulty:
        def on_batch_chunk(self, trainer, logs):
            if trainer.updates == 4:
                raise RuntimeError("mine")

    trainer, twin = make(backend), make(backend)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(*data(), callbacks=[Faulty()])
    trainer.fit(*data())
    twin.fit(*data())
    same(trainer, twin)
