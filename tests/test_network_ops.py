"""General ops within networks, on the features of each row in panels; layers as formulas of general graphs."""

import numpy as np
import pytest
from freeze_torch import activation_layers
from test_networks import BACKENDS, ROWS, assert_close, data, trained, trainer_of
from tolerances import close

import hotloop as hl
from hotloop.layers import LAYERS


def split(h):
    """Odd pieces of the features of a node, and what lies before and after them."""
    width = h.shape[1]
    return h[:, : width // 3], h[:, width // 3 :]


OPS = {  # of a node whose features are as many as the widths say
    "where": lambda h: hl.where(h > 0.1, h * h, 1 - h),
    "maximum and minimum": lambda h: hl.maximum(h, 0.2) - hl.minimum(h, -0.2) * 3,
    "divisions without end in the padding": lambda h: h / hl.square(h) * h + 1 / (h + hl.sign(h)),
    "logarithms": lambda h: hl.log(h * h + 1e-3) + hl.log1p(abs(h)) + hl.sqrt(hl.exp(-h)) + hl.expm1(h / 2),
    "angles and powers": lambda h: hl.sin(h) * hl.cos(h) + (1 + h * h) ** 1.5 + hl.erf(h) + 2**h,
    "a constant for each feature": lambda h: h * np.linspace(-1, 1, h.shape[1]) + np.ones((1, 1)) * 0.5,
    "one column for all": lambda h: h[:, -1:] * h + h.sum(1, keepdims=True) / h.shape[1],
    "steps": lambda h: hl.concatenate([h[:, ::2], h[:, ::-3], h[:, 1:-1:2], h[:, -1:]], 1),
    "halves and wholes": lambda h: hl.concatenate([*split(h), h[:, :1], split(h)[0]], -1),
    "mean and variance": lambda h: (h - h.mean(1, keepdims=True)) / hl.sqrt(
        hl.square(h - h.mean(-1, keepdims=True)).mean(1, keepdims=True) + 0.1),
    "largest": lambda h: h - h.max(1, keepdims=True),
    "largest of equal ones": lambda h: hl.concatenate([h * h, h * hl.detach(h)], 1).max(1, keepdims=True) + h,
    "softmaxes": lambda h: hl.softmax(h) + hl.log_softmax(h, 1) + hl.logsumexp(h, 1, keepdims=True),
    "matrices": lambda h: matrices(h).transpose(0, 2, 1).reshape(None, -1) * 2,
    "matrices under each other": lambda h: hl.concatenate([matrices(h), 2 * matrices(h), h.reshape(None, 1, -1)[
        :, :, : matrices(h).shape[2]]], 1).reshape(None, -1),
    "rows of matrices": lambda h: hl.concatenate([matrices(h).sum(1), matrices(h).max(2)[:, ::-1]], 1),
    "along the middle": lambda h: (hl.softmax(matrices(h), 1) * hl.logsumexp(matrices(h), 1, keepdims=True)
                                   ).reshape(None, -1),
    "pieces of matrices": lambda h: hl.stack([matrices(h)[:, 1, ::-1], matrices(h)[:, -1, :] * 2], -1).sum(-2),
}
WIDTHS = (5, 15, 18, 33, 70)  # around panels, and few and many of them


def matrices(h):
    """The features as matrices of two or three rows."""
    rows = next(size for size in (3, 2, 5) if h.shape[1] % size == 0)
    return h.reshape(None, rows, h.shape[1] // rows)


def between(op, width):
    """A network where the op stands between dense layers, and a way past it: its output, in its graph."""
    g = hl.Graph(seed=width)
    x = g.input("x", (None, 4))
    h = hl.Dense(4, width)(x)
    made = OPS[op](h)
    return hl.Dense(made.shape[1], 3)(hl.Tanh()(made)) + h.sum(1, keepdims=True) / width


def network(output):
    return hl.Network(output.graph["x"], output)


@pytest.mark.parametrize(("op", "width", "dtype"), [
    (op, WIDTHS[(place + number) % 5], ("float32", "float64")[(place + number // 2) % 2])
    for place, op in enumerate(OPS) for number in (0, 2, 3)])
def test_ops_between_layers(op, width, dtype):
    """On both backends, and as the expression of a general graph whose layers are made of its ops."""
    output = between(op, width)
    one, other = (trained(trainer_of(network(output), backend=backend, dtype=dtype), 1) for backend in BACKENDS)
    assert_close(one, other, dtype, 2 * ROWS * width)
    g, (x, y), names = output.graph, data(network(output)), network(output).shapes
    loss = hl.square(output - g.input("y", (None, 3))).mean()
    _, gradients = g.compile(loss, [g[name] for name in names], dtype=dtype)(x=x, y=y)
    for name, gradient in gradients.items():
        close(one[f"gradient of {name}"], gradient, dtype, "training", ROWS * width, max(1, abs(gradient).max()))


PADDED = {  # u has NaN in its padding; h is a dense layer's output, whose gradient comes through what u is added to
    "added": lambda h, u: h + u,
    "through an activation": lambda h, u: hl.Tanh()(h + u),
    "through batch norm": lambda h, u: hl.BatchNorm1d(h.shape[1])(h + u),
    "through PReLU": lambda h, u: hl.PReLU(h.shape[1])(h - u),
    "through layer norm": lambda h, u: hl.LayerNorm(h.shape[1])(hl.Dropout(0.2)(h) + u),
    "through a pool": lambda h, u: hl.GLU()(hl.concatenate([h + u, u], 1)),
}


@pytest.mark.parametrize("width", [1, 17, 33])
@pytest.mark.parametrize("op", PADDED)
def test_nothing_comes_from_the_padding(op, width):
    """Neither gradients nor statistics, nor the check of updates; and padding of parameters stays zero."""
    def make():
        g = hl.Graph(seed=3)
        x = g.input("x", (None, 4))
        u = hl.Dense(4, width)(x)
        made = PADDED[op](hl.Dense(4, width)(x), u[:, ::-1] / 2)
        return hl.Network(x, hl.Dense(made.shape[1], 2)(made))

    trainers = [trainer_of(make(), hl.Adam(lr=0.01, eps=1e-3), backend=backend, clip_value=1.0)
                for backend in BACKENDS]
    one, other = (trained(trainer) for trainer in trainers)
    assert_close(one, other, "float64", 2 * ROWS * width)
    program, lasting = trainers[1].program(*data(trainers[1].net)), trainers[1]._backend.lasting
    numbers = lasting[: program.fixed_bytes()].view("float64")
    regions = numbers[: 3 * program.elements].reshape(3, -1)
    for block in program.blocks:
        size = program.layout.block(block.inputs, block.outputs)
        panels = regions[:, block.first : block.first + size].reshape(3, -1, block.inputs + 1, program.layout.panel)
        columns = panels.transpose(0, 2, 1, 3).reshape(3, block.inputs + 1, -1)
        assert not columns[:, :, block.outputs :].any()


# Layers as formulas


WITHOUT = {"Dropout", "RReLU", "BatchNorm1d"}  # these differ in training and in use
FORMULAS = [*(layer for layer in activation_layers(hl) if type(layer).__name__ not in WITHOUT),
            hl.Dense(6, 3), hl.Dense(6, 3, bias=False), hl.PReLU(), hl.PReLU(6, 0.1), hl.GLU(),
            hl.Maxout(3), hl.LayerNorm(6, 0.1), hl.LayerNorm(6, bias=False), hl.RMSNorm(6, 0.1),
            hl.RMSNorm(6, 0.1, elementwise_affine=False)]


def test_every_layer_is_compared_with_its_formula():
    kinds = {name for name, kind in LAYERS.items() if kind.__module__.startswith("hotloop.")}
    assert {type(layer).__name__ for layer in FORMULAS} == kinds - WITHOUT


@pytest.mark.parametrize("layer", FORMULAS, ids=repr)
def test_formulas_are_what_networks_run(layer, dtype):
    """In value and gradient, of the layer's parameters and of those before it."""
    x = hl.Graph(seed=9).input("x", (None, 4))
    output = layer(hl.Dense(4, 6)(x) * 2)
    g, net = output.graph, network(output)
    x, y = data(net)
    loss = hl.square(output - g.input("y", output.shape)).mean()
    value, gradients = g.compile(loss, [g[name] for name in net.shapes], dtype=dtype)(x=x, y=y)
    trainer = trainer_of(net, dtype=dtype)
    close(trainer.evaluate(x, y)["loss"], value, dtype, "training", ROWS)
    for name, gradient in trainer.gradients(x, y).items():
        close(gradient, gradients[name], dtype, "training", ROWS, max(1, abs(gradients[name]).max()))
