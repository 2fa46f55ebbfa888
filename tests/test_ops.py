"""Every op of the table: its kernel against its reference, its gradient against differences, and the hard cases."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from freeze_torch import activation_layers
from tolerances import close

import hotloop as hl
from hotloop.autodiff import differentiate
from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, _jit
from hotloop.kernels.activations import ACTIVATIONS
from hotloop.kernels.losses import LOSSES
from hotloop.numpy_backend import NumpyBackend
from hotloop.plan import plan
from hotloop.program import Buffer

SOFTMAXES = ("softmax", "log_softmax")
ROWWISE = [f"{name}{end}" for name in (*ACTIVATIONS, *SOFTMAXES) for end in ("", "_backward")] + ["add"]
CHANGES = ["penalty", "penalty_gradient", "clip_value", "gradient_norm", "clip_norm"]  # see test_gradients
DENSE = ["dense", "dense_input_gradient", "dense_weight_gradient", "dense_bias_gradient"]
STILL = {"lr": 0.1, "weight_decay": 0.0}
MOMENTS = STILL | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
DEFAULTS = {
    "sgd": STILL | {"momentum": 0.9, "dampening": 0.0, "nesterov": 0},
    "asgd": STILL | {"slowing": 2.0, "mu": 0.25, "lambd": 0.01},
    "rprop": {"lr": 0.1, "etaminus": 0.5, "etaplus": 1.2, "step_size_min": 0.06, "step_size_max": 0.13},
    "adagrad": STILL | {"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "adadelta": STILL | {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "rmsprop": STILL | {"alpha": 0.5, "eps": 1e-3, "momentum": 0.9, "centered": 1},
    "adam": MOMENTS | {"decoupled_weight_decay": 0, "amsgrad": 0},
    "adamax": MOMENTS,
    "nadam": MOMENTS | {"beta2": 0.9, "decoupled_weight_decay": 0, "mu": 0.7, "mu_next": 0.8, "mu_product": 0.6},
    "radam": MOMENTS | {"beta2": 0.9, "decoupled_weight_decay": 0},
    "lion": STILL | {"beta1": 0.9, "beta2": 0.99},
}
SIGNS = ("hinge_loss", "squared_hinge_loss", "exponential_loss", "soft_margin_loss", "hinge_embedding_loss")
DECAY = {"weight_decay": 0.1}
UPDATES = {
    "sgd": [{"momentum": 0.0}, {"momentum": 0.0} | DECAY, {}, {"dampening": 0.3}, DECAY, {"nesterov": 1},
            {"nesterov": 1} | DECAY],
    "asgd": [{}, DECAY, {"mu": 1.0}],
    "rprop": [{}],
    "adagrad": [{}, DECAY, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1}],
    "adadelta": [{}, DECAY, {"rho": 0.5, "eps": 0.1}],
    "rmsprop": [{}, DECAY, {"centered": 0}, {"momentum": 0.0}, {"centered": 0, "momentum": 0.0}],
    "adam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}, {"beta1": 0.5, "eps": 0.1},
             {"beta1": 0.0, "beta2": 0.9}, {"amsgrad": 1}],
    "adamax": [{}, DECAY, {"beta1": 0.5, "beta2": 0.9, "eps": 0.1}],
    "nadam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}],
    "radam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}, {"beta2": 0.8, "eps": 0.1}],
    "lion": [{}, DECAY],
}
ABSENT = {"momentum_buffer": "momentum", "grad_avg": "centered", "max_exp_avg_sq": "amsgrad"}  # state: what needs it
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)  # around vectors, panels and tiles
SHAPES = [(0, 5), (1000, 100), (3, 2000), *((rows, 17) for rows in (1, 31, 33, 50, 64, 65, 130)),
          *((3, cols) for cols in EDGES)]
DENSE_SIZES = [(0, 5, 3), (128, 300, 200), *zip(*(np.random.default_rng(seed).permutation(np.repeat(EDGES, 3)).tolist()
                                                  for seed in range(3)), strict=True)]
BACKENDS = {"cpu": CpuBackend, "numpy": NumpyBackend}


def test_every_op_is_tested():
    from test_layer_ops import OPERANDS

    losses = [f"{name}{end}" for name in LOSSES for end in ("", "_backward") if OPS[name].gradient or not end]
    general = {name for name, op in OPS.items() if op.arity or op.tangent}  # see test_general_graphs.py
    assert sorted({*ROWWISE, *losses, *DENSE, *UPDATES, *CHANGES, *OPERANDS} | general) == sorted(OPS)


def cases(names):
    return [pytest.param(name, case, id="-".join([name, *map(str, case.values())]))
            for name in names for case in OPS[name].cases]


shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


# Kernels against references


@pytest.mark.parametrize(("name", "case"), cases(ROWWISE))
@shapes
def test_rowwise(name, case, shape, dtype):
    op, (rows, cols) = OPS[name], shape
    inputs = rowwise_inputs(name, case, shape, dtype)
    graph = Graph()
    nodes = [graph.input("x", (None, cols)), graph.target("y", (None, cols))][: len(inputs)]
    node = graph.apply(name, *nodes, **case)
    expected = op.reference(case, *(value.astype(np.float64) for value in inputs))
    terms, scale = 1, abs(inputs[0])
    if op.tolerance == "row":
        terms, scale = cols, None if name in SOFTMAXES else scale.max(-1, keepdims=True)
    for machine in in_place_and_apart(name, dtype, graph, rows, prediction=node):
        close(machine(*inputs), expected, dtype, op.tolerance, terms, scale)


def rowwise_inputs(name, case, shape, dtype):
    generator, base = np.random.default_rng(len(name) + sum(shape)), name.removesuffix("_backward")
    x, y = (3 * generator.standard_normal(shape).astype(dtype) for _ in range(2))
    if base != name:
        return x, y if OPS[name].saves == "x" else OPS[base].reference(case, y)
    return (x, y) if name == "add" else (x,)


@pytest.mark.parametrize(("name", "case"), cases(sorted(LOSSES)))
@pytest.mark.parametrize("shape", [(1000, 100), (3, 2000), (1, 17), (33, 17), (130, 17), (64, 33),
                                   *((3, cols) for cols in (1, 2, 7, 8, 9, 16))], ids=str)
def test_losses(name, case, shape, dtype):
    """Loss and gradient of a batch; the loss of each row as a batch of its own. Half of the shapes have weights."""
    (rows, cols), case = shape, fitted(case, shape[1])
    x, y, weights = prediction_and_target(name, case, shape, dtype)
    weights = weights if sum(shape) % 2 else None
    graph, node, *slope = loss_graph(name, cols, case, weights is not None)
    exact = [value.astype(np.float64) if value is not None and value.dtype == dtype else value
             for value in (x, y, weights)]
    largest = magnitude(name, case, exact)
    count = divisor(name, case, exact)
    goals = {"loss": node} | ({"prediction": slope[0]} if slope else {})
    for machine in in_place_and_apart(name, dtype, graph, rows, **goals):
        found = machine(x, y, weights=weights)
        if slope:
            expected = OPS[slope[0].op].reference(case, 1.0, *exact)
            close(found, expected, dtype, OPS[slope[0].op].tolerance, cols, largest[:, None] / count)
        loss = OPS[name].reference(case, *exact)
        close(machine.losses, [loss], dtype, OPS[name].tolerance, cols, abs(loss) + largest.sum() / count)
    losses = np.array([OPS[name].reference(case, *(None if value is None else value[i : i + 1] for value in exact))
                       for i in range(rows)])
    machine(x, y, batch=1, weights=weights)
    close(machine.losses, losses, dtype, OPS[name].tolerance, cols, abs(losses) + largest)


def fitted(case, cols):
    """A case with as many class weights as there are columns."""
    return {name: tuple(np.resize(value, cols).tolist()) if isinstance(value, tuple) else value
            for name, value in case.items()}


def magnitude(name, case, exact):
    """For each row, how large the numbers are that its loss and slopes are made of."""
    x, y, weights = exact
    if name.startswith(("bce_loss", "poisson_nll_rate", "exponential", "squared_hinge", "kl_div", "poisson")):
        alone = case | {"reduction": "sum"}
        rows = [(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
        sizes = np.array([abs(OPS[f"{name}_backward"].reference(alone, 1.0, *row)).max() for row in rows])
        sizes += abs(np.array([OPS[name].reference(alone, *row) for row in rows])) + 40
    else:
        sizes = 2 * abs(x).max(-1) + 1
    return sizes * (1 if weights is None else weights) * max(1, np.max(case.get("weight") or 1))


def divisor(name, case, exact):
    """What a mean divides by, for the tests' scales."""
    x, _, weights = exact
    total = len(x) if weights is None else weights.sum()
    if case["reduction"] == "sum":
        return 1
    return total * LOSSES[name].operands(case, x.shape[1])["share"] or 1


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


@pytest.mark.parametrize("sizes", DENSE_SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_dense(sizes, bias, dtype):
    """The forward op, and the gradients of input, weight and bias."""
    rows, inputs, outputs = sizes
    generator = np.random.default_rng(rows)
    shapes = {"x": (rows, inputs), "y": (rows, outputs), "w": (outputs, inputs), "b": (outputs,)}
    values = {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    graph = Graph()
    x, dy = graph.input("x", (None, inputs)), graph.target("y", (None, outputs))
    w, *b = [graph.parameter(name, shape=shapes[name]) for name in ("w", "b")][: 1 + bias]
    y, dx = graph.apply("dense", x, w, *b), graph.apply("dense_input_gradient", dy, w)
    gradients = {w: graph.apply("dense_weight_gradient", x, dy)} | {
        node: graph.apply("dense_bias_gradient", dy) for node in b}

    def check(actual, node, terms):
        operands = [values[operand.name].astype(np.float64) for operand in node.inputs]
        scale = OPS[node.op].reference({}, *map(abs, operands))
        close(actual, OPS[node.op].reference({}, *operands), dtype, OPS[node.op].tolerance, terms, scale)

    parameters = {node.name: values[node.name] for node in (w, *b)}
    for machine in in_place_and_apart("dense", dtype, graph, rows, parameters, prediction=y):
        check(machine(values["x"]), y, inputs + 1)
    for name in ("dense_input_gradient", "dense_parameter_gradient"):
        for machine in in_place_and_apart(name, dtype, graph, rows, parameters, prediction=dx, gradients=gradients):
            check(machine(values["x"], values["y"]), dx, outputs)
            for parameter, node in gradients.items():
                check(machine.gradient(parameter), node, max(rows, 1))


updates = pytest.mark.parametrize(("name", "settings"), [(name, case) for name in UPDATES for case in UPDATES[name]],
                                  ids=str)


def states_of(op, settings, w, value):
    """Arrays for the states that an optimizer of these settings has, None for the others."""
    return {state: np.full_like(w, value) if settings.get(ABSENT.get(state, "lr"), 1) else None for state in op.states}


@updates
@pytest.mark.parametrize("size", [1, 31, 33, 50, 64, 5000])
def test_updates(name, settings, size, dtype, worker):
    """Several updates of elements [low, high), each from the state that the one before it left."""
    op, settings = OPS[name], DEFAULTS[name] | settings
    generator = np.random.default_rng(size)
    low, high = 5, 5 + size
    w = generator.standard_normal(size + 9).astype(dtype)
    states = states_of(op, settings, w, np.nan if name in ("sgd", "rprop", "adagrad") else 0)
    for update in (1, 2, 3, 1000):
        g = generator.standard_normal(size + 9).astype(dtype)
        held = [w, *(state for state in states.values() if state is not None)]
        around = [np.delete(array, np.s_[low:high]).tobytes() for array in (*held, g)]
        given = g.tobytes()
        exact = [array[low:high].astype(np.float64) for array in (w, g, *held[1:])]
        expected = op.reference(settings, update, *exact)
        assert worker(dtype, update=update, gradient=g).run(op.cpu, low, high, w=w, **states, **settings) == 0
        for array, value in zip(held, expected, strict=True):
            close(array[low:high], value, dtype, op.tolerance)
        assert [np.delete(array, np.s_[low:high]).tobytes() for array in (*held, g)] == around
        assert g.tobytes() == given


@updates
def test_an_update_that_is_not_finite_is_not_made(name, settings, dtype, worker):
    """Nor is a state left that is not."""
    op, settings, w = OPS[name], DEFAULTS[name] | settings, np.ones(50, dtype)
    states = states_of(op, settings, w, 0)
    held = [state for state in states.values() if state is not None]
    g = np.full(50, 0.5, dtype)
    g[[3, 17, 40]] = np.inf, np.finfo(dtype).max, np.nan
    with np.errstate(all="ignore"):
        wrong = ~np.isfinite(op.reference(settings, 1, w, g, *held)).all(0)
    assert worker(dtype, gradient=g).run(op.cpu, 0, 50, w=w, **states, **settings) == 1
    np.testing.assert_array_equal(w == 1, wrong)
    assert np.isfinite(held).all()


class Machine:
    """A program of a graph on one backend. A call runs it and returns the prediction; `losses`, `gradient` follow it.

    Before each call all memory that the program has to write, padding included, is filled with NaN. The instruction
    `apart` gets memory of its own for its result, which the plan may have put in place of an operand; then a call
    asserts that the instruction changes no byte but its results'.
    """

    def __init__(self, backend, dtype, graph, rows, parameters=None, apart=None, prediction=None, **goals):
        self.backend, self.dtype, self.rows, self.apart = backend, np.dtype(dtype), rows, apart
        self.program = plan(graph, layout(dtype), keep_gradient=bool(goals.get("gradients")), settings={"key": 7},
                            predictions={} if prediction is None else {"prediction": prediction}, **goals)
        if apart:
            self._separate()
        self.executor = BACKENDS[backend](self.dtype)
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
        if self.backend == "cpu":
            self.executor.lasting[program.elements * self.dtype.itemsize :] = 0xFF
            self.executor.working[:] = 0xFF
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
        lasting, working = self.executor.lasting.copy(), self.executor.working.copy()
        places, size = self.program.place(self.rows)
        for buffer in self.results:
            working[places[buffer] : min(place for place in (*places.values(), size) if place > places[buffer])] = 0
        if not self.results:
            lasting[self.program.elements * self.dtype.itemsize :] = 0
        return lasting.tobytes() + working.tobytes()


def in_place_and_apart(op, *arguments, **goals):
    """Two machines: the plan's own, and one where `op` stands apart; the second compiles nothing."""
    yield Machine("cpu", *arguments, **goals)
    compiled = len(_jit.compiled)
    yield Machine("cpu", *arguments, apart=op, **goals)
    assert len(_jit.compiled) == compiled


# Gradients


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


KINKS = {"relu", "leaky_relu", "threshold", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "elu",
         "selu", "l1_loss", "smooth_l1_loss", "huber_loss", "hinge_loss", "squared_hinge_loss",
         "hinge_embedding_loss", "multi_margin_loss", "multilabel_margin_loss"}
SQUARES = ("mse_loss", {"reduction": "sum"})
POSITIVE = ("bce_loss", "poisson_nll_rate_loss", "poisson_nll_rate_full_loss")  # their predictions
WITH_GRADIENT = [name for name in (*ROWWISE, *DENSE, *LOSSES)  # second derivatives: see test_derivatives.py
                 if OPS[name].gradient is not None and not name.endswith("_backward")]
CHAINS = [((name,), SQUARES) for name in WITH_GRADIENT if name not in LOSSES]
CHAINS += [(ops, (name, case)) for name in sorted(set(LOSSES) & set(WITH_GRADIENT)) for case in OPS[name].cases
           for ops in ((), ("dense", "tanh", "dense"))]
LAYERS = ["affine", "prelu", "layer_norm", "rms_norm", "batch_norm", "dropout", "rrelu", "glu", "maxout"]
CHAINS += [(("dense", name, "dense"), SQUARES) for name in (*ACTIVATIONS, *SOFTMAXES, "add", *LAYERS)]
CHAINS += [(("dense", name), SQUARES) for name in ACTIVATIONS]


@pytest.mark.parametrize(("ops", "loss"), CHAINS, ids=str)
def test_gradients_are_central_differences(ops, loss):
    """Of the input and of every parameter, for each op with a gradient rule and for what a plan fuses."""
    (name, attributes), rows = loss, 6
    graph, generator, attributes = Graph(), np.random.default_rng(7), fitted(attributes, 5)
    x, value = chain(graph, *ops, *(["sigmoid"] if name in POSITIVE else []))
    y = graph.labels("y") if LOSSES[name].labels else graph.target("y", value.shape)
    node = graph.apply(name, value, y, graph.weights("weights"), **attributes)
    parameters = [node for node in graph.nodes if node.op == "parameter"]
    slope, *slopes = differentiate(graph, node, [x, *parameters])
    goals = {"loss": node, "prediction": slope, "gradients": dict(zip(parameters, slopes, strict=True))}
    point = {node.name: generator.standard_normal((rows, 5) if node is x else node.shape) for node in (x, *parameters)}
    _, target, weights = prediction_and_target(name, attributes, (rows, 5), np.dtype(np.float64))

    def gradients(dtype):
        values = {name: value for name, value in point.items() if name != "x"}
        machine = Machine("cpu", dtype, graph, rows, values, **goals)
        dx = machine(point["x"], target, weights=weights)
        return {"x": dx} | {node.name: machine.gradient(node) for node in parameters}

    alone = Machine("cpu", "float64", graph, rows, loss=node)

    def value_at(values):
        alone.write({name: value for name, value in values.items() if name != "x"})
        alone(values["x"], target, weights=weights)
        return alone.losses[0]

    found, single = gradients("float64"), gradients("float32")
    kinks = (KINKS | {"prelu", "rrelu", "maxout"}) & {name, *ops}
    eps, atol, rtol = 1e-6, 1e-5 if kinks else 1e-7, 1e-3 if kinks else 1e-7
    for name, values in point.items():
        for index in np.ndindex(values.shape):
            step = np.zeros_like(values)
            step[index] = eps
            numeric = (value_at(point | {name: values + step}) - value_at(point | {name: values - step})) / (2 * eps)
            given = found[name][index]
            assert abs(given - numeric) <= atol + rtol * abs(numeric), (
                f"d loss / d {name}[{', '.join(map(str, index))}] is {given!r}, differences give {numeric!r}")
        largest = max(abs(value).max() for value in found.values())  # a bias before batch norm has no gradient
        close(single[name], found[name], "float32", "training", 5 * rows, largest)


def test_every_gradient_rule_is_tested():
    assert {name for ops, _ in CHAINS for name in ops} | {loss for _, (loss, _) in CHAINS} == {
        *WITH_GRADIENT, *LAYERS}


# Whole programs


@pytest.mark.parametrize("layer", activation_layers(hl), ids=repr)
def test_what_memory_held_before_changes_nothing(layer, dtype):
    """Buffers lie where other programs had theirs: a step's bits do not depend on it, and padding stays zero."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((13, 5)), generator.integers(0, 3, 13)
    found = []
    for fill in (0, 0xFF):
        net = hl.Sequential(layer, hl.Dense(5, 33), layer, hl.Dense(33, 17), layer, hl.Dense(17, 3))
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(lr=0.1), dtype=dtype)
        program = trainer.program(x, y)
        for _ in range(3):
            trainer._backend.working[:] = fill
            trainer.step(x, y)
        found.append(trainer._backend.lasting.tobytes())
        parameters = np.frombuffer(found[-1], dtype, program.elements)
        assert np.count_nonzero(parameters) == sum(block.outputs * (block.inputs + 1) for block in program.blocks)
    assert found[0] == found[1]


@pytest.mark.parametrize("op", [*ACTIVATIONS, *SOFTMAXES, *LAYERS])
def test_any_value_can_be_predicted(op):
    """Also one that a plan would keep in registers or overwrite."""
    graph, generator = Graph(), np.random.default_rng(0)
    x, value = chain(graph, "dense", op, "dense", op)
    loss = graph.apply("mse_loss", value, graph.target("y", value.shape), reduction="mean")
    parameters = [node for node in graph.nodes if node.op == "parameter"]
    slope, *slopes = differentiate(graph, loss, [x, *parameters])
    goals = {"loss": loss, "gradients": dict(zip(parameters, slopes, strict=True))}
    values = {node.name: generator.standard_normal(node.shape) for node in parameters}
    arrays = generator.standard_normal((2, 6, 5))
    for node in graph.nodes[: graph.nodes.index(slope) + 1]:
        if node.inputs and node.shape == (None, 5):
            found, expected = (Machine(backend, "float64", graph, 6, values, prediction=node, **goals)(*arrays)
                               for backend in BACKENDS)
            close(found, expected, "float64", "training", 6, abs(expected).max())


def test_rows_come_in_the_order_asked_for(dtype):
    """Three batches from row 2 on, the last one short, gathered by index and stored in place."""
    graph = Graph()
    x, y = graph.input("x", (None, 5)), graph.target("y", (None, 5))
    total = graph.apply("add", graph.apply("identity", x), y)
    program = plan(graph, layout(dtype), predictions={"prediction": total})
    executor = CpuBackend(dtype)
    executor.prepare(program, 4)
    x, y = np.arange(60, dtype=dtype).reshape(12, 5), np.ones((12, 5), dtype)
    order = np.random.default_rng(0).permutation(12)
    prediction = np.full((12, 5), np.nan, dtype)
    arrays = {"x": x, "y": y, "order": order, "prediction": prediction}
    executor.run(program, arrays, steps=3, start=2, rows=12, batch=4)
    np.testing.assert_array_equal(prediction[2:], x[order][2:] + 1)
    assert np.isnan(prediction[:2]).all()


def test_a_second_architecture_compiles_nothing(dtype):
    generator = np.random.default_rng(0)
    for sizes in ((3, 9, 2), (40, 17, 33, 5)):
        layers = [part for pair in zip(sizes[:-1], sizes[1:], strict=True) for part in (hl.Dense(*pair), hl.Tanh())]
        trainer = hl.Trainer(hl.Sequential(*layers), hl.CrossEntropyLoss(), hl.SGD(), dtype=dtype)
        compiled = len(_jit.compiled)
        x, y = generator.standard_normal((70, sizes[0])), generator.integers(0, sizes[-1], 70)
        trainer.fit(x, y, epochs=2)
        trainer.evaluate(x, y)
    assert len(_jit.compiled) == compiled


# Cases with one right answer, on both backends

backends = pytest.mark.parametrize("backend", BACKENDS)


def loss_at(backend, dtype, op, x, y, **attributes):
    """A loss summed over the rows of x, and its gradient."""
    graph, node, slope = loss_graph(op, np.shape(x)[1], OPS[op].cases[0] | {"reduction": "sum"} | attributes)
    machine = Machine(backend, dtype, graph, len(x), loss=node, prediction=slope)
    gradient = machine(x, y)
    return machine.losses[0], gradient


@backends
def test_slope_of_the_absolute_error_at_zero(backend, dtype):
    loss, gradient = loss_at(backend, dtype, "l1_loss", [[1, 2, 3]], [[1.0, 1.5, 4.0]])
    assert loss == 1.5
    np.testing.assert_array_equal(gradient, [[0, 1, -1]])


@backends
def test_cross_entropy_of_distant_logits(backend, dtype):
    loss, gradient = loss_at(backend, dtype, "cross_entropy", [[1000, 0]], [1])
    assert loss == 1000
    np.testing.assert_array_equal(gradient, [[1, -1]])


@backends
@pytest.mark.parametrize("op", ["cross_entropy", "cross_entropy_probabilities"])
def test_cross_entropy_of_an_impossible_class(op, backend, dtype):
    x = [[-np.inf, 0, 0]]

    def target(label):
        return [label] if op == "cross_entropy" else np.eye(3)[[label]]

    loss, gradient = loss_at(backend, dtype, op, x, target(1))
    close(loss, np.log(2), dtype, "row")
    assert gradient[0, 0] == 0
    loss, gradient = loss_at(backend, dtype, op, x, target(0))
    assert loss == np.inf
    np.testing.assert_array_equal(gradient, [[-1, 0.5, 0.5]])


@backends
def test_binary_cross_entropy_of_distant_logits(backend, dtype):
    for x, y, loss, gradient in [(1000, 1, 0, 0), (1000, 0, 1000, 1), (-1000, 1, 1000, -1), (-1000, 0, 0, 0)]:
        assert loss_at(backend, dtype, "bce_with_logits_loss", [[x]], [[float(y)]]) == (loss, [[gradient]])
    loss, _ = loss_at(backend, dtype, "bce_with_logits_loss", [[20]], [[1.0]])
    assert abs(loss - 2.0611536181902037e-09) <= 1e-5 * 2.06e-9


@backends
@pytest.mark.parametrize("op", [*ACTIVATIONS, *SOFTMAXES, "dense"])
def test_nan_stays_in_its_row(op, backend, dtype):
    graph = Graph()
    _, node = chain(graph, op)
    x = np.random.default_rng(0).standard_normal((9, 5))
    x[4] = np.nan
    parameters = {"0.weight": np.ones((5, 5)), "0.bias": np.ones(5)} if op == "dense" else {}
    found = Machine(backend, dtype, graph, 9, parameters, prediction=node)(x)
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, 4, 0)).all()


def at_rest(backend, dtype, optimizer):
    """A trainer and data of gradient zero, with weights that are not."""
    net = hl.Sequential(hl.Dense(3, 2))
    trainer = hl.Trainer(net, hl.MSELoss(), optimizer, backend=backend, dtype=dtype, batch_size=4)
    weight = np.random.default_rng(0).standard_normal((2, 3)).astype(dtype)
    net.load_state_dict({"0.weight": weight, "0.bias": np.zeros(2)})
    return trainer, weight, np.zeros((4, 3)), np.zeros((4, 2))


@backends
@pytest.mark.parametrize("optimizer", [
    hl.SGD(), hl.SGD(momentum=0.9), hl.SGD(momentum=0.9, nesterov=True), hl.ASGD(lambd=0), hl.Rprop(), hl.Adagrad(),
    hl.Adadelta(), hl.RMSprop(), hl.RMSprop(momentum=0.9, centered=True, eps=0), hl.Adam(),
    hl.Adam(amsgrad=True, eps=0), hl.AdamW(weight_decay=0), hl.Adamax(), hl.Adamax(eps=0), hl.NAdam(), hl.NAdam(eps=0),
    hl.RAdam(), hl.RAdam(eps=0), hl.Lion()], ids=repr)
def test_no_gradient_moves_nothing(optimizer, backend, dtype):
    trainer, weight, x, y = at_rest(backend, dtype, optimizer)
    trainer.fit(x, y, epochs=100)
    assert trainer.net.state_dict()["0.weight"].tobytes() == weight.tobytes()


def test_every_optimizer_is_known_to_rest():
    rested = test_no_gradient_moves_nothing.pytestmark
    assert {type(value) for mark in rested if mark.args[0] == "optimizer" for value in mark.args[1]} == set(
        hl.optimizers.OPTIMIZERS.values())


@backends
@pytest.mark.parametrize("kind", [hl.AdamW, hl.Lion, *[functools.partial(kind, decoupled_weight_decay=True)
                                                       for kind in (hl.NAdam, hl.RAdam)]], ids=repr)
def test_decoupled_decay_is_exact(kind, backend, dtype):
    trainer, weight, x, y = at_rest(backend, dtype, kind(lr=0.01, weight_decay=0.1))
    trainer.step(x, y)
    expected = weight * dtype.type(1 - 0.01 * 0.1)
    assert trainer.net.state_dict()["0.weight"].tobytes() == expected.tobytes()


@backends
def test_adam_adds_eps_outside_the_bias_correction(backend, dtype):
    """A first gradient as large as eps moves by lr / 2; inside the correction it would be 0.03 lr."""
    net = hl.Sequential(hl.Dense(1, 1))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=1, eps=1e-8), backend=backend, dtype=dtype)
    net.load_state_dict({"0.weight": np.zeros((1, 1)), "0.bias": np.zeros(1)})
    trainer.step([[0.0]], [[-0.5e-8]])
    close(net.state_dict()["0.bias"], [-0.5], dtype, "elementwise")
