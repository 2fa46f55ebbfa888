"""Whole nets: against torch's frozen runs, against NumPy in float64, against central differences of the loss."""

import functools

import numpy as np
import pytest
from freeze_torch import BATCH, CASES, FOLDER, STEPS, draw_targets
from tolerances import close

import hotloop as hl

pytestmark = pytest.mark.usefixtures("either_way")

BACKENDS, DTYPES = ("numpy", "cpu"), ("float32", "float64")
ACTIVATIONS = {"identity": hl.Identity(), "relu": hl.ReLU(), "leaky_relu": hl.LeakyReLU(0.2), "sigmoid": hl.Sigmoid(),
               "tanh": hl.Tanh(), "gelu": hl.GELU(), "gelu_tanh": hl.GELU("tanh"), "softmax": hl.Softmax()}
LOSSES = {"mse": (hl.MSELoss, "numbers"), "l1": (hl.L1Loss, "numbers"), "bce": (hl.BCEWithLogitsLoss, "bits"),
          "labels": (hl.CrossEntropyLoss, "labels"), "probabilities": (hl.CrossEntropyLoss, "probabilities")}
OPTIMIZERS = {
    "sgd": lambda: hl.SGD(lr=0.05, weight_decay=0.1),
    "momentum": lambda: hl.SGD(lr=0.05, momentum=0.9, dampening=0.2),
    "nesterov": lambda: hl.SGD(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "adam": lambda: hl.Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1),
    "adamw": lambda: hl.AdamW(lr=0.01, eps=1e-3, weight_decay=0.1)}
SIZES = (1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65)


def make(net, loss, optimizer=None, **options):
    return hl.Trainer(net, loss, optimizer or hl.SGD(), **{"batch_size": BATCH, "shuffle": False} | options)


def data(rows, inputs, outputs, kind, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, inputs)), draw_targets(generator, kind, rows, outputs)


# torch


@pytest.fixture(params=CASES)
def frozen(request):
    """A case, its file, and a trainer for it."""
    case = CASES[request.param]
    with np.load(FOLDER / f"{request.param}.npz") as file:
        values = dict(file)

    def trainer(backend, dtype):
        net = hl.Sequential(*case.layers(hl))
        net.load_state_dict(part(values, "initial"))
        return make(net, getattr(hl, case.loss)(**case.loss_settings), getattr(hl, case.optimizer)(**case.settings),
                    backend=backend, dtype=dtype)

    return case, values, trainer


def part(values, prefix):
    return {name.removeprefix(f"{prefix}/"): value for name, value in values.items() if name.startswith(f"{prefix}/")}


def same(actual, expected, dtype, terms):
    """Each tensor is as close as sums over its numbers allow."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        close(actual[name], value, dtype, "training", terms, scale=abs(value).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_repeat_torch(frozen, backend, dtype):
    _, values, make_trainer = frozen
    trainer = make_trainer(backend, dtype)
    x, y = values["x"], values["y"]
    same(trainer.gradients(x[:BATCH], y[:BATCH]), part(values, f"{dtype}/gradient"), dtype, BATCH)
    losses = [trainer.step(x[i:i + BATCH], y[i:i + BATCH]) for i in range(0, len(x), BATCH)]
    close(losses, values[f"{dtype}/losses"], dtype, "training", BATCH * STEPS)
    same(trainer.net.state_dict(), part(values, f"{dtype}/final"), dtype, BATCH * STEPS)
    expected = values[f"{dtype}/prediction"]
    close(trainer.predict(x), expected, dtype, "training", BATCH * STEPS, scale=abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fit_repeats_torch(frozen, backend, dtype):
    case, values, make_trainer = frozen
    trainer = make_trainer(backend, dtype)
    history = trainer.fit(values["x"], values["y"])
    weights = np.full(STEPS, BATCH)
    weights[-1] = len(values["x"]) - BATCH * (STEPS - 1)
    if case.loss_settings:  # sums are averaged over batches
        weights = np.ones(STEPS)
    mean = np.average(values[f"{dtype}/losses"], weights=weights)
    close(history.loss, [mean], dtype, "training", BATCH * STEPS)
    same(trainer.net.state_dict(), part(values, f"{dtype}/final"), dtype, BATCH * STEPS)


# NumPy in float64


@functools.cache
def reference(activation, loss, optimizer):
    """Losses, first gradients and last parameters of the numpy backend in float64."""
    return run(activation, loss, optimizer, "numpy", "float64")


def run(activation, loss, optimizer, backend, dtype):
    kind, targets = LOSSES[loss]
    layer = ACTIVATIONS[activation]
    net = hl.Sequential(hl.Dense(7, 9), layer, hl.Dense(9, 8), layer, hl.Dense(8, 5))
    trainer = make(net, kind(), OPTIMIZERS[optimizer](), backend=backend, dtype=dtype)
    x, y = data(BATCH * STEPS - 3, 7, 5, targets)
    gradients = trainer.gradients(x[:BATCH], y[:BATCH])
    losses = [trainer.step(x[i:i + BATCH], y[i:i + BATCH]) for i in range(0, len(x), BATCH)]
    return losses, gradients, trainer.state_dict()


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", "float64"), ("cpu", "float32"), ("numpy", "float32")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ten_steps_equal_numpy_in_float64(activation, loss, optimizer, backend, dtype):
    expected_losses, expected_gradients, expected_state = reference(activation, loss, optimizer)
    losses, gradients, state = run(activation, loss, optimizer, backend, dtype)
    same(gradients, expected_gradients, dtype, BATCH)
    close(losses, expected_losses, dtype, "training", BATCH * STEPS)
    same(state, expected_state, dtype, BATCH * STEPS)


def sampled_sizes(count, seed):
    """(batch, inputs, hidden, outputs), each size of SIZES equally often in each place."""
    generator = np.random.default_rng(seed)
    places = [np.concatenate([generator.permutation(SIZES) for _ in range(count // len(SIZES))]) for _ in range(4)]
    return [tuple(map(int, sizes)) for sizes in zip(*places, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", sampled_sizes(36, 1), ids=str)
def test_sizes_equal_numpy(sizes, dtype):
    rows, inputs, hidden, outputs = sizes
    x, y = data(rows, inputs, outputs, "labels")

    def trainer(backend, dtype):
        net = hl.Sequential(hl.Dense(inputs, hidden), hl.ReLU(), hl.Dense(hidden, hidden), hl.Tanh(),
                            hl.Dense(hidden, outputs))
        return make(net, hl.CrossEntropyLoss(), hl.SGD(lr=0.1), batch_size=rows, backend=backend, dtype=dtype)

    one, other = trainer("cpu", dtype), trainer("numpy", "float64")
    same(one.gradients(x, y), other.gradients(x, y), dtype, max(sizes))
    for _ in range(2):
        close(one.step(x, y), other.step(x, y), dtype, "training", max(sizes))
    same(one.net.state_dict(), other.net.state_dict(), dtype, max(sizes))
    same({"y": one.predict(x)}, {"y": other.predict(x)}, dtype, max(sizes))


# central differences


def difference(trainer, x, y, point, direction, eps):
    """The slope of the loss at `point` along `direction`."""
    losses = []
    for sign in (1, -1):
        trainer.net.load_state_dict({name: point[name] + sign * eps * direction[name] for name in point})
        losses.append(trainer.evaluate(x, y)["loss"])
    trainer.net.load_state_dict(point)
    return (losses[0] - losses[1]) / (2 * eps)


NETS = [(activation, loss, reduction) for activation in ACTIVATIONS for loss in LOSSES for reduction in ("mean", "sum")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("net", "sizes"), list(zip(NETS, sampled_sizes(84, 2), strict=False)), ids=str)
def test_gradients_are_central_differences(net, sizes, backend):
    activation, loss, reduction = net
    kind, targets = LOSSES[loss]
    rows, inputs, hidden, outputs = sizes
    outputs = max(outputs, 2) if loss == "probabilities" else outputs
    layer = ACTIVATIONS[activation]
    trainer = make(hl.Sequential(hl.Dense(inputs, hidden), layer, hl.Dense(hidden, outputs), layer), kind(reduction),
                   backend=backend, dtype="float64")
    x, y = data(rows, inputs, outputs, targets)
    point, gradients = trainer.net.state_dict(), trainer.gradients(x, y)
    smooth = activation not in ("relu", "leaky_relu") and loss != "l1"
    floor = (1e-7 if smooth else 1e-5) + np.finfo(float).eps * trainer.evaluate(x, y)["loss"] / 1e-6  # of the losses
    generator = np.random.default_rng(3)
    for name, value in point.items():
        for place in generator.permutation(value.size)[:6]:
            direction = {other: np.zeros_like(values) for other, values in point.items()}
            direction[name].flat[place] = 1
            slope, given = difference(trainer, x, y, point, direction, 1e-6), gradients[name].flat[place]
            error, allowed = abs(slope - given), floor + 1e-3 * abs(given)
            assert error <= allowed, f"d loss / d {name}[{np.unravel_index(place, value.shape)}]: {given}, not {slope}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_directional_derivative_of_a_million_parameters(backend):
    net = hl.Sequential(hl.Dense(512, 1024), hl.Tanh(), hl.Dense(1024, 512), hl.GELU(), hl.Dense(512, 10))
    trainer = make(net, hl.CrossEntropyLoss(), backend=backend, dtype="float64")
    x, y = data(33, 512, 10, "labels")
    point, gradients = net.state_dict(), trainer.gradients(x, y)
    assert sum(value.size for value in point.values()) > 1e6
    generator = np.random.default_rng(4)
    for _ in range(3):
        direction = {name: generator.standard_normal(value.shape) for name, value in point.items()}
        expected = sum((gradients[name] * direction[name]).sum() for name in point)
        slope = difference(trainer, x, y, point, direction, 1e-6)
        assert abs(slope - expected) <= 1e-5 * abs(expected)
