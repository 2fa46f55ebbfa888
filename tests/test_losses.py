"""Losses as users meet them: torch's values, extreme predictions, weights of rows and classes, ignored labels."""

import pickle

import numpy as np
import pytest
from freeze_torch import FOLDER
from freeze_torch import LOSSES as FROZEN
from machine import Machine, loss_at
from tolerances import close

import hotloop as hl
from hotloop.autodiff import differentiate
from hotloop.graph import Graph
from hotloop.kernels.losses import total_loss
from hotloop.losses import LOSSES

backends = pytest.mark.parametrize("backend", ["numpy", "cpu"])
X = np.random.default_rng(0).standard_normal((23, 4))
LABELS = np.random.default_rng(1).integers(0, 3, 23)
SIGNS, BITS = np.where(X[:, :3] > 0, 1.0, -1.0), (X[:, :3] > 0).astype(float)
TARGETS = {name: LABELS if "labels" in kind.kinds else SIGNS if kind(reduction="sum").outside(BITS)[0].any() else BITS
           for name, kind in LOSSES.items()}
TRAINED = [name for name in LOSSES if name != "ZeroOneLoss"]


def head(loss):
    """Layers that make a prediction for 3 targets of 6 features."""
    if type(loss) is hl.GaussianNLLLoss:
        return hl.Dense(6, 6), hl.Softplus()
    return (hl.Dense(6, 3), hl.Sigmoid()) if type(loss) is hl.BCELoss else (hl.Dense(6, 3),)


def make(loss, backend="cpu", **options):
    net = hl.Sequential(hl.Dense(4, 6), hl.Tanh(), *head(loss), seed=3)
    return hl.Trainer(net, loss, hl.SGD(lr=0.05), **{"batch_size": 8, "backend": backend, "dtype": "float64"} | options)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in other.items():
        close(one[name], value, "float64", "training", 23, np.max(np.abs(value)))


# torch


@pytest.fixture(scope="module")
def frozen():
    with np.load(FOLDER / "losses.npz") as file:
        return dict(file)


@backends
@pytest.mark.parametrize("place", range(len(FROZEN)), ids=lambda place: "-".join(map(str, FROZEN[place])))
def test_value_and_gradient_are_torchs(frozen, place, backend, dtype):
    name, _, settings = FROZEN[place]
    x, y = frozen[f"{place}/x"], frozen[f"{place}/y"]
    for reduction in LOSSES[name].reductions:
        graph = Graph()
        prediction = graph.input("x", (None, x.shape[1]))
        loss = LOSSES[name](reduction, **settings).apply(graph, prediction, "labels" if y.ndim == 1 else "target")
        slope, = differentiate(graph, loss, [prediction])
        machine = Machine(backend, dtype, graph, len(x), loss=loss, prediction=slope)
        gradient, expected = machine(x, y), frozen[f"{place}/{reduction}/gradient"]
        close(gradient, expected, dtype, "row", x.size, abs(expected).max())
        close(machine.losses, [frozen[f"{place}/{reduction}/loss"]], dtype, "row", x.size)


# extreme predictions


@backends
def test_probabilities_of_zero_and_one(backend, dtype):
    """Logarithms are cut at -100, and slopes at 1e12."""
    for x, y, loss, slope in [(0, 0, 0, 0), (1, 1, 0, 0), (0, 1, 100, -1e12), (1, 0, 100, 1e12)]:
        found, gradient = loss_at(backend, dtype, "bce_loss", [[x]], [[float(y)]])
        assert found == loss
        close(gradient, [[slope]], dtype, "elementwise")
    close(loss_at(backend, dtype, "bce_loss", [[1e-6]], [[0.0]])[0], 1.0000005000003333e-06, dtype, "elementwise")


@backends
@pytest.mark.parametrize(("op", "x", "y", "loss", "slope"), [
    ("soft_margin_loss", 1000, 1, 0, 0), ("soft_margin_loss", 1000, -1, 1000, 1),
    ("soft_margin_loss", 20, 1, 2.061153620314381e-09, -2.061153618190204e-09),
    ("bce_with_logits_loss", -20, 0, 2.061153620314381e-09, 2.061153618190204e-09),
    ("log_cosh_loss", 1000, 0, 1000 - np.log(2), 1), ("log_cosh_loss", -1000, 0, 1000 - np.log(2), -1),
    ("log_cosh_loss", 2.0**-10, 0, 4.768370824119191e-07, 0.00097656218955926), ("log_cosh_loss", 3, 3, 0, 0),
    ("huber_loss", 1e18, 0, 1e18, 1), ("smooth_l1_loss", -1e18, 0, 1e18, -1), ("kl_div_loss", -1000, 0, 0, 0),
    ("hinge_loss", 1, 1, 0, 0), ("squared_hinge_loss", 1, 1, 0, 0), ("hinge_embedding_loss", 1, -1, 0, 0),
    ("exponential_loss", 1000, 1, 0, 0), ("poisson_nll_loss", -1000, 0, 0, 0)])
def test_far_out_and_at_the_corners(op, x, y, loss, slope, backend, dtype):
    found, gradient = loss_at(backend, dtype, op, [[x]], [[float(y)]])
    close(found, loss, dtype, "elementwise")
    close(gradient, [[slope]], dtype, "elementwise")


@backends
def test_a_hinge_of_classes_at_its_margin(backend, dtype):
    loss, gradient = loss_at(backend, dtype, "multi_margin_loss", [[2, 1, 1e18], [0, -1, -1e18]], [0, 0])
    close(loss, 1e18 / 3, dtype, "elementwise")
    close(gradient, [[-1 / 3, 0, 1 / 3], [0, 0, 0]], dtype, "elementwise")


@backends
@pytest.mark.parametrize("op", ["cross_entropy", "cross_entropy_smooth", "nll_loss"])
def test_ignored_rows_have_no_gradient(op, backend, dtype):
    loss, gradient = loss_at(backend, dtype, op, [[1, 2, 3], [0, 5, 0]], [-100, -100])
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_the_mean_of_many(worker):
    """A float32 that counts up stops at 2**24."""
    rows, found = np.ones(2**25, np.float32), worker(batch=2**25)
    found.run(total_loss, 0, 0, loss=rows, share=1.0, scale=1.0, sums=None, count=0)
    assert found.loss == 1


# weights of rows


@backends
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_weight_is_a_number_of_copies(name, reduction, backend):
    loss, y, copies = LOSSES[name](reduction), TARGETS[name], np.arange(23) % 4
    rows = np.repeat(np.arange(23), copies)
    one, other = make(loss, backend), make(loss, backend)
    same(one.gradients(X, y, copies), other.gradients(X[rows], y[rows]))
    same(one.evaluate(X, y, copies), other.evaluate(X[rows], y[rows]))
    close(one.step(X, y, copies), other.step(X[rows], y[rows]), "float64", "training", 23)
    same(one.state_dict(), other.state_dict())


@backends
@pytest.mark.parametrize("loss", [hl.CrossEntropyLoss(weight=[0.5, 2, 0.0]), hl.MSELoss(), hl.MSELoss("sum"),
                                  hl.CrossEntropyLoss(label_smoothing=0.1), hl.NLLLoss(weight=[0.5, 2, 1])], ids=repr)
def test_an_epoch_is_the_mean_of_what_its_batches_count_for(loss, backend):
    """The loss of the epoch, with a rate so small that nothing moves, is the loss of the data."""
    y, weights = (BITS if loss.kinds == ("target",) else LABELS), np.random.default_rng(5).uniform(0, 2, 23)
    trainer = make(loss, backend)
    trainer.optimizer.lr = 1e-30
    expected = trainer.evaluate(X, y, weights)["loss"] / (3 if loss.reduction == "sum" else 1)
    close(trainer.fit(X, y, sample_weight=weights).loss, [expected], "float64", "training", 23)


def test_backends_agree_on_weighted_training():
    weights = np.random.default_rng(5).uniform(0, 2, 23)
    y = np.where(np.arange(23) % 5 == 0, 7, LABELS)
    loss = hl.CrossEntropyLoss(weight=[0.5, 2, 1], ignore_index=7)
    one, other = make(loss, "cpu"), make(loss, "numpy")
    close(one.fit(X, y, 3, sample_weight=weights).loss, other.fit(X, y, 3, sample_weight=weights).loss, "float64",
          "training", 23)
    same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    weights, found = np.random.default_rng(5).uniform(0, 2, 23), []
    for count in (1, threads):
        trainer = make(hl.CrossEntropyLoss(weight=[0.5, 2, 1]), threads=count)
        losses = trainer.fit(X, LABELS, 2, sample_weight=weights).loss
        found.append((losses, trainer.state_dict()["0.weight"].tobytes()))
    assert found[0] == found[1]


@backends
def test_a_batch_that_counts_for_nothing_moves_nothing(backend):
    """Its loss is 0, that of the epoch the mean over the rows that count."""
    trainer, y = make(hl.CrossEntropyLoss(), backend, shuffle=False), LABELS.copy()
    y[:8] = -100
    twin = make(hl.CrossEntropyLoss(), backend, shuffle=False)
    losses = [twin.step(X[8:16], y[8:16]), twin.step(X[16:], y[16:])]
    close(trainer.fit(X, y).loss, [np.average(losses, weights=[8, 7])], "float64", "training", 23)
    same(trainer.state_dict(), twin.state_dict())


@backends
@pytest.mark.parametrize("method", ["fit", "step", "gradients", "evaluate"])
@pytest.mark.parametrize(("weights", "kind", "words"), [
    (np.ones(22), ValueError, r"\(23,\).*\(22,\)"), (np.ones((23, 1)), ValueError, r"\(23,\).*\(23, 1\)"),
    (-np.ones(23), ValueError, "negative.*-1.0 in row 0"), (np.zeros(23), ValueError, "at least one row"),
    (np.full(23, np.nan), ValueError, "sample_weight holds nan in row 0"), (["a"] * 23, TypeError, "real numbers")])
def test_bad_sample_weights(method, weights, kind, words, backend):
    with pytest.raises(kind, match=words):
        getattr(make(hl.CrossEntropyLoss(), backend), method)(X, LABELS, sample_weight=weights)


# accuracy


@backends
def test_accuracy_is_weighted_and_skips_ignored_rows(backend):
    trainer, weights, y = make(hl.CrossEntropyLoss(weight=[1, 9, 1]), backend), np.arange(23.0), LABELS.copy()
    y[5] = -100
    right, counted = trainer.predict(X).argmax(1) == y, np.where(y < 0, 0, weights)
    close(trainer.evaluate(X, y, weights)["accuracy"], np.average(right, weights=counted), "float64", "row", 23)


@backends
@pytest.mark.parametrize(("name", "cut"), [("BCELoss", 0.5), ("BCEWithLogitsLoss", 0), ("MultiLabelSoftMarginLoss", 0),
                                           ("HingeLoss", 0), ("SquaredHingeLoss", 0), ("SoftMarginLoss", 0),
                                           ("ExponentialLoss", 0)])
def test_accuracy_of_yes_and_no(name, cut, backend):
    trainer = make(LOSSES[name](), backend)
    right = (trainer.predict(X) > cut) == (X[:, :3] > 0)
    close(trainer.evaluate(X, TARGETS[name])["accuracy"], right.mean(), "float64", "row", 23)


@backends
def test_numbers_have_no_accuracy(backend):
    for name in ("MSELoss", "HuberLoss", "KLDivLoss", "PoissonNLLLoss", "HingeEmbeddingLoss"):
        assert make(LOSSES[name](), backend).evaluate(X, TARGETS[name]).keys() == {"loss"}


@backends
def test_zero_one_loss_is_for_evaluation(backend):
    trainer = make(hl.ZeroOneLoss(), backend)
    found = trainer.evaluate(X, LABELS)
    assert found["loss"] == pytest.approx((trainer.predict(X).argmax(1) != LABELS).mean())
    assert found["accuracy"] == pytest.approx(1 - found["loss"])
    for train in (trainer.fit, trainer.step, trainer.gradients):
        with pytest.raises(ValueError, match=r"zero_one_loss.*no gradient.*evaluat"):
            train(X, LABELS)


# descriptions

CHANGED = [hl.SmoothL1Loss("sum", beta=0.5), hl.HuberLoss(delta=2), hl.PoissonNLLLoss(full=True, eps=0.5),
           hl.KLDivLoss("batchmean", log_target=True), hl.BCEWithLogitsLoss(weight=(1, 2, 3), pos_weight=[2, 2, 2]),
           hl.CrossEntropyLoss(weight=np.array([1, 2, 3]), ignore_index=1, label_smoothing=0.1),
           hl.MultiMarginLoss(p=2, margin=0.5, weight=[1, 2, 3]), hl.HingeEmbeddingLoss(margin=2), hl.ZeroOneLoss()]


@pytest.mark.parametrize("loss", CHANGED + [kind() for kind in LOSSES.values()], ids=repr)
def test_files_and_pickles_keep_the_loss(loss, tmp_path):
    trainer = make(loss)
    hl.save(trainer, tmp_path / "file")
    assert hl.load(tmp_path / "file").loss == pickle.loads(pickle.dumps(trainer)).loss == loss
    y = TARGETS[type(loss).__name__]
    assert hl.load(tmp_path / "file").evaluate(X, y) == trainer.evaluate(X, y)


@pytest.mark.parametrize(("make_loss", "kind", "words"), [
    (lambda: hl.SmoothL1Loss(beta=-1), ValueError, "beta.*at least 0"),
    (lambda: hl.HuberLoss(delta=0), ValueError, "delta.*more than 0"),
    (lambda: hl.HingeEmbeddingLoss(2.0), ValueError, "reduction.*2.0.*by name"),
    (lambda: hl.CrossEntropyLoss(np.ones(3)), ValueError, "reduction.*by name"),
    (lambda: hl.CrossEntropyLoss(weight=[1, -1]), ValueError, r"weight\[1\].*at least 0"),
    (lambda: hl.CrossEntropyLoss(weight=2), ValueError, "weight.*list"),
    (lambda: hl.CrossEntropyLoss(ignore_index=0.5), TypeError, "ignore_index.*integer"),
    (lambda: hl.CrossEntropyLoss(label_smoothing=1.5), ValueError, "label_smoothing"),
    (lambda: hl.MultiMarginLoss(p=3), ValueError, "p must be at most 2"),
    (lambda: hl.PoissonNLLLoss(full=1), TypeError, "full.*True or False"),
    (lambda: hl.MSELoss("batchmean"), ValueError, "batchmean")])
def test_bad_arguments(make_loss, kind, words):
    with pytest.raises(kind, match=words):
        make_loss()


@backends
@pytest.mark.parametrize(("loss", "y", "words"), [
    (hl.CrossEntropyLoss(weight=[1, 2]), LABELS, "weight needs 3 numbers.*got 2"),
    (hl.BCEWithLogitsLoss(pos_weight=[1, 2]), BITS, "pos_weight needs 3 numbers.*got 2"),
    (hl.HingeLoss(), BITS, "HingeLoss must be -1 or 1.*0.0"),
    (hl.PoissonNLLLoss(), SIGNS, "PoissonNLLLoss.*between 0.*-1.0"),
    (hl.KLDivLoss(), SIGNS, "KLDivLoss.*between 0.*-1.0"),
    (hl.NLLLoss(ignore_index=5), np.full(23, -100), "label -100 in row 0.*outside 0 ... 2"),
    (hl.MultiMarginLoss(), np.full(23, -100), "label -100"),
    (hl.MultiLabelMarginLoss(), np.full((23, 3), 3), r"must be class indices, 0 \.\.\. 2, or -1, but y holds 3"),
    (hl.MultiLabelMarginLoss(), np.full((23, 3), 0.5), "0.5 in row 0, column 0"),
    (hl.CrossEntropyLoss(), np.full(23, -100), "at least one row must count")], ids=str)
def test_bad_targets(loss, y, words, backend):
    with pytest.raises(ValueError, match=words):
        make(loss, backend).fit(X, y)
