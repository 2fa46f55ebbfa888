"""How many workers a run takes: what the model of a step's time says at first, then what the clock says.

The model (`cost`) knows one machine; what a barrier takes, or another core's memory, differs by ten times between
machines, and with who else is on them. Results depend on none of it, so a trial costs nothing but time.
"""

_FIRST = 0.1  # seconds of runs before the first trial
_LAST = 10.0  # seconds of runs between trials, at most
PORTION = 0.004  # seconds of runs that make a reading
_READINGS = 2  # of each count in a trial
_LONG = 0.002  # seconds of a step from which on the model is right: what it does not know of takes microseconds
_BETTER = 0.96  # of the time that a change must come down to
_HOPELESS = 1.3  # times as slow that end a trial at the first reading


class Pace:
    """The number of workers `count` for runs of one kind, at most `most`; whoever runs tells how long it took.

    Every now and then a trial compares it with half or twice as many, in turns, by the better of their readings. One
    that was for the better is followed by one further on that way; after one that changed nothing the next waits twice
    as long.
    """

    def __init__(self, count, most):
        self.count, self.most = count, most
        self._kept, self._wait, self._spent = count, _FIRST, 0.0
        self._readings = {}  # seconds of a step, a list for each count of a trial; empty where there is none
        self._steps, self._seconds = 0, 0.0  # of the reading that is being made
        self._fewer = True  # what the next trial tries

    @property
    def trying(self):
        """Whether a trial is under way, so that runs should be short."""
        return bool(self._readings)

    def tell(self, workers, steps, seconds):
        """Take note of a run; one that was made by another number of workers says nothing."""
        if workers != self.count or not steps:
            return
        self._spent += seconds
        if not self._readings:
            if self._spent > self._wait and seconds < _LONG * steps:
                self._begin()
            return
        self._steps, self._seconds = self._steps + steps, self._seconds + seconds
        if self._seconds > PORTION:
            self._read(self._seconds / self._steps)

    def _begin(self):
        """Begin a trial, if there is a number to try."""
        for _ in range(2):
            other = max(1, self._kept // 2) if self._fewer else min(self.most, 2 * self._kept)
            self._fewer = not self._fewer
            if other != self._kept:
                self._readings = {self._kept: [], other: []}
                break
        self._spent = 0.0

    def _read(self, seconds):
        """Enter a reading; go on with the other number, or end the trial."""
        self._steps, self._seconds = 0, 0.0
        self._readings[self.count].append(seconds)
        other = next(count for count in self._readings if count != self._kept)
        kept, tried = self._readings[self._kept], self._readings[other]
        hopeless = bool(kept and tried) and tried[-1] > _HOPELESS * min(kept)
        if not hopeless and len(tried) < _READINGS:
            self.count = other if self.count == self._kept else self._kept
            return
        if not hopeless and min(tried) < _BETTER * min(kept):
            self._fewer, self._kept, self._wait = other < self._kept, other, _FIRST
        else:
            self._wait = min(2 * self._wait, _LAST)
        self.count, self._readings, self._spent = self._kept, {}, 0.0
