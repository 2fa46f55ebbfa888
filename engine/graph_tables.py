"""Lowers the nodes of a general graph to the phases that `walk` runs, for one size of the batch.

Elementwise nodes over as many elements are gathered in sweeps; what only one sweep reads never leaves its worker's
scratch. All else (moving elements, reductions, products) is a phase of its own. Arrays lie flat, in C order, in whole
groups of PANEL elements. A reshape costs nothing.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from hotloop.kernels import OPS, _jit, data, gemm, reductions, sweep, tensors
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands
from hotloop.kernels.shapes import concrete, part, repeated, strides, views

from .graph import SOURCES
from .program import Buffer

_BLOCK = 2048  # bytes of one value in a sweep's block


@dataclass(frozen=True)
class Place:
    """A flat array: where it starts in a region of memory, and how many elements it has."""

    region: str  # "parameters", "gradient", "state 0" ..., "constants", "working", "scratch" of the worker
    offset: int  # bytes
    size: int


@dataclass(eq=False)
class Call:
    """One kernel call of a phase: operands are places, numbers, or arrays of int64 that the kernel reads."""

    kernel: Any
    operands: dict[str, Any]
    units: int
    cost: int = 1
    inner: list["Call"] = field(default_factory=list)  # of a sweep
    node: Any = None


class Tables:
    """Phases (lists of calls) and places for the `live` nodes of a graph, of which `roots` are wanted at the end.

    places: node -> Place, given for parameters and, where a root must lie somewhere, for it.
    """

    def __init__(self, live, roots, layout, batch, places):
        self.layout, self.batch, self.live = layout, batch, live
        self.itemsize = layout.dtype.itemsize
        self.places, self.phases, self.constants = dict(places), [], {}
        self.working, self.scratch, self.constant_bytes = 0, 0, self._bytes(layout.panel)  # constants begin with zeros
        self.users = {}
        for node in live:
            for operand in node.inputs:
                self.users.setdefault(self.origin(operand), []).append(node)
        self.kept = {self.origin(root) for root in roots}
        self._lower()

    def shape(self, node):
        """The node's shape with the batch's size."""
        return concrete(node.shape, self.batch)

    def size(self, node):
        """The number of the node's elements."""
        return prod(self.shape(node))

    def origin(self, node):
        """The node whose array this node's is: its own, but for reshapes and broadcasts that repeat nothing."""
        while node.op == "reshape" or (node.op == "broadcast_to" and self.size(node) == self.size(node.inputs[0])):
            node = node.inputs[0]
        return node

    def place(self, node):
        """Where the node's array lies."""
        return self.places[self.origin(node)]

    # order

    def _lower(self):
        done, waiting = set(), []
        for node in self.live:
            if node.op == "constant" or node.op == "count":
                self._constant(node)
                done.add(node)
            elif node.op in SOURCES:
                self._give_place(node)
                done.add(node)
            elif self.origin(node) is node:
                waiting.append(node)

        def ready(node, others=()):
            return all(self.origin(operand) in done or self.origin(operand) in others for operand in node.inputs)

        while waiting:
            alone = next((node for node in waiting if not self._sweeps(node) and ready(node)), None)
            if alone is not None:
                self._give_place(alone)
                getattr(self, _LOWERINGS[alone.op])(alone, *alone.inputs)
                chosen = [alone]
            else:
                first = next(node for node in waiting if ready(node))
                chosen = {}  # ordered, and quick to search
                for node in waiting:
                    if self._sweeps(node) and self.size(node) == self.size(first) and ready(node, chosen):
                        chosen[node] = None
                self._sweep(chosen)
            done.update(chosen)
            waiting = [node for node in waiting if node not in done]

    def _sweeps(self, node):
        return OPS[node.op].arity > 0 or (node.op == "broadcast_to" and self.size(node.inputs[0]) == 1)

    # memory

    def _bytes(self, size):
        """Bytes of an array: whole groups, from one cache line on."""
        group = max(self.layout.panel * self.itemsize, 64)
        return -(-size * self.itemsize // group) * group

    def _new(self, size):
        place = Place("working", self.working, size)
        self.working += self._bytes(size)
        return place

    def _give_place(self, node):
        if node not in self.places:
            self.places[node] = self._new(self.size(node))

    def _constant(self, node):
        value = node.attributes["value"] if node.op == "constant" else np.prod(
            [self.shape(node.inputs[0])[axis] for axis in node.attributes["axes"]], dtype=np.float64)
        place = self.places[node] = Place("constants", self.constant_bytes, self.size(node))
        self.constants[place] = value
        self.constant_bytes += self._bytes(place.size)

    # sweeps

    def _sweep(self, nodes):
        local = {node for node in nodes if node not in self.kept and node not in self.places
                 and all(user in nodes for user in self.users.get(node, ()))}
        last = {self.origin(operand): node for node in nodes for operand in node.inputs}
        free, slots, calls = [], 0, []
        for node in nodes:
            if node in local:
                if not free:
                    free.append(slots * _BLOCK)
                    slots += 1
                self.places[node] = Place("scratch", free.pop(), self.size(node))
            else:
                self._give_place(node)
            for operand in dict.fromkeys(map(self.origin, node.inputs)):  # after: loops in place would not vectorise
                if operand in local and last[operand] is node:
                    free.append(self.places[operand].offset)
            calls.append(self._elementwise(node))
        self.scratch = max(self.scratch, slots * _BLOCK)
        groups = -(-self.size(next(iter(nodes))) // self.layout.panel)
        block = _BLOCK // (self.layout.panel * self.itemsize)
        self.phases.append([Call(sweep.sweep, {"block": block}, groups, len(nodes), calls)])

    def _elementwise(self, node):
        op = OPS[node.op]
        kernel = sweep.fill if node.op == "broadcast_to" else op.cpu
        names = _jit.operands(kernel)
        arrays = [name for name in names if f"{name}_panel" in names or name == "x"]
        places = [*(self.place(operand) for operand in node.inputs), self.places[node]]
        operands = dict(zip(arrays, places, strict=True))
        operands[f"{arrays[-1]}_panels"] = 1
        base = node.op.removesuffix("_backward")
        if base in ACTIVATIONS:
            operands |= scalar_operands(base, node.attributes)
        return Call(kernel, operands, 0, node=node)

    # moving elements

    def _move(self, node, x, y, sizes, x_steps, y_steps, x_first=0, y_first=0):
        """A call that copies between two strided views; steps and firsts count elements."""
        table = views(sizes, x_steps, y_steps)
        if len(table) < 2:
            table = ((1, 0, 0), *table)
        return Call(tensors.move, {"x": self._shifted(x, x_first), "y": self._shifted(y, y_first),
                                   "views": np.array(table, np.int64), "dimensions": len(table)},
                    table[0][0], max(1, prod(size for size, *_ in table[1:]) // 16), node=node)

    def _shifted(self, place, elements):
        return Place(place.region, place.offset + elements * self.itemsize, place.size)

    def _broadcast(self, node, x):
        self.phases.append([self._move(node, self.place(x), self.places[node], self.shape(node),
                                       repeated(self.shape(x), self.shape(node)), strides(self.shape(node)))])

    def _transpose(self, node, x):
        steps = strides(self.shape(x))
        self.phases.append([self._move(node, self.place(x), self.places[node], self.shape(node),
                                       [steps[axis] for axis in node.attributes["axes"]], strides(self.shape(node)))])

    def _slice(self, node, x):
        first, steps = self._part(node, self.shape(x))
        self.phases.append([self._move(node, self.place(x), self.places[node], self.shape(node), steps,
                                       strides(self.shape(node)), x_first=first)])

    def _embed(self, node, x):
        first, steps = self._part(node, self.shape(node))
        self.phases.append([self._clear(node)])
        self.phases.append([self._move(node, self.place(x), self.places[node], self.shape(x), strides(self.shape(x)),
                                       steps, y_first=first)])

    def _clear(self, node):
        return Call(tensors.clear, {"y": self.places[node]}, self.size(node), node=node)

    def _part(self, node, shape):
        """Where a slice of an array of this shape begins, and its steps."""
        return part(node.attributes["starts"], node.attributes["steps"], shape)

    def _concatenate(self, node, *parts):
        axis, steps, first, calls = node.attributes["axis"], strides(self.shape(node)), 0, []
        for x in parts:
            calls.append(self._move(node, self.place(x), self.places[node], self.shape(x), strides(self.shape(x)),
                                    steps, y_first=first * steps[axis]))
            first += self.shape(x)[axis]
        self.phases.append(calls)

    # reductions

    def _reduction(self, node):
        """What a reduction reads, as (outer, length, inner)."""
        shape, (first, stop) = self.shape(node.inputs[0]), node.attributes["axes"]
        return prod(shape[:first]), prod(shape[first:stop]), prod(shape[stop:])

    def _sum(self, node, x):
        outer, length, inner = self._reduction(node)
        source = self.place(x)
        while True:
            chunks = max(1, -(-length // reductions.CHUNK))  # a sum of nothing is 0
            target = self.places[node] if chunks == 1 else self._new(outer * chunks * inner)
            self.phases.append([Call(reductions.sum_chunks, {
                "x": source, "y": target, "length": length, "inner": inner, "chunks": chunks}, outer * chunks,
                max(1, min(length, reductions.CHUNK) * inner // 64), node=node)])
            if chunks == 1:
                break
            source, length = target, chunks
        self.scratch = max(self.scratch, self.layout.panel * self.itemsize)

    def _max(self, node, x):
        outer, length, inner = self._reduction(node)
        self.phases.append([Call(OPS[node.op].cpu, {"x": self.place(x), "y": self.places[node], "length": length,
                                                    "inner": inner}, outer, max(1, length * inner // 16), node=node)])

    # products

    def _matmul(self, node, x, y):
        stack, rows, depth, columns = tensors.product_sizes(node.attributes, self.shape(x), self.shape(y))
        panels = {}
        for name, height, width in (("a", stack * rows, depth), ("b", stack * depth, columns),
                                    ("c", stack * rows, columns)):
            buffer = Buffer(name, width, self.layout)
            panels |= {name: self._new(buffer.nbytes(height) // self.itemsize), f"{name}_panel": buffer.panel(height)}
        self.phases.append([
            Call(data.gather, {"source": self.place(value), "source_cols": width, "y": panels[name],
                               "y_panel": panels[f"{name}_panel"]}, height, width // 16 + 1, node=node)
            for name, value, height, width in (("a", x, stack * rows, depth), ("b", y, stack * depth, columns))])
        self.phases.append([Call(gemm.gemm_stack, panels | {
            "start": Place("constants", 0, 0), "depth": depth, "width": self.layout.width(columns), "rows": rows},
            stack * rows, depth * columns // 16 + 1, node=node)])
        self.phases.append([Call(data.store, {"x": panels["c"], "x_panel": panels["c_panel"], "x_cols": columns,
                                              "target": self.places[node]}, stack * rows, columns // 16 + 1,
                                 node=node)])


_LOWERINGS = {"broadcast_to": "_broadcast", "transpose": "_transpose", "slice": "_slice", "embed": "_embed",
              "concatenate": "_concatenate", "sum": "_sum", "max": "_max", "first_max": "_max", "matmul": "_matmul"}
