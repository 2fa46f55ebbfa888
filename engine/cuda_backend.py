"""The cuda backend: binds a program to a device's memory as a table of numbers and launches its kernels."""

import numpy as np

from hotloop.kernels import OPS, _cuda, _jit, _steps
from hotloop.kernels._block import operands

from .arena import Arena, region_number
from .cpu_backend import ahead, bits
from .order import permute
from .program import Block, Buffer, External, Instruction, Layout, Sums
from .run import Outcome

_ENOUGH = 2  # rectangles for each multiprocessor that larger ones must leave


def layout(dtype):
    """The layout that kernels for devices work on."""
    return Layout(np.dtype(dtype), 1, _cuda.PANEL_ROWS, _cuda.PANEL_ROWS, cuda=True)


class CudaBackend(Arena):
    """Executes programs of one network with compiled kernels on a CUDA device, over one arena there.

    Has the methods of `CpuBackend`. All programs given to one backend must come from one graph of parameters.
    """

    def __init__(self, dtype, threads=None):
        self.dtype = np.dtype(dtype)
        self.lasting, self.working = _cuda.Memory(0), _cuda.Memory(0)  # the arena's two parts
        self._bound, self._capacity = {}, {}
        self._held, self._resident = {}, {}  # arrays that do not change, by name; their memory

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

    def hold(self, arrays):
        """Keep these arrays, by name, on the device: they do not change until the next call of this method."""
        self._held = arrays
        self._resident = {}

    def run(self, program, arrays, *, steps, start, rows, batch, update=1, strict=True):
        """Run `steps` steps as `CpuBackend.run` does."""
        bound, given = self.bind(program), {}
        for name in bound.externals:
            array = arrays.get(name) if name == "order" else arrays[name]
            given[name] = self._on_device(name, array)
        outcome = bound.run(given, ahead(arrays, rows), steps, start, rows, batch, update, strict)
        for name in program.predictions:
            given[name].read(arrays[name])
        return outcome

    def _on_device(self, name, array):
        """The memory of an array: as it was held, or a copy."""
        if array is None:
            return None
        if self._held.get(name) is array and name in self._resident:
            return self._resident[name]
        memory = _cuda.Memory(array.nbytes)
        memory.write(array)
        if self._held.get(name) is array:
            self._resident[name] = memory
        return memory


class _Bound:
    """A program's table in the device's memory, and what launches its rows."""

    def __init__(self, program, lasting, working, capacity):
        self.program, self.lasting, self.working, self.capacity = program, lasting, working, capacity
        self.dtype = program.layout.dtype
        self.places, _ = program.place(capacity)
        steps = [_once("begin_step", _steps.begin_step), *program.instructions, _once("end_step", _steps.end_step)]
        each = [place for place, instruction in enumerate(steps) if instruction.phase == "each"]
        self.keeps_loss = bool(each)
        if each:
            steps.insert(each[-1] + 1, _once("keep_loss", _steps.keep_loss))
        chains = [[instruction, *instruction.chained()] for instruction in steps]
        self.updates = next((part for chain in chains for part in chain if OPS.get(part.op) and OPS[part.op].states),
                            None)
        self.externals = {}  # by name: the places in the table that hold an array's address
        self.scalars, self.constants = [], []  # (place in the table, name); memory of arrays in the table
        width = _cuda.HEAD + max(len(operands(part.kernel)) for chain in chains for part in chain)
        self.table = np.zeros((sum(map(len, chains)), width), np.int64)
        self.memory = _cuda.Memory(self.table.nbytes)
        self.context = _cuda.Memory(_steps.CONTEXT * 8)
        self.launches, number = [], 0  # (kernel, grid, bytes that a block shares, address of the row)
        for chain in chains:
            self._launch(chain, number)
            number += len(chain)
        self.coefficients = _cuda.Memory(0)

    def _launch(self, chain, number):
        """Fill the rows of an instruction and those chained to it, and find out how it is launched."""
        host, dtype = chain[0], self.dtype
        kernel, shape = self._sized(host)
        rows, columns = shape
        height, span = kernel.height, kernel.span or columns
        kernels = [kernel, *(part.kernel for part in chain[1:])]
        for place, (part, function) in enumerate(zip(chain, kernels, strict=True)):
            row = self.table[number + place]
            last = place + 1 == len(chain)
            row[: _cuda.HEAD] = (function.kind, 0 if rows is None else rows, height, columns, span,
                                 0 if last else self._row(number + place + 1))
            for cell, name in enumerate(operands(function), _cuda.HEAD):
                real = function.__annotations__.get(name) is float
                row[cell] = self._value(part, host, name, (number + place) * self.table.shape[1] + cell, real)
        most = self.capacity if rows is None else rows
        grid = max(1, -(-most // height)), max(1, -(-columns // span))
        near = max(function.near for function in kernels) * dtype.itemsize
        functions = tuple(sorted(set(kernels), key=lambda function: function.kind))
        self.launches.append((_cuda.launcher(functions, dtype), grid, near, self._row(number)))

    def _row(self, number):
        return self.memory.address + number * self.table.shape[1] * 8

    def _sized(self, instruction):
        """The kernel of an instruction, in the largest rectangles that leave the device enough of them, and its shape.

        The shape is rows, None for the batch's, and columns.
        """
        kernel = instruction.kernel
        shape = self._shape(instruction)
        for larger in getattr(kernel, "larger", ()):
            rows = self.capacity if shape[0] is None else shape[0]
            if rows // larger.height * (shape[1] // larger.span) >= _ENOUGH * _cuda.processors():
                return larger, shape
        return kernel, shape

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

    def _value(self, part, host, name, cell, real):
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
            self.constants.append(_cuda.Memory(array.nbytes))
            self.constants[-1].write(array)
            return self.constants[-1].address
        return self._bits(value or 0, real)

    def _of_block(self, host, name):
        """What instructions on a block of parameters are told: the gradient, the block's place and panels' rows."""
        if name == "slopes":
            return self.lasting.address + region_number(self.program, "gradient") * self.program.elements * (
                self.dtype.itemsize)
        block = host.operands.get("w")
        if isinstance(block, Block):
            return block.first if name == "block_place" else block.inputs + 1
        return 0 if name == "block_place" else host.operands["size"] // self.program.layout.panel

    def _bits(self, value, real):
        """A number as it stands in a cell: an integer, or the bits of a real in the cell's first bytes."""
        if not real:
            return bits(value)
        cell = np.zeros(1, np.int64)
        cell.view(self.dtype)[0] = value
        return int(cell[0])

    def run(self, given, ahead, steps, start, rows, batch, update, strict):
        settings, table = self.program.settings, self.table.reshape(-1)
        for name, cells in self.externals.items():
            table[cells] = 0 if given[name] is None else given[name].address
        for cell, name in self.scalars:
            table[cell] = bits(settings[name])
        self.memory.write(self.table)
        losses = _cuda.Memory(steps * self.dtype.itemsize if self.keeps_loss else 0)
        width = self._make_coefficients(settings, steps, update)
        cells = np.zeros(_steps.CONTEXT, np.int64)
        cells[[_steps.MOST, _steps.TOTAL, _steps.AHEAD, _steps.NEXT, _steps.FIRST_UPDATE, _steps.STRICT, _steps.LOSSES,
               _steps.TABLE, _steps.WIDTH]] = (batch, rows, ahead, start, update, strict, losses.address,
                                               self.coefficients.address, width)
        self.context.write(cells)
        for _ in range(steps):
            for kernel, grid, near, row in self.launches:
                _cuda.launch(kernel, grid, near, row, self.context.address)
        self.context.read(cells)
        found = np.zeros(steps, self.dtype)
        if self.keeps_loss:
            losses.read(found)
        done, stopped = int(cells[_steps.DONE]), int(cells[_steps.STOPPED])
        found = found.astype(np.float64)
        if stopped == _steps.LOSS_STOP:
            return Outcome(found[: done + 1], done, "loss")
        if stopped == _steps.UPDATE_STOP:
            return Outcome(found[:done], done, "update")
        return Outcome(found, done, None)

    def _make_coefficients(self, settings, steps, update):
        """A row of what the optimizer's kernel takes for each step, on the device; the numbers of a row."""
        if self.updates is None:
            return 0
        cpu = OPS[self.updates.op].cpu
        given = np.empty((steps, len(cpu.settings)))
        for place, name in enumerate(cpu.settings):
            given[:, place] = settings[name]
        made = np.empty((steps, cpu.width), self.dtype)
        row = np.array([*[0] * _jit.HEADER, given.ctypes.data, made.ctypes.data, update], np.int64)
        _jit.caller(cpu.table, self.dtype)(row.ctypes.data, 0, 0, steps)
        self.coefficients = _cuda.Memory(made.nbytes)
        self.coefficients.write(made)
        return cpu.width


def _once(name, kernel):
    """An instruction that one block runs, on nothing."""
    return Instruction(name, kernel, "step", {}, (), ())
