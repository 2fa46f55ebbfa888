"""Runs on data that a device has no room for: batches go there in pieces, one while it works on another."""

import numpy as np

from hotloop.kernels import _cuda

from .run import Outcome

_PIECE = 2**26  # bytes of a piece, about: copied in milliseconds, so that little is waited for at either end of a run


class Streamed:
    """Runs of a bound program of the cuda backend on arrays in the computer's memory, some batches at a time.

    A piece is made of the rows in their order, in memory that a device copies from by itself; there are two of them.
    arrays: such as the runs will be on. room: bytes that may be taken on the device.
    """

    def __init__(self, bound, arrays, batch, room):
        self.bound, self.batch, self.shapes = bound, batch, _shapes(bound, arrays)
        self.results = bound.program.predictions
        self.names = [name for name in self.shapes if name not in self.results]
        each = sum(arrays[name][:1].nbytes for name in self.shapes) * batch
        self.most = max(1, int(min(_PIECE, room / 2) / each))
        rows = self.most * batch
        self.near = [{name: _cuda.pinned((rows, *arrays[name].shape[1:]), arrays[name].dtype) for name in self.names}
                     for _ in range(2)]
        self.there = [{name: _cuda.Memory(rows * arrays[name][:1].nbytes, zero=False) for name in self.shapes}
                      for _ in range(2)]

    def serves(self, bound, arrays, batch):
        """Whether this can run the program on these arrays."""
        return (self.bound, self.batch, self.shapes) == (bound, batch, _shapes(bound, arrays))

    def run(self, arrays, steps, start, rows, update, strict):
        """Run `steps` steps as `CudaBackend.run` does."""
        self.arrays = arrays
        plan = list(self._parts(steps, start, rows))
        settings, losses, done = self.bound.program.settings, [], 0
        self._load(0, plan[0])
        for place, (first, last, chosen) in enumerate(plan):
            _cuda.stream("copies").synchronize()
            own = {name: value[first:last] if isinstance(value, np.ndarray) else value
                   for name, value in settings.items()}
            size = len(range(*chosen.indices(rows))) if isinstance(chosen, slice) else len(chosen)
            self.bound.start(self.there[place % 2] | {"order": None}, 0, last - first, 0, size, self.batch,
                             update + first, strict, own)
            if place + 1 < len(plan):
                self._load(place + 1, plan[place + 1])  # while the device works
            outcome = self.bound.finish()
            for name in self.results:
                self.there[place % 2][name].read(self.arrays[name][chosen])
            losses.append(outcome.losses)
            done += outcome.done
            if outcome.stopped:
                return Outcome(np.concatenate(losses), done, outcome.stopped)
        return Outcome(np.concatenate(losses), done, None)

    def _parts(self, steps, start, rows):
        """Of each piece the first step, the one after its last, and the rows in order; no piece goes on after an epoch.

        An order with more than `rows` places holds those of several epochs.
        """
        order, before, step = self.arrays.get("order"), 0, 0
        while step < steps:
            count = min(self.most, steps - step, -(-(rows - start) // self.batch))
            stop = min(start + count * self.batch, rows)
            chosen = slice(start, stop) if order is None else order[before + start : before + stop]
            yield step, step + count, chosen
            step, start = step + count, stop
            if start >= rows:
                start = 0
                before += rows if order is not None and len(order) > rows else 0

    def _load(self, place, part):
        """Have a piece copied to the device."""
        chosen = part[2]
        for name in self.names:
            found = self.arrays[name][chosen]
            near = self.near[place % 2][name][: len(found)]
            near[...] = found
            self.there[place % 2][name].write(near, stream=_cuda.stream("copies"))


def _shapes(bound, arrays):
    """Of the arrays that a bound program reads or writes: what their rows are."""
    return {name: (arrays[name].shape[1:], arrays[name].dtype) for name in bound.externals if name != "order"}
