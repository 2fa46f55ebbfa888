"""Callbacks: what `Trainer.fit` calls on its way. The protocol is two methods, each optional."""

from typing import Any, Protocol

from .checks import given

_EVENTS = ("on_batch_chunk", "on_epoch_end")


class Callback(Protocol):
    """Any object with some of these methods.

    `on_batch_chunk(trainer, logs)` comes after every 50 ms or so of training: logs has epoch (from 0), batch
    (completed in this epoch), batches (in an epoch), loss (mean so far) and lr (of the last update).
    `on_epoch_end(trainer, logs)` has epoch, loss, lr, seconds and, with validation data, what `evaluate` finds on it,
    as val_loss and val_accuracy.
    Both may save, predict, change `trainer.optimizer.lr`, or call `trainer.stop()`.
    """

    def on_batch_chunk(self, trainer: Any, logs: dict[str, Any]) -> None:
        """Some batches were trained."""

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        """An epoch was completed."""


class ProgressBar:
    """Shows epochs, batches and losses as a bar on the terminal; needs tqdm.

    epochs: the number that will be given to `fit`, for the total.
    """

    def __init__(self, epochs):
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("the progress bar needs tqdm: pip install tqdm") from None
        self.epochs, self._tqdm, self._bar, self._seen, self._first = epochs, tqdm, None, 0, None

    def on_batch_chunk(self, trainer, logs):
        """Move the bar."""
        if self._bar is None:
            self._first = logs["epoch"]
            self._bar = self._tqdm(total=self.epochs * logs["batches"], unit=" batches", mininterval=0.1,
                                  disable=None)  # a log file gets the epochs' lines alone
        place = (logs["epoch"] - self._first) * logs["batches"] + logs["batch"]
        self._bar.update(place - self._seen)
        self._seen = place

    def on_epoch_end(self, trainer, logs):
        """Print the epoch's line above the bar."""
        parts = [f"epoch {logs['epoch'] + 1:3d}", f"loss {logs['loss']:.4f}"]
        parts += [f"{name} {logs[name]:.4f}" for name in ("val_loss", "val_accuracy") if name in logs]
        self._bar.write("  ".join([*parts, f"{logs['seconds']:.3f} s"]))
        if logs["epoch"] + 1 - self._first >= self.epochs:
            self._bar.close()
            self._bar = None


def check(callbacks):
    """The callbacks as a tuple. Raises TypeError for what has neither of the protocol's methods."""
    if not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks must be a list of callbacks, got {given(callbacks)}")
    callbacks = tuple(callbacks)
    for place, callback in enumerate(callbacks):
        if isinstance(callback, type) or not any(callable(getattr(callback, event, None)) for event in _EVENTS):
            raise TypeError(f"callback {place} must be an object with {' or '.join(_EVENTS)}, got {given(callback)}")
    return callbacks


def notify(callbacks, event, trainer, logs):
    """Call the method `event` of those callbacks that have it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(trainer, logs)
