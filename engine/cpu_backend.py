"""The cpu backend: binds a program to memory as a table of numbers and lets compiled code walk it."""

import struct
import sys
import time

import numpy as np

from hotloop.kernels import _ahead, _context, _jit, data, walk
from hotloop.kernels._target import host
from hotloop.kernels.groups import GROUPS

from . import cost, team
from .arena import Arena, region_number
from .order import permute
from .pace import Pace
from .program import Block, Buffer, External, Instruction, Layout, Sums
from .run import Outcome

_SECOND_LEVEL = 256 * 1024  # bytes of activations that a block of rows may take, to stay in the core's own cache
_LEAST_ROWS = 192  # of a block where weights do not stay there from one block to the next


def layout(dtype):
    """The layout that this host's kernels work on."""
    bound = host().bindings(dtype)
    return Layout(np.dtype(dtype), bound["LANES"], bound["PANEL"], bound["TILE"])


class CpuBackend(Arena):
    """Executes programs of one network with compiled kernels, over one arena.

    All programs given to one backend must come from one graph of parameters: their parameters lie at the same place.
    """

    def __init__(self, dtype, threads=None):
        self.dtype = np.dtype(dtype)
        self.threads = threads
        self.lasting, self.working = aligned_zeros(0), aligned_zeros(0)  # the arena's two parts
        self._bound, self._capacity = {}, {}
        self.briefs = {}  # what others made of `bind_apart`, by goal; emptied when the arena moves

    def prepare(self, program, capacity):
        """Make room for `program` at `capacity` rows a batch; its parameters can be read and written then."""
        if capacity <= self._capacity.get(program, -1):
            return
        _, size = program.place(capacity)
        if program.fixed_bytes() > self.lasting.nbytes:
            lasting = aligned_zeros(program.fixed_bytes())
            lasting[: self.lasting.nbytes] = self.lasting
            self.lasting, self._bound = lasting, {}
            self.briefs.clear()
        if size > self.working.nbytes:
            self.working, self._bound = aligned_zeros(size), {}
            self.briefs.clear()
        self._capacity[program] = capacity  # last: memory may have run out above

    def bind(self, program):
        """The program as a table for the arena as it is now; compiles or loads its kernels on first use."""
        bound, capacity = self._bound.get(program), self._capacity[program]
        if bound is None or bound.capacity < capacity:
            bound = self._bound[program] = _Bound(program, self.lasting, self.working, capacity)
        return bound

    def bind_apart(self, program, capacity, checks):
        """The program, with instructions `checks` before it, as a table that nobody else runs, for one worker."""
        self.prepare(program, capacity)
        bound = _Bound(program, self.lasting, self.working, capacity, checks)
        bound._make_contexts(1)
        return bound

    def unbind(self):
        """Forget how programs lie in memory, which is found anew by the next run."""
        self._bound = {}
        self.briefs.clear()

    def hold(self, arrays):
        """Nothing to hold: kernels read the caller's arrays."""

    def permute(self, seed, epoch, order):
        """Write the order of an epoch's rows, int64: the numpy backend's."""
        permute(seed, epoch, order, self.dtype)

    def fetch(self, program, first, size):
        """View `size` numbers of the arena's lasting part."""
        return self.lasting[: program.fixed_bytes()].view(self.dtype)[first : first + size]

    def put(self, first, numbers):
        """What `fetch` views is the arena itself."""

    def run(self, program, arrays, *, steps, start, rows, batch, update=1, strict=True):
        """Run `steps` steps; batches follow each other from row `start` of `rows`, wrapping to 0 at the end.

        An order with more than `rows` places holds those of several epochs, of which each wrap begins the next.
        `arrays` are the program's external arrays by name: C-contiguous, of the backend's dtype, int64 for labels and
        order, checked by the caller. `update` numbers the first update, from 1. `strict` ends the run at a loss that is
        not finite.
        """
        return self.bind(program).run(arrays, steps, start, rows, batch, update, strict, self.threads)


class _Bound:
    """A program's table in memory: addresses for operands, phases, one context a worker."""

    def __init__(self, program, lasting, working, capacity, checks=()):
        self.program, self.lasting, self.working, self.capacity = program, lasting, working, capacity
        self.dtype = program.layout.dtype
        self.places, _ = program.place(capacity)
        self.near_places = {}
        self.instructions = sorted([*checks, *program.instructions], key=Instruction.place)
        self.body = next((instruction for instruction in self.instructions if instruction.inner), None)
        self.rows = _with_chained(self.instructions)
        self.owners = [None] * len(self.rows)  # of a row that each worker has for itself, which one
        self.most = sys.maxsize if self.body is None else GROUPS  # workers of a run
        if self.body is not None:
            own = _with_chained(self.body.inner)
            self.owners += [worker for worker in range(GROUPS) for _ in own]
            self.rows += own * GROUPS
            self._make_near()
        numbers = {place: number for number, place in enumerate(zip(self.rows, self.owners, strict=True))}
        _ahead.compile_ahead([(instruction.kernel, self.dtype) for instruction in self.rows]
                             + [(kernel, self.dtype) for kernel in (data.check_reals, data.check_labels, data.shuffle)]
                             + [(kernel, np.dtype(np.float32)) for kernel in (walk.walk, *team.KERNELS)])
        for kernel in team.KERNELS:  # also for one worker: the next net may be worth more, and is to find all there
            _jit.address(kernel, np.float32)
        kernels = [_jit.operands(instruction.kernel) for instruction in self.rows]
        self.width = _jit.HEADER + max(map(len, kernels), default=0)
        self.table = np.zeros((len(self.rows), self.width), np.int64)
        self.integers = memoryview(self.table.reshape(-1))
        self.externals = {}  # by name: the places in `integers` that hold an array's address
        self.scalars = []  # (row, cell, name): what a run may change
        self.constants = []  # arrays whose addresses stand in the table
        self.settings = None
        for number, (instruction, operands) in enumerate(zip(self.rows, kernels, strict=True)):
            row = self.table[number]
            row[0] = _jit.address(instruction.kernel, self.dtype)
            row[walk.ROW_UNITS], row[walk.ROW_COST] = instruction.units, instruction.cost
            for cell, name in enumerate(operands, _jit.HEADER):
                value = instruction.operands.get(name)
                if isinstance(value, Instruction):
                    row[cell] = self.table[numbers[value, self.owners[number]]].ctypes.data
                else:
                    row[cell] = self._value(instruction, name, number, cell)
        if self.body is not None:
            self._bind_body(numbers)
        self.phases = self._phases()
        self.keeps_loss = any(instruction.phase == "each" for instruction in self.instructions)
        self.contexts = aligned_zeros(0)
        self.workers = 0
        self.paces = {}  # by rows, workers that may be taken and what helpers cost
        self.shared = aligned_zeros(walk.SHARED * 8).view(np.int64)
        self.shared_address, self.context_address = address(self.shared), 0
        trains = any("w" in part.writes for part in self.rows)
        self.job = np.array([0] * _jit.HEADER + [self.phases.ctypes.data, len(self.phases), self.width * 8, trains,
                             program.grain]
                            + [0] * 15 + [self.shared_address, team.YIELDER], np.int64)
        self.team = team.Team(walk.walk, self.job, self.shared)
        row_bytes = sum(buffer.nbytes(64) for buffer in program.buffers) // 64
        tile = program.layout.tile
        least = _LEAST_ROWS if program.elements * self.dtype.itemsize > _SECOND_LEVEL else tile
        whole = program.grain if program.grain > 1 else tile
        self.block = max(_SECOND_LEVEL // max(row_bytes, 1), least, whole) // whole * whole

    def _value(self, instruction, name, number, cell):
        """What cell `cell` of the row holds for the operand `name`."""
        operands, program = instruction.operands, self.program
        if name not in operands:
            base, _, part = name.rpartition("_")
            if base in operands and part in ("panel", "panels", "cols", "width", "first"):
                if operands[base] is None:
                    return 0
                value = getattr(operands[base], part)
                rows = self.capacity if self.owners[number] is None else self.height
                return value(rows) if part == "panel" else value
            self.scalars.append((number, cell, name))
            return 0
        value = operands[name]
        if isinstance(value, Buffer) and value in self.near_places:
            return self.near.ctypes.data + self.owners[number] * self.near_bytes + self.near_places[value]
        if isinstance(value, Buffer | Sums):
            return self.working.ctypes.data + self.places[value]
        if isinstance(value, Block):
            return self.lasting.ctypes.data + value.first * self.dtype.itemsize
        if isinstance(value, str):
            return self.lasting.ctypes.data + region_number(program, value) * program.elements * self.dtype.itemsize
        if isinstance(value, External):
            self.externals.setdefault(value.name, []).append(number * self.width + cell)
            return 0
        if isinstance(value, tuple | np.ndarray):
            self.constants.append(np.array(value, self.dtype) if isinstance(value, tuple) else value)
            return address(self.constants[-1])
        return bits(value or 0)

    def _make_near(self):
        """Memory for the buffers that each worker has for itself."""
        self.height, size = self.body.operands["height"], 0
        for buffer in self.body.near:
            self.near_places[buffer] = size
            size += -(-buffer.nbytes(self.height) // 64) * 64
        self.near_bytes, self.near = size, aligned_zeros(GROUPS * size)

    def _bind_body(self, numbers):
        """Complete the row of the body: where the rows of each worker are, and which of their cells move on."""
        inner, moving = self.body.inner, []
        for worker in range(GROUPS):
            for instruction in inner:
                row = self.table[numbers[instruction, worker], _jit.HEADER :]
                for cell, name in enumerate(_jit.operands(instruction.kernel)):
                    value = instruction.operands.get(name)
                    if isinstance(value, Buffer) and value not in self.near_places:  # flat: a number for each row
                        moving.append((address(row[cell:]), row[cell], value.nbytes(1), 0))
                    elif name == "onto":
                        slots = self.body.operands["slots"]
                        moving.append((address(row[cell:]), self.working.ctypes.data + self.places[slots], 0,
                                       slots.size))
        self.moving = np.array(moving, np.int64)
        first = numbers[inner[0], 0]
        found = {"rows": address(self.table[first:]), "row_bytes": self.width * 8, "moving": address(self.moving),
                 "moving_count": len(moving) // GROUPS, "stride": (numbers[inner[0], 1] - first) * self.width * 8}
        row = self.table[numbers[self.body, None], _jit.HEADER :]
        for cell, name in enumerate(_jit.operands(self.body.kernel)):
            row[cell] = found.get(name, row[cell])

    def _phases(self):
        """A row of `walk`'s table for each phase, in the order of the instructions."""
        kinds = {"before": walk.EACH, "rows": walk.ROWS, "each": walk.EACH, "units": walk.UNITS}
        names = [(instruction.stage, instruction.phase) for instruction in self.instructions]
        phases = [(kinds[name[1]], self.table[names.index(name)].ctypes.data, names.count(name))
                  for name in dict.fromkeys(names)]
        return np.array(phases, np.int64)

    def run(self, arrays, steps, start, rows, batch, update, strict, threads):
        for name, places in self.externals.items():
            found = address(arrays.get(name) if name == "order" else arrays[name])
            for place in places:
                self.integers[place] = found
        settings = self.program.settings
        constant = {name: value for name, value in settings.items() if not isinstance(value, np.ndarray)}
        if self.settings != constant:
            self.settings = constant
            for number, cell, name in self.scalars:
                if name in constant:
                    self.table[number, cell] = bits(constant[name])
        cells, changes = changing(self.table, self.scalars, settings)
        changed = (0, 0, 0) if cells is None else (address(cells), address(changes), len(cells))
        pace = self.pace(threads, min(batch, rows))
        workers = pace.count
        self._make_contexts(workers)
        losses = np.empty(steps) if self.keeps_loss else np.zeros(steps)
        self.job[_STEPS] = (steps, start, rows, ahead(arrays, rows), batch, update, self.block, strict, _NO_GOAL,
                            *changed, address(losses) if self.keeps_loss else 0, self.context_address, workers)
        started = time.perf_counter()
        self.team.run(workers)
        failed, overflowed, done = self.shared[_VERDICT].tolist()
        pace.tell(workers, done, time.perf_counter() - started)
        if failed:
            raise RuntimeError(f"a kernel failed in step {update + done}: a defect of hotloop, please report it")
        if overflowed:
            return Outcome(losses[:done], done, "update")
        if done < steps:
            return Outcome(losses[: done + 1], done, "loss")
        return Outcome(losses, done, None, pace.trying)

    def pace(self, threads, batch, lending=0.0):
        """What settles how many workers runs on batches of so many rows take. lending: see `cost.workers`."""
        most = min(team.spare() if threads is None else threads, self.most)
        if (batch, most, lending) not in self.paces:
            count = cost.workers(self.program, batch, most, lending)
            useful = min(most, cost.cores(), cost.work(self.program, batch).most)
            self.paces[batch, most, lending] = Pace(count, useful)
        return self.paces[batch, most, lending]

    def _make_contexts(self, workers):
        """One block of cells and one scratch for each worker, and the constants that all read."""
        if workers <= self.workers:
            return
        self.workers = workers
        itemsize = self.dtype.itemsize
        cells = workers * _context.CONTEXT * 8
        scratch = -(-(self.program.scratch * itemsize + 64) // 64) * 64
        panel = self.program.layout.panel
        constants = 2 * panel * itemsize + 64
        self.contexts = aligned_zeros(cells + workers * scratch + constants)
        base = self.context_address = self.contexts.ctypes.data
        zeros = base + cells + workers * scratch
        self.contexts[cells + workers * scratch :].view(self.dtype)[panel : 2 * panel] = 1
        table = self.contexts[:cells].view(np.int64).reshape(workers, -1)
        table[:, _context.SCRATCH] = base + cells + scratch * np.arange(workers)
        table[:, _context.ZEROS] = zeros
        table[:, _context.WORKER] = np.arange(workers)


def _with_chained(instructions):
    return [*instructions, *(part for instruction in instructions for part in instruction.chained())]


_NO_GOAL = struct.unpack("q", struct.pack("d", float("-inf")))[0]
_VERDICT = slice(walk.FAILED, walk.DONE + 1, walk.OVERFLOWED - walk.FAILED)
_STEPS = slice(_jit.HEADER + 5, _jit.HEADER + 20)  # the operands of `walk` that change from run to run


def ahead(arrays, rows):
    """How far on in the order of `arrays` the next epoch's begins."""
    order = arrays.get("order")
    return rows if order is not None and len(order) > rows else 0


def changing(table, scalars, settings):
    """What `walk` needs to change numbers step by step: addresses of cells, numbers, a row a step; or None and None.

    `scalars` are the (row, cell, name) of settings in `table`; those change whose settings are arrays.
    """
    arrays = {name: value for name, value in settings.items() if isinstance(value, np.ndarray)}
    if not arrays:
        return None, None
    found = [(address(table[row, cell:]), arrays[name]) for row, cell, name in scalars if name in arrays]
    cells, numbers = zip(*found, strict=True)
    return np.array(cells, np.int64), np.array(numbers, np.float64).T.copy()


def address(array):
    """Where an array's data lies; 0 for None. (`array.ctypes` takes four times as long.)"""
    return 0 if array is None else array.__array_interface__["data"][0]


def bits(value):
    """A number as it stands in a cell of a row: integers as they are, the bits of a float."""
    return struct.unpack("q", struct.pack("d", value))[0] if isinstance(value, float) else int(value)


def aligned_zeros(size):
    """Zeroed bytes that start at a cache line."""
    memory = np.zeros(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size]
