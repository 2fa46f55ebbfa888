"""Runs general graphs with compiled kernels: memory, tables of calls, and the same walk that trains networks."""

import operator
import struct

import numpy as np

from hotloop.kernels import OPS, _ahead, _context, _jit, sweep, walk
from hotloop.kernels._cores import cores

from . import team
from .cpu_backend import address, aligned_zeros, bits, changing, layout
from .graph_engine import GraphEngine
from .graph_tables import Call, Place, Tables
from .run import Outcome

_NEAR = 4096  # bytes that scalars may be apart to be read in one go
_WORK_PER_WORKER = 1e6  # bytes that an operation reads and writes, times operations, that make one more worker pay
_BRIEF_WORK = 1e5  # the same, of what takes too little time to let other threads of Python run meanwhile


class CpuGraph(GraphEngine):
    """Executes the `live` nodes of a graph for `roots`; parameters are kept between runs.

    updated: pairs of parameter and gradient node that `descend` trains; gradients are roots, each its own node.
    """

    def __init__(self, live, roots, dtype, threads, updated=()):
        self.live, self.roots, self.threads, self.updated = live, roots, threads, updated
        self.layout = layout(dtype)
        self.dtype = self.layout.dtype
        self.parameters = [node for node in live if node.op == "parameter"]
        group = max(self.layout.panel, 64 // self.dtype.itemsize)
        self.offsets, self.elements = {}, 0
        for node in self.parameters:
            self.offsets[node] = self.elements
            self.elements += -(-max(1, int(np.prod(node.shape))) // group) * group
        self.lasting = {"parameters": aligned_zeros(self.elements * self.dtype.itemsize)}
        self.views = {node: self._view("parameters", node) for node in self.parameters}
        self.bound = {}

    def _view(self, region, node):
        numbers = self.lasting[region].view(self.dtype)
        first = self.offsets[node]
        return numbers[first : first + int(np.prod(node.shape))].reshape(node.shape)

    def read(self, node):
        """A copy of a parameter."""
        return self.views[node].copy()

    def write(self, node, value):
        """Set a parameter."""
        self.views[node][...] = value

    def _make(self, batch, optimizer):
        return _Bound(self, batch, optimizer)

    def descend(self, inputs, batch, optimizer, settings, steps, goal, traced):
        """Update the parameters `steps` times, or until the first root is below `goal`; Outcome and trace."""
        for name in optimizer.states():
            self.lasting.setdefault(f"state {name}", aligned_zeros(self.elements * self.dtype.itemsize))[:] = 0
        self.lasting.setdefault("gradient", aligned_zeros(self.elements * self.dtype.itemsize))
        trace = np.empty((steps + 1 if traced else 0, self.elements), self.dtype)
        outcome = self._bind(batch, optimizer).descend(inputs, settings, steps, goal, trace)
        kept = {node: trace[: outcome.done + 1, first : first + int(np.prod(node.shape))].reshape(-1, *node.shape)
                for node, first in self.offsets.items()} if traced else None
        if traced:  # the last row is the state after the last update, which no step has observed
            for node, values in kept.items():
                values[-1] = self.views[node]
        return outcome, kept


class _Bound:
    """The tables of a graph in memory for one size of the batch, with an optimizer's update at the end or without."""

    def __init__(self, graph, batch, optimizer):
        self.graph, self.dtype = graph, graph.dtype
        places = {node: Place("parameters", first * self.dtype.itemsize, int(np.prod(node.shape)))
                  for node, first in graph.offsets.items()}
        if optimizer is not None:
            places |= {gradient: Place("gradient", graph.offsets[node] * self.dtype.itemsize, int(np.prod(node.shape)))
                       for node, gradient in graph.updated}
        self.tables = tables = Tables(graph.live, graph.roots, graph.layout, batch, places)
        self.workers = self._workers()
        self.constants, self.working = aligned_zeros(tables.constant_bytes), aligned_zeros(tables.working)
        with np.errstate(over="ignore"):  # float32 has infinity for it
            for place, value in tables.constants.items():
                self._array(place)[:] = np.ravel(value)
        self.kept = []  # arrays that kernels read by address
        self._make_contexts()
        phases = [(walk.UNITS, calls) for calls in tables.phases]
        if optimizer is not None:
            phases += self._update(optimizer)
        self.rows = []  # (call, worker of its scratch)
        self._make_table(phases)
        self.inputs = [(node, self._array(tables.place(node)).reshape(tables.shape(node)))
                       for node in graph.live if node.op == "input"]
        self.outputs = [self._array(tables.place(root)).reshape(tables.shape(root)) for root in graph.roots]
        self.shared = aligned_zeros(walk.SHARED * 8).view(np.int64)
        self.job = self._job()
        self.job_address = self.job.ctypes.data
        self.team = team.Team(walk.walk, self.job, self.shared)
        self.read = self._reader()
        little = optimizer is None and self.workers == 1 and self._work() < _BRIEF_WORK
        self.brief = _jit.brief_caller(walk.walk, np.float32) if little else None

    def _workers(self):
        if self.graph.threads is not None:
            return self.graph.threads
        return int(max(1, min(cores(), self._work() // _WORK_PER_WORKER)))

    def _work(self):
        """About how many bytes operations read and write, times operations."""
        work = sum(call.units * call.cost for calls in self.tables.phases for call in calls)
        return work * self.graph.layout.panel * self.dtype.itemsize

    def _array(self, place):
        memory = {"constants": self.constants, "working": self.working}.get(place.region)
        memory = self.graph.lasting[place.region] if memory is None else memory
        return memory[place.offset : place.offset + place.size * self.dtype.itemsize].view(self.dtype)

    def _make_contexts(self):
        cells, scratch = _context.CONTEXT * 8, -(-(self.tables.scratch + 64) // 64) * 64
        self.scratch_bytes, self.contexts = scratch, aligned_zeros(self.workers * (cells + scratch))
        base = self.contexts.ctypes.data
        table = self.contexts[: self.workers * cells].view(np.int64).reshape(self.workers, -1)
        self.scratch = base + self.workers * cells
        table[:, _context.SCRATCH] = self.scratch + scratch * np.arange(self.workers)
        table[:, _context.WORKER] = np.arange(self.workers)
        table[:, _context.ZEROS] = self.constants.ctypes.data
        if "gradient" in self.graph.lasting:
            table[:, _context.GRADIENT] = self.graph.lasting["gradient"].ctypes.data

    def _update(self, optimizer):
        """The phases that watch the value and update the parameters."""
        everything = {name: Place(name, 0, self.graph.elements) for name in self.graph.lasting}
        gaps = self._gaps()
        self.watch = Call(sweep.observe, {"value": self.tables.place(self.graph.roots[0]),
                                          "parameters": everything["parameters"], "size": self.graph.elements,
                                          "gaps": gaps, "gap_count": len(gaps)}, 0)
        op = OPS[optimizer.op]
        operands = {"w": everything["parameters"]}
        operands |= {name: everything[f"state {name}"] for name in optimizer.states()}
        self.change = Call(op.cpu, operands, self.graph.elements)
        return [(walk.EACH, [self.watch]), (walk.UNITS, [self.change])]

    def _gaps(self):
        """Address and size of what fills up each parameter's place in the gradient."""
        base, itemsize = self.graph.lasting["gradient"].ctypes.data, self.dtype.itemsize
        ends = [*list(self.graph.offsets.values())[1:], self.graph.elements]
        found = [(first + int(np.prod(node.shape)), end)
                 for (node, first), end in zip(self.graph.offsets.items(), ends, strict=True)]
        return np.array([(base + first * itemsize, end - first) for first, end in found if first < end],
                        np.int64).reshape(-1, 2)

    # the table

    def _make_table(self, phases):
        calls = [call for _, phase in phases for call in phase]
        inner = [(call, worker) for outer in calls for worker in range(self.workers if outer.inner else 0)
                 for call in outer.inner]
        self.rows = [(call, 0) for call in calls] + inner
        kernels = [call.kernel for call, _ in self.rows]
        _ahead.compile_ahead([(kernel, self.dtype) for kernel in kernels] + [(walk.walk, np.dtype(np.float32))])
        names = {kernel: _jit.operands(kernel) for kernel in kernels}
        self.width = _jit.HEADER + max(map(len, names.values()), default=0)
        self.table = np.zeros((len(self.rows), self.width), np.int64)
        self.numbers = {id(call): number for number, (call, _) in reversed(list(enumerate(self.rows)))}
        for number, (call, worker) in enumerate(self.rows):
            row = self.table[number]
            row[0] = _jit.address(call.kernel, self.dtype)
            for cell, name in enumerate(names[call.kernel], _jit.HEADER):
                row[cell] = self._value(call.operands.get(name, 0), worker)
        number = 0
        self.phases = np.zeros((len(phases), walk.PHASE), np.int64)
        for place, (kind, phase) in enumerate(phases):
            for offset, call in enumerate(phase):
                self.table[number + offset, [walk.ROW_UNITS, walk.ROW_COST]] = call.units, call.cost
                if call.inner:
                    self._make_sweep(number + offset, call)
            self.phases[place] = kind, self.table[number].ctypes.data, len(phase)
            number += len(phase)

    def _make_sweep(self, number, call):
        """Give a sweep its rows, one copy a worker, and the addresses in them that move with the block."""
        first, count = self.numbers[id(call.inner[0])], len(call.inner)
        cells = []
        for row in range(first, first + count * self.workers):
            inner = self.rows[row][0]
            for cell, name in enumerate(_jit.operands(inner.kernel), _jit.HEADER):
                place = inner.operands.get(name)
                moves = isinstance(place, Place) and place.region != "scratch"
                if moves and not (inner.kernel is sweep.fill and name == "x"):
                    cells += [self.table[row].ctypes.data + cell * 8, int(self.table[row, cell])]
        bases = self._keep(np.array(cells, np.int64))
        values = {"rows": self.table[first].ctypes.data, "row_bytes": self.width * 8, "count": count, "bases": bases,
                  "base_count": len(cells) // sweep.BASE // self.workers, "block": call.operands["block"]}
        for cell, name in enumerate(_jit.operands(sweep.sweep), _jit.HEADER):
            self.table[number, cell] = values[name]

    def _value(self, value, worker):
        if isinstance(value, Place):
            if value.region == "scratch":
                return self.scratch + worker * self.scratch_bytes + value.offset
            memory = {"constants": self.constants, "working": self.working}.get(value.region)
            memory = self.graph.lasting[value.region] if memory is None else memory
            return memory.ctypes.data + value.offset
        if isinstance(value, np.ndarray):
            return self._keep(value)
        return bits(value)

    def _keep(self, array):
        self.kept.append(array)
        return array.ctypes.data

    def _job(self):
        values = {"phases": self.phases.ctypes.data, "phase_count": len(self.phases), "row_bytes": self.width * 8,
                  "grain": 1, "steps": 1, "rows": 1, "batch": 1, "update": 1, "block": 1, "goal": -np.inf,
                  "contexts": self.contexts.ctypes.data, "workers": self.workers,
                  "shared": self.shared.ctypes.data, "yielder": team.YIELDER}
        self.cells = {name: cell for cell, name in enumerate(_jit.operands(walk.walk), _jit.HEADER)}
        job = np.zeros(_jit.HEADER + len(self.cells), np.int64)
        for name, value in values.items():
            job[self.cells[name]] = bits(value)
        return job

    # running

    def _walk(self, inputs):
        if self.inputs:
            for node, array in self.inputs:
                array[...] = inputs[node]
        if self.brief:
            self.brief(self.job_address)
        else:
            workers = self.workers
            if self.graph.threads is None and workers > 1:
                workers = min(workers, team.spare())
                self.job[self.cells["workers"]] = workers
            self.team.run(workers)

    def run(self, inputs):
        self._walk(inputs)
        return self.read()

    def _reader(self):
        """What gives the outputs; for a few scalars that lie near each other in one go."""
        places = [address(output) for output in self.outputs]
        first, order = min(places), sorted(range(len(places)), key=places.__getitem__)
        gaps = np.diff(sorted(places)) - self.dtype.itemsize
        near = self.working.ctypes.data <= first and max(places) < min(
            self.working.ctypes.data + self.working.nbytes, first + _NEAR)
        if any(output.ndim for output in self.outputs) or not near or (gaps < 0).any():
            return lambda: [output.item() if output.ndim == 0 else output.copy() for output in self.outputs]
        unpack = struct.Struct("=" + self.dtype.char + "".join(f"{gap}x{self.dtype.char}" for gap in gaps)).unpack_from
        memory, offset = memoryview(self.working), first - self.working.ctypes.data
        if order == sorted(order):
            return lambda: unpack(memory, offset)
        ranks = [order.index(place) for place in range(len(order))]
        choose = operator.itemgetter(*ranks)
        return lambda: choose(unpack(memory, offset))

    def descend(self, inputs, settings, steps, goal, trace):
        losses = np.full(steps + 1, np.nan)
        number, watch = self.numbers[id(self.change)], self.table[self.numbers[id(self.watch)]]
        scalars = [(number, cell, name) for cell, name in enumerate(_jit.operands(self.change.kernel), _jit.HEADER)
                   if name in settings]
        for row, cell, name in scalars:
            if not isinstance(settings[name], np.ndarray):
                self.table[row, cell] = bits(settings[name])
        cells, changes = changing(self.table, scalars, settings)
        for cell, name in enumerate(_jit.operands(sweep.observe), _jit.HEADER):
            if name in ("traces", "update"):
                watch[cell] = {"traces": trace.ctypes.data if trace.size else 0, "update": 1}[name]
        job = {"steps": steps, "strict": 1, "goal": goal, "losses": losses.ctypes.data, "changing": address(cells),
               "changes": address(changes), "change_count": 0 if cells is None else len(cells)}
        for name, value in job.items():
            self.job[self.cells[name]] = bits(value)
        self._walk(inputs)
        _, overflowed, done = self.shared[[walk.FAILED, walk.OVERFLOWED, walk.DONE]].tolist()
        stopped = "update" if overflowed else "loss" if done < steps and not np.isfinite(losses[done]) else None
        return Outcome(losses[: done + (done < steps)], done, stopped)
