"""Newton's method, and the Hessian that it takes from the graph."""

import numpy as np
import pytest

import hotloop as hl

BACKENDS = "numpy", "cpu", "cuda"


def rosenbrock(graph):
    x, y = graph.parameter("x", -1.2), graph.parameter("y", 1.0)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2, [x, y]


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian_of_rosenbrock(backend):
    graph = hl.Graph()
    value, wrt = rosenbrock(graph)
    found = graph.compile(graph.hessian(value, wrt), backend=backend)()
    np.testing.assert_allclose(found, [[2 + 1200 * 1.44 - 400, 480], [480, 200]], rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian_over_arrays(backend):
    """Of a quadratic form in a matrix and a scalar, one of which does not meet itself."""
    graph, rng = hl.Graph(), np.random.default_rng(0)
    w, s, t = graph.parameter("w", rng.standard_normal((2, 3))), graph.parameter("s", 0.5), rng.standard_normal((2, 3))
    found = graph.compile(graph.hessian(s * (w * t).sum(), [w, s]), backend=backend)()
    expected = np.zeros((7, 7))
    expected[:6, 6] = expected[6, :6] = t.ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_step_on_a_quadratic(backend):
    graph, rng = hl.Graph(), np.random.default_rng(1)
    half, target = rng.standard_normal((4, 4)), rng.standard_normal(4)
    x = graph.parameter("x", np.zeros(4))
    program = graph.compile((((x - target) @ half) ** 2).sum(), backend=backend)
    descent = program.minimize(hl.Newton(), 5, until=1e-20, trace=True)
    assert descent.updates == 1 and descent.reached
    np.testing.assert_allclose(program["x"], target, rtol=1e-10)
    assert descent.parameters["x"].shape == (2, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rosenbrock_in_few_steps(backend):
    graph = hl.Graph()
    value, _ = rosenbrock(graph)
    program = graph.compile(value, backend=backend)
    assert program.minimize(hl.Newton(), 20, until=1e-20).updates <= 7
    np.testing.assert_allclose([program["x"], program["y"]], 1, rtol=1e-9)


def test_damping_shortens_the_step():
    graph = hl.Graph()
    x = graph.parameter("x", 3.0)
    program = graph.compile(x**2)
    program.minimize(hl.Newton(lr=0.5, damping=1.0), 1)
    assert program["x"] == 3 - 0.5 * 6 / (2 + 1)


def test_wrt_alone_is_trained_and_inputs_are_held():
    graph = hl.Graph()
    a, b, t = graph.parameter("a", 1.0), graph.parameter("b", 2.0), graph.input("t", (None,))
    program = graph.compile(((a * t + b) ** 2).mean(), wrt=[a])
    program.minimize(hl.Newton(), 1, t=[1.0, 2.0])
    assert program["b"] == 2 and program["a"] == pytest.approx(-6 / 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_singular_hessian_is_said(backend):
    graph = hl.Graph()
    x = graph.parameter("x", 3.0)
    program = graph.compile(2 * x, backend=backend)
    with pytest.raises(hl.NonFiniteError, match=r"step 1: an update is not finite.*damping"):
        program.minimize(hl.Newton(), 5)
    assert program["x"] == 3


REFUSED = {
    "rate": (lambda: hl.Newton(lr=0), ValueError, "lr"),
    "damping": (lambda: hl.Newton(damping=-1), ValueError, "damping"),
    "size": (lambda: many(300).minimize(hl.Newton(), 1), ValueError, "at most 256 parameters, got 300"),
    "trainer": (lambda: hl.Trainer(hl.Sequential(hl.Dense(2, 1)), hl.MSELoss(), hl.Newton()), TypeError, "Adam"),
    "no scalar": (lambda: vector(), ValueError, "needs a scalar"),
}


def many(size):
    graph = hl.Graph()
    x = graph.parameter("x", np.ones(size))
    return graph.compile((x**2).sum())


def vector():
    graph = hl.Graph()
    x = graph.parameter("x", [1.0, 2.0])
    return graph.hessian(x**2, [x])


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
