"""Graphs of any expression: values and derivatives, for every op that is not a layer's.

How kernels for CUDA compute them is tested in `test_cuda_graphs`.
"""

import itertools

import numpy as np
import pytest
from tolerances import close

import hotloop as hl
from hotloop import functions as f
from hotloop.kernels import OPS
from hotloop.kernels.reductions import CHUNK
from hotloop.optimizers import OPTIMIZERS

SIZES = [(), (1,), (31,), (33,), (64,), (3, 5), (2, 3, 4), (70, 1000)]
ELEMENTWISE = sorted(name for name, op in OPS.items() if op.arity and op.gradient)
POSITIVE = {"sqrt", "log", "log1p", "power"}


def numbers(shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


def operands(name, shape):
    """Arrays for an op, away from poles and kinks, or, for comparisons and maxima, with some equal ones."""
    arrays = [numbers(shape, seed, 0.2 if name in POSITIVE else -2.0) for seed in range(OPS[name].arity)]
    if name in ("equal", "greater", "greater_equal", "maximum", "minimum"):
        arrays = [np.round(array) for array in arrays]
    if name == "where":
        arrays[0] = np.round(arrays[0])
    return arrays


def run(build, arrays, backend, dtype="float64", batch=False, **options):
    """What a program of `build(*inputs)` gives for arrays; gradients with respect to all, where asked."""
    graph = hl.Graph()
    nodes = [graph.input(f"x{i}", (None, *a.shape[1:]) if batch else a.shape) for i, a in enumerate(arrays)]
    program = graph.compile(build(*nodes), backend=backend, dtype=dtype, **{
        name: [nodes[i] for i in value] if name == "wrt" else value for name, value in options.items()})
    return program(**{f"x{i}": a for i, a in enumerate(arrays)})


def apply(name, **attributes):
    return lambda *nodes: nodes[0].graph.apply(name, *nodes, **attributes)


def cases(names):
    return [pytest.param(name, case, id="-".join([name, *map(str, case.values())]))
            for name in names for case in OPS[name].cases]


# Ops


@pytest.mark.parametrize(("name", "case"), cases(ELEMENTWISE))
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_elementwise(name, case, shape, dtype):
    arrays = [array.astype(dtype) for array in operands(name, shape)]
    kept = [array.copy() for array in arrays]
    value = run(apply(name, **case), arrays, "cpu", dtype)
    expected = OPS[name].reference(case, *(array.astype(np.float64) for array in arrays))
    close(value, expected, dtype, "elementwise", scale=np.maximum(1, abs(np.asarray(expected))))
    assert isinstance(value, float) if shape == () else value.dtype == dtype
    assert all(np.array_equal(array, old) for array, old in zip(arrays, kept, strict=True))


BATCHED = [
    (lambda x: x.sum(), (5, 3)), (lambda x: x.sum(0), (700, 3)), (lambda x: x.sum((0, 2)), (5, 3, 4)),
    (lambda x: x.sum(1, keepdims=True), (5, 33)), (lambda x: x.sum(-1), (3, 2 * CHUNK + 7)),
    (lambda x: x.mean(), (5, 3)), (lambda x: x.mean((1, 2)), (5, 3, 4)), (lambda x: x.max(), (40, 3)),
    (lambda x: x.max(1), (5, 3, 4)),
    (lambda x: x.max((0, 2)), (5, 3, 4)), (lambda x: x.max(0), (9, 100)), (lambda x: x.T, (5, 3)),
    (lambda x: x.transpose(1, 2, 0), (5, 3, 4)), (lambda x: x[:, 1], (5, 3)), (lambda x: x[:, ::-1], (5, 4)),
    (lambda x: x[..., 1:5:3, None], (5, 6)), (lambda x: x[:, -1, 0:2], (5, 3, 4)),
    (lambda x: x.reshape(-1, 2, 3), (5, 6)),
    (lambda x, y: x @ y.T, (5, 3), (5, 3)), (lambda x, y: x.T @ y, (70, 33), (70, 17)),
    (lambda x, y: f.concatenate([x, 2 * y], 1), (5, 3), (5, 4)), (lambda x, y: f.stack([x, y], -1), (5, 3), (5, 3)),
    (lambda x, y: x + y[:, :1], (5, 3), (5, 3)), (lambda x: x + np.arange(3.0), (5, 3)),
    (lambda x: x * np.arange(4.0)[:, None, None] + 1, (3, 2)), (lambda x: f.logsumexp(x, 1), (5, 3)),
    (lambda x: f.softmax(x), (5, 3)), (lambda x: f.log_softmax(x, 0), (5, 3)),
]
FIXED = [
    (lambda x, y: x @ y[0], (70, 33), (70, 33)), (lambda x, y: x[0] @ y.T, (70, 33), (70, 33)),
    (lambda x: x[2], (5, 3)), (lambda x: x[1::2, None, ::-1], (5, 3)), (lambda x: x.reshape(-1), (5, 3)),
    (lambda x, y: f.concatenate([x, y, x]), (5, 3), (2, 3)), (lambda x: x.T.reshape(3, 5).T, (3, 5)),
    (lambda x: x.sum(0).broadcast_to((4, 2, 3)), (5, 3)), (lambda x: x[0] @ x[1], (2, 300)),
]


PRODUCTS = [((3,), (3,)), ((5, 3), (3,)), ((3,), (3, 4)), ((70, 300), (300, 17)), ((2, 5, 3), (3,)), ((3,), (2, 3, 4)),
            ((2, 5, 3), (3, 4)), ((5, 3), (2, 3, 4)), ((2, 33, 17), (2, 17, 65)), ((40, 1, 9), (40, 9, 1)),
            ((2, 1, 5, 3), (7, 3, 4)), ((1, 5, 3), (6, 3, 4)), ((2, 3, 5, 3), (2, 3, 3, 2)), ((2, 3, 5, 3), (3, 4))]


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
@pytest.mark.parametrize("batch", [False, True])
def test_matmul_is_that_of_numpy(shapes, batch, dtype):
    """Products of vectors, matrices and stacks, and their gradients; batch: the first operand's first size is None."""
    x, y = (numbers(shape, seed).astype(dtype) for seed, shape in enumerate(shapes))
    expected = x.astype(np.float64) @ y
    for threads in (1, 3):
        graph = hl.Graph()
        if batch and x.ndim > 1 and expected.shape[:1] == x.shape[:1] and (y.ndim < x.ndim or y.ndim == 2):
            a = graph.input("x", (None, *x.shape[1:]))
        else:
            a = graph.input("x", x.shape)
        product = a @ graph.input("y", y.shape)
        weights = numbers(expected.shape, 9)
        loss = (product * graph.input("weights", product.shape)).sum()
        program = graph.compile([product, *graph.gradient(loss, [a, graph["y"]])], dtype=dtype, threads=threads)
        value, dx, dy = program(x=x, y=y, weights=weights)
        close(value, expected, dtype, "row", x.shape[-1], scale=max(1, np.abs(expected).max()))
        for name, found, given in (("x", dx, x), ("y", dy, y)):
            other = numbers(given.shape, 7)
            moved = other @ y.astype(np.float64) if name == "x" else x.astype(np.float64) @ other
            close((found * other).sum(), (moved * weights).sum(), dtype, "training", x.size + y.size,
                  scale=max(1, np.abs(moved * weights).sum()))


@pytest.mark.parametrize(("left", "right", "words"), [
    ((2, 3), (4, 5), "inner sizes"), ((), (3,), "inner sizes"), ((2, 5, 3), (4, 3, 6), "do not broadcast")])
def test_matmul_of_what_does_not_fit(left, right, words):
    graph = hl.Graph()
    with pytest.raises(ValueError, match=rf"matmul\(left.*right.*{words}"):
        graph.input("left", left) @ graph.input("right", right)


@pytest.mark.parametrize(("case", "batch"), [(case, False) for case in FIXED] + list(
    itertools.product(BATCHED, [False, True])), ids=lambda value: "x".join(map(str, value[1:])) if isinstance(
    value, tuple) else "batch" if value else "fixed")
def test_arrays(case, batch, dtype):
    build, *shapes = case
    arrays = [numbers(shape, seed).astype(dtype) for seed, shape in enumerate(shapes)]
    expected = run(build, [array.astype(np.float64) for array in arrays], "numpy", batch=batch)
    terms = max(map(np.size, arrays))
    for threads in (1, 3):
        value = run(build, arrays, "cpu", dtype, batch, threads=threads)
        close(value, expected, dtype, "row", terms, scale=max(1, np.abs(expected).max()))


def test_threads_change_no_bit():
    arrays = [numbers((70, 300)).astype(np.float32), numbers((300, 40)).astype(np.float32)]

    def build(x, y):
        z = f.exp(f.tanh(x @ y) - 0.5)
        return (z * z / (1 + z)).sum(0).max() + (x * 2).mean()

    results = [run(build, arrays, "cpu", "float32", wrt=[0, 1], threads=threads) for threads in (1, 2, 3, 5)]
    for value, gradients in results[1:]:
        assert value == results[0][0]
        assert all(np.array_equal(gradients[name], results[0][1][name]) for name in gradients)


# Derivatives


def difference(build, arrays, place, seed, step=1e-6):
    """Central differences of sum(seed * build(...)) with respect to one array."""
    gradient = np.zeros_like(arrays[place])
    for index in np.ndindex(gradient.shape):
        values = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[place][index] += sign * step
            values.append(np.sum(seed * run(build, moved, "numpy")))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize(("name", "case"), cases([name for name in ELEMENTWISE if name != "detach"]))
def test_gradients_equal_differences(name, case):
    arrays = [numbers((3,), seed, 0.3, 1.7) for seed in range(OPS[name].arity)]
    if name not in POSITIVE:
        arrays[0] = -arrays[0]
    seed, build = numbers((3,), 9), apply(name, **case)
    for place in range(len(arrays)):
        wanted = difference(build, arrays, place, seed)
        for backend in ("numpy", "cpu"):
            _, gradients = run(build, arrays, backend, wrt=[place], seed=seed)
            np.testing.assert_allclose(gradients[f"x{place}"], wanted, rtol=1e-6, atol=1e-8)


def test_a_detached_node_is_a_constant():
    _, gradients = run(lambda x: (f.detach(x) * x).sum(), [np.array([2.0, 3.0])], "cpu", wrt=[0])
    assert gradients["x0"].tolist() == [2, 3]


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"])
@pytest.mark.parametrize("values", [[1e8, 1e8], [1e4, 9999, 9997], [9.3, 2, 1], [-np.inf, 0, 1]], ids=str)
def test_log_softmax_of_large_numbers(values, backend, dtype):
    x = np.array(values, dtype)
    below = x.astype(np.float64) - x.max()
    expected = below - np.log(np.exp(below).sum())
    close(run(lambda x: f.log_softmax(x), [x], backend, dtype), expected, dtype, "row", scale=1)


def test_inputs_that_nothing_needs_may_be_given():
    graph = hl.Graph()
    x = graph.input("x", (3,))
    program = graph.compile(graph.hessian((x * x).sum(), [x]))
    assert np.array_equal(program(x=np.ones(3)), 2 * np.eye(3)) and np.array_equal(program(), 2 * np.eye(3))
    with pytest.raises(ValueError, match=r"unknown \['y'\]"):
        program(x=np.ones(3), y=1)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"])
@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_largest_of_equal_numbers_and_nan(axis, backend, dtype):
    """The first of equal ones gets the gradient; NaN is largest, and the first NaN gets it."""
    for x in ([[1, 3, 3], [3, 2, 3], [3, 3, 1]], [[1, 3, np.nan], [3, np.nan, 3], [np.nan, np.nan, 1]]):
        x = np.array(x, dtype)
        value = run(lambda x: x.max(axis), [x], backend, dtype)
        np.testing.assert_array_equal(value, x.max(axis))
        _, gradients = run(lambda x: x.max(axis).sum(), [x], backend, dtype, wrt=[0])
        expected = np.zeros_like(x)
        if axis == (0, 1):
            expected.flat[x.argmax()] = 1
        else:
            np.put_along_axis(expected, np.expand_dims(x.argmax(axis), axis), 1, axis)
        np.testing.assert_array_equal(gradients["x0"], expected)


def test_smallest_and_axes_from_the_end(dtype):
    x = numbers((3, 4, 5)).astype(dtype)
    assert np.array_equal(run(lambda x: f.min(x, (0, 2)), [x], "cpu", dtype), x.min((0, 2)))
    assert np.array_equal(run(lambda x: x.transpose(-1, 0, -2), [x], "cpu", dtype), x.transpose(2, 0, 1))


@pytest.mark.parametrize("schedule", [
    hl.StepLR(2, 0.5), hl.StepLR(2, 0.5, by="update"), hl.ChainedScheduler([hl.LinearLR(), hl.ExponentialLR(0.9)]),
    hl.OneCycleLR(0.2, 7)], ids=repr)
def test_a_descent_follows_a_schedule(schedule):
    def descent(chosen, backend, steps=7):
        graph = hl.Graph()
        w = graph.parameter("w", [1.0, 2.0])
        return graph.compile((w * w).sum(), backend=backend).minimize(
            hl.SGD(lr=0.1, momentum=0.9), steps, schedule=chosen, trace=True)

    found, expected = (descent(schedule, backend).parameters["w"] for backend in ("cpu", "numpy"))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    settings = schedule.settings({"lr": 0.1, "momentum": 0.9}, "momentum", np.arange(7), np.arange(7))
    w, speed = np.array([1.0, 2.0]), 0.0
    for lr, momentum in zip(*(np.broadcast_to(settings[name], 7) for name in ("lr", "momentum")), strict=True):
        speed = momentum * speed + 2 * w
        w = w - lr * speed
    np.testing.assert_allclose(found[-1], w, rtol=1e-12)
    assert np.array_equal(descent(schedule, "cpu", 3).parameters["w"], found[:4])
    assert descent(schedule, "cpu", 0).updates == 0


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=lambda kind: kind.__name__)
def test_every_optimizer_minimizes(kind):
    x, descents = np.random.default_rng(0).standard_normal((50, 3)), []
    for backend, threads in (("numpy", None), ("cpu", 1), ("cpu", 2)):
        graph = hl.Graph()
        w, v = graph.parameter("w", [1.0, 2.0, -3.0]), graph.parameter("v", 0.5)
        value = hl.mean((hl.tanh(graph.input("x", (None, 3)) @ w) * v - 1) ** 2)
        program = graph.compile(value, backend=backend, threads=threads)
        descents.append(program.minimize(kind(), 20, trace=True, x=x))
        assert program.minimize(kind(), 0, x=x).updates == 0
    expected, *others = descents
    assert expected.values[-1] < expected.values[0]
    for descent in others:
        np.testing.assert_allclose(descent.values, expected.values, rtol=1e-10)
        np.testing.assert_allclose(descent.parameters["w"], expected.parameters["w"], rtol=1e-10)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"])
def test_what_fills_up_a_parameter_stops_no_descent(backend):
    """The logarithm of zero stands there."""
    graph = hl.Graph()
    w, v = graph.parameter("w", [1.0, 2.0, 3.0]), graph.parameter("v", 0.5)
    program = graph.compile((hl.log(w) ** 2).sum() + 1 / v, backend=backend)
    assert np.isfinite(program.minimize(hl.SGD(lr=0.1), 3).values).all()
