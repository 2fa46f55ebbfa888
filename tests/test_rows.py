"""Ops along rows that have a kernel of their own for many columns: it serves any width, and the plan chooses."""

import numpy as np
import pytest
import test_ops
from machine import Machine, fitted, loss_at, loss_graph, prediction_and_target
from tolerances import close

import hotloop as hl
from hotloop.cpu_backend import layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, _jit, _rows
from hotloop.kernels.losses import LOSSES

WIDE = [name for name, op in OPS.items() if op.wide and name.removesuffix("_backward") not in LOSSES] + [
    name for name in LOSSES if OPS[name].wide]
SHAPES = [*((3, cols) for cols in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 65)), (0, 5), (1, 17), (16, 33), (50, 20)]
MANY = 10**9


def choose(monkeypatch, panels):
    """Let the plan take rows as they lie from so many panels on."""
    monkeypatch.setattr(_rows, "_WIDE", panels)


@pytest.fixture(params=["columns", "rows"])
def way(request, monkeypatch):
    choose(monkeypatch, 0 if request.param == "rows" else MANY)


def machine(name, cols, dtype, rows=1):
    """A machine for a graph of one op, and for a loss its gradient; and what the graph wants for such inputs."""
    case = fitted(OPS[name].cases[-1], cols)
    if name in LOSSES:
        graph, loss, slope = loss_graph(name, cols, case)
        x, y, _ = prediction_and_target(name, case, (rows, cols), dtype)
        return Machine("cpu", dtype, graph, rows, loss=loss, prediction=slope), (x, y)
    graph, inputs = Graph(), test_ops.rowwise_inputs(name, case, (rows, cols), dtype)
    nodes = [graph.input("x", (None, cols)), graph.target("y", (None, cols))][: len(inputs)]
    return Machine("cpu", dtype, graph, rows, prediction=graph.apply(name, *nodes, **case)), inputs


@pytest.mark.parametrize("name", WIDE)
def test_the_columns_alone_decide(name, dtype):
    most = 8 * layout(dtype).panel
    assert _jit.operands(OPS[name].wide) == _jit.operands(OPS[name].cpu)
    for cols, kernel in ((1, OPS[name].cpu), (most, OPS[name].cpu), (most + 1, OPS[name].wide)):
        for rows in (1, 300):
            found, _ = machine(name, cols, dtype, rows)
            assert kernel in [instruction.kernel for instruction in found.program.instructions]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_few_columns_as_they_lie(name, shape, dtype, monkeypatch):
    """Around vectors, panels and blocks of rows."""
    choose(monkeypatch, 0)
    check(name, shape, dtype)


@pytest.mark.parametrize("name", WIDE)
def test_many_columns_turned(name, dtype, monkeypatch):
    choose(monkeypatch, MANY)
    check(name, (35, 131), dtype)


def check(name, shape, dtype):
    """What every op is held to: its reference."""
    for case in OPS[name].cases:
        if name not in LOSSES:
            test_ops.test_rowwise(name, case, shape, dtype)
        elif all(shape):
            test_ops.test_losses(name, case, shape, dtype)


@pytest.mark.parametrize("name", WIDE)
def test_both_ways_agree_where_they_meet(name, dtype, monkeypatch):
    panel = layout(dtype).panel
    for cols in range(8 * panel - 1, 9 * panel + 2, panel // 2):
        found = []
        for panels in (0, MANY):
            choose(monkeypatch, panels)
            run, inputs = machine(name, cols, dtype, 19)
            found.append((run(*inputs), run.losses))
        (one, losses), (other, expected) = found
        assert not np.array_equal(one, other)  # sums in another order
        close(one, other, dtype, "row", cols, 2 * abs(inputs[0]).max(-1, keepdims=True))
        close(losses, expected, dtype, "row", cols)


# cases with one right answer


def test_logits_far_apart(way, dtype):
    loss, gradient = loss_at("cpu", dtype, "cross_entropy", [[1000, 0]], [1])
    assert loss == 1000
    np.testing.assert_array_equal(gradient, [[1, -1]])


def test_impossible_classes(way, dtype):
    x = np.full((2, 20), -np.inf)
    x[:, [0, 19]] = 5
    loss, gradient = loss_at("cpu", dtype, "cross_entropy", x, [0, 19])
    close(loss, 2 * np.log(2), dtype, "row")
    np.testing.assert_array_equal(gradient, 0.5 * (np.eye(20)[[19, 0]] - np.eye(20)[[0, 19]]))
    loss, gradient = loss_at("cpu", dtype, "cross_entropy", x, [7, 19])
    assert loss == np.inf and gradient[0, 7] == -1


def test_ignored_rows(way, dtype):
    loss, gradient = loss_at("cpu", dtype, "cross_entropy", np.eye(40)[:20] * 9, [-100] * 20)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("name", WIDE)
def test_nan_stays_in_its_row(name, way, dtype):
    run, (x, *others) = machine(name, 37, dtype, 20)
    clean = run(x, *others)
    x[[0, 18], [36, 3]] = np.nan
    found = run(x, *others)
    assert np.isnan(found[[0, 18]]).all()
    np.testing.assert_array_equal(np.delete(found, [0, 18], 0), np.delete(clean, [0, 18], 0))


def test_probabilities_fade_out(way, dtype):
    """Down to the smallest number of the type, then to 0."""
    least = np.log(np.finfo(dtype).smallest_subnormal)
    x = np.array([[0, least + 3, least + 1, least - 1, -np.inf]])
    graph = Graph()
    node = graph.apply("softmax", graph.input("x", (None, 5)))
    found = Machine("cpu", dtype, graph, 1, prediction=node)(x)
    expected = np.exp(x.astype(dtype).astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1.5 * np.finfo(dtype).smallest_subnormal)
    assert found[0, 3] == found[0, 4] == 0 and found[0, 2] > 0


# training


@pytest.mark.parametrize("layer", [hl.Softmax(), hl.LogSoftmax()], ids=repr)
def test_what_memory_held_before_changes_nothing(layer, way, dtype):
    """Padding of gradients is zero: so is that of parameters after steps."""
    generator, found = np.random.default_rng(0), []
    x, y = generator.standard_normal((21, 5)), generator.integers(0, 19, 21)
    for fill in (0, 0xFF):
        net = hl.Sequential(hl.Dense(5, 33), layer, hl.Dense(33, 19), seed=0)
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(lr=0.1), dtype=dtype)
        program = trainer.program(x, y)
        for _ in range(3):
            trainer._backend.working[:] = fill
            trainer.step(x, y)
        found.append(trainer._backend.lasting.tobytes())
        parameters = np.frombuffer(found[-1], dtype, program.elements)
        assert np.count_nonzero(parameters) == sum(block.outputs * (block.inputs + 1) for block in program.blocks)
    assert found[0] == found[1]


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    generator = np.random.default_rng(0)
    x, y, weights = generator.standard_normal((90, 7)), generator.integers(0, 300, 90), generator.uniform(0, 2, 90)
    found = []
    for count in (1, threads):
        net = hl.Sequential(hl.Dense(7, 150), hl.LogSoftmax(), hl.Dense(150, 300), hl.Softmax(), hl.Dense(300, 300))
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(ignore_index=4), hl.SGD(lr=0.1), threads=count, batch_size=37)
        losses = trainer.fit(x, y, 2, sample_weight=weights).loss
        found.append((losses, trainer._backend.lasting.tobytes(), trainer.predict(x[:1]).tobytes()))
    assert found[0] == found[1]
