"""What networks beyond a chain refuse, each with a message that says what was given and what to do."""

import numpy as np
import pytest
from test_networks import ROWS, data, network, residual, several, trainer_of

import hotloop as hl


def graph():
    g = hl.Graph()
    return g, g.input("x", (None, 4)), g.input("z", (None, 4))


def called(call):
    """A network's outputs made by `call`, of its two inputs."""
    _, x, z = graph()
    return hl.Network([x, z], call(x, z))


WRONG = {
    "nodes of two graphs": (lambda x, z: hl.Dense(4, 2)(graph()[1]), ValueError, "different graphs"),
    "a missing input": (lambda x, z: hl.Dense(4, 2)(x + z + x.graph.input("y", (None, 4))), ValueError,
                        r"need the input y\[B, 4\]: list it among the inputs"),
    "an unused input": (lambda x, z: hl.Dense(4, 2)(x), ValueError, r"depends on the inputs \['z'\]: leave"),
    "no features": (lambda x, z: hl.Dense(4, 2)(x + z)[:, 2:], ValueError, "has no features"),
    "no batch": (lambda x, z: hl.Dense(4, 2)(x + z).sum(), ValueError, "outputs must have the shape"),
    "one dimension": (lambda x, z: hl.Dense(4, 2)(x + z).sum(1), ValueError, "outputs must have the shape"),
    "three dimensions": (lambda x, z: hl.Dense(4, 2)(x + z).reshape(None, 2, 1), ValueError, "outputs must have the"),
    "no parameters": (lambda x, z: x + z, ValueError, "at least one layer with parameters"),
    "no outputs": (lambda x, z: {}, ValueError, "needs outputs"),
    "an array": (lambda x, z: [np.ones((2, 4))], TypeError, "outputs must be nodes"),
    "a number for a name": (lambda x, z: {1: hl.Dense(4, 2)(x + z)}, TypeError, "names of outputs must be strings"),
    "a parameter": (lambda x, z: hl.Dense(4, 4)(x) * x.graph.parameter("s", 2.0) + z, ValueError, "leave parameters"),
    "a product": (lambda x, z: hl.Dense(4, 4)(x) @ np.eye(4) + z, ValueError, "matmul.*a network can hold layers"),
    "a sum over the batch": (lambda x, z: hl.Dense(4, 4)(x) - z.sum(0), ValueError, "sum.*features of each row"),
    "the batch moved": (lambda x, z: hl.Dense(4, 4)(x + z.T.T), ValueError, "transpose.*features of each row"),
    "a layer on matrices": (lambda x, z: hl.Softmax()(hl.Dense(4, 4)(x + z).reshape(None, 2, 2)).reshape(None, 4),
                            ValueError, r"layer 1, Softmax.*takes \(batch, features\).*reshape it"),
    "a dense layer on matrices": (lambda x, z: hl.Dense(2, 2)(x.reshape(None, 2, 2)).reshape(None, 4), ValueError,
                                  r"takes \(batch, features\) in a network"),
    "shared statistics": (lambda x, z: norm(norm(hl.Dense(4, 4)(x + z))), ValueError, "called 2 times.*a new one"),
    "other features": (lambda x, z: hl.Dense(3, 2)(x), ValueError, "takes 3 features, got x"),
    "another pool": (lambda x, z: hl.Maxout(3)(x), ValueError, "makes one feature of 3"),
    "a layer on an array": (lambda x, z: hl.Dense(4, 2)(np.ones((2, 4))), TypeError, "takes a node of a graph"),
    "a second name": (lambda x, z: norm(norm(x, name="a"), name="b"), ValueError, "'b' is called 'a'.*leave the name"),
    "a name in use": (lambda x, z: hl.Dense(4, 4)(norm(x, name="a"), name="a"), ValueError, "layer 'a' already"),
    "a network's name": (lambda x, z: norm(tower(x, name="a"), name="a.0"), ValueError, "layer 'a.0' already"),
    "no name": (lambda x, z: hl.Dense(4, 4)(x, name="a b"), ValueError, "letters, digits, _ and single dots"),
    "a parameter's name": (lambda x, z: (x.graph.input("a.weight"), hl.Dense(4, 4)(x, name="a")), ValueError,
                           "node 'a.weight' already"),
    "a network on arrays": (lambda x, z: tower(np.ones((2, 4))), TypeError, "a node of a graph for each of its 1 inp"),
    "a network on two nodes": (lambda x, z: tower(x, z), TypeError, "a node of a graph for each of its 1 inputs"),
    "a network on other features": (lambda x, z: tower(x[:, :3]), ValueError, "input x.*the shapes must be equal"),
}
norm, tower = hl.BatchNorm1d(4), hl.Sequential(hl.Dense(4, 4))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_networks(case):
    make, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        called(make)


def test_wrong_inputs():
    g, x, z = graph()
    h = hl.Dense(4, 2)(x + z)
    for inputs, words in ((h, "inputs must be input nodes"), ([x, x, z], "name a node twice"), ([], "needs inputs"),
                          (g.input("w", (4,)), "inputs must have the shape")):
        with pytest.raises(ValueError, match=words):
            hl.Network(inputs, h)


def test_general_graphs_refuse_what_differs_in_training():
    g, x, _ = graph()
    for layer in (hl.Dropout(), hl.BatchNorm1d(4), hl.RMSNorm(4)):
        with pytest.raises(ValueError, match=f"{type(layer).__name__}.*give its nodes to a Network"):
            g.compile(layer(x).sum())


X, Y = data(network(several))
OF_DATA = {
    "an array": (X[0], Y, "X must be a list of 2.*got one ndarray"),
    "a mapping": (dict(zip("xy", X, strict=True)), Y, "X must be a list of 2, or a mapping of x, z.*mapping of x, y"),
    "too few": (X[:1], Y, "X must be a list of 2.*got a list of 1"),
    "rows": ([X[0], X[1][:4]], Y, "parts of X must have as many rows.*21 in 'x', 4 in 'z'"),
    "columns": ([X[0], X[0]], Y, r"X\['z'\] must have shape \(rows, 2\)"),
    "NaN": ([X[0], X[1] * np.nan], Y, r"X\['z'\] holds nan"),
    "a list": (X, list(Y.values()), "y must be a mapping of class, middle, gate.*got a list of 3"),
    "a missing key": (X, {"class": Y["class"]}, "y must be a mapping .*got a mapping of class$"),
    "target rows": (X, Y | {"gate": Y["gate"][:3]}, r"X has 21 rows, but y\['gate'\] has 3"),
    "target columns": (X, Y | {"gate": Y["class"]}, r"y\['gate'\] must have shape \(rows, 2\)"),
}


@pytest.mark.parametrize("case", OF_DATA)
def test_wrong_data(case):
    inputs, targets, words = OF_DATA[case]
    trainer = trainer_of(network(several), backend="numpy")
    for use in (trainer.fit, trainer.step, trainer.evaluate):
        with pytest.raises(ValueError, match=words):
            use(inputs, targets)
    with pytest.raises(ValueError, match="validation_data"):
        trainer.fit(X, Y, validation_data=(inputs, targets))


def test_inputs_in_a_list_may_go_by_their_names():
    trainer = trainer_of(network(several), backend="numpy")
    assert trainer.evaluate(dict(zip("zx", X[::-1], strict=True)), Y) == trainer.evaluate(X, Y)


LOSSES = {name: hl.MSELoss() for name in Y}
OF_LOSSES = {
    "one for all": (hl.MSELoss(), None, ValueError, "loss must be a mapping of class.*got one MSELoss"),
    "a list": (list(LOSSES.values()), None, ValueError, "loss must be a mapping.*got a list of 3"),
    "a class": (LOSSES | {"gate": hl.MSELoss}, None, TypeError, "loss of output gate.*the class MSELoss: write"),
    "two reductions": (LOSSES | {"gate": hl.MSELoss("sum")}, None, ValueError, "all be means or all be sums"),
    "missing weights": (LOSSES, {"gate": 1}, ValueError, "loss_weights must be a mapping of class, middle, gate"),
    "no weight": (LOSSES, dict.fromkeys(Y, 0), ValueError, "weight of loss class must be .*more than 0"),
}


@pytest.mark.parametrize("case", OF_LOSSES)
def test_wrong_losses(case):
    losses, weights, kind, words = OF_LOSSES[case]
    with pytest.raises(kind, match=words):
        hl.Trainer(network(several), losses, hl.SGD(), loss_weights=weights)


def test_what_one_loss_cannot_have():
    with pytest.raises(ValueError, match=r"several outputs all rows count alike.*use sample_weight"):
        hl.Trainer(network(several), LOSSES | {"class": hl.CrossEntropyLoss(weight=[1, 2, 3])}, hl.SGD()).fit(
            X, Y | {"class": np.arange(ROWS) % 3})
    with pytest.raises(ValueError, match="loss_weights are for the losses of several outputs"):
        hl.Trainer(network(residual), hl.MSELoss(), hl.SGD(), loss_weights=2.0)


@pytest.mark.parametrize("flat", [hl.sign, hl.detach])
def test_what_nothing_can_train(flat):
    net = called(lambda x, z: hl.Dense(4, 4)(x) + flat(hl.Dense(4, 4)(z)))
    with pytest.raises(ValueError, match=r"slope 0 along every way to 1\.weight"):
        trainer_of(net).step(*data(net))
