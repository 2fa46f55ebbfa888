"""What a trainer holds: parameters, statistics, the optimizer's states, and where training stands."""

import math
from collections.abc import Mapping

import numpy as np

from . import checks


class Holder:
    """The part of a trainer that is read and written; the rest makes it."""

    def state_dict(self):
        """Copies of the parameters and statistics, named as in the network, and of the optimizer's states.

        A state of parameter "0.weight" is called "optimizer.exp_avg.0.weight", with torch's name for the state.
        """
        program = self._program("predict", None, 1)
        state = self.net.state_dict()
        for i, kept in enumerate(self._states):
            state |= {f"optimizer.{kept}.{name}": self._backend.read(program, f"state {i}", name)
                      for name in self.net.shapes}
        return state

    def load_state_dict(self, state):
        """Take over what `state_dict` gave; the errors are those of `Sequential.load_state_dict`."""
        names = {f"optimizer.{kept}.{name}": (f"state {i}", name)
                 for i, kept in enumerate(self._states) for name in self.net.shapes}
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict must map names to arrays, got {state!r}")
        missing = names.keys() - state.keys()
        if missing:
            raise KeyError(f"state_dict misses {sorted(missing)}: for the parameters alone there is "
                           "trainer.net.load_state_dict")
        states = {key: np.asarray(state[key]) for key in names}
        for key, (_, name) in names.items():
            if states[key].shape != self.net.shapes[name] or states[key].dtype.kind != "f":
                raise ValueError(f"{key} must hold floats of shape {self.net.shapes[name]}, got {states[key].dtype} "
                                 f"of shape {states[key].shape}")
            if not np.isfinite(states[key]).all():
                raise ValueError(f"{key} holds values that are not finite")
        program = self._program("predict", None, 1)
        self.net.load_state_dict({key: value for key, value in state.items() if key not in names})
        for key, (region, name) in names.items():
            self._backend.write(program, region, name, states[key])

    def progress(self):
        """Where training stands, in plain numbers; with `state_dict`, all that `resume` needs to go on bit for bit."""
        return {"epoch": self.epoch, "updates": self.updates, "position": self._position, "rows": self._rows,
                "loss_sum": self._loss_sum}

    def resume(self, progress):
        """Go on from what `progress` gave. Raises TypeError and ValueError for numbers that cannot be a progress."""
        epoch, updates, position, rows = (checks.integer(name, progress[name], 0)
                                          for name in ("epoch", "updates", "position", "rows"))
        if max(epoch, updates, rows) >= 2**53:
            raise ValueError(f"epoch, updates and rows must be less than 2**53, got {epoch}, {updates}, {rows}")
        if position and position >= -(-rows // min(self.batch_size, max(rows, 1))):
            raise ValueError(f"position {position} lies outside an epoch of {rows} rows, {self.batch_size} a batch")
        loss_sum = progress["loss_sum"]
        if isinstance(loss_sum, bool) or not isinstance(loss_sum, int | float) or not math.isfinite(loss_sum):
            raise ValueError(f"loss_sum must be a finite number, got {loss_sum!r}")
        self.epoch, self.updates, self._position, self._rows = epoch, updates, position, rows
        self._loss_sum = float(loss_sum)

    def read_parameter(self, name):
        """A copy of one parameter or statistic; for the network."""
        return self._backend.read(self._programs["predict", None], "parameters", name)

    def write_parameter(self, name, rows, first=0):
        """Overwrite rows of one parameter or statistic, from row `first`; for the network."""
        self._backend.write(self._programs["predict", None], "parameters", name, rows, first)
