"""Runs of micro- to milliseconds: whatever a program needs for a batch is there before the batch is."""

from time import perf_counter

import numpy as np

from hotloop.kernels import _jit, data, walk

from .cost import LEND, seconds, work
from .cpu_backend import address, bits
from .interrupts import deferred_interrupts
from .program import External, Instruction
from .team import Team

DONE, FAILED, OVERFLOWED = walk.DONE, walk.FAILED, walk.OVERFLOWED  # places in `shared`, read after a run

_MOST_ROWS = 4096
_WORK = 2e9  # floating-point operations
_KEPT = 3e6  # the same, up to where others may wait for the GIL meanwhile
_TRIED = 50e-6  # expected seconds on one worker from which on the clock is to say whether two pay
_BYTES = 2**22  # of the arrays of a batch
_COPIED = 2**14  # bytes of an array


def most_rows(program, ranges):
    """Rows of the largest batch of such arrays (see `Objective.ranges`) to run in brief; 0 where none is small."""
    columns = sum(columns or 2 for _, columns, _ in ranges)
    columns += sum(node.shape[1] for node in program.predictions.values())
    return int(min(_MOST_ROWS, _WORK // max(program.flops, 1), _BYTES // (columns * program.layout.dtype.itemsize)))


def checks(ranges):
    """Instructions that fail where a number of such arrays is not in its range.

    Labels, which become addresses, are checked before anything is done with them, other numbers along with that.
    """
    made = []
    for name, columns, span in ranges:
        if span is not None:
            operands = {"source": External(name), "least": span[0], "most": span[1]}
            if columns:
                operands |= {"source_cols": columns, "least": float(span[0]), "most": float(span[1])}
            kernel = data.check_reals if columns else data.check_labels
            made.append(Instruction("check", kernel, "rows", operands, (), (), stage=0 if columns else -1))
    return made


def _few(array):
    """Rows of an array up to which a copy of them takes less time than finding out where they lie."""
    return _COPIED // (array.nbytes // len(array))


class Brief:
    """A program bound for calls of up to `most` rows, each of which one compiled call checks and runs.

    What is small is copied to fixed places. The first phases look whether the numbers are in their ranges, before
    anything is changed. Calls of a few microseconds keep the GIL. What does not pass, or is no array of the right kind
    and shape, is the affair of the general path, which takes anything and words what is wrong.

    bound: the program with `checks`, bound for this alone; it takes as many rows at once as it has capacity for.
    ranges: of the arrays, see `Objective.ranges`. least: rows that a batch must have. strict: whether a loss that is
    not finite ends the run before the update. threads: the most workers, None for all cores.
    """

    def __init__(self, bound, most, ranges, least, strict, threads):
        self.bound, self.least, self.most, self.threads = bound, least, most, threads
        self.numbers = None  # the optimizer's, for whoever makes steps
        self.inputs = []  # of each: see `load`
        most = self.most
        arrays = {name: np.zeros((most, node.shape[1]), bound.dtype)
                  for name, node in bound.program.predictions.items()}
        self.results = arrays.get("prediction")
        self.few = 0 if self.results is None else _few(self.results)
        for name, columns, _ in ranges:
            arrays[name] = array = np.zeros((most, columns) if columns else most, bound.dtype if columns else np.int64)
            places = {array.shape[1:]: array}
            if columns == 1 and name != "x":
                places[()] = array[:, 0]
            self.inputs.append((array.dtype, "fiub" if columns else "iu", places, name, _few(array)))
        self.arrays, self.away = arrays, set()  # names of those that do not lie at their fixed places now
        self._prepare(strict)
        for name in ("order", *arrays):  # an epoch's order is none
            self._lie(name, arrays.get(name))

    def _prepare(self, strict):
        """The job of `walk`, and the cells that are read and written around each run."""
        bound = self.bound
        self.loss = np.zeros(-(-self.most // bound.capacity))
        self.job = bound.job.copy()
        values = {"steps": 1, "update": 1, "block": bound.block, "strict": strict, "goal": bits(float("-inf")),
                  "losses": address(self.loss) if bound.keeps_loss else 0}
        cells = {name: cell for cell, name in enumerate(_jit.operands(walk.walk), _jit.HEADER)}
        for name, value in values.items():
            self.job[cells[name]] = value
        self.steps_cell, self.rows_cell, self.batch_cell = cells["steps"], cells["rows"], cells["batch"]
        self.update_cell, self.workers_cell, self.contexts_cell = cells["update"], cells["workers"], cells["contexts"]
        self.rows, self.workers, self.long, self.job_address = 0, 1, False, address(self.job)
        self.short = 0  # rows of the largest batch that is known not to be long
        self.team = Team(walk.walk, self.job, bound.shared)
        self.call = _jit.brief_caller(walk.walk, np.float32)
        # views that take a third of NumPy's time to read or write a number
        self.cells, self.shared, self.losses = memoryview(self.job), memoryview(bound.shared), memoryview(self.loss)
        self.integers, self.reals = bound.integers, memoryview(bound.table.reshape(-1).view(np.float64))
        self.scalars = [(row * bound.width + cell, name) for row, cell, name in bound.scalars]
        self.set(bound.program.settings)

    def load(self, *arrays):
        """Copy a batch to its places; False, with nothing said of what is there then, where that cannot be done.

        Of each input is known: its dtype, the kinds of numbers that it is made from, its fixed place by the shape of
        its rows, its name, and up to how many rows it is copied, though it might be read where it lies.
        """
        rows = 0
        for array, (dtype, kinds, places, name, few) in zip(arrays, self.inputs, strict=True):
            if type(array) is not np.ndarray:
                return False
            shape = array.shape
            place = places.get(shape[1:]) if shape else None
            if place is None or not self.least <= shape[0] <= self.most or (rows and shape[0] != rows):
                return False
            rows = shape[0]
            if array.dtype == dtype:
                if rows > few and array.flags.c_contiguous and array.flags.aligned:
                    self._lie(name, array)
                    continue
                place[:rows] = array
            elif array.dtype.kind in kinds:
                with np.errstate(over="ignore"):  # what is too large for float32 is infinite then
                    place[:rows] = array
            else:
                return False
            if name in self.away:
                self._lie(name, self.arrays[name])
        if rows != self.rows:
            self._cut(rows)
        shared = self.shared
        shared[FAILED] = shared[OVERFLOWED] = shared[DONE] = 0
        return True

    def _lie(self, name, array):
        """Let the program and the checks find an array where this one lies."""
        place = address(array)
        if array is self.arrays.get(name):
            self.away.discard(name)
        else:
            self.away.add(name)
        for cell in self.bound.externals.get(name, ()):
            self.integers[cell] = place

    def _cut(self, rows):
        """Get ready for so many rows."""
        cells = self.cells
        self.rows, self.batch = rows, min(rows, self.bound.capacity)
        self.answer = None if self.results is None else self.results[:rows]
        self.steps = -(-rows // self.batch)
        self.lending = LEND / self.steps
        self.long = rows > self.short and self._is_long()
        if not self.long:
            self.short = max(rows, self.short)
        cells[self.rows_cell], cells[self.batch_cell], cells[self.steps_cell] = rows, self.batch, self.steps
        self._take(1)

    def _is_long(self):
        """Whether others should not wait for such a batch, or it is worth several workers; some runs take less."""
        program = self.bound.program
        return (program.flops * self.rows > _KEPT or self.steps * seconds(work(program, self.batch), 1) > _TRIED
                or self.bound.pace(self.threads, self.batch, self.lending).count > 1)

    def _take(self, workers):
        """Let so many workers run."""
        self.bound._make_contexts(workers)
        self.workers = self.cells[self.workers_cell] = workers
        self.cells[self.contexts_cell] = self.bound.context_address

    def run(self):
        """Run what was loaded; whether all of it was done."""
        if self.long:
            pace = self.bound.pace(self.threads, self.batch, self.lending)
            workers = pace.count
            if workers != self.workers:
                self._take(workers)
            with deferred_interrupts():
                started = perf_counter()
                self.team.run(workers)
                elapsed = perf_counter() - started
            pace.tell(workers, self.shared[DONE], elapsed)
        else:
            self.call(self.job_address)
        return self.shared[DONE] == self.steps

    def predict(self):
        """The outputs for what was loaded, a new array, or None."""
        if self.rows > self.few:
            results = np.empty((self.rows, self.results.shape[1]), self.results.dtype)
            self._lie("prediction", results)
            return results if self.run() else None
        if "prediction" in self.away:
            self._lie("prediction", self.results)
        return self.answer.copy() if self.run() else None

    def set(self, settings):
        """Put what is given, the optimizer's numbers or the seed, into the program; return what changes step by step.

        These are the cells of arrays, with their numbers as a list.
        """
        moving = []
        for cell, name in self.scalars:
            if isinstance(settings.get(name), np.ndarray):
                moving.append((cell, settings[name].astype(np.float64).tolist()))
            elif name in settings:
                self.integers[cell] = bits(settings[name])
        return moving
