"""Static graphs: nodes in order, checked when they are made."""


import operator
import re
from dataclasses import dataclass, field
from inspect import signature
from itertools import count
from typing import Any

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels.shapes import broadcast

from .autodiff import differentiate, hessian, jvp
from .node import Node

_NAME = re.compile(r"\w+(\.\w+)*")
SOURCES = ("input", "target", "labels", "weights", "parameter", "statistic", "key", "constant")  # nodes without an op


@dataclass(frozen=True, eq=False)
class Module:
    """A layer in a graph: what its parameters are called after, `name.weight`, and where their first values come from.

    place: its number among the graph's layers. values: the first values by the layer's own names, if not drawn.
    """

    layer: Any
    name: str
    place: int
    values: dict[str, np.ndarray] | None = None

    def shapes(self, kind):
        """Shapes of the layer's "parameters" or "statistics" by full name."""
        return {f"{self.name}.{name}": shape for name, shape in getattr(self.layer, kind)().items()}

    def initialize(self, seed):
        """Yield (full name, first row, rows) until all parameters and statistics have their first values."""
        rows = (self.layer.initialize(np.random.default_rng([seed, self.place])) if self.values is None else
                ((name, 0, np.atleast_1d(value)) for name, value in self.values.items()))
        for name, first, part in rows:
            yield f"{self.name}.{name}", first, part


@dataclass
class Graph:
    """A static graph of any expression: sources, and nodes that operators, functions and layers make of them.

        g = Graph()
        w, x = g.parameter("w", [1.0, 2.0]), g.input("x", (None, 2))
        loss = hl.mean((x @ w - 1) ** 2)
        program = g.compile(loss, wrt=[w])
        value, gradients = program(x=array)

    `nodes` stand in an order in which each follows its operands. Names are those of sources, or made from the op.
    seed: of the first parameters of layers.
    """

    nodes: list[Node] = field(default_factory=list)
    seed: int = 0

    def __getitem__(self, name):
        """The node of this name; KeyError where there is none."""
        if name not in self._names:
            raise KeyError(f"the graph has no node {name!r}, only {', '.join(self._names)}")
        return self._names[name]

    # sources

    def input(self, name, shape=()):
        """A value given at every call: an array of `shape`, whose first size may be None, the batch."""
        if not isinstance(shape, list | tuple):
            raise TypeError(f"the shape of input {name!r} must be a tuple, such as ({shape},), got {shape!r}")
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
            if not np.isfinite(array).all():
                raise ValueError(f"parameter {name!r} must be finite, got {value!r}")
            return self._source("parameter", name, array.shape, value=array)
        if any(size is None for size in shape):
            raise ValueError(f"parameter {name!r} needs a fixed shape, got {shape}: only inputs have a batch")
        return self._source("parameter", name, shape)

    def statistic(self, name, shape):
        """A value that lasts but is not trained, such as a running mean; of shape () a count, int64."""
        return self._source("statistic", name, shape)

    def lasting(self, op, name, shape):
        """The "parameter" or "statistic" of this name, made where there is none yet."""
        node = self._names.get(name)
        return node if node is not None and (node.op, node.shape) == (op, shape) else self._source(op, name, shape)

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
        key = _content(array)
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
        """Add the matrix product of vectors, matrices, or stacks of matrices that broadcast, as in NumPy."""
        a, b = self.constant(left), self.constant(right)
        if not (a.shape and b.shape and a.shape[-1] == b.shape[-2:][0]):
            raise ValueError(f"matmul({a!r}, {b!r}): needs vectors, matrices or stacks of matrices whose inner sizes "
                             "are equal")
        x, y = a if a.ndim > 1 else a.reshape(1, -1), b if b.ndim > 1 else b.reshape(-1, 1)
        try:
            stack = broadcast(x.shape[:-2], y.shape[:-2])
        except ValueError as error:
            raise ValueError(f"matmul({a!r}, {b!r}): {error}") from None
        if y.ndim == 2:
            product = self.apply("matmul", x, y, stacked=0, contracted=1)
        elif x.ndim == 2:  # each element of the stack is a block of columns
            count = len(stack)
            columns = self.apply("matmul", x, y.transpose(count, *range(count), count + 1), stacked=0, contracted=1)
            product = columns.transpose(*range(1, count + 1), 0, count + 1)
        else:
            product = self.apply("matmul", *(node.broadcast_to(stack + node.shape[-2:]) for node in (x, y)),
                                 stacked=len(stack), contracted=1)
        return product.reshape(stack + a.shape[-2:-1] + (b.shape[-1:] if b.ndim > 1 else ()))

    def call(self, layer, x, name=None, values=None):
        """Add what `layer` makes of the node x. Called again, a layer with parameters uses the same ones.

        name: what its parameters are called after; its number among the graph's layers by default. values: for a part
        of a network, which goes by its name: the first parameters, by the layer's own names.
        """
        if x not in self._members:
            raise ValueError(f"{layer!r}: {x!r} is not a node of this graph")
        takes = layer.sizes()[0] if layer.sizes() else None
        if takes and (not x.shape or x.shape[-1] != takes):
            raise ValueError(f"{layer!r} takes {takes} features, got {x!r}: make them equal")
        if layer.pool > 1 and (not x.shape or x.shape[-1] is None or x.shape[-1] % layer.pool):
            raise ValueError(f"{layer!r} makes one feature of {layer.pool}, got {x!r}: make them a multiple of it")
        module = self._module(layer, name, values)
        made = layer.formula(x, **layer.sources(self, module.name))
        if made is None:
            size = layer.sizes()[1] if layer.sizes() else x.shape[-1]
            made = self._add(Node("layer", (x,), {"layer": layer}, (*x.shape[:-1], size), self._free("layer"), self))
        self.calls[made] = module, x
        return made

    def initial(self, names):
        """The first values of those among `names` that are parameters of layers."""
        values = {}
        for module in self.modules.values():
            shapes = {name: shape for name, shape in module.shapes("parameters").items() if name in names}
            values |= {name: np.empty(shape) for name, shape in shapes.items()}
            for name, first, rows in module.initialize(self.seed) if shapes else ():
                if name in values:
                    values[name][first : first + len(rows)] = rows
        return values

    def name_of(self, key, name=None):
        """The name of a layer, or a network's key, here: the one it was given before, else `name`, else its number."""
        known = self._called.get(key)
        if known is None:
            known = self._called[key] = self._free_name(name)
        if name not in (None, known):
            raise ValueError(f"what is to be called {name!r} is called {known!r} in this graph already: leave the name "
                             "out")
        return known

    def _free_name(self, name):
        """`name`, or a number for None, as the name of a new layer."""
        if name is None:
            return next(str(number) for number in count(self._number()) if not self._is_taken(str(number)))
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a layer's name must be of letters, digits, _ and single dots, got {name!r}")
        if self._is_taken(name):
            raise ValueError(f"the graph has a layer {name!r} already: choose another name")
        return name

    def _is_taken(self, name):
        """Whether a layer, or one in a network, has this name."""
        return any(module == name or module.startswith(f"{name}.") for module in self.modules)

    def _number(self):
        """How many layers and networks were called."""
        return len({name.partition(".")[0] for name in self.modules})

    def _module(self, layer, name, values):
        if values is None:  # not a part of a network, which has its name already
            if layer.parameters() or layer.statistics():
                name = self.name_of(layer, name)
            elif name not in self.modules or self.modules[name].layer is not layer:
                name = self._free_name(name)
        if name not in self.modules:
            self.modules[name] = Module(layer, name, self._number(), values)
        return self.modules[name]

    def _source(self, op, name, shape, **attributes):
        if not isinstance(name, str) or not name:
            raise TypeError(f"a node's name must be a string, got {name!r}")
        if name in self._names:
            raise ValueError(f"the graph has a node {name!r} already: choose another name")
        return self._add(Node(op, (), attributes, tuple(shape), name, self))

    def _add(self, node):
        self.nodes.append(node)
        self._members.add(node)
        self._names[node.name] = node
        return node

    def _free(self, name):
        free = name
        while free in self._names:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            free = f"{name}_{self._numbers[name]}"
        return free

    def __post_init__(self):
        """Index the nodes that the graph starts with."""
        self.modules: dict[str, Module] = {}  # by name, in the order of their first calls
        self.calls: dict[Node, tuple[Module, Node]] = {}  # the results of layers: which layer, of which node
        self._called = {}  # layer, or a network's key -> its name
        self._members = set(self.nodes)
        self._names = {node.name: node for node in self.nodes}
        self._numbers = {}  # of the last node that was named after an op
        self._constants = {}

    def __getstate__(self):
        """Nodes as plain data: pickled one in another, they would go too deep."""
        nodes = [(node.op, [operand.name for operand in node.inputs], node.attributes, node.shape, node.name)
                 for node in self.nodes]
        calls = [(node.name, module.name, x.name) for node, (module, x) in self.calls.items()]
        return nodes, calls, self.seed, self.modules, self._called

    def __setstate__(self, state):
        """Take over what `__getstate__` gave."""
        nodes, calls, seed, modules, called = state
        self.__init__(seed=seed)
        for op, operands, attributes, shape, name in nodes:
            node = self._add(Node(op, tuple(map(self._names.get, operands)), attributes, shape, name, self))
            if op == "constant":
                self._constants[_content(attributes["value"])] = node
        self.modules, self._called = modules, called
        self.calls = {self._names[name]: (modules[module], self._names[x]) for name, module, x in calls}

    # use

    def compile(self, outputs, wrt=(), *, seed=None, backend="cpu", dtype="float64", threads=None):
        """The program that computes `outputs`, and gradients of them with respect to the nodes `wrt`.

        outputs: a node, or a list of them. wrt: parameters, inputs or nodes in between; then there must be one output,
        a scalar, or a `seed`, a node or array of the output's shape: the gradient is that of sum(seed * output). Its
        nodes join the graph. See `GraphProgram` for its use.
        """
        from .graph_program import GraphProgram

        return GraphProgram(self, outputs, wrt, seed, backend, dtype, threads)

    def gradient(self, value, wrt, seed=None):
        """The nodes of the gradient of `value` (see `compile`) for the nodes `wrt`: nodes like others."""
        return differentiate(self, value, wrt, seed)

    def hessian(self, value, wrt):
        """The node of the matrix of second derivatives of a scalar for all elements of the nodes `wrt`, in order."""
        return hessian(self, value, wrt)

    def jvp(self, value, tangents):
        """The node of the directional derivative of `value` (forward mode).

        tangents: node -> its direction, a node, number or array of its shape.
        """
        return jvp(self, value, tangents)


def _content(array):
    """What constants are told apart by."""
    return array.shape, array.tobytes()


_ONE = _content(np.array(1.0))


def live_nodes(graph, roots):
    """The nodes that the roots need, in order, themselves among them."""
    needed = set(roots)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.inputs)
    return [node for node in graph.nodes if node in needed]


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
