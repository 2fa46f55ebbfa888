"""Derivatives of general graphs: reverse, forward, twice, numerical and symbolic all agree; users' own operations."""

import math
import re

import hypothesis
import numpy as np
import pytest
import sympy
from hypothesis import strategies as st

import hotloop as hl
from hotloop.kernels import OPS
from hotloop.kernels.activations import ACTIVATIONS
from hotloop.kernels.elementary import exp, select, sigmoid

UNARY = [hl.exp, hl.tanh, hl.sigmoid, hl.sin, hl.cos, hl.square, lambda x: hl.sqrt(hl.square(x) + 0.5),
         lambda x: hl.log(hl.square(x) + 1.5), lambda x: -x, lambda x: 0.5 * x - 1, lambda x: 1 / (hl.square(x) + 1),
         lambda x: hl.softmax(x), lambda x: hl.logsumexp(x, axis=0, keepdims=True) - x, lambda x: x.sum(0) + x,
         lambda x: hl.concatenate([x[1:], x[:1]]), lambda x: x.reshape(2, 2).T.reshape(4),
         lambda x: (x * x + 0.5) ** 1.5]
BINARY = [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x / (hl.square(y) + 1),
          lambda x, y: (x.reshape(2, 2) @ y.reshape(2, 2)).reshape(4), lambda x, y: x * y.mean(),
          lambda x, y: (x.reshape(2, 2, 1) @ y.reshape(2, 1, 2)).sum(1).reshape(4),
          lambda x, y: (x.reshape(2, 1, 2) @ y.reshape(2, 2)).reshape(4),
          lambda x, y: hl.where(np.array([1.0, 0, 0, 1]), x, y)]


@st.composite
def functions(draw):
    """A random function of two vectors of 4, as a list of steps over all values so far."""
    steps = []
    for count in range(2, 2 + draw(st.integers(1, 6))):
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(range(len(UNARY)))), draw(st.integers(0, count - 1)), None))
        else:
            steps.append((draw(st.sampled_from(range(len(BINARY)))), draw(st.integers(0, count - 1)),
                          draw(st.integers(0, count - 1))))
    return steps


def built(steps):
    def function(x, y):
        values = [x, y]
        for number, left, right in steps:
            if right is None:
                values.append(hl.tanh(UNARY[number](values[left])))
            else:
                values.append(hl.tanh(BINARY[number](values[left], values[right])))
        return (values[-1] * values[-1]).sum() + 0.1 * (x.sum() + y.sum())

    return function


@hypothesis.given(functions(), st.integers(0, 1000))
@hypothesis.settings(max_examples=200, deadline=None)
def test_all_ways_agree(steps, seed):
    """Reverse against numerical and forward mode, of the function and of the length of its gradient."""
    function = built(steps)
    arrays = [np.random.default_rng([seed, k]).uniform(-1.5, 1.5, 4) for k in range(2)]
    hl.gradcheck(function, *arrays, backend="numpy", rtol=1e-4)

    def steepness(x, y):
        return sum(hl.square(node).sum() for node in x.graph.gradient(function(x, y), [x, y]))

    hl.gradcheck(steepness, *arrays, backend="numpy", rtol=1e-3)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_twice(name):
    for case in OPS[name].cases:
        x = np.linspace(-2.3, 2.4, 7)

        def slope(x, case=case):
            return x.graph.gradient(x.graph.apply(name, x, **case).sum(), [x])[0]

        hl.gradcheck(slope, x, rtol=1e-6)


def test_symbolic():
    """f = x**2 y + y + 2 by hand, numerically, symbolically, in forward and in reverse mode."""
    x, y = sympy.symbols("x y")
    formula = x**2 * y + y + 2 + sympy.sin(x * y) * sympy.exp(-x)
    symbolic = [float(sympy.diff(formula, v).subs({x: 3, y: 4})) for v in (x, y)]
    graph = hl.Graph()
    a, b = graph.parameter("x", 3.0), graph.parameter("y", 4.0)
    f = a**2 * b + b + 2 + hl.sin(a * b) * hl.exp(-a)
    value, gradients = graph.compile(f, wrt=[a, b])()
    assert value == pytest.approx(float(formula.subs({x: 3, y: 4})), rel=1e-14)
    assert [gradients["x"], gradients["y"]] == pytest.approx(symbolic, rel=1e-13)
    assert graph.compile(graph.jvp(f, {a: 1.0}))() == pytest.approx(symbolic[0], rel=1e-13)
    second = graph.gradient(graph.gradient(f, [a])[0], [b])[0]
    assert graph.compile(second)() == pytest.approx(float(sympy.diff(formula, x, y).subs({x: 3, y: 4})), rel=1e-13)


def test_gradcheck_names_what_is_wrong():
    wrong = hl.operation("wrong", lambda x: x * x * x, lambda x: 3.0 * x * x + select(x > 1.0, 0.1, 0.0))

    def cubes(x, y):
        return (wrong(x) * y).sum()

    assert hl.gradcheck(cubes, np.array([0.5, -0.5]), np.ones(2)) < 1e-8
    with pytest.raises(hl.GradientError, match=r"cubes, argument 0, index \(1,\): .* 12\.1,.* 12$") as caught:
        hl.gradcheck(cubes, np.array([0.5, 2.0]), np.ones(2))
    assert (caught.value.argument, caught.value.index) == (0, (1,))
    assert abs(caught.value.derivative - 12.1) < 1e-9 and abs(caught.value.difference - 12) < 1e-6


# Operations of the user


BUMP = hl.operation("bump_of_the_test", lambda x: exp(-x * x) * sigmoid(x),
                    lambda x: exp(-x * x) * sigmoid(x) * (1.0 - sigmoid(x) - 2.0 * x))


def test_an_operation_joins_graphs_and_networks(tmp_path):
    hl.gradcheck(lambda x: BUMP(x).sum(), np.linspace(-2, 2, 9))
    hl.gradcheck(lambda x: x.graph.gradient(BUMP(x).sum(), [x])[0], np.linspace(-2, 2, 9))
    X = np.random.default_rng(0).standard_normal((50, 2))
    losses = []
    for backend in ("numpy", "cpu"):
        net = hl.Sequential(hl.Dense(2, 9), BUMP, hl.Dense(9, 1))
        trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=0.1), backend=backend, dtype="float64")
        losses.append(trainer.fit(X, X[:, 0], epochs=3).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    hl.save(trainer, tmp_path / "net")
    assert np.array_equal(hl.load(tmp_path / "net").predict(X), trainer.predict(X))


@pytest.mark.parametrize(("arguments", "kind", "words"), [
    (("relu", lambda x: x, lambda x: 1.0), ValueError, "'relu' exists"),
    (("a b", lambda x: x, lambda x: 1.0), TypeError, "identifier"),
    (("other", 3, lambda x: 1.0), TypeError, "value must be a plain Python function"),
    (("other", lambda x: x, None), TypeError, "derivative must be a plain"),
    (("other", lambda x: x.foo, lambda x: 1.0), TypeError, "cannot be applied"),
    (("other", lambda x, y: x, lambda x: 1.0), TypeError, "cannot be applied"),
    (("other", lambda x: np.sum(x) * x, lambda x: 1.0), ValueError, "each number by itself"),
    (("other", lambda x: x * x, lambda x: 2.0 * x, lambda x: x.sum()), ValueError, "numpy of 'other' gives .* agree"),
    (("other", lambda x: x * x, lambda x: 2.0 * x, 3), TypeError, "numpy of 'other' must be a function"),
    (("other", lambda x: x * x, lambda x: 2.0 * x, np.square, lambda x: x), ValueError, "numpy_derivative of .* agree"),
    (("other", lambda x: math.exp(x), lambda x: 1.0), TypeError, r"math\.exp .*hotloop\.kernels\.elementary"),
    (("other", lambda x: x if x > 0 else 0.0, lambda x: 1.0), TypeError, "a choice with its select"),
])
def test_bad_operations(arguments, kind, words):
    before = set(OPS)
    with pytest.raises(kind, match=words):
        hl.operation(*arguments)
    assert set(OPS) == before


def test_a_formula_that_cannot_be_compiled():
    step = hl.operation("step_of_the_test", lambda x: np.where(x > 0, x, 0.0 * x), lambda x: 1.0 + 0.0 * x)
    graph = hl.Graph()
    value = step(graph.parameter("x", 2.0))
    assert graph.compile(value, backend="numpy")() == 2
    with pytest.raises(TypeError, match=r"step_of_the_test.*cannot be compiled.*hotloop\.kernels\.elementary"):
        graph.compile(value)()


def test_constants_of_math_are_numbers():
    turn = hl.operation("turn_of_the_test", lambda x: math.pi * x, lambda x: math.pi + 0.0 * x)
    hl.gradcheck(lambda x: turn(x).sum(), np.linspace(-1, 1, 5))


# What is refused


def scalars():
    graph = hl.Graph()
    return graph, graph.parameter("w", 3.0), graph.input("x", (None, 4))


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_powers_at_zero(backend):
    """Where the formula y x^(y - 1) would be 0 times infinity."""
    graph = hl.Graph()
    x, y = graph.parameter("x", [0.0, 2.0]), graph.parameter("y", [0.0, 3.0])

    def slopes(value):
        return [*graph.compile(hl.sum(value), wrt=[x], backend=backend)()[1]["x"]]

    assert slopes(x**0) == [0, 0] and slopes(x**1.0) == [1, 1] and slopes(x**y) == [0, 12]
    assert slopes(x ** np.array([0.0, 2.0])) == [0, 4]
    (slope,) = graph.gradient(hl.sum(x**1.0), [x])
    assert slopes(slope) == [0, 0]


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_sums_of_nothing(backend):
    graph = hl.Graph()
    x = graph.parameter("x", np.arange(6.0).reshape(2, 3))
    assert graph.compile(hl.sum(x[:, 3:]), backend=backend)() == 0
    assert graph.compile(x[2:].sum(0), backend=backend)().tolist() == [0, 0, 0]


def test_a_deep_graph_is_lowered_in_time():
    """Twenty thousand nodes in seconds: each is looked at a few times, not once for every other."""
    graph = hl.Graph()
    x = graph.parameter("x", 0.5)
    y = x
    for _ in range(10_000):
        y = 0.5 * y + x
    assert graph.compile(y, backend="cpu")() == pytest.approx(1.0)


REFUSED = {
    "shapes": (lambda g, w, x: x + np.ones(3), ValueError, "add(x[B, 4], constant[3])", "broadcast"),
    "product": (lambda g, w, x: x @ x, ValueError, "matmul(x[B, 4], x[B, 4])", "inner sizes"),
    "text": (lambda g, w, x: x + "1", TypeError, "real numbers", "'1'"),
    "complex": (lambda g, w, x: 1j * x, TypeError, "real numbers", "1j"),
    "truth": (lambda g, w, x: bool(x > 0), TypeError, "no value before", "where"),
    "array": (lambda g, w, x: np.array(x), TypeError, "no value before"),
    "foreign": (lambda g, w, x: x + hl.Graph().input("y"), ValueError, "y[]", "not a node of this graph"),
    "ufunc": (lambda g, w, x: np.arctan(x), TypeError, "arctan", "tanh"),
    "axis": (lambda g, w, x: x.sum(2), ValueError, "axis 2", "[B, 4]"),
    "part of the batch": (lambda g, w, x: x[1:], ValueError, "batch", "[B, 4]"),
    "index": (lambda g, w, x: x[:, 4], IndexError, "4", "[B, 4]"),
    "reshape": (lambda g, w, x: x.reshape(3, 5), ValueError, "[B, 4]", "[3, 5]"),
    "name": (lambda g, w, x: g.input("w"), ValueError, "'w'", "another name"),
    "no scalar": (lambda g, w, x: g.compile(x * w, wrt=[w]), ValueError, "multiply[B, 4]", "scalar", "seed"),
    "seed": (lambda g, w, x: g.compile(x.sum(), wrt=[x], seed=np.ones(2)), ValueError, "seed", "sum[]"),
    "independent": (lambda g, w, x: g.compile(x.sum(), wrt=[w]), ValueError, "sum[] does not depend on w[]"),
    "two outputs": (lambda g, w, x: g.compile([x.sum(), x.max()], wrt=[x]), ValueError, "one output", "2"),
    "no node": (lambda g, w, x: g.compile(3.0), ValueError, "nodes of this graph", "3.0"),
    "layer": (lambda g, w, x: g.compile(hl.Dropout()(x)), ValueError, "Dropout(p=0.5)", "training", "Network"),
    "backend": (lambda g, w, x: g.compile(w, backend="gpu"), ValueError, "'gpu'", "numpy", "cpu"),
    "dtype": (lambda g, w, x: g.compile(w, dtype="int32"), ValueError, "float32", "int32"),
    "missing input": (lambda g, w, x: g.compile(x.sum())(), ValueError, "missing are ['x']"),
    "unknown input": (lambda g, w, x: g.compile(w * w)(z=1), ValueError, "unknown ['z']"),
    "parameter as input": (lambda g, w, x: g.compile(w * w)(w=1), ValueError, "unknown ['w']", "program[name]"),
    "shape of an input": (lambda g, w, x: g.compile(x.sum())(x=np.ones(4)), ValueError, "x[B, 4]", "(4,)"),
    "no rows": (lambda g, w, x: g.compile(x.sum())(x=np.ones((0, 4))), ValueError, "no rows"),
    "dtype of an input": (lambda g, w, x: g.compile(x.sum())(x=np.ones((2, 4), complex)), TypeError, "x", "complex"),
    "unset": (lambda g, w, x: g.compile(g.parameter("v", shape=(2,)).sum())(), ValueError, "['v']", "no value"),
    "set": (lambda g, w, x: g.compile(w * w).__setitem__("w", [1.0, 2.0]), ValueError, "w[]", "(2,)"),
    "set to NaN": (lambda g, w, x: g.compile(w * w).__setitem__("w", np.nan), ValueError, "w", "finite"),
    "unknown parameter": (lambda g, w, x: g.compile(w * w)["v"], KeyError, "'v'", "['w']"),
    "minimize": (lambda g, w, x: g.compile(x * w).minimize(hl.SGD(), 3, x=np.ones((1, 4))), ValueError, "one scalar"),
    "optimizer": (lambda g, w, x: g.compile(w * w).minimize("sgd", 3), TypeError, "SGD", "'sgd'"),
    "schedule": (lambda g, w, x: g.compile(w * w).minimize(hl.SGD(), 3, schedule="cosine"), TypeError, "schedule"),
    "plateau": (lambda g, w, x: g.compile(w * w).minimize(hl.SGD(), 3, schedule=hl.ReduceLROnPlateau()), ValueError,
                "monitors", "loss"),
    "Newton's lr": (lambda g, w, x: g.compile(w * w).minimize(hl.Newton(), 3, schedule=hl.StepLR(2)), ValueError,
                    "leave out the schedule"),
    "momentum": (lambda g, w, x: g.compile(w * w).minimize(hl.SGD(), 3, schedule=hl.OneCycleLR(1, 9)), ValueError,
                 "no momentum to cycle"),
    "taken name": (lambda g, w, x: g.compile(w * g.input("until", ())).minimize(hl.SGD(), 3, until=1), ValueError,
                   "arguments of its own", "until"),
    "one node": (lambda g, w, x: g.gradient(w * w, w), TypeError, "list of nodes", "[x]"),
    "one hessian": (lambda g, w, x: g.hessian(w * w, w), TypeError, "list of nodes"),
    "directions": (lambda g, w, x: g.jvp(w * w, [w]), TypeError, "map nodes to their directions"),
    "no directions": (lambda g, w, x: g.jvp(w * w, {}), TypeError, "map nodes to their directions"),
    "numpy's sum": (lambda g, w, x: np.sum(x), TypeError, "numpy.sum", "hotloop's functions"),
    "dropout": (lambda g, w, x: g.gradient(hl.Dropout(0.5)(x).sum(), [x]), ValueError, "Dropout", "Network"),
    "steps": (lambda g, w, x: g.compile(w * w).minimize(hl.SGD(), -1), ValueError, "steps", "-1"),
    "parameter": (lambda g, w, x: g.parameter("v", np.nan), ValueError, "'v'", "finite"),
    "too large": (lambda g, w, x: g.compile(w * w, dtype="float32").__setitem__("w", 1e300), ValueError, "float32"),
    "comparison": (lambda g, w, x: hl.where(x == 0, 1.0, x), TypeError, "False", "not_equal"),
    "largest of nothing": (lambda g, w, x: hl.max(x[:, 2:2]), ValueError, "max(", "nothing"),
    "sum of an array": (lambda g, w, x: hl.sum(np.ones(3)), TypeError, "sum needs a node"),
    "softmax of a list": (lambda g, w, x: hl.softmax([1.0, 2.0]), TypeError, "needs a node"),
    "shape": (lambda g, w, x: g.input("k", 4), TypeError, "'k'", "(4,)"),
    "name of a node": (lambda g, w, x: g.compile(w * w, wrt=["w"]), ValueError, "graph['w']"),
    "divergence": (lambda g, w, x: g.compile(w * w).minimize(hl.SGD(lr=1e200), 9), FloatingPointError, "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, *words = REFUSED[case]
    with pytest.raises(kind) as caught:
        call(*scalars())
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert re.search(r"\w{3}", str(caught.value))
