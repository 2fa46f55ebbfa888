"""Graphs of single ops and a machine that runs them on one backend, for the tests of ops."""

from dataclasses import replace

import numpy as np
import pytest

from hotloop import cuda_backend
from hotloop.autodiff import differentiate
from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, _jit, activations
from hotloop.kernels.losses import LOSSES
from hotloop.numpy_backend import NumpyBackend
from hotloop.plan import plan
from hotloop.program import Buffer

BACKENDS = {"cpu": CpuBackend, "numpy": NumpyBackend}
EVERY = BACKENDS | {"cuda": cuda_backend.CudaBackend}
ACTIVATIONS = tuple(activations.ACTIVATIONS)  # tests enter others later
SOFTMAXES = ("softmax", "log_softmax")
ROWWISE = [f"{name}{end}" for name in (*ACTIVATIONS, *SOFTMAXES) for end in ("", "_backward")] + ["add"]
DENSE = ["dense", "dense_input_gradient", "dense_weight_gradient", "dense_bias_gradient"]
LAYERS = ["affine", "prelu", "layer_norm", "rms_norm", "batch_norm", "dropout", "rrelu", "glu", "maxout"]
SIGNS = ("hinge_loss", "squared_hinge_loss", "exponential_loss", "soft_margin_loss", "hinge_embedding_loss")

backends = pytest.mark.parametrize("backend", BACKENDS)


class Machine:
    """A program of a graph on one backend. A call runs it and returns the prediction; `losses`, `gradient` follow it.

    Before each call all memory that the program has to write, padding included, is filled with NaN. The instruction
    `apart` gets memory of its own for its result, which the plan may have put in place of an operand; then a call
    asserts that the instruction changes no byte but its results'.
    """

    def __init__(self, backend, dtype, graph, rows, parameters=None, apart=None, prediction=None, **goals):
        self.backend, self.dtype, self.rows, self.apart = backend, np.dtype(dtype), rows, apart
        lay = cuda_backend.layout if backend == "cuda" else layout
        self.program = plan(graph, lay(dtype), keep_gradient=bool(goals.get("gradients")), settings={"key": 7},
                            predictions={} if prediction is None else {"prediction": prediction}, **goals)
        if apart:
            self._separate()
        self.executor = EVERY[backend](self.dtype)
        self.executor.prepare(self.program, rows)
        self.write(parameters or {})

    def _separate(self):
        instructions = self.program.instructions
        one, = (instruction for instruction in instructions if instruction.op == self.apart)
        self.without = replace(self.program, instructions=[other for other in instructions if other is not one])
        self.results = [one.operands["loss"]] if "loss" in one.operands else []
        name = next((name for name in one.writes if isinstance(one.operands[name], Buffer) and name != "loss"), None)
        if name is None:
            return
        old, new = one.operands[name], replace(one.operands[name], name="apart")
        self.program.buffers.append(new)
        self.results.append(new)
        one.operands[name] = new
        for reader in instructions[instructions.index(one) + 1 :]:
            reader.operands |= {name: new for name, value in reader.operands.items() if value is old}

    def write(self, parameters):
        for name, value in parameters.items():
            self.executor.write(self.program, "parameters", name, value)

    def gradient(self, parameter):
        return self.executor.read(self.program, "gradient", parameter.name)

    def __call__(self, x, y=None, batch=None, weights=None):
        if self.apart:
            self.executor.prepare(self.without, self.rows)
            self._run(self.without, x, y, batch, weights)
            others = self._others()
        prediction = self._run(self.program, x, y, batch, weights)
        assert not self.apart or self._others() == others
        return prediction

    def _run(self, program, x, y, batch, weights):
        first = program.elements * self.dtype.itemsize
        if self.backend == "cpu":
            self.executor.lasting[first:] = 0xFF
            self.executor.working[:] = 0xFF
        if self.backend == "cuda":
            self.executor.lasting.write(np.full(self.executor.lasting.size - first, 0xFF, np.uint8), first)
            self.executor.working.write(np.full(self.executor.working.size, 0xFF, np.uint8))
        arrays = {"x": np.array(x, self.dtype)}
        if y is not None:
            arrays["y"] = np.array(y, np.int64 if np.asarray(y).dtype.kind == "i" else self.dtype)
        if weights is not None:
            arrays["weights"] = np.array(weights, self.dtype)
        before = {name: array.tobytes() for name, array in arrays.items()}
        for name, node in program.predictions.items():
            arrays[name] = np.full((self.rows, node.shape[1]), np.nan, self.dtype)
        batch = batch or self.rows
        self.losses = self.executor.run(program, arrays, steps=self.rows // batch if batch else 1, start=0,
                                        rows=self.rows, batch=batch, strict=False).losses
        assert {name: arrays[name].tobytes() for name in before} == before
        return arrays.get("prediction")

    def _others(self):
        """The arena's bytes, results of the instruction `apart` blanked."""
        lasting, working = (self._bytes(part) for part in (self.executor.lasting, self.executor.working))
        places, size = self.program.place(self.rows)
        for buffer in self.results:
            working[places[buffer] : min(place for place in (*places.values(), size) if place > places[buffer])] = 0
        if not self.results:
            lasting[self.program.elements * self.dtype.itemsize :] = 0
        return lasting.tobytes() + working.tobytes()


    def _bytes(self, part):
        if self.backend == "cpu":
            return part.copy()
        found = np.empty(part.size, np.uint8)
        part.read(found)
        return found


def in_place_and_apart(op, *arguments, backend="cpu", **goals):
    """Two machines: the plan's own, and one where `op` stands apart; the second compiles nothing."""
    yield Machine(backend, *arguments, **goals)
    compiled = len(_jit.compiled)
    yield Machine(backend, *arguments, apart=op, **goals)
    assert len(_jit.compiled) == compiled


def chain(graph, *ops):
    """Ops one after the other on an input of 5 columns; returns input, output and the parameters' shapes."""
    value = x = graph.input("x", (None, 5))
    for place, op in enumerate(ops):
        if op == "dense":
            value = graph.apply("dense", value, graph.parameter(f"{place}.weight", shape=(5, 5)),
                                graph.parameter(f"{place}.bias", shape=(5,)))
        elif op == "add":
            weight = graph.parameter(f"{place}.weight", shape=(5, 5))
            value = graph.apply("add", value, graph.apply("dense", value, weight))
        elif op in ("affine", "prelu"):
            names = ("weight", "bias") if op == "affine" else ("weight",)
            value = graph.apply(op, value, *[graph.parameter(f"{place}.{name}", shape=(5,)) for name in names])
        elif op == "batch_norm":
            value = graph.apply(op, value, graph.apply("batch_moments", value), **OPS[op].cases[-1])
        elif op == "dropout":
            value = graph.apply(op, value, graph.key(), p=0.5, place=place)
        elif op == "rrelu":
            value = graph.apply(op, value, value, graph.key(), lower=0.125, upper=0.5, place=place)
        elif op in ("glu", "maxout"):
            wide = graph.apply("dense", value, graph.parameter(f"{place}.weight", shape=(10, 5)))
            value = graph.apply(op, wide, **OPS[op].cases[0])
        else:
            value = graph.apply(op, value, **OPS[op].cases[-1])
    return x, value


def fitted(case, cols):
    """A case with as many class weights as there are columns."""
    return {name: tuple(np.resize(value, cols).tolist()) if isinstance(value, tuple) else value
            for name, value in case.items()}


def loss_graph(name, cols, attributes, weighted=False):
    """A loss of the input and its gradient, if it has one."""
    graph = Graph()
    x = graph.input("x", (None, cols))
    y = graph.labels("y") if LOSSES[name].labels else graph.target("y", (None, cols))
    node = graph.apply(name, x, y, *([graph.weights("weights")] if weighted else []), **attributes)
    return graph, node, *(differentiate(graph, node, [x]) if OPS[name].gradient else [])


def prediction_and_target(name, case, shape, dtype):
    """Predictions and targets as the loss wants them, and sample weights."""
    generator = np.random.default_rng(sum(shape))
    x = 3 * generator.standard_normal(shape).astype(dtype)
    y = generator.uniform(0, 1, shape).astype(dtype)  # weights of classes need not have the sum 1
    weights = generator.choice([0.0, 0.5, 1.0, 3.0], shape[0]).astype(dtype)
    if LOSSES[name].labels:
        y = generator.integers(0, shape[1], shape[0])
        if "ignore_index" in case:
            y[::3] = case["ignore_index"]
    elif name in ("cross_entropy_probabilities", "kl_div_loss"):
        y[:, shape[1] // 2 + 1 :] = 0
    elif name in SIGNS:
        y = np.where(y > 0.5, 1, -1).astype(dtype)
    elif name == "multilabel_margin_loss":
        y = np.floor((shape[1] + 1) * y - 1)
    elif name.startswith("poisson"):
        y = np.floor(5 * y)
    if name == "bce_loss":
        x = generator.uniform(0.01, 0.99, shape).astype(dtype)
    elif name.startswith("poisson_nll_rate"):
        x = abs(x) + dtype.type(0.1)
    return x, y, weights


def loss_at(backend, dtype, op, x, y, **attributes):
    """A loss summed over the rows of x, and its gradient."""
    graph, node, slope = loss_graph(op, np.shape(x)[1], OPS[op].cases[0] | {"reduction": "sum"} | attributes)
    machine = Machine(backend, dtype, graph, len(x), loss=node, prediction=slope)
    gradient = machine(x, y)
    return machine.losses[0], gradient
