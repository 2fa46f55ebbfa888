"""Every op of the table: its kernel against its reference, in programs, and the hard cases."""

import numpy as np
import pytest
from freeze_torch import activation_layers
from machine import (
    ACTIVATIONS,
    BACKENDS,
    DENSE,
    LAYERS,
    ROWWISE,
    SOFTMAXES,
    Machine,
    backends,
    chain,
    fitted,
    in_place_and_apart,
    loss_at,
    loss_graph,
    prediction_and_target,
)
from test_updates import UPDATES
from tolerances import close

import hotloop as hl
from hotloop.autodiff import differentiate
from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, _jit
from hotloop.kernels.losses import LOSSES
from hotloop.plan import plan

CHANGES = ["penalty", "penalty_gradient", "clip_value", "gradient_norm", "clip_norm"]  # see test_gradients
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)  # around vectors, panels and tiles
SHAPES = [(0, 5), (1000, 100), (3, 2000), (35, 131), (300, 1), *((3, cols) for cols in EDGES),
          *((rows, 17) for rows in (1, 31, 33, 50, 64, 65, 130, 230))]
DENSE_SIZES = [(0, 5, 3), (128, 300, 200), *zip(*(np.random.default_rng(seed).permutation(np.repeat(EDGES, 3)).tolist()
                                                  for seed in range(3)), strict=True)]


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
@pytest.mark.parametrize("shape", [(1000, 100), (3, 2000), (35, 131), (300, 1), (64, 33),
                                   *((rows, 17) for rows in (1, 33, 130, 230)),
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


@pytest.mark.parametrize("sizes", DENSE_SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_dense(sizes, bias, dtype):
    check_dense("cpu", sizes, bias, dtype)


def check_dense(backend, sizes, bias, dtype):
    """The forward op, and the gradients of input, weight and bias, against their references."""
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
    for machine in in_place_and_apart("dense", dtype, graph, rows, parameters, backend=backend, prediction=y):
        check(machine(values["x"]), y, inputs + 1)
    for name in ("dense_input_gradient", "dense_parameter_gradient"):
        for machine in in_place_and_apart(name, dtype, graph, rows, parameters, backend=backend, prediction=dx,
                                          gradients=gradients):
            check(machine(values["x"], values["y"]), dx, outputs)
            for parameter, node in gradients.items():
                check(machine.gradient(parameter), node, max(rows, 1))


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
def test_the_first_of_equal_maxima_gets_the_gradient(backend, dtype):
    graph = Graph()
    x = graph.input("x", (None, 4))
    node = graph.apply("maxout", x, pool=2)
    loss = graph.apply("mse_loss", node, graph.target("y", node.shape), reduction="sum")
    slope, = differentiate(graph, loss, [x])
    found = Machine(backend, dtype, graph, 1, loss=loss, prediction=slope)([[1, 1, 0, 2]], [[0, 0]])
    np.testing.assert_array_equal(found, [[2, 0, 0, 4]])


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
