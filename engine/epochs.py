"""Epochs of a trainer: how many steps compiled code makes before Python hears of it, and what is told of them."""

import time

import numpy as np

from .callbacks import notify
from .errors import NonFiniteError
from .interrupts import deferred_interrupts
from .order import Orders
from .pace import PORTION

_CHUNK_SECONDS = 0.05  # how long compiled code keeps the interpreter waiting
_PLACES = 2**20  # rows of several epochs that one run may cover, whose orders lie in memory


class Epochs:
    """The part of a trainer that goes through epochs; the rest makes the runs of which they consist.

    Both know where training stands: `epoch`, and of an epoch that is under way the batches done, `_position`, and the
    sum of their losses, `_loss_sum`.
    """

    def _epochs(self, program, examples, callbacks, epochs, most):
        """Train `epochs` epochs, the first from where it stands; give the logs of each when it is finished.

        One run of the backend covers parts of up to `most` of them.
        """
        rows = len(examples)
        most = min(most, max(1, _PLACES // rows))
        orders = Orders(self._backend.permute, self.seed, rows)
        self._backend.hold(examples.arrays)
        try:
            yield from self._chunks(program, examples, callbacks, epochs, most, orders)
        finally:
            self._backend.hold({})

    def _chunks(self, program, examples, callbacks, epochs, most, orders):
        """The epochs of `_epochs`, of data that the backend holds."""
        rows = len(examples)
        batch = min(self.batch_size, rows)
        batches = -(-rows // batch)
        seconds, counts = 0.0, {}
        while epochs:
            started = time.perf_counter()
            steps = max(1, min(self._chunk(), min(most, epochs) * batches - self._position))
            ahead = range(self.epoch, self.epoch - (-(self._position + steps) // batches))
            order = orders.of(ahead) if self.shuffle and batches > 1 else None  # a whole epoch at once has none
            arrays = examples.arrays | {"order": order}
            counts = {epoch: counts[epoch] if epoch in counts else self._counts(examples, order, place, batch)
                      for place, epoch in enumerate(ahead)}
            places = self._position + np.arange(steps)
            parts = []  # steps of each epoch, and its logs
            self._backend.bind(program)  # compiles what is missing, which an interrupt may stop
            with deferred_interrupts():
                try:
                    losses = self._run(program, arrays, steps, self._position * batch, rows, batch,
                                       self.epoch + places // batches if len(ahead) > 1 else None)
                except NonFiniteError:
                    self._position, self._loss_sum = 0, 0.0  # the next fit starts this epoch anew
                    raise
                rates = np.broadcast_to(program.settings["lr"], steps)
                done = 0
                for epoch in ahead:
                    first, counted = self._position, counts[epoch]
                    size = min(steps - done, batches - first)
                    found = losses[done : done + size] * counted[first : first + size]
                    found[0] += self._loss_sum
                    total = float(found.cumsum()[-1])  # one by one: runs leave no trace
                    position, done = first + size, done + size
                    trained = float(counted[:position].sum()) or 1.0
                    logs = {"epoch": epoch, "batch": position, "batches": batches, "loss": total / trained,
                            "lr": float(rates[done - 1])}
                    parts.append((size, logs))
                    if position == batches:
                        self._observe({"loss": logs["loss"]})
                        epoch, position, total = epoch + 1, 0, 0.0
                    self.epoch, self._position, self._loss_sum = epoch, position, total  # at once: a fork finds either
            notify(callbacks, "on_batch_chunk", self, logs)
            spent = (time.perf_counter() - started) / steps
            for size, logs in parts:
                seconds += size * spent
                if logs["batch"] == batches:
                    epochs -= 1
                    yield {name: logs[name] for name in ("epoch", "loss", "lr")} | {"seconds": seconds}
                    seconds = 0.0
            if self._stopped:
                return

    def _counts(self, examples, order, place, batch):
        """What each batch of an epoch counts for in the mean; its order is the one at this place of `order`."""
        rows = len(examples)
        firsts = np.arange(0, rows, batch)
        if self.objective.sums:
            return np.ones(len(firsts))
        if examples.counts is None:
            return np.minimum(rows - firsts, batch).astype(np.float64)
        counts = examples.counts.astype(np.float64)
        if order is not None:
            counts = counts[order[place * rows : (place + 1) * rows]]
        return np.add.reduceat(counts, firsts)

    def _whole_epochs(self, examples, callbacks, epochs):
        """Epochs that are one run of L-BFGS each; the logs of each when it is finished."""
        for _ in range(epochs):
            started = time.perf_counter()
            found = {"loss": self._minimize(examples)[1], "lr": self.lr}
            self.epoch += 1
            notify(callbacks, "on_batch_chunk", self, {"epoch": self.epoch - 1, "batch": 1, "batches": 1} | found)
            yield {"epoch": self.epoch - 1} | found | {"seconds": time.perf_counter() - started}

    def _observe(self, logs):
        """Tell the schedule what an epoch reported."""
        if self.schedule is not None:
            self.schedule.observe(logs)

    def _chunk(self):
        """Steps that take about _CHUNK_SECONDS, or a reading of a trial."""
        seconds = min(_CHUNK_SECONDS, PORTION) if self._trial else _CHUNK_SECONDS
        return max(1, int(seconds / self._step_seconds)) if self._step_seconds else 1
