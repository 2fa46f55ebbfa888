"""Compiled graphs: called with inputs, they give values and gradients; they keep and train their parameters."""

from dataclasses import dataclass

import numpy as np

from hotloop.kernels import OPS, _cuda

from . import autodiff, checks, data
from .errors import NonFiniteError
from .graph import live_nodes
from .newton import Newton, NewtonEngine
from .node import Node
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

BACKENDS = ("numpy", "cpu", "cuda")


@dataclass(frozen=True)
class Descent:
    """What `GraphProgram.minimize` did.

    values: the value before each update and, at the end, after the last one: updates + 1 numbers. parameters: by name,
    arrays with one entry for each of `values`, if they were traced. reached: whether the last value is below `until`.
    """

    values: np.ndarray
    parameters: dict[str, np.ndarray] | None
    reached: bool

    @property
    def updates(self):
        """Number of updates made."""
        return len(self.values) - 1


class GraphProgram:
    """A graph made ready to run; `Graph.compile` makes it.

    Call it with an array for each input by name: with one output and nothing to differentiate it returns the value, for
    a list of outputs the list of values; with `wrt` also a dictionary of gradients by node name. Values of shape () are
    floats, others new arrays of the program's dtype. `program["w"]` reads a parameter, `program["w"] = value` sets it.

    Inputs of the graph that the outputs do not need may be left out. Raises ValueError and TypeError before anything
    runs: for unknown or missing inputs, wrong shapes and dtypes,
    outputs or `wrt` of another graph, a gradient of what is no scalar without a seed, parameters without a value.
    """

    def __init__(self, graph, outputs, wrt, seed, backend, dtype, threads):
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        if backend == "cuda":
            _cuda.require()
        self.dtype = checks.real_dtype(dtype)
        self.backend = backend
        self.threads = None if threads is None else checks.integer("threads", threads, 1, 1024)
        self.graph, self._several = graph, isinstance(outputs, list | tuple)
        self.outputs = _nodes(graph, outputs, "outputs")
        self.wrt = [] if isinstance(wrt, list | tuple) and not wrt else _nodes(graph, wrt, "wrt")
        if self.wrt and len(self.outputs) != 1:
            raise ValueError(f"gradients are those of one output, got {len(self.outputs)}: compile them one by one")
        if seed is not None and not self.wrt:
            raise ValueError("a seed is for gradients: say with respect to what, in wrt")
        self._names = [node.name for node in self.wrt]
        self.gradients = autodiff.differentiate(graph, self.outputs[0], self.wrt, seed) if self.wrt else []
        self._engine = self._make(self.outputs + self.gradients)
        live = self._engine.live
        self.inputs = {node.name: node for node in live if node.op == "input"}
        self._unneeded = {node.name for node in graph.nodes if node.op == "input"} - self.inputs.keys()
        self._parameters = {node.name: node for node in live if node.op == "parameter"}
        self._unset = set(self._parameters)
        for name, node in self._parameters.items():
            if "value" in node.attributes:
                self[name] = node.attributes["value"]
        for name, value in graph.initial(self._unset).items():
            self[name] = value
        self._descents, self._run = {}, None

    def _make(self, roots, updated=()):
        live = live_nodes(self.graph, roots)
        for node in live:
            if node.op in ("target", "labels", "weights"):
                raise ValueError(f"{node!r} belongs to networks: use an input")
            if node.op == "layer":
                raise ValueError(f"{node.attributes['layer']!r} differs in training and in use, or with the dtype: "
                                 "give its nodes to a Network")
            if node.inputs and not (OPS[node.op].arity or OPS[node.op].tangent):
                raise ValueError(f"op {node.op!r} of node {node!r} belongs to layers of networks: compose the value of "
                                 "functions, such as hotloop.softmax")
        if self.backend == "numpy":
            from .graph_numpy import NumpyGraph as Engine
        elif self.backend == "cuda":
            from .graph_cuda import CudaGraph as Engine
        else:
            from .graph_cpu import CpuGraph as Engine
        return Engine(live, roots, self.dtype, self.threads, updated)

    def __call__(self, /, **inputs):
        """Run once."""
        if inputs or self._run is None:
            values = self._engine.run(*self._checked(inputs))
            if not self.inputs:
                self._run = self._engine.runner(1)  # nothing to check from now on
        else:
            values = self._run(inputs)
        if self.wrt:
            value, *gradients = values
            return value, dict(zip(self._names, gradients))  # noqa: B905  `strict` takes as long as ten nodes
        return list(values) if self._several else values[0]

    def _checked(self, inputs):
        """The inputs by node, and the size of the batch."""
        if self._unset:
            raise ValueError(f"parameters {sorted(self._unset)} have no value yet: set them, program[name] = value")
        if inputs.keys() != self.inputs.keys():
            inputs = {name: value for name, value in inputs.items() if name not in self._unneeded}
            if inputs.keys() != self.inputs.keys():
                self._refuse(inputs)
        found, batch = {}, None
        for name, node in self.inputs.items():
            array = data.real_array(inputs[name], name)
            wanted = node.shape if not node.shape or node.shape[0] is not None else (
                batch if batch is not None else array.shape[:1] or (1,)) + node.shape[1:]
            if array.shape != wanted:
                at = f", with the batch of {batch[0]} rows that another input has" if batch else ""
                raise ValueError(f"input {node!r} got an array of shape {array.shape}{at}")
            if node.shape and node.shape[0] is None:
                batch = array.shape[:1]
            found[node] = self._converted(array)
        if batch == (0,):
            raise ValueError("the batch has no rows: give at least one")
        return found, batch[0] if batch else 1

    def _refuse(self, inputs):
        missing, unknown = self.inputs.keys() - inputs.keys(), inputs.keys() - self.inputs.keys()
        hint = "; set a parameter by program[name] = value" if unknown & self._parameters.keys() else ""
        raise ValueError(f"the program takes the inputs {list(self.inputs)}: missing are {sorted(missing)}, unknown "
                         f"{sorted(unknown)}{hint}")

    # parameters

    def __getitem__(self, name):
        """A parameter's value: a float for shape (), else a new array."""
        if name in self._unset:
            raise ValueError(f"parameter {name!r} has no value yet: set it, program[{name!r}] = value")
        value = self._engine.read(self._parameter(name))
        return value.item() if value.ndim == 0 else value

    def __setitem__(self, name, value):
        """Set a parameter; ValueError for another shape or what is not finite, TypeError for no real numbers."""
        node, array = self._parameter(name), data.real_array(value, name)
        if array.shape != node.shape:
            raise ValueError(f"parameter {node!r} got an array of shape {array.shape}")
        converted = self._converted(array)
        if not np.isfinite(converted).all():
            raise ValueError(f"parameter {name!r} must be finite in {self.dtype}, got {value!r}")
        self._engine.write(node, converted)
        self._unset.discard(name)

    def _converted(self, array):
        """An array in the program's dtype; what is too large for it is infinite."""
        with np.errstate(over="ignore"):
            return np.asarray(array, self.dtype)

    def _parameter(self, name):
        if name not in self._parameters:
            raise KeyError(f"the program has no parameter {name!r}, only {list(self._parameters)}")
        return self._parameters[name]

    @property
    def parameters(self):
        """All parameters' values by name."""
        return {name: self[name] for name in self._parameters}

    # training

    def minimize(self, /, optimizer, steps, until=None, trace=False, schedule=None, **inputs):
        """Change the parameters to make the output, a scalar, small; the whole descent runs compiled. Return a Descent.

        optimizer: of this package, its state new in every call; or Newton, whose steps are calls. steps: updates at
        most. until: stop as soon as the value is below. trace: keep the parameters of every step. schedule: of the
        learning rate; each update is an epoch of its own. Inputs are given as in a call, and stay the same. With `wrt`,
        the parameters among it are trained, else all. Raises NonFiniteError where value or update is not finite; the
        parameters are then the last finite ones.
        """
        taken = self.inputs.keys() & {"optimizer", "steps", "until", "trace", "schedule"}
        if taken:
            raise ValueError(f"minimize has arguments of its own called {', '.join(sorted(taken))}: give these inputs "
                             "other names")
        checks.kind("optimizer", optimizer, OPTIMIZERS | {"Newton": Newton})
        steps = checks.integer("steps", steps, 0)
        goal = -np.inf if until is None else checks.number("until", until)
        if len(self.outputs) != 1 or self.outputs[0].shape != ():
            raise ValueError(f"only one scalar can be made small, not {self.outputs}")
        trained = [node for node in self.wrt or self._parameters.values() if node.op == "parameter"]
        if not trained:
            raise ValueError("there is no parameter to train")
        values, batch = self._checked(inputs)
        settings = _settings(optimizer, schedule, steps)
        kind = "newton" if isinstance(optimizer, Newton) else "engine"
        if kind not in self._descents:
            self._descents[kind] = (NewtonEngine(self._make, self.outputs[0], trained) if kind == "newton" else
                                    self._training(trained))
        engine = self._descents[kind]
        self._copy(self._engine, engine)
        outcome, kept = engine.descend(values, batch, optimizer, settings, steps, goal, bool(trace))
        self._copy(engine, self._engine)
        if outcome.stopped:
            what = "the value" if outcome.stopped == "loss" else "an update"
            advice = f"a smaller learning rate than {optimizer.lr:g}" + ", or more damping" * (kind == "newton")
            raise NonFiniteError(f"step {outcome.done + (outcome.stopped == 'loss')}: {what} is not finite; the "
                                 f"parameters are the last finite ones. Try {advice}", outcome.done,
                                 float(outcome.losses[-1]))
        losses = outcome.losses
        if len(losses) == outcome.done:  # the value after the last update
            losses = np.append(losses, engine.run(values, batch)[0])
        return Descent(losses, {node.name: value for node, value in kept.items()} if trace else None,
                       bool(losses[-1] < goal))

    def _training(self, trained):
        """An engine for the output and gradients that are nodes of their own, as the update needs them."""
        graph, value = self.graph, self.outputs[0]
        gradients = [graph.apply("add", node, graph.constant(0.0).broadcast_to(node.shape))
                     for node in autodiff.differentiate(graph, value, trained)]
        return self._make([value, *gradients], list(zip(trained, gradients, strict=True)))

    def _copy(self, source, target):
        """Hand the parameters of one engine to another."""
        for node in self._parameters.values():
            target.write(node, source.read(node))

    # to be read

    def draw(self, path, /, **inputs):
        """Write a picture of the graph to `path`, .svg, .png or .pdf: the forward pass, and what only gradients need.

        With the inputs of a call, or where it takes none, scalars and small arrays show their values. Needs
        matplotlib, else raises ImportError; ValueError for a format that it does not know, and what a call raises.
        """
        from .graph_drawing import draw

        values, live = {}, self._engine.live
        if inputs or not (self.inputs or self._unset):
            engine = self._make(live)
            self._copy(self._engine, engine)
            values = dict(zip(live, engine.run(*self._checked(inputs)), strict=True))
        draw(live, set(live_nodes(self.graph, self.outputs)), self._results(), values, path)

    def __str__(self):
        """One line a node, in the order of computation: what it is made of, and which are outputs and gradients."""
        results = self._results()
        return "\n".join(f"{node!r} = {node.definition}" + (f"  <- {results[node]}" if node in results else "")
                         for node in self._engine.live)

    def _results(self):
        """What the nodes that the program returns are."""
        results = {node: ["output"] for node in self.outputs}
        for node, gradient in zip(self.wrt, self.gradients, strict=True):
            results.setdefault(gradient, []).append(f"gradient of {node.name}")
        return {node: ", ".join(roles) for node, roles in results.items()}


def _settings(optimizer, schedule, steps):
    """The optimizer's numbers for updates 1 to `steps`, which a schedule counts as epochs, too."""
    if isinstance(optimizer, Newton):
        if schedule is not None:
            raise ValueError("Newton takes the same lr in every step: leave out the schedule")
        return None
    updates = np.arange(max(steps, 1))
    settings = optimizer.settings(updates + 1)
    if schedule is None:
        return settings
    checks.kind("schedule", schedule, SCHEDULES)
    schedule.check(optimizer)
    if schedule.monitored():
        raise ValueError("a descent runs to its end unobserved, but the schedule monitors "
                         f"{', '.join(schedule.monitored())}: take one that only counts updates")
    return schedule.settings(settings, optimizer.momentum_operand, updates, updates)


def _nodes(graph, nodes, what):
    found = list(nodes) if isinstance(nodes, list | tuple) else [nodes]
    for node in found:
        if not isinstance(node, Node) or node.graph is not graph:
            hint = f": the node of this name is graph[{node!r}]" if isinstance(node, str) else ""
            raise ValueError(f"{what} must be nodes of this graph, got {node!r}{hint}")
    if not found:
        raise ValueError(f"{what} must name at least one node")
    return found
