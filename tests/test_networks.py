"""Networks beyond a chain: layers on nodes, shared parameters, several inputs and outputs."""

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


def changed(parts, change):
    """What is made of an array, or of each in a list or mapping."""
    if isinstance(parts, dict):
        return {name: change(part) for name, part in parts.items()}
    return [change(part) for part in parts] if isinstance(parts, list) else change(parts)


def data(net):
    """Inputs and targets, in float32's numbers, as the network wants them."""
    generator = np.random.default_rng(3)
    sizes = restructured(net.several[0], list(net.inputs), net.inputs.get), restructured(
        net.several[1], list(net.outputs), net.outputs.get)
    return [changed(part, lambda size: generator.standard_normal((ROWS, size)).astype(np.float32)) for part in sizes]


def trainer_of(net, optimizer=None, loss=hl.MSELoss, backend="cpu", **options):
    """A trainer, whose memory is full of NaN before every run."""
    losses = restructured(net.several[1], list(net.outputs), lambda name: loss())
    trainer = hl.Trainer(net, losses, optimizer or hl.SGD(lr=0.05), backend=backend,
                         **{"batch_size": 8, "dtype": "float64", "seed": 2} | options)
    if backend == "cpu":
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
def test_backends_agree_and_threads_change_nothing(make, mechanism):
    place = NETS.index(make) + list(MECHANISMS).index(mechanism)
    dtype = ("float32", "float64")[place % 2]
    options = MECHANISMS[mechanism] | {"schedule": hl.StepLR(2, gamma=0.7, by="update") if place % 4 > 1 else None}
    one, two, three, reference = (
        trained(trainer_of(network(make), OPTIMIZERS[place % 3](), threads=threads, dtype=dtype, backend=backend,
                           **options))
        for threads, backend in ((1, "cpu"), (2, "cpu"), (3, "cpu"), (None, "numpy")))
    assert_same(two, one)
    assert_same(three, one)
    assert_close(one, reference, dtype)


def expression(make, dtype):
    """The network's data and loss as a general graph, where layers are their formulas: value and gradients."""
    g = hl.Graph(seed=1)
    inputs, outputs = make(g)
    net = hl.Network(inputs, outputs)
    X, y = data(net)
    given = dict(zip(net.inputs, X if isinstance(X, list) else [X], strict=True))
    total = 0
    for name, node, target in ([(name, outputs[name], y[name]) for name in y] if isinstance(y, dict) else
                               [("0", outputs, y)]):
        total = total + hl.square(node - g.input(f"y {name}", node.shape)).mean()
        given[f"y {name}"] = target
    return g.compile(total, [g[name] for name in net.shapes], dtype=dtype)(**given)


@pytest.mark.parametrize("make", NETS[:-1], ids=lambda make: make.__name__)  # statistics and chance have no formula
def test_losses_and_gradients_are_those_of_the_expression(make, dtype):
    trainer = trainer_of(network(make), dtype=dtype)
    X, y = data(trainer.net)
    value, gradients = expression(make, dtype)
    for name, gradient in trainer.gradients(X, y).items():
        close(gradient, gradients[name], dtype, "training", ROWS, max(1, abs(gradients[name]).max()))
    close(trainer.step(X, y), value, dtype, "training", ROWS)


@backends
@nets
def test_gradients_are_differences(make, backend):
    """Of the loss with penalties along one direction through all parameters."""
    trainer = trainer_of(network(make), hl.SGD(lr=1e-300), backend=backend, l2=0.1)  # a step tells the loss alone
    (X, y), point = data(trainer.net), trainer.net.state_dict()
    generator, losses = np.random.default_rng(5), []
    ways = {name: generator.standard_normal(shape) for name, shape in trainer.net.shapes.items()}
    slope = sum((ways[name] * value).sum() for name, value in trainer.gradients(X, y).items())
    for sign in (1, -1):
        trainer.net.load_state_dict({name: value + sign * 1e-6 * ways[name] if name in ways else value
                                     for name, value in point.items()})
        trainer.updates = 0  # the same numbers are dropped
        losses.append(trainer.step(X, y))
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(slope, rel=1e-6)


@nets
def test_full_batches_and_weights_of_rows(make):
    """L-BFGS on both backends; weights are copies of rows, where no row of a batch sees the others."""
    one, other = (trainer_of(network(make), hl.LBFGS(max_iter=4), backend=backend) for backend in BACKENDS)
    weights, X, y = np.arange(ROWS) % 3, *data(one.net)
    np.testing.assert_allclose(*(trainer.fit(X, y, sample_weight=weights).loss for trainer in (one, other)), rtol=1e-7)
    if make is not normalised:
        copies = (changed(part, lambda array: np.repeat(array, weights, axis=0)) for part in (X, y))
        assert_close(other.gradients(X, y, weights), other.gradients(*copies), "float64")


# Names and first values


def test_a_chain_of_calls_is_the_sequential():
    """In names, first values, random numbers and every bit that training makes."""
    layers = [hl.Dense(5, 16), hl.PReLU(), hl.GLU(), hl.Dropout(0.2), hl.LayerNorm(8), hl.Dense(8, 3, init="he_normal")]
    g = hl.Graph(seed=7)
    x = node = g.input("x", (None, 5))
    for layer in layers:
        node = layer(node)
    called, sequential = hl.Network(x, node), hl.Sequential(*layers, seed=7)
    assert called.shapes == sequential.shapes
    assert_same(called.state_dict(), sequential.state_dict())
    assert_same(trained(trainer_of(called)), trained(trainer_of(sequential)))


def test_names():
    g = hl.Graph()
    x, shared_layer, tower = g.input("x", (None, 4)), hl.Dense(4, 4), hl.Sequential(hl.Dense(4, 4), hl.PReLU())
    h = shared_layer(hl.Dense(4, 4)(x, name="1"))  # its number is taken
    h = tower(shared_layer(h), name="enc.low") + tower(h) + hl.Sequential(hl.Dense(4, 4, bias=False))(h)
    relu = hl.ReLU()
    net = hl.Network(x, relu(relu(h, name="act"), name="act"))
    assert list(net.modules) == ["1", "2", "enc.low.0", "enc.low.1", "3.0", "act"]
    assert list(net.shapes) == ["1.weight", "1.bias", "2.weight", "2.bias", "enc.low.0.weight", "enc.low.0.bias",
                                "enc.low.1.weight", "3.0.weight"]


@backends
def test_networks_take_over_what_their_parts_learned(backend):
    """Parameters and statistics are first values; afterwards the part and the whole go their own ways."""
    tower = hl.Sequential(hl.Dense(5, 4), hl.BatchNorm1d(4), hl.Tanh(), seed=3)
    trainer = trainer_of(tower, backend=backend)
    trainer.fit(*data(tower))
    learned = tower.state_dict()
    g = hl.Graph()
    x = g.input("x", (None, 5))
    net = hl.Network(x, hl.Dense(4, 2)(tower(x)))
    found = net.state_dict()
    assert_same({name: found[f"0.{name}"] for name in learned}, learned)
    program = g.compile([g["0.0.weight"].sum()])
    np.testing.assert_allclose(program(), [learned["0.weight"].sum()])
    trainer_of(net, backend=backend).fit(*data(net))
    assert_same(tower.state_dict(), learned)
    assert net.state_dict()["0.0.weight"].tobytes() != learned["0.weight"].tobytes()


# Several inputs and outputs


def test_results_come_as_outputs_are_named():
    g = hl.Graph()
    x, z = g.input("x", (None, 3)), g.input("z", (None, 2))
    a, b = hl.Dense(3, 2)(x), hl.Dense(2, 1)(z)
    X = {"x": np.ones((4, 3)), "z": np.ones((4, 2))}
    for inputs, given in (([z, x], [X["z"], X["x"]]), ({"left": x, "right": z}, {"left": X["x"], "right": X["z"]})):
        pairs, names = hl.Network(inputs, (a, b)), hl.Network(inputs, {"a": a, "b": b})
        found = trainer_of(pairs, backend="numpy").predict(given)
        assert [part.shape for part in found] == [(4, 2), (4, 1)]
        named = trainer_of(names, backend="numpy").predict(given)
        assert list(named) == ["a", "b"] and np.array_equal(named["a"], found[0])
    single = hl.Network([x], [a])
    assert len(trainer_of(single, backend="numpy").predict([X["x"]])) == 1


@backends
def test_outputs_in_the_middle_and_twice(backend):
    """What is an output is not overwritten; an input may be one, too."""
    g = hl.Graph()
    x = g.input("x", (None, 5))
    h = hl.Dense(5, 6)(x)
    a = hl.Tanh()(h)
    net = hl.Network(x, [h, h.reshape(None, 2, 3).reshape(None, 6), a, a, x, a * 2 + h])
    trainer = trainer_of(net, backend=backend)
    for outputs in (trainer.predict(data(net)[0]), trainer.step(*data(net)) and trainer.predict(data(net)[0])):
        assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[2], outputs[3])
        close(outputs[2], np.tanh(outputs[0]), "float64", "elementwise")
        assert np.array_equal(outputs[4], data(net)[0])
        close(outputs[5], outputs[2] * 2 + outputs[0], "float64", "elementwise", 1, 4)


@backends
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_are_weighed_and_added(backend, reduction):
    net = network(several)
    losses = {"class": hl.CrossEntropyLoss(reduction), "middle": hl.HuberLoss(reduction), "gate": hl.MSELoss(reduction)}
    factors = {"class": 0.5, "middle": 2.0, "gate": 3.0}
    trainer = hl.Trainer(net, losses, hl.SGD(lr=1e-30), loss_weights=factors, backend=backend, dtype="float64")
    X, y = data(net)
    y["class"] = np.arange(ROWS) % 3
    found, outputs = trainer.evaluate(X, y), trainer.predict(X)
    assert list(found) == ["loss", "class_loss", "class_accuracy", "middle_loss", "gate_loss"]
    errors = outputs["gate"] - y["gate"]
    close(found["gate_loss"], (errors**2).mean() if reduction == "mean" else (errors**2).sum(), "float64", "row", ROWS)
    assert found["class_accuracy"] == pytest.approx((outputs["class"].argmax(1) == y["class"]).mean())
    total = sum(factor * found[f"{name}_loss"] for name, factor in factors.items())
    close([found["loss"], trainer.step(X, y)], [total, total], "float64", "training", ROWS)
    parts = []
    for name in losses:  # the gradient is the sum of those of each loss by itself
        alone = factors | dict.fromkeys(factors.keys() - {name}, 1e-300)
        one = hl.Trainer(network(several), losses, hl.SGD(), loss_weights=alone, dtype="float64")
        parts.append(one.gradients(X, y))
    assert_close(trainer.gradients(X, y), {name: sum(part[name] for part in parts) for name in net.shapes}, "float64")


def test_history_and_callbacks_know_every_output():
    trainer, seen = trainer_of(network(several), loss=hl.MSELoss), []

    class Watch:
        def on_epoch_end(self, trainer, logs):
            seen.append(logs)

    X, y = data(trainer.net)
    history = trainer.fit(X, y, 2, validation_data=(X, y), callbacks=[Watch()])
    names = ["loss", "class_loss", "middle_loss", "gate_loss"]
    for name in names:
        assert getattr(history, f"val_{name}") == [logs[f"val_{name}"] for logs in seen]
    assert {f"val_{name}": value for name, value in trainer.evaluate(X, y).items()}.items() <= seen[-1].items()


def test_a_plateau_follows_one_output():
    plateau = hl.ReduceLROnPlateau(monitor="val_middle_loss", patience=0, threshold=0.9)
    trainer = trainer_of(network(several), loss=hl.MSELoss, schedule=plateau)
    X, y = data(trainer.net)
    trainer.fit(X, y, 2, validation_data=(X, y))
    assert plateau.best == trainer.schedule.best is not None and plateau.reductions == 1
    trainer.schedule.monitor = "val_other_loss"
    with pytest.raises(ValueError, match=r"monitors val_other_loss.*val_middle_loss"):
        trainer.fit(X, y, 1, validation_data=(X, y))
