"""Numbers that are not finite, in data or made in training: they spoil nothing else."""

import numpy as np
import pytest
from freeze_torch import activation_layers
from test_inputs import CLASSES, INPUTS, LABELS, NUMBERS, X, holding, make, same

import hotloop as hl
from hotloop.optimizers import OPTIMIZERS


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layer", activation_layers(hl), ids=repr)
def test_unchecked_numbers_stay_in_their_row(backend, layer, value):
    net = hl.Sequential(hl.Dense(INPUTS, 9), layer, hl.Dense(9, CLASSES), layer)
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(), backend=backend, check_finite=False)
    clean, touched = trainer.predict(X), trainer.predict(holding(value))
    others = np.arange(len(X)) != 7
    assert np.array_equal(clean[others], touched[others])
    if np.isnan(value):
        assert np.isnan(touched[7]).all()


LOSSES = [(hl.MSELoss(), NUMBERS), (hl.L1Loss(), NUMBERS), (hl.BCEWithLogitsLoss(), abs(NUMBERS)),
          (hl.CrossEntropyLoss(), LABELS), (hl.CrossEntropyLoss(), abs(NUMBERS))]


@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=["mse", "l1", "bce", "labels", "probabilities"])
@pytest.mark.parametrize("threads", [1, 3])
def test_training_stops_at_nan(backend, loss, y, threads):
    trainer = make(backend, loss, check_finite=False, shuffle=False, threads=threads)
    twin = make(backend, loss, shuffle=False)
    x, y = np.vstack([X, holding(np.nan, row=9)]), np.concatenate([y, y])
    with pytest.raises(hl.NonFiniteError, match="step 6") as caught:
        trainer.fit(x, y)
    assert caught.value.step == 6 and trainer.updates == 5 and not np.isfinite(caught.value.loss)
    for first in range(0, 20, 4):
        twin.step(x[first:first + 4], y[first:first + 4])
    same(trainer.state_dict().values(), twin.state_dict().values())


def test_history_forgets_an_epoch_that_failed(backend, monkeypatch):
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    trainer = make(backend, check_finite=False, shuffle=False)
    with pytest.raises(hl.NonFiniteError):
        trainer.fit(holding(np.nan, row=12), LABELS)
    twin = make(backend, shuffle=False)
    twin.net.load_state_dict(trainer.net.state_dict())
    assert trainer.fit(X, LABELS).loss == twin.fit(X, LABELS).loss


OF_RATE = OPTIMIZERS | {"momentum": lambda lr: hl.SGD(lr=lr, momentum=0.9),
                        "AdamW": lambda lr: hl.AdamW(lr=lr, weight_decay=0)}
del OF_RATE["Rprop"]  # lr is where its steps begin


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OF_RATE)
def test_an_enormous_rate_stops_the_training(backend, optimizer, dtype):
    net = hl.Sequential(hl.Dense(INPUTS, 6), *[hl.Dense(6, 6) for _ in range(6)], hl.Dense(6, CLASSES))
    trainer = hl.Trainer(net, hl.MSELoss(), OF_RATE[optimizer](lr=1e30), batch_size=4, backend=backend, dtype=dtype)
    before = net.state_dict()
    with pytest.raises(hl.NonFiniteError, match="learning rate") as caught:
        trainer.fit(X, NUMBERS, epochs=100)
    assert f"step {caught.value.step}:" in str(caught.value) and caught.value.step - trainer.updates in (0, 1)
    assert all(np.isfinite(value).all() for value in trainer.state_dict().values())
    trainer.optimizer.lr = 1e-3
    net.load_state_dict(before)
    assert np.isfinite(trainer.fit(X, NUMBERS, epochs=3).loss).all()


@pytest.mark.parametrize("optimizer", OF_RATE)
def test_a_gradient_beyond_the_dtype_spoils_nothing(backend, optimizer):
    """The loss, 1e32, is finite; the gradient is not."""
    net = hl.Sequential(hl.Dense(1, 1, bias=False))
    net.load_state_dict({"0.weight": [[1e-14]]})
    trainer = hl.Trainer(net, hl.MSELoss(), OF_RATE[optimizer](lr=1e-3), backend=backend)
    with pytest.raises(hl.NonFiniteError, match="step 1"):
        trainer.step([[1e30]], [[0.0]])
    assert all(np.isfinite(value).all() for value in trainer.state_dict().values())
    assert np.isfinite(trainer.step([[1.0]], [[0.0]])) and np.isfinite(trainer.step([[1.0]], [[0.0]]))
