"""The training loop: what it reports, calls, accepts and continues."""

import numpy as np
import pytest
from freeze_torch import draw_targets
from tolerances import close

import hotloop as hl
from hotloop.kernels import _jit

ROWS, INPUTS, OUTPUTS = 50, 6, 4
LOSSES = {"mse": (hl.MSELoss, "numbers"), "l1": (hl.L1Loss, "numbers"), "bce": (hl.BCEWithLogitsLoss, "bits"),
          "labels": (hl.CrossEntropyLoss, "labels"), "probabilities": (hl.CrossEntropyLoss, "probabilities")}


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


def make(backend="cpu", loss="labels", reduction="mean", optimizer=None, **options):
    net = hl.Sequential(hl.Dense(INPUTS, 9), hl.Tanh(), hl.Dense(9, OUTPUTS), seed=1)
    return hl.Trainer(net, LOSSES[loss][0](reduction), optimizer or hl.Adam(lr=0.01),
                      **{"batch_size": 8, "backend": backend, "dtype": "float64"} | options)


def data(loss="labels", rows=ROWS):
    generator = np.random.default_rng(2)
    return generator.standard_normal((rows, INPUTS)), draw_targets(generator, LOSSES[loss][1], rows, OUTPUTS)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


# what NumPy makes of it


def numpy_outputs(trainer, x):
    state = trainer.net.state_dict()
    return np.tanh(x @ state["0.weight"].T + state["0.bias"]) @ state["2.weight"].T + state["2.bias"]


def numpy_loss(loss, outputs, y):
    """The loss of each row, and whether its class was found."""
    log_softmax = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    if loss == "labels":
        return -log_softmax[np.arange(len(y)), y], outputs.argmax(1) == y
    if loss == "probabilities":
        return -(y * log_softmax).sum(1), outputs.argmax(1) == y.argmax(1)
    if loss == "bce":
        p = 1 / (1 + np.exp(-outputs))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1), ((p > 0.5) == (y == 1)).mean(1)
    return (abs(outputs - y) if loss == "l1" else (outputs - y) ** 2).mean(1), None


@pytest.mark.parametrize("rows", [1, 7, 255, 256, 257, 1000, 8192, 8200])
def test_predictions_equal_numpy(backend, rows):
    trainer, x = make(backend), np.resize(data()[0], (rows, INPUTS))
    close(trainer.predict(x), numpy_outputs(trainer, x), "float64", "training")


@pytest.mark.parametrize("rows", [1, 8, 257, 8193])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_equals_numpy(backend, loss, reduction, rows):
    trainer, (x, y) = make(backend, loss, reduction), data(loss, rows)
    losses, right = numpy_loss(loss, numpy_outputs(trainer, x), y)
    if reduction == "sum":
        losses = losses * rows * (1 if loss in ("labels", "probabilities") else OUTPUTS)
    results = trainer.evaluate(x, y)
    close(results["loss"], losses.mean(), "float64", "training", rows)
    if right is None:
        assert results.keys() == {"loss"}
    else:
        assert results["accuracy"] == pytest.approx(right.mean(), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sum_is_a_mean_times_its_terms(backend, loss):
    x, y = data(loss)
    means = make(backend, loss).gradients(x, y)
    terms = ROWS * (1 if loss in ("labels", "probabilities") else OUTPUTS)
    for name, gradient in make(backend, loss, "sum").gradients(x, y).items():
        expected = means[name] * terms
        close(gradient, expected, "float64", "training", ROWS, scale=abs(expected).max())


def test_gradients_change_nothing(backend):
    one, other = make(backend), make(backend)
    x, y = data()
    one.fit(x, y), other.fit(x, y)
    gradients = one.gradients(x, y)
    kept = {name: value.copy() for name, value in gradients.items()}
    same(one, other)
    assert (one.epoch, one.updates) == (other.epoch, other.updates)
    one.fit(x, y), other.fit(x, y)
    same(one, other)
    assert {name: value.shape for name, value in gradients.items()} == one.net.shapes
    assert all(np.array_equal(gradients[name], kept[name]) for name in kept)


# batches


@pytest.mark.parametrize("batch", [1, 3, ROWS - 1, ROWS, ROWS + 1, 10**6])
def test_batches_of_any_size(batch):
    cpu, judge = (make(backend, batch_size=batch, optimizer=hl.SGD(lr=0.01)) for backend in ("cpu", "numpy"))
    x, y = data()
    losses = judge.fit(x, y, epochs=2).loss
    close(cpu.fit(x, y, epochs=2).loss, losses, "float64", "training", 2 * ROWS)
    assert cpu.updates == judge.updates == 2 * -(-ROWS // batch)
    for name, value in judge.state_dict().items():
        close(cpu.state_dict()[name], value, "float64", "training", 2 * ROWS, scale=abs(value).max())


def test_an_enormous_batch_size_takes_no_memory():
    trainer = make(batch_size=2**40)
    trainer.fit(*data())
    assert trainer.updates == 1


@pytest.mark.parametrize("optimizer", [lambda: hl.SGD(lr=0.05, momentum=0.9), hl.AdamW], ids=["momentum", "adamw"])
def test_steps_that_grow_and_shrink(optimizer):
    """States and parameters stay where they are when batches outgrow the memory of those before."""
    cpu, judge = (make(backend, optimizer=optimizer()) for backend in ("cpu", "numpy"))
    x, y = data(rows=700)
    for rows in (8, 1, 30, 2, 700, 5, 699, 8, 700, 1):
        close(cpu.step(x[:rows], y[:rows]), judge.step(x[:rows], y[:rows]), "float64", "training", 700)
    for name, value in judge.state_dict().items():
        close(cpu.state_dict()[name], value, "float64", "training", 700 * 10, scale=abs(value).max())


def test_a_step_returns_the_loss_before_the_update(backend):
    trainer, (x, y) = make(backend), data()
    expected = trainer.evaluate(x, y)["loss"]
    loss = trainer.step(x, y)
    assert type(loss) is float
    close(loss, expected, "float64", "training", ROWS)
    assert trainer.step(x, y) < loss and trainer.updates == 2 and trainer.epoch == 0


# state


@pytest.mark.parametrize("optimizer", [lambda: hl.SGD(momentum=0.9), lambda: hl.RMSprop(momentum=0.9),
                                       lambda: hl.Adam(amsgrad=True), *hl.optimizers.OPTIMIZERS.values()])
def test_state_dict_goes_round(backend, optimizer):
    one, other, (x, y) = make(backend, optimizer=optimizer()), make(backend, optimizer=optimizer()), data()
    for _ in range(3):
        one.step(x, y)
    state = one.state_dict()
    other.load_state_dict({name: value.astype(np.float64) for name, value in state.items()})
    same(one, other)
    for value in state.values():  # copies, and not read again
        value[...] = 7
    other.updates = one.updates
    assert one.step(x, y) == other.step(x, y)
    same(one, other)
    names = [f"optimizer.{kept}.{name}" for kept in one.optimizer.states() for name in one.net.shapes]
    assert list(one.state_dict()) == [*one.net.shapes, *names]


BAD_STATES = {
    "missing parameter": (lambda s: s.pop("0.bias"), KeyError, "0.bias"),
    "missing state": (lambda s: s.pop("optimizer.exp_avg.0.bias"), KeyError, "optimizer.exp_avg.0.bias"),
    "unknown": (lambda s: s.update(extra=np.zeros(2)), KeyError, "extra"),
    "shape": (lambda s: s.update({"2.bias": np.zeros(3)}), ValueError, r"2\.bias.*\(4,\).*\(3,\)"),
    "shape of a state": (lambda s: s.update({"optimizer.exp_avg.2.bias": np.zeros(3)}), ValueError, "exp_avg.2.bias"),
    "NaN": (lambda s: s.update({"2.bias": np.full(OUTPUTS, np.nan)}), ValueError, "2.bias.*finite"),
    "NaN in a state": (lambda s: s.update({"optimizer.exp_avg.2.bias": np.full(OUTPUTS, np.nan)}), ValueError,
                       "exp_avg.2.bias.*finite"),
    "complex": (lambda s: s.update({"2.bias": np.zeros(OUTPUTS, complex)}), TypeError, "2.bias.*real"),
    "text in a state": (lambda s: s.update({"optimizer.exp_avg.2.bias": np.zeros(OUTPUTS, str)}),
                        (TypeError, ValueError), "exp_avg.2.bias"),
}


def test_parameters_alone_are_the_networks_state(backend):
    trainer = make(backend)
    with pytest.raises(KeyError, match=r"exp_avg.*net\.load_state_dict"):
        trainer.load_state_dict(trainer.net.state_dict())
    for place in (trainer, trainer.net):
        with pytest.raises(TypeError, match="names to arrays"):
            place.load_state_dict([1])


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_changes_nothing(backend, case):
    change, kind, words = BAD_STATES[case]
    trainer, (x, y) = make(backend), data()
    trainer.step(x, y)
    before, state = trainer.state_dict(), make(backend).state_dict()
    change(state)
    with pytest.raises(kind, match=words):
        trainer.load_state_dict(state)
    after = trainer.state_dict()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_an_optimizer_with_other_states_is_refused(backend):
    trainer, (x, y) = make(backend, optimizer=hl.SGD()), data()
    trainer.step(x, y)
    before = trainer.net.state_dict()
    trainer.optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"momentum_buffer.*new Trainer"):
        trainer.step(x, y)
    assert all(np.array_equal(value, before[name]) for name, value in trainer.net.state_dict().items())


def test_a_network_moves_between_trainers(backend):
    x, y = data()
    first = make(backend)
    net = first.net
    first.fit(x, y)
    state = net.state_dict()
    second = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(lr=0.1), backend="cpu", dtype="float64")
    assert all(np.array_equal(value, state[name]) for name, value in net.state_dict().items())
    outputs = first.predict(x)
    close(second.predict(x), outputs, "float64", "training")
    second.fit(x, y)
    moved = net.state_dict()
    assert not np.array_equal(moved["0.weight"], state["0.weight"])
    assert all(np.array_equal(first.state_dict()[name], value) for name, value in moved.items())
    close(first.predict(x), second.predict(x), "float64", "training")
    assert np.isfinite(first.fit(x, y).loss).all()


# compilation


def test_a_second_architecture_compiles_nothing():
    def train(*widths):
        layers = [hl.Dense(INPUTS, widths[0]), hl.GELU()]
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [hl.Dense(inputs, outputs), hl.ReLU()]
        trainer = hl.Trainer(hl.Sequential(*layers, hl.Dense(widths[-1], OUTPUTS)), hl.CrossEntropyLoss(), hl.Adam())
        x, y = data()
        trainer.fit(x, y, validation_data=(x, y))
        trainer.gradients(x, y)

    train(5, 9)
    known = len(_jit.compiled), set(_jit._loaded)
    train(8, 3, 65, 1, 130)
    assert (len(_jit.compiled), set(_jit._loaded)) == known
