"""Graphs made by hand: shapes are checked when nodes are made, gradients add up over every use of a value."""

import re

import numpy as np
import pytest
from tolerances import close

from hotloop.autodiff import differentiate
from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.numpy_backend import NumpyBackend
from hotloop.plan import plan

BACKENDS = {"numpy": NumpyBackend, "cpu": CpuBackend}


def graph_of(**parameters):
    """A graph with the input x[B, 3] and these parameters, as a list of nodes."""
    graph = Graph()
    x = graph.input("x", (None, 3))
    return graph, x, *[graph.parameter(name, shape=shape) for name, shape in parameters.items()]


# building


def test_nodes_have_shapes_and_names():
    graph, x, w, b = graph_of(w=(5, 3), b=(5,))
    first = graph.apply("dense", x, w, b)
    second = graph.apply("relu", first, name="hidden")
    third = graph.apply("relu", second, name="hidden")
    loss = graph.apply("cross_entropy", third, graph.labels("y"), **LABELS)
    assert list(map(repr, graph.nodes)) == ["x[B, 3]", "w[5, 3]", "b[5]", "dense[B, 5]", "hidden[B, 5]",
                                            "hidden_2[B, 5]", "y[B]", "cross_entropy[]"]
    assert graph.nodes[-1] is loss and third.inputs == (second,) and loss.attributes == LABELS


def other_graph():
    return Graph().input("stranger", (None, 3))


LABELS = {"reduction": "mean", "weight": None, "ignore_index": -100}  # attributes of cross_entropy
WRONG = {
    "dense, inputs": (lambda g, x, w, b: g.apply("dense", x, w, b), "dense", "x[B, 3]", "w[5, 4]", "b[5]", "(5, 4)"),
    "dense, bias": (lambda g, x, w, b: g.apply("dense", x, g.parameter("v", shape=(4, 3)), b), "dense", "v[4, 3]",
                    "b[5]"),
    "dense, vector": (lambda g, x, w, b: g.apply("dense", b, w), "dense", "b[5]", "w[5, 4]"),
    "add": (lambda g, x, w, b: g.apply("add", x, w), "add", "x[B, 3]", "w[5, 4]", "one shape"),
    "loss, targets": (lambda g, x, w, b: g.apply("mse_loss", x, g.target("y", (None, 2)), reduction="mean"),
                      "mse_loss", "x[B, 3]", "y[B, 2]", "shape"),
    "loss, class weights": (
        lambda g, x, w, b: g.apply("cross_entropy", x, g.labels("y"), **LABELS | {"weight": (1.0, 2.0)}),
        "cross_entropy", "x[B, 3]", "weight needs 3 numbers", "2"),
    "loss, sample weights": (
        lambda g, x, w, b: g.apply("mse_loss", x, g.target("y", (None, 3)), b, reduction="mean"),
        "mse_loss", "b[5]", "sample weights"),
    "loss, labels": (lambda g, x, w, b: g.apply("cross_entropy", x, g.target("y", (None, 3)), **LABELS),
                     "cross_entropy", "x[B, 3]", "y[B, 3]", "labels"),
    "loss, probabilities": (
        lambda g, x, w, b: g.apply("cross_entropy_probabilities", x, g.labels("y"), reduction="sum", weight=None,
                                   label_smoothing=0.0),
        "cross_entropy_probabilities", "x[B, 3]", "y[B]"),
    "update": (lambda g, x, w, b: g.apply("sgd", w, b), "sgd", "w[5, 4]", "b[5]", "one shape"),
    "unknown op": (lambda g, x, w, b: g.apply("rleu", x), "'rleu'", "relu", "leaky_relu", "dense"),
    "foreign node": (lambda g, x, w, b: g.apply("relu", other_graph()), "relu", "stranger[B, 3]", "this graph"),
    "name taken by an input": (lambda g, x, w, b: g.input("x", (None, 2)), "'x'", "another name"),
    "name taken by a parameter": (lambda g, x, w, b: g.parameter("x", shape=(2,)), "'x'", "another name"),
    "parameter with a batch": (lambda g, x, w, b: g.parameter("p", shape=(None, 2)), "'p'", "(None, 2)", "fixed shape"),
    "too few operands": (lambda g, x, w, b: g.apply("add", x), "add", "x[B, 3]"),
    "far too few operands": (lambda g, x, w, b: g.apply("dense", x), "dense", "x[B, 3]"),
    "too many operands": (lambda g, x, w, b: g.apply("relu", x, x), "relu", "x[B, 3]"),
    "no target": (lambda g, x, w, b: g.apply("mse_loss", x, reduction="mean"), "mse_loss", "x[B, 3]"),
    "missing attribute": (lambda g, x, w, b: g.apply("leaky_relu", x), "leaky_relu", "negative_slope"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_nodes(case):
    build, *words = WRONG[case]
    graph, *nodes = graph_of(w=(5, 4), b=(5,))
    before = list(graph.nodes)
    with pytest.raises(ValueError, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)):
        build(graph, *nodes)
    assert all(node in before or node.op in ("parameter", "target", "labels") for node in graph.nodes)


def test_a_refused_name_stays_free():
    graph, _ = graph_of()
    with pytest.raises(ValueError):
        graph.parameter("p", shape=(None,))
    assert repr(graph.parameter("p", shape=(2,))) == "p[2]"


# differentiating


def loss_of(graph, prediction, **settings):
    return graph.apply("mse_loss", prediction, graph.target("y", prediction.shape), reduction="mean", **settings)


def test_a_gradient_needs_a_scalar():
    graph, x, w = graph_of(w=(5, 3))
    with pytest.raises(ValueError, match=r"dense\[B, 5\].*scalar"):
        differentiate(graph, graph.apply("dense", x, w), [w])


def test_a_gradient_needs_a_path():
    graph, x, w, unused = graph_of(w=(5, 3), unused=(2,))
    loss = loss_of(graph, graph.apply("dense", x, w), name="loss")
    with pytest.raises(ValueError, match=r"loss\[\].*depend.*unused\[2\]"):
        differentiate(graph, loss, [w, unused])


def test_a_gradient_needs_rules():
    graph, x, w = graph_of(w=(5, 3))
    h = graph.apply("dense", x, w)
    loss = loss_of(graph, graph.apply("softmax_backward", h, h, name="odd"))
    with pytest.raises(ValueError, match=r"'softmax_backward'.*odd\[B, 5\].*gradient"):
        differentiate(graph, loss, [w])


def test_gradients_come_in_the_order_asked_for():
    graph, x, w, b = graph_of(w=(5, 3), b=(5,))
    loss = loss_of(graph, graph.apply("dense", x, w, b))
    assert [node.shape for node in differentiate(graph, loss, [b, w])] == [(5,), (5, 3)]


def twice(graph, x, w, b, v, c):
    """One value, two activations."""
    h = graph.apply("dense", x, w, b)
    return graph.apply("dense", graph.apply("add", graph.apply("tanh", h), graph.apply("sigmoid", h)), v, c)


def thrice(graph, x, w, b, v, c):
    """One value: an activation that reads it, one that overwrites it, and itself."""
    h = graph.apply("dense", x, w, b)
    total = graph.apply("add", graph.apply("add", graph.apply("relu", h), graph.apply("gelu", h)), h)
    return graph.apply("dense", total, v, c)


def doubled(graph, x, w, b, v, c):
    """Both operands of one node are the same."""
    h = graph.apply("tanh", graph.apply("dense", x, w, b))
    return graph.apply("dense", graph.apply("add", h, h), v, c)


def residual(graph, x, w, b, v, c):
    """Around an activation."""
    h = graph.apply("sigmoid", graph.apply("dense", x, w, b))
    return graph.apply("dense", graph.apply("add", h, graph.apply("softmax", h)), v, c)


def two_layers_on_one_value(graph, x, w, b, v, c):
    """Two dense layers read one hidden value, so that two input gradients meet; the second has no bias."""
    h = graph.apply("tanh", graph.apply("dense", x, w, b))
    u = graph.parameter("u", shape=(2, 5))
    return graph.apply("add", graph.apply("dense", h, v, c), graph.apply("dense", h, u))


def two_layers_into_one_sum(graph, x, w, b, v, c):
    """Both layers get the same gradient, and each has its own bias."""
    h = graph.apply("tanh", graph.apply("dense", x, w, b))
    u, a = graph.parameter("u", shape=(2, 3)), graph.parameter("a", shape=(2,))
    return graph.apply("add", graph.apply("dense", h, v, c), graph.apply("dense", x, u, a))


SHAPES = {"w": (5, 3), "b": (5,), "v": (2, 5), "c": (2,), }
LR = 0.5


class Built:
    """A graph's loss, gradients and one step of gradient descent, run by one backend in float64."""

    def __init__(self, build, backend):
        graph, x, *parameters = graph_of(**{name: SHAPES[name] for name in "wbvc"})
        loss = loss_of(graph, build(graph, x, *parameters))
        self.parameters = [node for node in graph.nodes if node.op == "parameter"]
        gradients = dict(zip(self.parameters, differentiate(graph, loss, self.parameters), strict=True))
        updates = [graph.apply("sgd", *pair) for pair in gradients.items()]
        settings = {"lr": LR, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": 0}
        self.backend = BACKENDS[backend](np.float64)
        self.gradient = plan(graph, layout("float64"), loss=loss, gradients=gradients, keep_gradient=True)
        self.update = plan(graph, layout("float64"), loss=loss, gradients=gradients, updates=updates, settings=settings)
        for program in (self.gradient, self.update):
            self.backend.prepare(program, 7)
        generator = np.random.default_rng(0)
        self.point = {node.name: generator.standard_normal(node.shape) for node in self.parameters}
        self.arrays = {"x": generator.standard_normal((7, 3)), "y": generator.standard_normal((7, 2))}

    def run(self, program, point, region):
        for name, value in point.items():
            self.backend.write(program, "parameters", name, value)
        loss = self.backend.run(program, self.arrays, steps=1, start=0, rows=7, batch=7).losses[0]
        return loss, {name: self.backend.read(program, region, name) for name in point}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("build", [twice, thrice, doubled, residual, two_layers_on_one_value, two_layers_into_one_sum],
                         ids=lambda build: build.__name__)
def test_gradients_add_up_over_all_uses(build, backend):
    built = Built(build, backend)
    _, gradients = built.run(built.gradient, built.point, "gradient")
    for name, value in built.point.items():
        for place in np.ndindex(value.shape):
            losses = []
            for eps in (1e-6, -1e-6):
                moved = {other: values.copy() for other, values in built.point.items()}
                moved[name][place] += eps
                losses.append(built.run(built.gradient, moved, "parameters")[0])
            slope, given = (losses[0] - losses[1]) / 2e-6, gradients[name][place]
            assert abs(slope - given) <= 1e-7 + 1e-3 * abs(given), f"d loss / d {name}{place}: {given}, not {slope}"
    _, updated = built.run(built.update, built.point, "parameters")
    for name, value in built.point.items():
        close(updated[name], value - LR * gradients[name], "float64", "elementwise", scale=abs(value).max())
    fresh = Built(build, backend)
    assert built.run(built.gradient, updated, "parameters")[0] == fresh.run(fresh.gradient, updated, "parameters")[0]


def test_a_weight_with_two_biases_is_refused():
    graph, x, w, b, c = graph_of(w=(3, 3), b=(3,), c=(3,))
    prediction = graph.apply("dense", graph.apply("dense", x, w, b), w, c)
    with pytest.raises(ValueError, match=r"w\[3, 3\].*different biases"):
        plan(graph, layout("float32"), predictions={"prediction": prediction})
