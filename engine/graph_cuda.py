"""Runs general graphs on a CUDA device: memory, tables of instructions, launches."""

import numpy as np

from hotloop.kernels import OPS, _cuda, _steps, sweep
from hotloop.kernels._block import PANEL_ROWS, operands

from .cuda_backend import layout
from .graph_cuda_tables import CudaTables, Launch, array_bytes
from .graph_engine import GraphEngine
from .graph_tables import Place
from .launches import Player, coefficients, put_real
from .run import Outcome

_LOOK = 64  # steps after which the host asks whether the device has stopped


class CudaGraph(GraphEngine):
    """Has the methods of `CpuGraph`; parameters stay on the device, and a descent does, too."""

    def __init__(self, live, roots, dtype, threads, updated=()):
        self.live, self.roots, self.updated = live, roots, updated
        self.layout = layout(dtype)
        self.dtype = self.layout.dtype
        self.parameters = [node for node in live if node.op == "parameter"]
        self.offsets, self.bytes = {}, 0
        for node in self.parameters:  # whole blocks of each, since sweeps read them; what fills them up stays zero
            self.offsets[node] = self.bytes
            self.bytes += array_bytes(int(np.prod(node.shape)), self.dtype.itemsize)
        self.lasting = {"parameters": _cuda.Memory(self.bytes)}
        self.bound = {}

    def place(self, region, node):
        """Where what belongs to a parameter lies in a region that is laid out as the parameters."""
        return Place(region, self.offsets[node], int(np.prod(node.shape)))

    def read(self, node):
        """A copy of a parameter."""
        value = np.empty(node.shape, self.dtype)
        self.lasting["parameters"].read(value, self.offsets[node])
        return value

    def write(self, node, value):
        """Set a parameter."""
        self.lasting["parameters"].write(np.ascontiguousarray(value, self.dtype), self.offsets[node])

    def _make(self, batch, optimizer):
        return _Bound(self, batch, optimizer)

    def descend(self, inputs, batch, optimizer, settings, steps, goal, traced):
        """Update the parameters `steps` times, or until the first root is below `goal`; Outcome and trace."""
        for name in ("gradient", *(f"state {name}" for name in optimizer.states())):
            if name in self.lasting:
                self.lasting[name].write(np.zeros(self.bytes, np.uint8))
            else:
                self.lasting[name] = _cuda.Memory(self.bytes)
        outcome, trace = self._bind(batch, optimizer).descend(inputs, settings, steps, goal, traced)
        kept = None
        if traced:
            kept = {}
            for node, first in self.offsets.items():
                first //= self.dtype.itemsize
                kept[node] = trace[:, first : first + int(np.prod(node.shape))].reshape(-1, *node.shape)
                kept[node][-1] = self.read(node)  # the state after the last update, which no step has observed
        return outcome, kept


class _Bound:
    """The table of a graph on the device for one size of the batch, with an optimizer's update or without."""

    def __init__(self, graph, batch, optimizer):
        self.graph, self.dtype, self.optimizer, self.keep = graph, graph.dtype, optimizer, None
        places = {node: graph.place("parameters", node) for node in graph.parameters}
        self.tables = tables = CudaTables(graph.live, graph.roots, graph.layout, batch, places)
        launches = [launch for phase in tables.phases for launch in phase]
        if optimizer is not None:
            launches = self._step(launches)
        self.working, self.constants = _cuda.Memory(tables.working), _cuda.Memory(tables.constant_bytes)
        with np.errstate(over="ignore"):  # float32 has infinity for it
            for place, value in tables.constants.items():
                self.constants.write(np.ravel(value).astype(self.dtype), place.offset)
        self.views = _cuda.Memory.of(np.array(tables.views, np.int64))
        self.context = _cuda.Memory(_steps.CONTEXT * 8)
        self._make_table([launch for launch in launches if launch.units and launch.columns])
        self.play_traced = Player([what for _, what in self.launches])
        self.play = Player([what for launch, what in self.launches if launch is not self.keep])

    def _step(self, launches):
        """The launches of a step that ends with an update."""
        graph, tables = self.graph, self.tables
        elements = graph.bytes // self.dtype.itemsize
        everything = {name: Place(name, 0, elements) for name in graph.lasting}
        self.watch = Launch(sweep.observe.cuda, {"value": tables.place(graph.roots[0]), "goal": 0.0}, 1)
        self.keep = Launch(sweep.keep_parameters, {"parameters": everything["parameters"], "traces": 0,
                                                   "size": elements}, elements)
        # Gradients go where updates read them without what fills their arrays up, which need not be finite.
        moves = [tables.copied(tables.place(gradient), graph.place("gradient", node))
                 for node, gradient in graph.updated]
        given = {name: everything[f"state {name}"] for name in self.optimizer.states()}
        update = Launch(OPS[self.optimizer.op].cpu.cuda, given | {
            "w": everything["parameters"], "slopes": everything["gradient"]}, elements // PANEL_ROWS,
            columns=PANEL_ROWS)
        return [Launch(_steps.begin_step, {}, 1), *launches, self.watch, self.keep, *moves, update,
                Launch(_steps.end_step, {}, 1)]

    # the table

    def _make_table(self, launches):
        rows = [row for launch in launches for row in (launch, *launch.inner)]
        self.numbers = {id(row): number for number, row in enumerate(rows)}
        self.width = _cuda.HEAD + max((len(operands(row.kernel)) for row in rows), default=0)
        self.table = np.zeros((len(rows), self.width), np.int64)
        self.memory = _cuda.Memory(self.table.nbytes)
        # All sweeps share a kernel, so that a graph has one to compile; the others are shared by all graphs.
        swept = {row.kernel for launch in launches if launch.inner for row in (launch, *launch.inner)}
        swept = tuple(sorted(swept, key=lambda kernel: kernel.kind))
        self.launches = []  # (launch, what `_cuda.launch` takes)
        for launch in launches:
            span = launch.kernel.span or launch.columns
            chain = [launch, *launch.inner]
            for row, follower in zip(chain, [*launch.inner, None], strict=True):
                self.table[self.numbers[id(row)], : _cuda.HEAD] = (
                    row.kernel.kind, launch.units, launch.height, launch.columns, span,
                    0 if follower is None else self._row(follower))
                for name in operands(row.kernel):
                    self._set(row, name, row.operands.get(name, 0))
            functions = swept if launch.kernel in swept else (launch.kernel,)
            grid = -(-launch.units // launch.height), -(-launch.columns // span)
            near = max(function.near for function in functions) * self.dtype.itemsize
            self.launches.append((launch, (_cuda.launcher(functions, self.dtype), grid, near, self._row(launch),
                                           self.context.address)))
        self.memory.write(self.table)

    def _row(self, launch):
        return self.memory.address + self.numbers[id(launch)] * self.width * 8

    def _set(self, launch, name, value):
        """Write the operand `name` of a launch into the table: a place, or a number."""
        cell = self.table[self.numbers[id(launch)], _cuda.HEAD + operands(launch.kernel).index(name) :][:1]
        if isinstance(value, Place):
            cell[0] = self._memory(value).address + value.offset
        elif launch.kernel.__annotations__.get(name) is float:
            put_real(cell, value, self.dtype)
        else:
            cell[0] = value

    def _memory(self, place):
        own = {"working": self.working, "constants": self.constants, "views": self.views}
        return own[place.region] if place.region in own else self.graph.lasting[place.region]

    # running

    def _write(self, inputs):
        for node in self.graph.live:
            if node.op == "input":
                place = self.tables.place(node)
                self._memory(place).write(np.ascontiguousarray(inputs[node]), place.offset)

    def run(self, inputs):
        self._write(inputs)
        self.play()
        return self._read()

    def _read(self):
        """The roots' values; all that were computed are read at once."""
        front = np.empty(self.tables.results // self.dtype.itemsize, self.dtype)
        self.working.read(front)
        values = []
        for root in self.graph.roots:
            place, shape = self.tables.place(root), self.tables.shape(root)
            if place.region == "working":
                first = place.offset // self.dtype.itemsize
                value = front[first : first + place.size].reshape(shape)
            else:
                value = np.empty(shape, self.dtype)
                self._memory(place).read(value, place.offset)
            values.append(value.item() if value.ndim == 0 else value.copy())
        return values

    def descend(self, inputs, settings, steps, goal, traced):
        elements = self.graph.bytes // self.dtype.itemsize
        losses = _cuda.Memory(steps * self.dtype.itemsize)
        traces = _cuda.Memory((steps + 1) * self.graph.bytes if traced else 0)
        numbers = coefficients(self.optimizer.op, settings, steps, 1, self.dtype)
        table = _cuda.Memory.of(numbers)
        self._set(self.watch, "goal", _at_least(goal, self.dtype))
        self._set(self.keep, "traces", traces.address)
        self.memory.write(self.table)
        cells = np.zeros(_steps.CONTEXT, np.int64)
        cells[[_steps.MOST, _steps.TOTAL, _steps.FIRST_UPDATE, _steps.LOSSES, _steps.TABLE, _steps.WIDTH]] = (
            1, 1, 1, losses.address, table.address, numbers.shape[1])
        self.context.write(cells)
        self._write(inputs)
        play = self.play_traced if traced else self.play
        for first in range(0, steps, _LOOK):
            play(min(_LOOK, steps - first))
            self.context.read(cells)
            if cells[_steps.STOPPED]:
                break
        done, stopped = int(cells[_steps.DONE]), int(cells[_steps.STOPPED])
        found = np.empty(steps, self.dtype)
        losses.read(found)
        found = found[: done + (stopped in (_steps.LOSS_STOP, sweep.GOAL_STOP))].astype(np.float64)
        trace = np.empty((done + 1, elements) if traced else 0, self.dtype)
        traces.read(trace)
        return Outcome(found, done, {_steps.LOSS_STOP: "loss", _steps.UPDATE_STOP: "update"}.get(stopped)), trace


def _at_least(number, dtype):
    """The least number of the dtype that is not less: the same numbers of the dtype are below it."""
    with np.errstate(over="ignore"):
        rounded = dtype.type(number)
    return np.nextafter(rounded, dtype.type(np.inf)) if float(rounded) < number else rounded
