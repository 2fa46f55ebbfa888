"""Weights of rows and classes together with optimizers, penalties, clipping, schedules and statistics."""

import itertools

import numpy as np
import pytest
from test_losses import BITS, LABELS, TARGETS, TRAINED, X, backends, head, make
from tolerances import close

import hotloop as hl
from hotloop.losses import LOSSES
from hotloop.optimizers import OPTIMIZERS

pytestmark = pytest.mark.usefixtures("either_way")

WHOLE = {"l1": 0.01, "l2": 0.02, "penalize_bias": True, "clip_value": 0.05, "clip_norm": 0.2}


def mixed(loss, optimizer, backend="cpu", moments=(), **options):
    """A trainer of parameters of every kind."""
    net = hl.Sequential(hl.Dense(4, 6), *moments, hl.LayerNorm(6), hl.PReLU(6), *head(loss), seed=3)
    return hl.Trainer(net, loss, optimizer, backend=backend, dtype="float64", batch_size=8, **options)


def alike(one, other):
    """Several steps, where one difference of rounding brings others."""
    assert one.keys() == other.keys()
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-8, atol=1e-12, err_msg=name)


@backends
@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), hl.LBFGS], ids=lambda kind: kind.__name__)
def test_every_optimizer_takes_weights_for_copies(kind, backend):
    loss, copies = hl.CrossEntropyLoss(weight=[0.5, 2, 1], ignore_index=7), np.arange(23) % 4
    y, rows = np.where(np.arange(23) % 5 == 0, 7, LABELS), np.repeat(np.arange(23), copies)
    options = {"l1": 0.01, "l2": 0.02} if kind is hl.LBFGS else WHOLE | {"schedule": hl.StepLR(1, by="update")}
    settings = {"max_iter": 3} if kind is hl.LBFGS else {"lr": 0.01}
    one, other = (mixed(loss, kind(**settings), backend, **options) for _ in range(2))
    for _ in range(3):
        np.testing.assert_allclose(one.step(X, y, copies), other.step(X[rows], y[rows]), rtol=1e-8)
    alike(one.state_dict(), other.state_dict())


@pytest.mark.parametrize(("name", "kind"), list(zip(TRAINED, itertools.cycle(OPTIMIZERS.values()), strict=False)))
def test_backends_agree_on_every_weighted_loss(name, kind):
    """With statistics of batches, penalties, clipping and a schedule."""
    weights, found = np.random.default_rng(5).uniform(0, 2, 23), []
    for backend in ("cpu", "numpy"):
        trainer = mixed(LOSSES[name](), kind(lr=0.01), backend, [hl.BatchNorm1d(6)], schedule=hl.ExponentialLR(0.5),
                        **WHOLE)
        losses = trainer.fit(X, TARGETS[name], 2, sample_weight=weights).loss
        found.append(trainer.state_dict() | {"losses": np.array(losses)})
    alike(*found)


@backends
def test_statistics_follow_a_weighted_run_of_lbfgs(backend):
    trainer = mixed(hl.CrossEntropyLoss(), hl.LBFGS(max_iter=2), backend, [hl.BatchNorm1d(6)])
    before = trainer.step(X, LABELS, np.arange(23))
    assert trainer.net.state_dict()["1.num_batches_tracked"] == 1
    assert trainer.gradients(X, LABELS, np.arange(23)).keys() == trainer.net.shapes.keys()
    assert trainer.fit(X, LABELS, sample_weight=np.arange(23)).loss[0] < before


@backends
@pytest.mark.parametrize("weights", [np.arange(23) % 3, np.arange(23) // 16])  # the first two batches count for nothing
def test_penalties_are_added_to_the_weighted_mean(weights, backend):
    amounts = {"l1": 0.3, "l2": 0.7}
    trainer, plain = (make(hl.NLLLoss(), backend, shuffle=False, **options) for options in (amounts, {}))
    trainer.optimizer.lr, matrices = 1e-30, [value for value in plain.net.state_dict().values() if value.ndim > 1]
    penalty = sum(0.3 * abs(w).sum() + 0.35 * (w * w).sum() for w in matrices)
    expected = plain.evaluate(X, LABELS, weights)["loss"] + penalty
    found = [*trainer.fit(X, LABELS, sample_weight=weights).loss, trainer.step(X, LABELS, weights)]
    close(found, [expected, expected], "float64", "training", 23)
    slopes, others = trainer.gradients(X, LABELS, weights), plain.gradients(X, LABELS, weights)
    w = matrices[0]
    close(slopes["0.weight"], others["0.weight"] + 0.3 * np.sign(w) + 0.7 * w, "float64", "training", 23)


@backends
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=lambda kind: kind.__name__)
def test_a_descent_of_the_weighted_mean(kind, backend):
    """What a general graph writes down is what the trainer does."""
    weights = np.random.default_rng(5).uniform(0, 2, 23)
    trainer = hl.Trainer(hl.Sequential(hl.Dense(4, 3), seed=3), hl.MSELoss(), kind(lr=0.02), backend=backend,
                         dtype="float64")
    graph, start = hl.Graph(), trainer.net.state_dict()
    x, y, s = graph.input("x", (None, 4)), graph.input("y", (None, 3)), graph.input("s", (None,))
    w, b = graph.parameter("0.weight", start["0.weight"]), graph.parameter("0.bias", start["0.bias"])
    mean = (s * hl.square(x @ w.T + b - y).sum(1)).sum() / (3 * s.sum())
    program = graph.compile(mean, backend=backend, dtype="float64")
    found = program.minimize(kind(lr=0.02), 4, x=X, y=BITS, s=weights).values
    close(found[:4], [trainer.step(X, BITS, weights) for _ in range(4)], "float64", "training", 23)
    alike(program.parameters, trainer.net.state_dict())


@pytest.mark.parametrize("name", TRAINED)
def test_schedules_monitor_what_is_reported(name):
    trainer = make(LOSSES[name](), schedule=hl.ReduceLROnPlateau("max", monitor="val_accuracy"))
    if "accuracy" in trainer.evaluate(X, TARGETS[name]):
        assert trainer.fit(X, TARGETS[name], validation_data=(X, TARGETS[name])).val_accuracy
    else:
        with pytest.raises(ValueError, match="monitors val_accuracy"):
            trainer.fit(X, TARGETS[name], validation_data=(X, TARGETS[name]))
