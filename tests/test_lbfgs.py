"""L-BFGS: full batches through SciPy."""

import sys

import numpy as np
import pytest

import hotloop as hl


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


def data():
    generator = np.random.default_rng(0)
    X = generator.standard_normal((60, 4))
    return X, np.sin(X @ generator.standard_normal((4, 2)))


def make(backend, optimizer=None, layers=None, **options):
    pytest.importorskip("scipy")
    net = hl.Sequential(*layers or [hl.Dense(4, 8), hl.Tanh(), hl.Dense(8, 2)], seed=1)
    return hl.Trainer(net, hl.MSELoss(), optimizer or hl.LBFGS(max_iter=30), backend=backend,
                      **{"dtype": "float64"} | options)


def test_finds_what_least_squares_find(backend):
    X, y = data()
    trainer = make(backend, hl.LBFGS(tolerance_grad=1e-9, tolerance_change=0), [hl.Dense(4, 2)])
    trainer.fit(X, y)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(60)]), y, rcond=None)[0]
    np.testing.assert_allclose(trainer.net.state_dict()["0.weight"], expected[:4].T, atol=1e-7)
    np.testing.assert_allclose(trainer.net.state_dict()["0.bias"], expected[4], atol=1e-7)


def test_a_penalty_is_minimised_along(backend):
    """Ridge regression: at the minimum the gradient of loss and penalty is zero."""
    X, y = data()
    trainer = make(backend, hl.LBFGS(tolerance_grad=1e-9, tolerance_change=0), [hl.Dense(4, 2)], l2=0.3)
    trainer.fit(X, y)
    centered, ridge = X - X.mean(0), 0.3 * y.size / 2 * np.eye(4)
    expected = np.linalg.solve(centered.T @ centered + ridge, centered.T @ y)
    np.testing.assert_allclose(trainer.net.state_dict()["0.weight"], expected.T, atol=1e-7)


def test_an_epoch_is_a_run(backend):
    trainer, (X, y) = make(backend), data()
    seen = []
    record = type("Record", (), {"on_epoch_end": lambda _, trainer, logs: seen.append((logs["epoch"], logs["loss"]))})()
    history = trainer.fit(X, y, epochs=2, validation_data=(X, y), callbacks=[record])
    assert history.loss[1] < history.loss[0] and trainer.epoch == 2 and 30 < trainer.updates <= 60
    assert seen == list(enumerate(history.loss))
    assert history.val_loss == pytest.approx(history.loss, rel=1e-12)
    before = trainer.evaluate(X, y)["loss"]
    assert trainer.step(X, y) == pytest.approx(before, rel=1e-12) and trainer.evaluate(X, y)["loss"] < before


def test_backends_and_threads_agree():
    X, y = data()
    losses = {key: make(key[0], threads=key[1]).fit(X, y).loss for key in (("numpy", 1), ("cpu", 1), ("cpu", 3))}
    assert losses["cpu", 1] == losses["cpu", 3] and losses["cpu", 1] == pytest.approx(losses["numpy", 1], rel=1e-3)


def test_single_precision(backend):
    trainer, (X, y) = make(backend, dtype="float32"), data()
    before = trainer.evaluate(X, y)["loss"]
    assert trainer.fit(X, y).loss[0] < before / 4


def test_survives_a_checkpoint(backend, tmp_path):
    trainer, (X, y) = make(backend), data()
    trainer.fit(X, y)
    hl.save(trainer, tmp_path / "half")
    again = hl.load(tmp_path / "half")
    assert again.optimizer == trainer.optimizer and again.progress() == trainer.progress()
    assert again.fit(X, y).loss == trainer.fit(X, y).loss


def test_an_exception_keeps_the_last_iteration(backend, monkeypatch):
    trainer, (X, y), losses = make(backend), data(), []
    plain = trainer._loss_and_gradients

    def interrupted(*arguments):
        losses.append(plain(*arguments))
        if len(losses) == 9:
            raise KeyboardInterrupt
        return losses[-1]

    monkeypatch.setattr(trainer, "_loss_and_gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, y)
    assert any(trainer.evaluate(X, y)["loss"] == pytest.approx(loss, rel=1e-12) for loss, _ in losses[1:8])


def test_refused(monkeypatch):
    with pytest.raises(ValueError, match="max_iter must be at least 1"):
        make("numpy", hl.LBFGS(max_iter=0))
    for option in ({"schedule": hl.StepLR(3)}, {"clip_norm": 1.0}):
        with pytest.raises(ValueError, match=r"LBFGS.*leave out"):
            make("numpy", **option)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        hl.LBFGS()


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_statistics_follow_once_a_run(backend, tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((30, 4)) + 2, generator.standard_normal((30, 1))
    net = hl.Sequential(hl.BatchNorm1d(4), hl.Dense(4, 9), hl.PReLU(), hl.Dropout(0.1), hl.Dense(9, 1))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.LBFGS(max_iter=20), backend=backend, dtype="float64", l2=1e-3)
    losses = trainer.fit(x, y, epochs=2).loss
    assert losses[1] < losses[0] and net.state_dict()["0.num_batches_tracked"] == 2
    np.testing.assert_allclose(net.state_dict()["0.running_mean"], (1 - 0.9**2) * x.mean(0))
    assert "gradient" in str(trainer.program(x, y))
    hl.save(trainer, tmp_path / "saved")
    assert hl.load(tmp_path / "saved").evaluate(x, y) == trainer.evaluate(x, y)
