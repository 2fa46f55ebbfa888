"""Calls on small batches, again and again: the way past what was found out about them the first time."""

from .brief import DONE, FAILED, OVERFLOWED, Brief, most_rows
from .inference import PREDICT_ROWS
from .numbers import Numbers

_LIKELY_ROWS = 256  # that room is made for whoever calls with fewer


class BriefCalls:
    """The part of a trainer that keeps a `Brief` for steps and one for predictions; the rest takes any data.

    A call that is not made here, which is said by None, has changed nothing.
    """

    def _keep_brief(self, goal, form, rows):
        """Have the next call for this goal made here, if batches like this one, of `rows`, are small."""
        if self.backend != "cpu" or not rows:
            return
        with self._lock:
            known = self._briefs.get(goal)
            if known is not None and rows <= known.most and self._still_numbered(goal):
                return
            program = self._programs[goal, form]
            if (goal, form) not in self._small:
                ranges = self.objective.ranges(form, self.dtype, self.check_finite)
                self._small[goal, form] = ranges, most_rows(program, ranges) if ranges else 0
            ranges, most = self._small[goal, form]
            if rows <= most:
                least, _ = self.net.least_rows(goal == "train")
                most = min(most, max(rows, _LIKELY_ROWS))
                at_once = most if goal == "train" or self._by_batch() else min(most, PREDICT_ROWS)
                bound = self._backend.bind_apart(program, at_once)
                brief = Brief(bound, most, ranges, least, strict=goal == "train", threads=self.threads)
                if goal == "train":
                    self._numbers = Numbers(self, brief)
                self._briefs[goal] = brief

    def _still_numbered(self, goal):
        return goal == "predict" or self._numbers.optimizer is self.optimizer

    def _predict_in_brief(self, x):
        """The outputs for x, a new array."""
        if "predict" not in self._briefs:
            return None
        with self._lock:
            brief = self._briefs.get("predict")
            if brief is None or self.net.owner is not self or not brief.load(x):
                return None
            return brief.predict()

    def _step_in_brief(self, x, y):
        """The loss before an update that was made."""
        if "train" not in self._briefs:
            return None
        with self._lock:
            brief = self._briefs.get("train")
            if brief is None or self.net.owner is not self or not brief.load(x, y) or not self._numbers.set(self):
                return None
            shared = brief.shared
            brief.cells[brief.update_cell] = self.updates + 1
            try:
                brief.run()
            finally:
                self.updates += shared[DONE]
            if shared[FAILED]:
                return None
            if shared[OVERFLOWED] or not shared[DONE]:
                raise self._not_finite("update" if shared[OVERFLOWED] else "loss", brief.losses[0])
            return brief.losses[0]
