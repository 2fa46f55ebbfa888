"""Runs of some microseconds: whatever a program needs for a small batch is there before the batch is."""

import numpy as np

from hotloop.kernels import _jit, data, walk

from .cpu_backend import address, bits

DONE, FAILED, OVERFLOWED = walk.DONE, walk.FAILED, walk.OVERFLOWED  # places in `shared`, read after a run

_MOST_ROWS = 256
_WORK = 3e6  # floating-point operations, less than two workers' worth: others wait for the GIL meanwhile
_BYTES = 2**17  # of the arrays of a batch, which are copied


def most_rows(program, ranges):
    """Rows of the largest batch of such arrays (see `Objective.ranges`) to run in brief; 0 where none is small."""
    columns = sum(columns or 2 for _, columns, _ in ranges)
    return int(min(_MOST_ROWS, _WORK // max(program.flops, 1), _BYTES // (columns * program.layout.dtype.itemsize)))


class Brief:
    """A program bound for batches of up to `most` rows, which one compiled call checks and runs.

    A batch is copied to fixed places. The first phase looks whether its numbers are in their ranges, before anything is
    changed; then the program's own follow. The call keeps the GIL. What does not pass, or is no array of the right
    kind and shape, is the affair of the general path, which takes anything and words what is wrong.

    bound: the program, bound for this alone. ranges: of the arrays, see `Objective.ranges`. least: rows that a batch
    must have. strict: whether a loss that is not finite ends the run before the update.
    """

    def __init__(self, bound, ranges, least, strict):
        self.bound, self.least, self.most = bound, least, bound.capacity
        self.checks = self._checks(ranges)
        self.inputs = []  # of each array: dtype, kinds it is made from, where a batch goes by its rows' shape
        most = self.most
        arrays = {name: np.zeros((most, node.shape[1]), bound.dtype)
                  for name, node in bound.program.predictions.items()}
        self.results = arrays.get("prediction")
        for name, columns, _ in ranges:
            arrays[name] = array = np.zeros((most, columns) if columns else most, bound.dtype if columns else np.int64)
            places = {array.shape[1:]: array}
            if columns == 1 and name != "x":
                places[()] = array[:, 0]
            self.inputs.append((array.dtype, "fiub" if columns else "iu", places))
        for row, cell, name in bound.externals:
            bound.table[row, cell] = address(arrays.get(name))  # an epoch's order is none
        for cell, name in self.checked:
            self.checks[cell] = address(arrays[name])
        self.arrays = arrays
        self._prepare(strict)

    def _checks(self, ranges):
        """The rows that check arrays; the cells of their addresses come later."""
        dtype, width = self.bound.dtype, self.bound.width
        spans = [(name, columns, span) for name, columns, span in ranges if span is not None]
        rows, self.checked = np.zeros((len(spans), width), np.int64), []
        for number, (name, columns, (least, most)) in enumerate(spans):
            kernel = data.check_reals if columns else data.check_labels
            operands = [0, columns, bits(float(least)), bits(float(most))] if columns else [0, least, most]
            rows[number, : _jit.HEADER] = _jit.address(kernel, dtype), 1, 1, number
            rows[number, _jit.HEADER : _jit.HEADER + len(operands)] = operands
            self.checked.append(((number, _jit.HEADER), name))
        return rows

    def _prepare(self, strict):
        """The job of `walk`, and the cells that are read and written around each run."""
        bound = self.bound
        phase = [(walk.UNITS, address(self.checks), len(self.checks), len(self.checks))] if len(self.checks) else []
        self.phases = np.array([*phase, *bound.phases.tolist()], np.int64)
        self.loss = np.zeros(1)
        self.job = bound.job.copy()
        values = {"phases": address(self.phases), "phase_count": len(self.phases), "steps": 1, "update": 1,
                  "block": bound.block, "strict": strict, "goal": bits(float("-inf")), "workers": 1,
                  "losses": address(self.loss) if bound.keeps_loss else 0, "contexts": bound.context_address}
        cells = {name: cell for cell, name in enumerate(_jit.operands(walk.walk), _jit.HEADER)}
        for name, value in values.items():
            self.job[cells[name]] = value
        self.rows_cell, self.batch_cell, self.update_cell = cells["rows"], cells["batch"], cells["update"]
        self.rows, self.job_address = 0, address(self.job)
        self.call = _jit.brief_caller(walk.walk, np.float32)
        # views that take a third of NumPy's time to read or write a number
        self.cells, self.shared, self.losses = memoryview(self.job), memoryview(bound.shared), memoryview(self.loss)
        table = bound.table.reshape(-1)
        self.integers, self.reals = memoryview(table), memoryview(table.view(np.float64))
        self.scalars = [(row * bound.width + cell, name) for row, cell, name in bound.scalars]
        self.set(bound.program.settings)

    def load(self, *arrays):
        """Copy a batch to its places; False, with nothing said of what is there then, where that cannot be done."""
        rows = 0
        for array, (dtype, kinds, places) in zip(arrays, self.inputs, strict=True):
            if type(array) is not np.ndarray:
                return False
            shape = array.shape
            place = places.get(shape[1:]) if shape else None
            if place is None or not self.least <= shape[0] <= self.most or (rows and shape[0] != rows):
                return False
            rows = shape[0]
            if array.dtype == dtype:
                place[:rows] = array
            elif array.dtype.kind in kinds:
                with np.errstate(over="ignore"):  # what is too large for float32 is infinite then
                    place[:rows] = array
            else:
                return False
        if rows != self.rows:
            self.cells[self.rows_cell] = self.cells[self.batch_cell] = self.rows = rows
        shared = self.shared
        shared[FAILED] = shared[OVERFLOWED] = shared[DONE] = 0
        return True

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
