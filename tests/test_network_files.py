"""Networks beyond a chain in files, pickles and copies; descriptions that no network has."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_files import put
from test_networks import BACKENDS, NETS, assert_same, backends, data, network, restructured, trainer_of

import hotloop as hl


class Stop:
    """Stops in the middle of an epoch."""

    def on_batch_chunk(self, trainer, logs):
        trainer.stop()


def through_a_file(trainer, path):
    hl.save(trainer, path)
    return hl.load(path)


WAYS = {"file": through_a_file, "pickle": lambda trainer, path: pickle.loads(pickle.dumps(trainer)),
        "copy": lambda trainer, path: copy.deepcopy(trainer)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_training_goes_on_from_the_middle_of_an_epoch(make, way, tmp_path, monkeypatch):
    """Bit for bit, of a network that the copy describes alike."""
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    backend = BACKENDS[(NETS.index(make) + len(way)) % 2]
    trainer = trainer_of(network(make), hl.NAdam(lr=0.01), backend=backend, clip_norm=0.5, l2=0.1)
    if trainer.net.several[1] is not None:
        trainer = hl.Trainer(network(make), trainer.loss, hl.NAdam(), backend=backend, batch_size=8,
                             loss_weights=dict.fromkeys(trainer.net.outputs, 0.5))
    X, y = data(trainer.net)
    trainer.fit(X, y)
    trainer.fit(X, y, callbacks=[Stop()])
    again = WAYS[way](trainer, tmp_path / "file")
    assert again.progress() == trainer.progress() and trainer.progress()["position"]
    assert repr(again) == repr(trainer) and again.net.description() == trainer.net.description()
    assert again.fit(X, y, 2).loss == trainer.fit(X, y, 2).loss
    assert_same(again.state_dict(), trainer.state_dict())
    assert again.evaluate(X, y) == trainer.evaluate(X, y)


@pytest.mark.parametrize("made", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_graphs_go_along(made):
    """Also those in which a network was called on nodes of the graph that it is made of."""
    g = hl.Graph()
    x, z = g.input("x", (None, 4)), g.input("z", (None, 4))
    part = hl.Network(x, hl.Dense(4, 3)(x))
    whole, again, node, graph = made([hl.Network([x, z], part(z) + part(x)), part, z, g])
    assert_same(whole.state_dict(), {f"1.{name}": value for name, value in part.state_dict().items()})
    assert node is graph["z"] and again(node).shape == (None, 3)
    assert list(graph.modules) == ["0", "1.0"]  # it has its name still


def deep(layers):
    """A layer that is called often, and as many others."""
    g = hl.Graph()
    x = h = g.input("x", (None, 3))
    shared = hl.Dense(3, 3)
    for _ in range(layers):
        h = hl.tanh(shared(h)) + hl.Dense(3, 3)(x)
    return hl.Network(x, h)


@backends
def test_deep_networks(backend, tmp_path):
    net = deep(150)
    trainer = trainer_of(pickle.loads(pickle.dumps(copy.deepcopy(net))), backend=backend)
    X, y = data(net)
    assert trainer.step(X, y) > through_a_file(trainer, tmp_path / "file").step(X, y) > 0


def test_constants_are_told_as_they_are(tmp_path):
    """Of any shape, and what is made of constants alone as one; what is not finite cannot be told."""
    g = hl.Graph()
    x = g.input("x", (None, 3))
    h = hl.Dense(3, 3)(x) * (g.constant([1.0, 2, 3]) / 7 + np.ones((1, 1))) + x.mean(1, keepdims=True)
    trainer = trainer_of(hl.Network(x, h), backend="numpy")
    again = through_a_file(trainer, tmp_path / "file")
    x, _ = data(trainer.net)
    assert again.predict(x).tobytes() == trainer.predict(x).tobytes()
    assert sum("constant" in step for step in trainer.net.description()["steps"]) == 2
    bad = trainer_of(hl.Network(g["x"], hl.maximum(h, -np.inf)), backend="numpy")
    with pytest.raises(ValueError, match="not JSON compliant"):
        hl.save(bad, tmp_path / "file")


# Descriptions


def rich():
    """A network with every kind of step."""
    g = hl.Graph()
    x, relu = g.input("x", (None, 6)), hl.ReLU()
    h = hl.Dense(6, 6)(x)
    pairs = relu(h).reshape(None, 2, 3).transpose(0, 2, 1)
    parts = hl.concatenate([pairs, pairs * [1.0, 2.0]], 2)[:, ::-1, 1:4:2]
    rows = relu(parts.sum(1) + 2.0) / (parts.max(2).mean(1, keepdims=True) + 3)
    return hl.Network([x], {"a": hl.Dense(2, 2)(rows), "b": h})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The description of a trainer, and a function that loads it with another network's description."""
    path = tmp_path_factory.mktemp("network") / "file"
    hl.save(hl.Trainer(rich(), {"a": hl.MSELoss(), "b": hl.L1Loss()}, hl.SGD(), backend="numpy"), path)
    with safe_open(path, framework="numpy") as file:
        parts = json.loads(file.metadata()["hotloop"])
    tensors = load_file(path)

    def load(network):
        save_file(tensors, path, {"hotloop": json.dumps(parts | {"network": network})})
        return hl.load(path)

    return parts["network"], load


def step(op, *attributes):
    """The place of the first step of this op, and where to go on from there."""
    places = [place for place, made in enumerate(rich().description()["steps"]) if op in made.values()]
    return "steps", places[0], *attributes


HUGE = {"op": "broadcast_to", "of": [16], "attributes": {"shape": [None, 2**24]}}
DESCRIPTIONS = {
    "a step that comes later": (put(*step("multiply", "of", 0), 9), "a step is a number below 7"),
    "itself": (put(*step("multiply", "of", 0), 7), "a step is a number below 7"),
    "a negative step": (put(*step("multiply", "of", 0), -1), "a step is a number below"),
    "a name for a step": (put(*step("multiply", "of"), "ab"), "a step is a number below"),
    "no step": (put(*step("multiply", "of"), None), "cannot load"),
    "one operand": (put(*step("multiply", "of"), [4]), "multiply takes operands"),
    "an output that is no step": (put("outputs", "a", 99), "a step is a number"),
    "other outputs": (put("outputs", 1), "misses tensors"),
    "no outputs": (put("outputs", []), "needs outputs"),
    "an op of layers": (put(*step("sum", "op"), "dense"), "is no step"),
    "an optimizer": (put(*step("sum", "op"), "sgd"), "is no step"),
    "a product": (put(*step("multiply", "op"), "matmul"), "is no step"),
    "an unknown op": (put(*step("sum", "op"), "__import__"), "is no step"),
    "a list for an op": (put(*step("sum", "op"), ["sum"]), "cannot load"),
    "an unknown layer": (put("steps", 1, "layer", "7"), "is no step"),
    "a list for a layer": (put("steps", 1, "layer", []), "cannot load"),
    "another kind of step": (put("steps", 1, {"code": "import os"}), "is no step"),
    "a number for a step": (put("steps", 1, 3), "is no step"),
    "no steps": (put("steps", None), "cannot load"),
    "a huge input": (put("steps", 0, "features", 10**12), "features must be at most"),
    "huge features": (lambda parts: parts["steps"].append(HUGE), "more than 16777216 features"),
    "a huge constant": (lambda parts: parts["steps"].append(
        {"op": "broadcast_to", "of": [5], "attributes": {"shape": [10**9, 2]}}), "must be at most"),
    "constants to work on": (lambda parts: parts["steps"].append(
        {"op": "add", "of": [5, 5], "attributes": {}}), "it must be a constant"),
    "text for a constant": (put(*step(2.0, "constant"), "x"), "must hold real numbers"),
    "a ragged constant": (put(*step(2.0, "constant"), [[1], 2]), "cannot be read as an array"),
    "an axis outside": (put(*step("concatenate", "attributes", "axis"), 3), "axis 3 is outside"),
    "the batch's axis": (put(*step("sum", "attributes", "axes"), [0, 1]), "it must be a constant"),
    "a fraction": (put(*step("concatenate", "attributes", "axis"), 1.5), "cannot load"),
    "an axis twice": (put(*step("transpose", "attributes", "axes"), [0, 1, 1]), "axes must be an order"),
    "a slice outside": (put(*step("slice", "attributes", "starts"), [0, 3, 1]), "do not lie inside"),
    "a slice of a negative size": (put(*step("slice", "attributes", "sizes"), [None, 3, -1]), "no features|inside"),
    "an empty slice": (put(*step("slice", "attributes", "sizes"), [None, 3, 0]), "has no features"),
    "part of the batch": (put(*step("slice", "attributes", "sizes"), [2, 3, 2]), "do not lie inside"),
    "steps of fractions": (put(*step("slice", "attributes", "steps"), [1, -1.0, 2]), "must be an integer"),
    "another shape": (put(*step("reshape", "attributes", "shape"), [None, 4, 2]), "cannot be reshaped"),
    "text for a shape": (put(*step("reshape", "attributes", "shape"), [None, "3", 2]), "must be an integer"),
    "a list of attributes": (put(*step("reshape", "attributes"), [1]), "attributes of an op are a mapping"),
    "unknown attributes": (put(*step("reshape", "attributes", "code"), 1), "reshape takes the attributes"),
    "layers no mapping": (put("modules", []), "modules must map"),
    "a layer's name": (lambda parts: (parts["modules"].update({"a b": parts["modules"]["0"]}),
                                      put("steps", 1, "layer", "a b")(parts)), "letters, digits"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_wrong_description(saved, case):
    network, load = saved
    change, message = DESCRIPTIONS[case]
    network = copy.deepcopy(network)
    change(network)
    with pytest.raises(ValueError, match=message):
        load(network)


VALUES = (None, True, -1, 0, 1, 7, 10**12, 1.5, 1e308, "x", "relu", "relu_backward", "embed", "first_max", "count",
          "exp", [], {}, [None, 3], [1, 2], [None, 2, 3], [[1]], [1.0, 2.0], {"a": 1}, "0", [5, 5], [None, -3],
          [None, 10**9])


def places(value, way=()):
    """The ways to all parts of a description."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield *way, key
        yield from places(part, (*way, key))


def test_changed_descriptions_load_and_run_or_are_refused(saved):
    network, load = saved
    generator, ways, loaded = random.Random(0), list(places(network)), 0
    for _ in range(300):
        other = copy.deepcopy(network)
        put(*generator.choice(ways), copy.deepcopy(generator.choice(VALUES)))(other)
        try:
            trainer = load(other)
        except ValueError:
            continue
        loaded += 1
        net = trainer.net
        X, y = (restructured(structure, list(sizes), lambda name, sizes=sizes: np.ones((3, sizes[name])))
                for structure, sizes in zip(net.several, (net.inputs, net.outputs), strict=True))
        trainer.evaluate(X, y)
    assert 0 < loaded < 150
