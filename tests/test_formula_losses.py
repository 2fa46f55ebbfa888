"""Losses from formulas of nodes: against the package's own, on both backends, in files, and what they refuse."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from test_networks import assert_close, assert_same, backends
from tolerances import close

import hotloop as hl
from hotloop.losses import LOSSES

ROWS = 23
X = np.random.default_rng(0).standard_normal((ROWS, 4))
Y = np.random.default_rng(1).standard_normal((ROWS, 3))


@pytest.fixture(autouse=True)
def own_losses():
    """Forget what a test enters."""
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


def make(loss, outputs=3, backend="cpu", **options):
    net = hl.Sequential(hl.Dense(4, 17), hl.Tanh(), hl.Dense(17, outputs), seed=3)
    return hl.Trainer(net, loss, hl.Adam(lr=0.01, eps=1e-3), backend=backend,
                      **{"batch_size": 8, "dtype": "float64"} | options)


def huber(x, y):
    d = abs(x - y)
    return hl.where(d <= 1, hl.square(d) / 2, d - 0.5)


def hinge(x, y):
    return hl.maximum(0.0, 1 - hl.sign(y) * x)


SAME = {"MSELoss": lambda x, y: (x - y) ** 2, "HuberLoss": huber, "L1Loss": lambda x, y: abs(x - y),
        "SoftMarginLoss": lambda x, y: hl.log1p(hl.exp(-y * x)),
        "CrossEntropyLoss": lambda x, y: -(y * hl.log_softmax(x)).sum(1)}


@backends
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", SAME)
def test_formulas_of_known_losses(name, reduction, backend, dtype):
    """Value, gradient and training, with weights of rows; one term a row, or one for each output."""
    y = np.where(Y > 0, 1.0, -1.0) if name == "SoftMarginLoss" else (
        np.exp(Y) / np.exp(Y).sum(1, keepdims=True) if name == "CrossEntropyLoss" else Y)
    own, built, weights = hl.custom_loss("own", SAME[name]), LOSSES[name], np.arange(ROWS) % 3
    one, other = (make(kind(reduction), backend=backend, dtype=dtype, clip_norm=1.0) for kind in (own, built))
    for given in (None, weights):
        assert_close(one.gradients(X, y, given), other.gradients(X, y, given), dtype, ROWS)
        close(one.evaluate(X, y, given)["loss"], other.evaluate(X, y, given)["loss"], dtype, "training", ROWS)
    close(one.fit(X, y, 2, sample_weight=weights).loss, other.fit(X, y, 2, sample_weight=weights).loss, dtype,
          "training", 4 * ROWS)
    assert_close(one.state_dict(), other.state_dict(), dtype, 4 * ROWS)


@pytest.mark.parametrize(("formula", "outputs"), [
    (lambda x, y: hl.square(x[:, ::-1] - y).reshape(None, 1, 3).sum(1), 3), (lambda x, y: x * 1.0 + 0 * y, 3),
    (lambda x, y: x, 3), (lambda x, y: hl.square(x[:, 0] - y[:, 2]), 3),
    (lambda x, y: hl.logsumexp(x.reshape(None, 5, 2) * y[:, :1, None], 1), 10)])
def test_backends_and_threads(formula, outputs):
    """Terms of any shape, the prediction itself, and parts of it."""
    loss, y = hl.custom_loss("own", formula)("mean"), np.resize(Y, (ROWS, outputs))
    found = []
    for backend, threads in (("numpy", None), ("cpu", 1), ("cpu", 3)):
        trainer = make(loss, outputs, backend, threads=threads)
        found.append(trainer.gradients(X, y) | {"losses": trainer.fit(X, y, 2).loss} | trainer.state_dict()
                     | trainer.evaluate(X, y))
    assert_same(found[1], found[2])
    assert_close(found[1], found[0], "float64", 4 * ROWS)


@backends
def test_the_likelihood_of_normal_distributions(backend, dtype):
    """By hand, with variances on both sides of eps, where the slope ends."""
    loss = hl.GaussianNLLLoss(full=True, eps=0.25)
    net = hl.Sequential(hl.Dense(4, 6), seed=3)
    trainer = hl.Trainer(net, loss, hl.SGD(), backend=backend, dtype=dtype)
    outputs = trainer.predict(X).astype(float)
    v = np.maximum(outputs[:, 3:], 0.25)
    expected = 0.5 * (np.log(v) + (outputs[:, :3] - Y) ** 2 / v + np.log(2 * np.pi)).mean()
    close(trainer.evaluate(X, Y)["loss"], expected, dtype, "training", ROWS)
    slopes = np.concatenate([(outputs[:, :3] - Y) / v, 0.5 * (1 / v - ((outputs[:, :3] - Y) / v) ** 2)
                             * (outputs[:, 3:] > 0.25)], 1) / Y.size
    assert 0 < (outputs[:, 3:] > 0.25).mean() < 1
    close(trainer.gradients(X, Y)["0.bias"], slopes.sum(0), dtype, "training", ROWS, 4)


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_training_goes_on(way, tmp_path):
    own = hl.custom_loss("quantile", lambda x, y: hl.maximum(0.9 * (y - x), 0.1 * (x - y)))
    trainer = make(own("sum"))
    trainer.fit(X, Y)
    hl.save(trainer, tmp_path / "file")
    again = (hl.load(tmp_path / "file") if way == "file" else copy.deepcopy(trainer) if way == "copy"
             else pickle.loads(pickle.dumps(trainer)))
    assert again.loss == trainer.loss == own("sum") and repr(again.loss) == "quantile(reduction='sum')"
    assert again.fit(X, Y).loss == trainer.fit(X, Y).loss
    del LOSSES["quantile"]
    with pytest.raises(ValueError, match=r"loss is no known kind.*'quantile'"):
        hl.load(tmp_path / "file")
    with pytest.raises(ValueError, match="no loss 'quantile': enter it with custom_loss first"):
        pickle.loads(pickle.dumps(own()))


def test_a_class_of_ones_own(tmp_path):
    """With settings, which files keep."""
    LOSSES["Tilted"] = Tilted
    trainer = make(Tilted(tilt=0.25))
    hl.save(trainer, tmp_path / "file")
    assert hl.load(tmp_path / "file").loss == Tilted(tilt=0.25)
    expected = np.maximum(0.25 * (Y - trainer.predict(X)), 0.75 * (trainer.predict(X) - Y)).mean()
    close(trainer.evaluate(X, Y)["loss"], expected, "float64", "training", ROWS)


@dataclass(frozen=True)
class Tilted(hl.FormulaLoss):
    """Quantile regression."""

    tilt: float = 0.5

    def _checked(self, name, value):
        return float(value)

    def formula(self, x, y):
        return hl.maximum(self.tilt * (y - x), (1 - self.tilt) * (x - y))


NO_ROWS = "must make a node of shape"
WRONG = {
    "a scalar": (lambda x, y: hl.square(x - y).mean(), NO_ROWS), "nothing": (lambda x, y: None, NO_ROWS),
    "a number": (lambda x, y: 3.0, NO_ROWS), "two": (lambda x, y: (x, y), NO_ROWS),
    "another graph's": (lambda x, y: hl.Graph().input("x", (None, 3)), NO_ROWS),
    "no prediction": (lambda x, y: hl.square(y), "must use the prediction"),
    "a sum over the batch": (lambda x, y: x - y.sum(0), "features of each row"),
    "no terms": (lambda x, y: x[:, 3:], "has no features"),
    "a parameter": (lambda x, y: x * x.graph.parameter("w", 2.0), "leave parameters"),
    "chance": (lambda x, y: hl.Dropout()(x), "a network can hold layers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_formulas(case):
    formula, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        make(hl.custom_loss("own", formula)())


def test_a_flat_loss_is_for_evaluation():
    trainer = make(hl.custom_loss("flat", lambda x, y: hl.sign(x - y))())
    assert trainer.evaluate(X, Y)["loss"] == np.sign(trainer.predict(X) - Y).mean()
    with pytest.raises(ValueError, match=r"slope 0 along every way to 0\.weight"):
        trainer.fit(X, Y)


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda: hl.custom_loss("a b", huber), TypeError, "must be an identifier, got 'a b'"),
    (lambda: hl.custom_loss("MSELoss", huber), ValueError, "'MSELoss' exists already: choose another"),
    (lambda: hl.custom_loss("own", 3), TypeError, "function of two nodes, got 3"),
    (lambda: hl.custom_loss("own", huber)("none"), ValueError, 'reduction must be "mean" or "sum"'),
    (lambda: make(hl.FormulaLoss()), TypeError, "loss must be one of"),
    (lambda: make(hl.GaussianNLLLoss()), ValueError, "as many means as variances.*got 3"),
    (lambda: hl.GaussianNLLLoss(full=1), TypeError, "full must be True or False"),
    (lambda: hl.GaussianNLLLoss(eps=0), ValueError, "eps must be .*more than 0"),
    (lambda: make(hl.GaussianNLLLoss(), 6).fit(X, X[:, :2]), ValueError, r"y must have shape \(rows, 3\)"),
])
def test_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
