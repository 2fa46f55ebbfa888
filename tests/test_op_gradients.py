"""The gradient of every op with a gradient rule, alone and in what a plan fuses, against central differences."""

import numpy as np
import pytest
from machine import ACTIVATIONS, DENSE, LAYERS, ROWWISE, SOFTMAXES, Machine, chain, fitted, prediction_and_target
from tolerances import close

from hotloop.autodiff import differentiate
from hotloop.graph import Graph
from hotloop.kernels import OPS
from hotloop.kernels.losses import LOSSES

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
