"""The cuda backend: binds a program to a device's memory as a table of numbers and launches its kernels."""

from itertools import groupby
from math import prod

import numpy as np

from hotloop.kernels import OPS, _cuda, _steps
from hotloop.kernels._block import operands

from .arena import Arena, region_number
from .cpu_backend import ahead, bits
from .device_arrays import DeviceArray, taken
from .launches import Player, coefficients, grown, put_real
from .order import permute
from .program import Block, Buffer, External, Instruction, Layout, Sums
from .run import Outcome
from .streamed import Streamed

_ENOUGH = 2  # rectangles for each multiprocessor that larger ones must leave
_MOST = 0.5  # of the device's free memory that data may take; what is larger goes there in pieces
_PASSING = 2**24  # bytes of an array up to which its memory is kept for the next one
_NOTHING = _cuda.Memory(0)
_SMALL = 2e6  # floating-point operations of PANEL rows up to which blocks stay on the device: not measured yet
_PHASES = {"rows": _cuda.ROWS_PHASE, "units": _cuda.UNITS_PHASE}


def layout(dtype):
    """The layout that kernels for devices work on."""
    return Layout(np.dtype(dtype), 1, _cuda.PANEL_ROWS, _cuda.PANEL_ROWS, cuda=True)


class CudaBackend(Arena):
    """Executes programs of one network with compiled kernels on a CUDA device, over one arena there.

    Has the methods of `CpuBackend`. All programs given to one backend must come from one graph of parameters.
    """

    def __init__(self, dtype, threads=None):
        self.dtype = np.dtype(dtype)
        self.lasting = self.working = _NOTHING  # the arena's two parts
        self._bound, self._capacity = {}, {}
        self._held, self._resident = {}, {}  # arrays that do not change, by name; their memory
        self._passing, self._streamed = {}, None  # memory of small arrays that may change, by name; for large ones

    def prepare(self, program, capacity):
        """Make room for `program` at `capacity` rows a batch; its parameters can be read and written then."""
        if capacity <= self._capacity.get(program, -1):
            return
        _, size = program.place(capacity)
        if program.fixed_bytes() > self.lasting.size:
            lasting = _cuda.Memory(program.fixed_bytes())
            lasting.copy(self.lasting)
            self.lasting, self._bound = lasting, {}
        if size > self.working.size:
            self.working, self._bound = _cuda.Memory(size), {}
        self._capacity[program] = capacity

    def bind(self, program):
        """The program as a table for the arena as it is now; compiles or loads its kernels on first use."""
        bound, capacity = self._bound.get(program), self._capacity[program]
        if bound is None or bound.capacity < capacity:
            bound = self._bound[program] = _Bound(program, self.lasting, self.working, capacity)
        return bound

    def unbind(self):
        """Forget how programs lie in memory, which is found anew by the next run."""
        self._bound = {}

    def permute(self, seed, epoch, order):
        """Write the order of an epoch's rows, int64: the numpy backend's."""
        permute(seed, epoch, order, self.dtype)

    def fetch(self, program, first, size):
        """A copy of `size` numbers of the arena's lasting part."""
        numbers = np.empty(size, self.dtype)
        self.lasting.read(numbers, first * self.dtype.itemsize)
        return numbers

    def put(self, first, numbers):
        """Overwrite numbers of the arena's lasting part."""
        self.lasting.write(numbers, first * self.dtype.itemsize)

    def parameter(self, program, name):
        """A parameter as a new DeviceArray."""
        block = next(block for block in program.blocks if name in block.shapes())
        return taken(self.lasting.address + block.first * self.dtype.itemsize, block, name, self.dtype)

    def hold(self, arrays):
        """Keep these arrays, by name, on the device: they do not change until the next call of this method."""
        self._held = arrays
        self._resident, self._streamed = {}, None

    def run(self, program, arrays, *, steps, start, rows, batch, update=1, strict=True):
        """Run `steps` steps as `CpuBackend.run` does."""
        bound, given = self.bind(program), {}
        if self._too_large(bound, arrays):
            if self._streamed is None or not self._streamed.serves(bound, arrays, batch):
                self._streamed = None  # gives its memory back
                self._streamed = Streamed(bound, arrays, batch, _MOST * _cuda.free())
            outcome = self._streamed.run(arrays, steps, start, rows, update, strict)
            self._streamed = self._streamed if self._held else None
            return outcome
        for name in bound.externals:
            given[name] = self._on_device(name, arrays.get(name), name in program.predictions)
        bound.start(given, ahead(arrays, rows), steps, start, rows, batch, update, strict, program.settings)
        outcome = bound.finish()
        for name in program.predictions:
            if not isinstance(arrays[name], DeviceArray):
                given[name].read(arrays[name])
        return outcome

    def _too_large(self, bound, arrays):
        """Whether the device has no room for the data, which go there in pieces then."""
        given = {name: arrays[name] for name in bound.externals if name != "order"}
        if self._streamed is not None and all(self._held.get(name) is array for name, array in given.items()):
            return True
        there = [name for name, array in given.items() if isinstance(array, DeviceArray)]
        new = [array for name, array in given.items() if name not in there and not self._is_there(name, array)]
        nbytes = sum(array.nbytes for array in new)
        if nbytes <= _MOST * (room := _cuda.free()):
            return False
        if there:
            raise MemoryError(f"{' and '.join(there)} of the data lie on the device, whose {room:,} free bytes are too "
                              f"few for {nbytes:,} more: give all data in the computer's memory, from where they go "
                              "there in pieces, or fewer rows")
        return True

    def _is_there(self, name, array):
        return self._held.get(name) is array and name in self._resident

    def _on_device(self, name, array, result):
        """The memory of an array: as it was held, or a copy, or of a result that will be written there."""
        if array is None or isinstance(array, DeviceArray):
            return array
        if self._is_there(name, array):
            return self._resident[name]
        if self._held.get(name) is array:
            self._resident[name] = _cuda.Memory.of(array)
            return self._resident[name]
        memory = grown(self._passing.get(name, _NOTHING), array.nbytes)
        if array.nbytes <= _PASSING:
            self._passing[name] = memory
        if not result:
            memory.write(array)
        return memory


class _Bound:
    """A program's table in the device's memory, and what runs it there.

    A small program is one kernel, whose blocks stay on the device and meet between phases (`_cuda.walker`); the others
    are a kernel for each instruction, which are recorded once and replayed for each step.
    """

    def __init__(self, program, lasting, working, capacity):
        self.program, self.lasting, self.working, self.capacity = program, lasting, working, capacity
        self.dtype = program.layout.dtype
        self.places, _ = program.place(capacity)
        steps = [_once("begin_step", _steps.begin_step), *program.instructions, _once("end_step", _steps.end_step)]
        each = [place for place, instruction in enumerate(steps) if instruction.phase == "each"]
        self.keeps_loss = bool(each)
        if each:
            steps.insert(each[-1] + 1, _once("keep_loss", _steps.keep_loss))
        self.steps = steps
        self.parts = [*steps, *(part for instruction in steps for part in instruction.chained())]
        self.hosts = {part: host for host in steps for part in (host, *host.chained())}
        self.updates = next((part for part in self.parts if part.op in OPS and OPS[part.op].states), None)
        self.persistent = program.flops * program.layout.panel <= _SMALL
        self.kernels = {part: self._sized(part) if part in steps else part.kernel for part in self.parts}
        self.externals = {}  # by name: the places in the table that hold an array's address
        self.scalars, self.constants = [], []  # (place in the table, name); memory of arrays in the table
        width = _cuda.HEAD + max(len(operands(kernel)) for kernel in self.kernels.values())
        self.table = np.zeros((len(self.parts), width), np.int64)
        self.memory = _cuda.Memory(self.table.nbytes)
        self.losses = self.coefficients = _NOTHING  # of a run
        self.shapes = {host: self._shape(host) for host in steps}  # rows, None for the batch's, and columns
        for number, part in enumerate(self.parts):
            self._fill(part, number)
        if self.persistent:
            self._make_walk()
        else:
            self._make_launches()

    def _fill(self, part, number):
        """Fill the row of an instruction."""
        host, function, row = self.hosts[part], self.kernels[part], self.table[number]
        rows, columns = self.shapes[host]
        kernel = self.kernels[host]
        chain = part.operands.get("chain")
        row[: _cuda.HEAD] = (function.kind, rows or 0, kernel.height, columns, kernel.span or columns,
                             0 if chain is None else self._row(chain))
        for cell, name in enumerate(operands(function), _cuda.HEAD):
            if function.__annotations__.get(name) is float:
                put_real(row[cell : cell + 1], part.operands[name], self.dtype)
            else:
                row[cell] = self._value(part, host, name, number * self.table.shape[1] + cell)

    def _row(self, part):
        """Where the row of an instruction stands on the device."""
        return self.memory.address + self.parts.index(part) * self.table.shape[1] * 8

    def _rectangles(self, host):
        """Rectangles of an instruction, down and across."""
        rows, columns = self.shapes[host]
        kernel = self.kernels[host]
        return max(1, -(-(rows or self.capacity) // kernel.height)), max(1, -(-columns // (kernel.span or columns)))

    def _make_launches(self):
        self.context, self.launches = _cuda.Memory(_steps.CONTEXT * 8), []
        for host in self.steps:
            kernels = [self.kernels[part] for part in (host, *host.chained())]
            self.launches.append((_cuda.launcher(_ordered(kernels), self.dtype), self._rectangles(host),
                                  self._near(kernels), self._row(host), self.context.address))
        self.play = Player(self.launches)

    def _make_walk(self):
        kernels = self.kernels.values()
        self.walk = _cuda.walker(_ordered(kernels), self.dtype)
        self.near = self._near(kernels)
        phases, most = [], 1
        for (_, kind), group in groupby(self.steps, lambda host: (host.stage, _PHASES.get(host.phase, _cuda.EACH))):
            hosts = list(group)
            phases.append((kind, self._row(hosts[0]), len(hosts)))
            rectangles = [self._rectangles(host) for host in hosts]
            if kind == _cuda.ROWS_PHASE:
                most = max(most, rectangles[0][0])
            elif kind == _cuda.UNITS_PHASE:
                most = max(most, sum(map(prod, rectangles)))
        if hosts != self.steps[-1:]:  # what ends a step reads what blocks of the next one overwrite: all meet before
            phases.append((_cuda.UNITS_PHASE, 0, 0))
        self.blocks = _cuda.walkers(self.walk, self.near, most)
        self.phases = _cuda.Memory.of(np.array(phases, np.int64))
        self.phase_count = len(phases)
        self.context, self.flaw = _cuda.Memory(self.blocks * _steps.CONTEXT * 8), _cuda.Memory(8)

    def _near(self, kernels):
        return max(function.near for function in kernels) * self.dtype.itemsize

    def _sized(self, instruction):
        """The kernel of an instruction, in the largest rectangles that leave the device enough of them."""
        kernel = instruction.kernel
        if not self.persistent:
            for larger in getattr(kernel, "larger", ()):
                rows, columns = self._shape(instruction)
                many = (rows or self.capacity) // larger.height * (columns // larger.span)
                if many >= _ENOUGH * _cuda.processors() and (self.dtype == np.float32 or not larger.single):
                    return larger
        return kernel

    def _shape(self, instruction):
        over = instruction.kernel.over
        if over is None:
            return 1, 1
        panel = self.program.layout.panel
        if over == "all":
            return instruction.operands["size"] // panel, panel
        value = instruction.operands[over]
        if isinstance(value, Block):
            rows = value.inputs + 1
            columns = self.program.layout.panels(value.outputs) * panel
        else:
            rows, columns = None, value.cols
        return 1 if instruction.kernel.height == 1 else rows, columns

    def _value(self, part, host, name, cell):
        """What a cell of the table holds for the operand `name` of an instruction that runs with `host`."""
        given, program, itemsize = part.operands, self.program, self.dtype.itemsize
        if name in ("slopes", "block_place", "block_height"):
            return self._of_block(host, name)
        if name not in given:
            base, _, attribute = name.rpartition("_")
            if base in given and attribute in ("cols", "first"):
                return 0 if given[base] is None else getattr(given[base], attribute)
            self.scalars.append((cell, name))
            return 0
        value = given[name]
        if isinstance(value, Buffer | Sums):
            return self.working.address + self.places[value]
        if isinstance(value, Block):
            return self.lasting.address + value.first * itemsize
        if isinstance(value, str):
            return self.lasting.address + region_number(program, value) * program.elements * itemsize
        if isinstance(value, External):
            self.externals.setdefault(value.name, []).append(cell)
            return 0
        if isinstance(value, tuple | np.ndarray):
            array = np.array(value, self.dtype) if isinstance(value, tuple) else np.ascontiguousarray(value)
            self.constants.append(_cuda.Memory.of(array))
            return self.constants[-1].address
        return bits(value or 0)

    def _of_block(self, host, name):
        """What instructions on a block of parameters are told: the gradient, the block's place and panels' rows."""
        if name == "slopes":
            return self.lasting.address + region_number(self.program, "gradient") * self.program.elements * (
                self.dtype.itemsize)
        block = host.operands.get("w")
        if isinstance(block, Block):
            return block.first if name == "block_place" else block.inputs + 1
        return 0 if name == "block_place" else host.operands["size"] // self.program.layout.panel

    def start(self, given, ahead, steps, start, rows, batch, update, strict, settings):
        """Have the device begin a run, on arrays there by name; `finish` waits for it."""
        table = self.table.reshape(-1)
        for name, cells in self.externals.items():
            table[cells] = 0 if given[name] is None else given[name].address
        for cell, name in self.scalars:
            table[cell] = bits(settings[name])
        self.memory.write(self.table)
        self.losses = losses = grown(self.losses, steps * self.dtype.itemsize if self.keeps_loss else 0)
        self.count, width = steps, 0
        if self.updates is not None:
            numbers = coefficients(self.updates.op, settings, steps, update, self.dtype)
            self.coefficients, width = grown(self.coefficients, numbers.nbytes), numbers.shape[1]
            self.coefficients.write(numbers)
        cells = np.zeros(_steps.CONTEXT, np.int64)
        cells[[_steps.MOST, _steps.TOTAL, _steps.AHEAD, _steps.NEXT, _steps.FIRST_UPDATE, _steps.STRICT, _steps.LOSSES,
               _steps.TABLE, _steps.WIDTH]] = (batch, rows, ahead, start, update, strict, losses.address,
                                               self.coefficients.address, width)
        self._go(cells, steps)

    def finish(self):
        """The outcome of the run that was started, when it is over."""
        cells, found = np.zeros(_steps.CONTEXT, np.int64), np.zeros(self.count, self.dtype)
        self.context.read(cells)
        if self.keeps_loss:
            self.losses.read(found)
        done, stopped = int(cells[_steps.DONE]), int(cells[_steps.STOPPED])
        found = found.astype(np.float64)
        if stopped == _steps.LOSS_STOP:
            return Outcome(found[: done + 1], done, "loss")
        if stopped == _steps.UPDATE_STOP:
            return Outcome(found[:done], done, "update")
        return Outcome(found, done, None)

    def _go(self, cells, steps):
        """Run `steps` steps from the context `cells` on."""
        if self.persistent:
            self.context.write(np.tile(cells, self.blocks))
            self.flaw.write(np.zeros(1, np.int64))
            _cuda.launch(self.walk, (self.blocks, 1), self.near, self.phases.address, self.phase_count,
                         self.table.shape[1] * 8, self.context.address, self.blocks, self.flaw.address, steps)
            return
        self.context.write(cells)
        self.play(steps)


def _ordered(kernels):
    """Kernels in one order, whichever program they are for."""
    return tuple(sorted(set(kernels), key=lambda function: function.kind))


def _once(name, kernel):
    """An instruction that one block runs, on nothing."""
    return Instruction(name, kernel, "step", {}, (), ())
