"""Calls on small batches, again and again: the way past what was found out about them the first time."""

from .brief import DONE, FAILED, OVERFLOWED, Brief, checks, most_rows
from .inference import PREDICT_ROWS
from .numbers import Numbers

_LIKELY_ROWS = 256  # that room is made for whoever calls with fewer


class BriefCalls:
    """The part of a trainer that keeps a `Brief` for each program of steps and of predictions; the rest takes any data.

    A call that is not made here, which is said by None, has changed nothing.
    """

    def _keep_brief(self, goal, form, rows):
        """Have the next call for this goal made here, if batches like this one, of `rows`, are small."""
        if self.backend != "cpu" or not rows:
            return
        with self._lock:
            both = self._programs[goal, form]
            program = both.best(rows)
            briefs = self._briefs.setdefault(goal, {})
            known = briefs.get(program)
            if known is not None and rows <= known.most and (goal == "predict" or known.numbers.fits(self)):
                return
            if (goal, form) not in self._small:
                ranges = self.objective.ranges(form, self.dtype, self.check_finite)
                self._small[goal, form] = ranges, most_rows(both, ranges) if ranges else 0
            ranges, most = self._small[goal, form]
            if rows <= most:
                first, last = both.span(program)
                least, most = max(self.net.least_rows(goal == "train")[0], first), min(most, last)
                if program is not both.few:
                    most = min(most, max(rows, _LIKELY_ROWS))
                at_once = most if goal == "train" or self._by_batch() else min(most, PREDICT_ROWS)
                bound = self._backend.bind_apart(program, at_once, checks(ranges))
                brief = Brief(bound, most, ranges, least, strict=goal == "train", threads=self.threads)
                if goal == "train":
                    brief.numbers = Numbers(self, brief)
                self._briefs.setdefault(goal, {})[program] = brief  # binding may have emptied them all

    def _predict_in_brief(self, x):
        """The outputs for x, a new array."""
        with self._lock:
            if self.net.owner is self:
                for brief in self._briefs.get("predict", {}).values():
                    if brief.load(x):
                        return brief.predict()
        return None

    def _step_in_brief(self, x, y):
        """The loss before an update that was made."""
        with self._lock:
            if self.net.owner is not self:
                return None
            for brief in self._briefs.get("train", {}).values():
                if brief.load(x, y):
                    break
            else:
                return None
            if not brief.numbers.set(self):
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
