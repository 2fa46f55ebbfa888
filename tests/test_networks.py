"""Networks beyond a chain: layers on nodes, shared parameters, several inputs and outputs, general ops on features."""

import numpy as np
import pytest
from tolerances import close

import hotloop as hl

ROWS = 21
BACKENDS = ("numpy", "cpu")


def residual(g):
    x = g.input("x", (None, 5))
    h = hl.ReLU()(hl.Dense(5, 17)(x))
    h = h + hl.Tanh()(hl.Dense(17, 17)(h))
    h = h + hl.Softplus()(hl.Dense(17, 17, bias=False)(h)) / 2
    return x, hl.Dense(17, 3)(h)


def shared(g):
    """A layer called three times, one called twice whose results are added: both gradients come from one node."""
    x, both, single = g.input("x", (None, 5)), hl.Dense(5, 5), hl.Dense(5, 3, bias=False)
    h = hl.Tanh()(both(x))
    h = hl.Tanh()(both(h)) + x
    return x, single(both(h)) + single(x)


def shared_vectors(g):
    """Of each kind, and a layer without parameters that is called several times."""
    x, prelu, one, norm, relu = (g.input("x", (None, 5)), hl.PReLU(9), hl.PReLU(), hl.LayerNorm(9), hl.Sigmoid())
    h = norm(prelu(hl.Dense(5, 9)(x)))
    h = relu(norm(one(relu(hl.Dense(9, 9)(h))))) + h
    return x, one(hl.Dense(9, 3)(prelu(h)))


def siamese(g):
    """A network that is called twice, on two inputs."""
    tower = hl.Sequential(hl.Dense(5, 9), hl.ReLU(), hl.Dense(9, 4), seed=4)
    a, b = g.input("a", (None, 5)), g.input("b", (None, 5))
    left, right = tower(a, name="tower"), tower(b)
    return [b, a], hl.Dense(12, 3)(hl.concatenate([left, right, abs(left - right)], 1))


def several(g):
    """Two inputs, three outputs, one of them in the middle."""
    x, z = g.input("x", (None, 5)), g.input("z", (None, 2))
    h = hl.Tanh()(hl.Dense(5, 17)(x))
    middle = hl.Dense(17, 2)(h)
    return [x, z], {"class": hl.Dense(19, 3)(hl.concatenate([h, middle + z], 1)), "middle": middle,
                    "gate": hl.sigmoid(middle.sum(1, keepdims=True) * z)}


def normalised(g):
    """Statistics, random numbers and pools behind and before what fills the padding with NaN."""
    x = g.input("x", (None, 5))
    h = hl.Dense(5, 18)(x)
    h = hl.BatchNorm1d(18)(h + hl.square(h) / (1 + abs(h)) / hl.exp(h - h))
    h = hl.Dropout(0.3)(hl.GLU()(h / h.max(1, keepdims=True)))
    h = hl.Maxout(3)(hl.RMSNorm(9)(hl.Dense(9, 9)(h) + h / (h * h + 1)))
    return x, hl.BatchNorm1d(3)(h * 2)


NETS = [residual, shared, shared_vectors, siamese, several, normalised]
nets = pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
backends = pytest.mark.parametrize("backend", BACKENDS)


def network(make, seed=1):
    return hl.Network(*make(hl.Graph(seed=seed)))


def restructured(structure, names, value):
    """value(name) for each name, in the structure that a network asks for."""
    if structure is None:
        return value(names[0])
    return [value(name) for name in names] if isinstance(structure, int) else {name: value(name) for name in names}


def data(net, rows=ROWS):
    """Inputs and targets, in float32's numbers, as the network wants them."""
    generator = np.random.default_rng(3)
    X = restructured(net.several[0], list(net.inputs), lambda name: generator.standard_normal(
        (rows, net.inputs[name])).astype(np.float32))
    y = restructured(net.several[1], list(net.outputs), lambda name: generator.standard_normal(
        (rows, net.outputs[name])).astype(np.float32))
    return X, y


def trainer_of(net, optimizer=None, loss=hl.MSELoss, backend="cpu", poison=True, **options):
    """A trainer, whose memory is full of NaN before every run."""
    losses = restructured(net.several[1], list(net.outputs), lambda name: loss())
    trainer = hl.Trainer(net, losses, optimizer or hl.SGD(lr=0.05), backend=backend,
                         **{"batch_size": 8, "dtype": "float64", "seed": 2} | options)
    if backend == "cpu" and poison:
        trainer.predict(data(net)[0])
        executor = trainer._backend
        run = executor.run

        def fresh(*arguments, **settings):
            executor.working[:] = 0xFF
            return run(*arguments, **settings)

        executor.run = fresh
    return trainer


def trained(trainer, epochs=2, **options):
    """Everything that training makes."""
    X, y = data(trainer.net)
    found = {f"gradient of {name}": value for name, value in trainer.gradients(X, y).items()}
    found["loss"] = trainer.fit(X, y, epochs=epochs, **options).loss
    found |= trainer.state_dict() | {f"evaluated {name}": value for name, value in trainer.evaluate(X, y).items()}
    outputs = trainer.predict(X)
    parts = outputs.items() if isinstance(outputs, dict) else enumerate(
        outputs if isinstance(outputs, list) else [outputs])
    return found | {f"output {name}": value for name, value in parts}


def assert_close(found, expected, dtype, terms=2 * ROWS):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value, dtype, "training", terms, max(1.0, np.abs(value).max()))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.asarray(found[name]).tobytes() == np.asarray(value).tobytes(), name


MECHANISMS = {
    "plain": {}, "penalties": {"l1": 0.01, "l2": 0.1, "penalize_bias": True}, "values": {"clip_value": 0.02},
    "norm": {"clip_norm": 0.1}, "all": {"l2": 0.1, "clip_value": 0.05, "clip_norm": 0.1},
}
OPTIMIZERS = [lambda: hl.SGD(lr=0.1, momentum=0.9), lambda: hl.NAdam(lr=0.01, weight_decay=0.1, eps=1e-3),
              lambda: hl.Adam(lr=0.01, amsgrad=True, eps=1e-3)]


@nets
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_backends_agree_and_threads_change_nothing(make, mechanism, dtype):
    place = NETS.index(make) + list(MECHANISMS).index(mechanism)
    options = MECHANISMS[mechanism] | {"schedule": hl.StepLR(2, gamma=0.7, by="update") if place % 2 else None}
    one, two, three, reference = (
        trained(trainer_of(network(make), OPTIMIZERS[place % 3](), threads=threads, dtype=dtype, backend=backend,
                           **options))
        for threads, backend in ((1, "cpu"), (2, "cpu"), (3, "cpu"), (None, "numpy")))
    assert_same(two, one)
    assert_same(three, one)
    assert_close(one, reference, dtype)


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
    "softmaxes": lambda h: hl.softmax(h) + hl.log_softmax(h, 1) + hl.logsumexp(h, 1, keepdims=True),
    "matrices": lambda h: matrices(h).transpose(0, 2, 1).reshape(None, -1) * 2,
    "rows of matrices": lambda h: hl.concatenate([matrices(h).sum(1), matrices(h).max(2)[:, ::-1]], 1),
    "along the middle": lambda h: (hl.softmax(matrices(h), 1) * hl.logsumexp(matrices(h), 1, keepdims=True)
                                   ).reshape(None, -1),
    "pieces of matrices": lambda h: hl.stack([matrices(h)[:, 1, ::-1], matrices(h)[:, -1, :] * 2], -1).sum(-2),
}
WIDTHS = (2, 15, 18, 33, 70)  # around panels, and few and many of them


def matrices(h):
    """The features as matrices of two or three rows."""
    rows = next(size for size in (3, 2, 5) if h.shape[1] % size == 0)
    return h.reshape(None, rows, h.shape[1] // rows)


def between(op, width):
    """A network where the op stands between dense layers, and a way past it."""
    g = hl.Graph(seed=width)
    x = g.input("x", (None, 4))
    h = hl.Dense(4, width)(x)
    made = OPS[op](h)
    return hl.Network(x, hl.Dense(made.shape[1], 3)(hl.Tanh()(made)) + h.sum(1, keepdims=True) / width), g


@pytest.mark.parametrize(("op", "width"), [(op, width) for place, op in enumerate(OPS) for width in (
    WIDTHS[place % 5], WIDTHS[(place + 2) % 5], WIDTHS[(place + 3) % 5])])
def test_ops_between_layers(op, width, dtype):
    """On both backends, and as the expression of a general graph whose layers are made of its ops."""
    net, g = between(op, width)
    X, y = data(net)
    found = [trained(trainer_of(between(op, width)[0], backend=backend, dtype=dtype), 1) for backend in BACKENDS]
    scale = np.sqrt(width)
    assert_close(found[1], found[0], dtype, 2 * ROWS * width)
    loss = hl.square(net._outputs["0"] - g.input("y", (None, 3))).mean()
    value, gradients = g.compile(loss, [g[name] for name in net.shapes], dtype=dtype)(x=X, y=y)
    for name, gradient in gradients.items():
        close(found[1][f"gradient of {name}"], gradient, dtype, "training", ROWS * width, max(1, abs(gradient).max()))
