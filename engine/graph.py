"""Static graphs: nodes in order, checked when they are made."""


import operator
from dataclasses import dataclass, field
from inspect import signature

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels.shapes import broadcast

from .autodiff import differentiate, jvp
from .node import Node

SOURCES = ("input", "target", "labels", "weights", "parameter", "statistic", "key", "constant")  # nodes without an op


@dataclass
class Graph:
    """A static graph of any expression: sources, and nodes that operators and functions make of them.

        g = Graph()
        w, x = g.parameter("w", [1.0, 2.0]), g.input("x", (None, 2))
        loss = hl.mean((x @ w - 1) ** 2)
        program = g.compile(loss, wrt=[w])
        value, gradients = program(x=array)

    `nodes` stand in an order in which each follows its operands. Names are those of sources, or made from the op.
    """

    nodes: list[Node] = field(default_factory=list)

    # sources

    def input(self, name, shape=()):
        """A value given at every call: an array of `shape`, whose first size may be None, the batch."""
        shape = tuple(None if size is None else _size(name, size) for size in shape)
        if None in shape[1:]:
            raise ValueError(f"input {name!r} can have its batch (None) as first dimension alone, got {shape}")
        return self._source("input", name, shape)

    def target(self, name, shape):
        """What a prediction is compared with: floating point, shape of the prediction."""
        return self._source("target", name, shape)

    def labels(self, name):
        """Class indices, int64, one for each row of the batch."""
        return self._source("labels", name, (None,))

    def weights(self, name):
        """Sample weights, floating point, one for each row of the batch."""
        return self._source("weights", name, (None,))

    def parameter(self, name, value=None, *, shape=None):
        """A value that the program keeps and can train. value: a number or array, its start; or a shape alone.

        Raises TypeError for what holds no real numbers, ValueError for what is not finite and for a name in use.
        """
        if (value is None) == (shape is None):
            raise ValueError(f"parameter {name!r} needs a value, or a shape alone")
        if shape is None:
            array = _numbers(value, f"parameter {name!r}")
            return self._source("parameter", name, array.shape, value=array)
        if any(size is None for size in shape):
            raise ValueError(f"parameter {name!r} needs a fixed shape, got {shape}: only inputs have a batch")
        return self._source("parameter", name, shape)

    def statistic(self, name, shape):
        """A value that lasts but is not trained, such as a running mean; of shape () a count, int64."""
        return self._source("statistic", name, shape)

    def key(self):
        """What random numbers are drawn from: a step's seed and number. One node, however many ask for it."""
        found = [node for node in self.nodes if node.op == "key"]
        return found[0] if found else self._source("key", "key", ())

    def constant(self, value):
        """A number or array that never changes; the same node for the same value."""
        if isinstance(value, Node):
            if value.graph is not self:
                raise ValueError(f"{value!r} is not a node of this graph")
            return value
        array = _numbers(value, "a constant")
        key = array.shape, array.tobytes()
        if key not in self._constants:
            name = f"{array:g}" if array.ndim == 0 else "constant"
            node = Node("constant", (), {"value": array}, array.shape, self._free(name), self)
            self._constants[key] = self._add(node)
        return self._constants[key]

    # nodes

    def apply(self, op, *inputs, name=None, **attributes):
        """Add the node that `op` makes of `inputs`, nodes of this graph, as they are.

        Raises ValueError where the op is unknown, an operand belongs to another graph, or operands, attributes or
        shapes do not fit.
        """
        if op not in OPS:
            raise ValueError(f"unknown op {op!r}: the table has {', '.join(sorted(OPS))}")
        for node in inputs:
            if node not in self._members:
                raise ValueError(f"{op}: operand {node!r} is not a node of this graph")
        if attributes.keys() != OPS[op].cases[0].keys():
            raise ValueError(f"{op} takes the attributes {sorted(OPS[op].cases[0])}, got {sorted(attributes)}")
        rule, shapes = OPS[op].shape, [node.shape for node in inputs]
        try:
            signature(rule).bind(attributes, *shapes)
        except TypeError:
            needed = ", ".join(list(signature(rule).parameters)[1:])
            raise ValueError(f"{op} takes operands ({needed}), got {len(inputs)}: {inputs}") from None
        try:
            shape = rule(attributes, *shapes)
        except ValueError as error:
            raise ValueError(f"{op}({', '.join(map(repr, inputs))}): {error}") from None
        return self._add(Node(op, inputs, attributes, shape, self._free(name or op), self))

    def elementwise(self, op, *operands, **attributes):
        """Add an elementwise op of nodes, numbers and arrays, after broadcasting them to one shape as NumPy does."""
        nodes = [self.constant(operand) for operand in operands]
        try:
            shape = broadcast(*(node.shape for node in nodes))
        except ValueError as error:
            raise ValueError(f"{op}({', '.join(map(repr, nodes))}): {error}") from None
        if op == "multiply":  # derivatives begin with a 1
            for one, other in (nodes, reversed(nodes)):
                if one is self._constants.get(_ONE) and other.shape == shape:
                    return other
        return self.apply(op, *(node.broadcast_to(shape) for node in nodes), **attributes)

    def matmul(self, left, right):
        """Add the matrix product of vectors and matrices."""
        a, b = self.constant(left), self.constant(right)
        if not (1 <= a.ndim <= 2 and 1 <= b.ndim <= 2 and a.shape[-1] == b.shape[0]):
            raise ValueError(f"matmul({a!r}, {b!r}): needs vectors or matrices whose inner sizes are equal")
        row, column = a if a.ndim == 2 else a.reshape(1, -1), b if b.ndim == 2 else b.reshape(-1, 1)
        return self.apply("matmul", row, column).reshape(a.shape[:-1] + b.shape[1:])

    def _source(self, op, name, shape, **attributes):
        if not isinstance(name, str) or not name:
            raise TypeError(f"a node's name must be a string, got {name!r}")
        if name in self._names:
            raise ValueError(f"the graph has a node {name!r} already: choose another name")
        return self._add(Node(op, (), attributes, tuple(shape), name, self))

    def _add(self, node):
        self.nodes.append(node)
        self._members.add(node)
        self._names.add(node.name)
        return node

    def _free(self, name):
        number, free = 2, name
        while free in self._names:
            free, number = f"{name}_{number}", number + 1
        return free

    def __post_init__(self):
        """Index the nodes that the graph starts with."""
        self._members = set(self.nodes)
        self._names = {node.name for node in self.nodes}
        self._constants = {}

    # use

    def compile(self, outputs, wrt=(), *, seed=None, backend="cpu", dtype="float64", threads=None):
        """The program that computes `outputs`, and gradients of them with respect to the nodes `wrt`.

        outputs: a node, or a list of them. wrt: parameters, inputs or nodes in between; then there must be one output,
        a scalar, or a `seed`, a node or array of the output's shape: the gradient is that of sum(seed * output). See
        `GraphProgram` for its use.
        """
        from .graph_program import GraphProgram

        return GraphProgram(self, outputs, wrt, seed, backend, dtype, threads)

    def gradient(self, value, wrt, seed=None):
        """The nodes of the gradient of `value` (see `compile`) for the nodes `wrt`: nodes like others."""
        return differentiate(self, value, wrt, seed)

    def jvp(self, value, tangents):
        """The node of the directional derivative of `value` (forward mode).

        tangents: node -> its direction, a node, number or array of its shape.
        """
        return jvp(self, value, tangents)


_ONE = (), np.float64(1).tobytes()


def _size(name, size):
    try:
        value = operator.index(size)
    except TypeError:
        raise TypeError(f"sizes of {name!r} must be integers, or None for the batch, got {size!r}") from None
    if value < 1:
        raise ValueError(f"sizes of {name!r} must be at least 1, got {value}")
    return value


def _numbers(value, what):
    """`value` as a float64 array; not the caller's."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{what} cannot be read as an array: {error}") from None
    if array.dtype.kind not in "bfiu":
        raise TypeError(f"{what} must hold real numbers, got {value!r}")
    return np.array(array, np.float64, order="C")
