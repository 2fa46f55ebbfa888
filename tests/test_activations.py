"""Activations: against torch's frozen values, and where one answer is right: at kinks, far out, near zero."""

import numpy as np
import pytest
from freeze_torch import ACTIVATIONS, FOLDER, GRID, SIGNS, activation_layers
from machine import Machine, backends
from tolerances import close

import hotloop as hl
from hotloop.autodiff import differentiate
from hotloop.graph import Graph
from hotloop.kernels.activations import activation
from hotloop.layers import LAYERS


def at(layer, backend, dtype, x, dy):
    """Values of an activation at x, and its gradients for the dy, which are 1 or -1."""
    graph, x = Graph(), np.array(x, np.float64)
    given = graph.input("x", (None, x.shape[1]))
    value = layer.apply(graph, given, "0")
    loss = graph.apply("l1_loss", value, graph.target("y", value.shape), reduction="sum")
    gradient, = differentiate(graph, loss, [given])
    targets = np.multiply(dy, -1e35)  # where nothing comes near, the loss has the slope dy
    return [Machine(backend, dtype, graph, len(x), loss=loss, prediction=wanted)(x, targets)
            for wanted in (value, gradient)]


def slopes_at(layer, backend, dtype, x):
    """Values and slopes at the elements of a list."""
    return [found[0] for found in at(layer, backend, dtype, [x], np.ones((1, len(x))))]


@pytest.mark.parametrize(("case", "layer"), [*zip(ACTIVATIONS, activation_layers(hl), strict=True)], ids=repr)
@backends
def test_values_and_gradients_are_torchs(case, layer, backend, dtype):
    """Up to what torch's own formulas lose by cancellation; test_elementary judges the last bits."""
    with np.load(FOLDER / "activations.npz") as file:
        values, gradients = file[f"{case}/{dtype.name}"]
    value, gradient = at(layer, backend, dtype, GRID, SIGNS)
    close(value, values, dtype, "elementwise", scale=abs(GRID))
    precision = "float32" if case[0] in ("CELU", "Hardsigmoid") else dtype  # torch has their constants in float32 alone
    close(gradient, gradients, precision, "elementwise", scale=np.clip(abs(GRID), 1, 100))


def test_every_activation_is_compared_with_torch():
    ours = {name for name, kind in LAYERS.items() if issubclass(kind, hl.Activation)}
    assert {name for name, *_ in ACTIVATIONS} == {name for name in ours if hasattr(hl, name)}


KINKS = [  # layer, place, slopes below, at and above it
    (hl.ReLU(), 0, 0, 0, 1), (hl.LeakyReLU(0.25), 0, 0.25, 0.25, 1), (hl.ReLU6(), 0, 0, 0, 1), (hl.ReLU6(), 6, 1, 0, 0),
    (hl.Threshold(0.5, 7), 0.5, 0, 0, 1), (hl.Hardtanh(-0.5, 2), -0.5, 0, 0, 1), (hl.Hardtanh(-0.5, 2), 2, 1, 0, 0),
    (hl.Hardsigmoid(), -3, 0, 0, 1 / 6), (hl.Hardsigmoid(), 3, 1 / 6, 0, 0), (hl.Hardswish(), -3, 0, 0, -0.5),
    (hl.Hardswish(), 3, 1.5, 1, 1), (hl.Hardshrink(0.5), 0.5, 0, 0, 1), (hl.Hardshrink(0.5), -0.5, 1, 0, 0),
    (hl.Hardshrink(0), 0, 1, 0, 1), (hl.Softshrink(0.5), 0.5, 0, 0, 1), (hl.Softshrink(0.5), -0.5, 1, 0, 0),
    (hl.Softplus(1, 0), 0, 0.5, 0.5, 1), (hl.ELU(0.25), 0, 0.25, 0.25, 1), (hl.CELU(0.25), 0, 1, 1, 1)]


@backends
@pytest.mark.parametrize(("layer", "place", "below", "there", "above"), KINKS, ids=repr)
def test_slope_at_a_kink(layer, place, below, there, above, backend, dtype):
    """One number of the type beside it, the smallest for 0, its slope is the neighbour's."""
    x = np.array([place] * 3, dtype)
    x[0], x[2] = np.nextafter(x[1], dtype.type(-np.inf)), np.nextafter(x[1], dtype.type(np.inf))
    _, slope = slopes_at(layer, backend, dtype, x)
    close(slope, [below, there, above], dtype, "elementwise", scale=1)
    assert slope[1] == dtype.type(there)


FAR = np.exp(-80.0)
EXTREMES = [  # layer, points, values, slopes; to be met relatively
    (hl.Sigmoid(), [200, -800, -80], [1, 0, FAR], [0, 0, FAR]),
    (hl.LogSigmoid(), [1000, -1000, 80], [0, -1000, -FAR], [0, 1, FAR]),
    (hl.Tanh(), [200, -200, 1e-20], [1, -1, 1e-20], [0, 0, 1]),
    (hl.Tanhshrink(), [1000, -1000, 0], [999, -999, 0], [1, 1, 0]),
    (hl.Softsign(), [1e16, -1e16, 1e-20], [1, -1, 1e-20], [1e-32, 1e-32, 1]),
    (hl.Softplus(), [100, 88.8, -80, -1000], [100, 88.8, FAR, 0], [1, 1, FAR, 0]),
    (hl.Softplus(2, 20), [100, -40, -1000], [100, FAR / 2, 0], [1, FAR, 0]),
    (hl.ELU(), [1e-20, -1e-20, -80, -1000, 1000], [1e-20, -1e-20, -1, -1, 1000], [1, 1, FAR, 0, 1]),
    (hl.CELU(0.5), [1e-20, -1e-20, -40, -1000, 1000], [1e-20, -1e-20, -0.5, -0.5, 1000], [1, 1, FAR, 0, 1]),
    (hl.SELU(), [-1000, 1000], [-1.7580993408473766, 1050.7009873554805], [0, 1.0507009873554805]),
    (hl.SiLU(), [1000, -1000, -80, 1e30], [1000, 0, -80 * FAR, 1e30], [1, 0, -79 * FAR, 1]),
    (hl.Mish(), [1000, -1000, -80, 1e30], [1000, 0, -80 * FAR, 1e30], [1, 0, -79 * FAR, 1]),
    (hl.GELU(), [40, -40, 1e30], [40, 0, 1e30], [1, 0, 1]),
    (hl.GELU("tanh"), [40, -40, 1e30], [40, 0, 1e30], [1, 0, 1]),
    (hl.Hardswish(), [1e30, -1e30], [1e30, 0], [1, 0]),
    (hl.Hardsigmoid(), [1e30, -1e30], [1, 0], [0, 0])]


@backends
@pytest.mark.parametrize(("layer", "x", "values", "slopes"), EXTREMES, ids=repr)
def test_far_out_and_near_zero(layer, x, values, slopes, backend, dtype):
    for found, expected in zip(slopes_at(layer, backend, dtype, x), (values, slopes), strict=True):
        close(found, expected, dtype, "elementwise", scale=abs(np.array(expected)))


@backends
def test_softmaxes_far_out(backend, dtype):
    x = np.array([[1000, 0, -1000], [-np.inf, 0, 0]])
    for layer, sign, expected in ((hl.Softmax(), 1, [[1, 0, 0], [0, 0.5, 0.5]]),
                                  (hl.Softmin(), -1, [[1, 0, 0], [0, 0.5, 0.5]]),
                                  (hl.LogSoftmax(), 1, [[0, -1000, -2000], [-np.inf, *np.log([0.5, 0.5])]])):
        value, gradient = at(layer, backend, dtype, sign * x, np.ones((2, 3)))
        close(value, expected, dtype, "row", scale=1)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("value", "cases", "words"), [
    (lambda x, a, b, c: x, ({"a": 1, "b": 1, "c": 1},), "at most 2"), (lambda x, a: x, ({},), "must give"),
    (lambda x: x, ({"a": 1},), "must give")])
def test_an_entry_that_cannot_be_made(value, cases, words):
    with pytest.raises(ValueError, match=words):
        activation("unfit", value, value, "x", value, value, cases=cases)
