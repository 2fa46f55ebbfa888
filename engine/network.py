"""Networks: graphs of layers, with parameters drawn from a seed."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from . import checks, features
from .data import as_array
from .graph import Graph
from .layers import LAYERS, Dense
from .node import Node

_MOST_FEATURES = 2**24  # of all steps of a description


class Network:
    """Layers in any acyclic order, with one or several inputs and outputs, as the nodes of a graph tell it.

        g = hl.Graph(seed=0)
        x = g.input("x", (None, 8))
        h = hl.ReLU()(hl.Dense(8, 32)(x))
        h = h + hl.ReLU()(hl.Dense(32, 32)(h))
        net = hl.Network(x, hl.Dense(32, 1)(h))

    inputs: an input node of shape (None, features), a list of them, or a mapping of names to them. outputs: a node of
    such a shape, or several alike; data and results come alike. Between them stand layers and, within each row, the ops
    of general graphs, but for matrix products. A layer that is called several times has one set of parameters. Networks
    can be called on nodes as layers can; their parameters become first values there.

    Parameters are named after their layers as in torch: "0.weight" (out, in), "0.bias"; statistics, such as
    "1.running_mean", too. A new network holds them in float64; while a Trainer trains it, it holds them in the
    trainer's dtype. Raises TypeError for what are no nodes, ValueError where nodes, shapes or ops do not fit.
    """

    def __init__(self, inputs, outputs):
        self._inputs, self._outputs = _named(inputs, "inputs", by_name=True), _named(outputs, "outputs")
        self.several = _structure(inputs), _structure(outputs)
        first = next(iter(self._outputs.values()))
        self._source = first.graph
        for node in (*self._inputs.values(), *self._outputs.values()):
            if node.graph is not self._source:
                raise ValueError(f"{node!r} and {first!r} belong to different graphs: make all nodes from one")
        self._steps = self._needed()
        called = Counter(self._source.calls[node][0] for node in self._steps if node in self._source.calls)
        self.modules = {module.name: module for module in self._source.modules.values() if module in called}
        self.seed = self._source.seed
        self.inputs = {name: node.shape[1] for name, node in self._inputs.items()}
        self.outputs = {name: node.shape[1] for name, node in self._outputs.items()}
        self.shapes, self.statistics = self._shapes("parameters"), self._shapes("statistics")
        self._least = [max(((module.layer.least_rows(training), name) for name, module in self.modules.items()),
                           key=lambda found: found[0], default=(1, "")) for training in (False, True)]
        self._key = object()  # what graphs know it by; copies of a graph that it is made of and called in hold no cycle
        self.owner = None  # the trainer that holds the parameters, once there is one
        self._values = None  # parameters that were loaded before there was an owner
        for module, times in called.items():
            if times > 1 and module.shapes("statistics"):
                raise ValueError(f"layer {module.name}, {module.layer!r}, is called {times} times, but it follows the "
                                 "statistics of one node: make a new one for each")
        if not self.shapes:
            raise ValueError("a network needs at least one layer with parameters, such as Dense")

    def __repr__(self):
        """Inputs, layers by name, and outputs."""
        layers = ", ".join(f"{name}={module.layer!r}" for name, module in self.modules.items())
        return f"Network({', '.join(self.inputs)} -> {', '.join(self.outputs)}: {layers}, seed={self.seed})"

    def __getstate__(self):
        """Copies and pickles hold the parameters, not the trainer."""
        values = self._values if self.owner is None else self.state_dict()
        return vars(self) | {"owner": None, "_values": values}

    def __call__(self, *nodes, name=None):
        """What the network makes of a node for each input, in the structure of its outputs; see `Layer.__call__`."""
        if len(nodes) != len(self._inputs) or not all(isinstance(node, Node) for node in nodes):
            raise TypeError(f"a network is called on a node of a graph for each of its {len(self._inputs)} inputs, and "
                            f"a Trainer runs it on arrays; got {nodes}")
        for wanted, node in zip(self._inputs.values(), nodes, strict=True):
            if node.shape != wanted.shape:
                raise ValueError(f"input {wanted!r} of the network got {node!r}: the shapes must be equal")
        graph, state = nodes[0].graph, self.state_dict()
        prefix = graph.name_of(self._key, name)

        def apply(module, x):
            own = {key.removeprefix(f"{module.name}."): state[key]
                   for key in module.shapes("parameters") | module.shapes("statistics")}
            return graph.call(module.layer, x, f"{prefix}.{module.name}", own)

        return self.structured(self._replay(graph, dict(zip(self._inputs.values(), nodes, strict=True)), apply))

    def slot(self, kind, name):
        """What programs call the array of kind "x", "y" or "prediction" for an input or output."""
        return kind if self.several[kind != "x"] is None else f"{kind}[{name}]"

    def structured(self, results):
        """Results for the outputs, a list, as the caller named these."""
        return _restructured(results, self.several[1])

    # parameters

    def state_dict(self):
        """Copies of parameters and statistics by name, in torch's order and shapes; counts are int64."""
        if self.owner is not None:
            return {name: self.owner.read_parameter(name) for name in self._all()}
        values = {name: np.empty(shape, _kind(shape)) for name, shape in self._all().items()}
        for name, first, rows in self._rows():
            np.atleast_1d(values[name])[first : first + len(rows)] = rows
        return values

    def _all(self):
        """Shapes of parameters and statistics by name, layer by layer as torch orders them."""
        return {name: shape for module in self.modules.values() for kind in ("parameters", "statistics")
                for name, shape in module.shapes(kind).items()}

    def _shapes(self, kind):
        """The shapes of the layers' "parameters" or "statistics" by name."""
        return {name: shape for module in self.modules.values() for name, shape in module.shapes(kind).items()}

    def load_state_dict(self, state):
        """Take over parameters: a mapping of all names to arrays of the same shapes (anything NumPy can read).

        Raises KeyError for missing or unknown names, ValueError for other shapes or values that are not finite,
        TypeError for what are no real numbers; then nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict must map names to arrays, got {state!r}")
        shapes = self._all()
        missing, unknown = shapes.keys() - state.keys(), state.keys() - shapes.keys()
        if missing or unknown:
            raise KeyError(f"state_dict misses {sorted(missing)} and has unknown {sorted(unknown)}: "
                           f"the network has {list(shapes)}")
        values = {}
        for name, shape in shapes.items():
            value = as_array(state[name], name)
            if value.dtype.kind not in ("iu" if shape == () else "fiu"):
                wanted = "a count" if shape == () else "real numbers"
                raise TypeError(f"{name} must hold {wanted}, got dtype {value.dtype}")
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
            with np.errstate(over="ignore"):  # what is too large for the trainer's dtype is not finite in it
                values[name] = np.array(value, _kind(shape, np.float64 if self.owner is None else self.owner.dtype))
            if not np.isfinite(values[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        self.give(values)

    def give(self, values):
        """Set all parameters, checked before."""
        if self.owner is None:
            self._values = values
        else:
            for name, value in values.items():
                self.owner.write_parameter(name, np.atleast_1d(value))

    def take(self, owner):
        """Hand the parameters over to `owner`, which keeps them from now on."""
        for name, first, rows in self._rows():
            owner.write_parameter(name, rows, first)
        self.owner, self._values = owner, None

    def _rows(self):
        """All parameters as (name, first row, rows), drawn from the seed where there are no others."""
        values = self._values if self.owner is None else self.state_dict()
        if values is not None:
            yield from ((name, 0, np.atleast_1d(value)) for name, value in values.items())
            return
        for module in self.modules.values():
            yield from module.initialize(self.seed)

    def least_rows(self, training=False):
        """Rows that a batch must have, and the name of the layer that says so."""
        return self._least[training]

    # graphs

    def graph(self, training=False):
        """A graph of the network, in training or in use, and its output nodes; inputs are named by `slot`."""
        graph = Graph()
        given = {node: graph.input(self.slot("x", name), node.shape) for name, node in self._inputs.items()}
        return graph, self._replay(graph, given, lambda module, x: module.layer.apply(graph, x, module.name, training))

    def _replay(self, graph, given, apply):
        """Make the outputs in `graph` of the nodes `given` for the inputs; `apply` makes what a layer makes."""
        made, calls = dict(given), self._source.calls
        for node in self._steps:
            if node in calls:
                module, x = calls[node]
                made[node] = apply(module, made[x])
            elif (value := features.constant(node)) is not None:
                made[node] = graph.constant(value)
            elif node not in given:
                made[node] = graph.apply(node.op, *(made[operand] for operand in node.inputs), **node.attributes)
        return [made[node] for node in self._outputs.values()]

    # as data

    def description(self):
        """The steps from inputs to outputs, as JSON has them; `described` makes the network of them and the layers."""
        places, steps = {node: place for place, node in enumerate(self._steps)}, []
        for node in self._steps:
            if node in self._source.calls:
                module, x = self._source.calls[node]
                step = {"layer": module.name, "of": [places[x]]}
            elif node.op == "input":
                step = {"input": node.name, "features": node.shape[1]}
            elif (value := features.constant(node)) is not None:
                step = {"constant": value.tolist()}
            else:
                step = {"op": node.op, "of": [places[operand] for operand in node.inputs],
                        "attributes": {name: list(value) if isinstance(value, tuple) else value
                                       for name, value in node.attributes.items()}}
            steps.append(step)
        inputs, outputs = ([places[node] for node in side.values()] for side in (self._inputs, self._outputs))
        return {"steps": steps, "inputs": _restructured(inputs, self.several[0]),
                "outputs": _restructured(outputs, self.several[1]), "seed": self.seed}

    @classmethod
    def described(cls, description, layers):
        """The network that `description` gave, of layers by name. Raises ValueError for what it would not give."""
        graph, nodes, total = Graph(seed=checks.integer("seed", description["seed"], 0)), [], 0

        def node(place):
            if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(nodes):
                raise ValueError(f"a step is a number below {len(nodes)} there, got {place!r}")
            return nodes[place]

        for step in description["steps"]:
            kind = tuple(step) if isinstance(step, dict) else ()
            if kind == ("input", "features"):
                made = graph.input(step["input"], (None, checks.integer("features", step["features"], 1,
                                                                        _MOST_FEATURES)))
            elif kind == ("constant",):
                made = graph.constant(step["constant"])
            elif kind == ("layer", "of") and step["layer"] in layers:
                (x,) = map(node, step["of"])
                made = graph.call(layers[step["layer"]], x, step["layer"])
            elif kind == ("op", "of", "attributes") and features.known(step["op"]):
                made = graph.apply(step["op"], *map(node, step["of"]), **_attributes(step["attributes"]))
                if made.shape[:1] != (None,):
                    raise ValueError(f"{step!r} makes one value for all rows: it must be a constant")
                features.check(made)
            else:
                raise ValueError(f"{step!r} is no step from inputs to outputs")
            nodes.append(made)
            total += features.columns(made)
            if total > _MOST_FEATURES:
                raise ValueError(f"more than {_MOST_FEATURES} features in all steps up to {made!r}")
        sides = (description["inputs"], description["outputs"])
        inputs, outputs = ({name: node(place) for name, place in side.items()} if isinstance(side, dict) else
                           [node(place) for place in side] if isinstance(side, list) else node(side) for side in sides)
        return cls(inputs, outputs)

    def _needed(self):
        """The nodes that the outputs need, in order; what is inside layers is not among them."""
        source, inputs = self._source, set(self._inputs.values())
        needed, steps = set(self._outputs.values()), []
        for node in reversed(source.nodes):
            if node not in needed:
                continue
            steps.append(node)
            if node in source.calls:
                module, x = source.calls[node]
                if len(x.shape) != 2:
                    raise ValueError(f"layer {module.name}, {module.layer!r}, takes (batch, features) in a network, "
                                     f"got {x!r}: reshape it, or use functions such as hl.relu and hl.softmax")
                needed.add(x)
            elif node in inputs or features.constant(node) is not None:
                continue
            elif not node.inputs:
                raise ValueError(f"the outputs need the {node.op} {node!r}: list it among the inputs, if it is one, "
                                 "and leave parameters to layers")
            else:
                features.check(node)
                needed.update(node.inputs)
        unused = inputs - needed
        if unused:
            raise ValueError(f"no output depends on the inputs {sorted(node.name for node in unused)}: leave them out")
        return steps[::-1]


class Sequential(Network):
    """Layers applied one after the other.

    layers: at least one Dense; the sizes of neighbours must fit. seed: of the initial parameters (see `Dense`). The
    input is called "x". Raises TypeError for what is no layer, ValueError where sizes do not fit or a layer with
    parameters stands in two places.
    """

    def __init__(self, *layers, seed=0):
        for place, layer in enumerate(layers):
            if isinstance(layer, list | tuple):
                raise TypeError(f"layer {place} is a {type(layer).__name__}: give the layers one by one, "
                                "Sequential(*layers)")
            if isinstance(layer, Network):
                raise TypeError(f"layer {place} is a network: call it on a node of a Graph, as a layer of a Network")
            checks.kind(f"layer {place}", layer, LAYERS)
            if (layer.parameters() or layer.statistics()) and any(layer is other for other in layers[:place]):
                raise ValueError(f"layer {place} stands in the network twice: make a new {type(layer).__name__} for "
                                 "each place, or call it twice on nodes of a Graph, for a Network")
        if not any(isinstance(layer, Dense) for layer in layers):
            raise ValueError("a network needs at least one Dense layer")
        self.layers = layers
        self.in_features, self.out_features = _sizes(layers)
        graph = Graph(seed=checks.integer("seed", seed, 0))
        x = value = graph.input("x", (None, self.in_features))
        for place, layer in enumerate(layers):
            value = graph.call(layer, value, str(place))
        super().__init__(x, value)

    def __repr__(self):
        """The call that makes this network."""
        return f"Sequential({', '.join(map(repr, self.layers))}, seed={self.seed})"


def _attributes(given):
    """The attributes of an op in a description: numbers, and tuples of integers and None."""
    if not isinstance(given, dict):
        raise ValueError(f"the attributes of an op are a mapping, got {given!r}")
    for name, value in given.items():
        for size in value if isinstance(value, list) else ():
            if size is not None:
                checks.integer(name, size, -_MOST_FEATURES, _MOST_FEATURES)
        if not isinstance(value, list):
            checks.number(name, value)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _kind(shape, real=np.float64):
    """The dtype of what has this shape: counts have none."""
    return np.int64 if shape == () else real


def _structure(nodes):
    """What the caller gave for some nodes: None for one, the number of a list, or the names of a mapping."""
    return list(nodes) if isinstance(nodes, Mapping) else len(nodes) if isinstance(nodes, list | tuple) else None


def _restructured(values, structure):
    """Some values as the caller gave nodes."""
    if structure is None:
        return values[0]
    return list(values) if isinstance(structure, int) else dict(zip(structure, values, strict=True))


def _named(given, what, by_name=False):
    """Nodes of shape (None, features) by name: their own, those of a mapping, or their places."""
    nodes = dict(given) if isinstance(given, Mapping) else dict(
        enumerate(given if isinstance(given, list | tuple) else [given]))
    if not nodes:
        raise ValueError(f"a network needs {what}: give at least one node")
    for name, node in nodes.items():
        if not isinstance(node, Node):
            raise TypeError(f"{what} must be nodes of a graph, got {node!r}")
        if isinstance(given, Mapping) and not isinstance(name, str):
            raise TypeError(f"the names of {what} must be strings, got {name!r}")
        if by_name and node.op != "input":
            raise ValueError(f"inputs must be input nodes of a graph, got {node!r}")
        if len(node.shape) != 2 or node.shape[0] is not None:
            raise ValueError(f"{what} must have the shape (None, features), a row for each of the batch; got {node!r}")
    if by_name and len(set(nodes.values())) < len(nodes):
        raise ValueError(f"inputs {list(nodes.values())} name a node twice")
    by_name = by_name and not isinstance(given, Mapping)
    return {node.name if by_name else str(name): node for name, node in nodes.items()}


def _sizes(layers):
    """Features that layers take and give, one after the other; ValueError where neighbours do not fit."""
    start = next(place for place, layer in enumerate(layers) if layer.sizes())
    inputs = width = layers[start].sizes()[0] * math.prod(layer.pool for layer in layers[:start])
    giver = 0
    for place, layer in enumerate(layers):
        takes, gives = layer.sizes() or (width, width // layer.pool)
        if takes != width:
            raise ValueError(f"layer {place} takes {takes} features, but layer {giver} gives {width}: make them equal")
        if width % layer.pool:
            raise ValueError(f"layer {place} makes one feature of {layer.pool}, but layer {giver} gives {width}: make "
                             f"it a multiple of {layer.pool}")
        if layer.sizes() or layer.pool > 1:
            giver = place
        width = gives
    return inputs, width
