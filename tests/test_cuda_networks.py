"""Whole networks on the cuda backend: in Numba's simulator, or on a device where there is one."""

import numpy as np
import pytest
from freeze_torch import activation_layers
from test_network_ops import OPS as BETWEEN
from test_network_ops import between
from test_networks import MECHANISMS, NETS, assert_close, assert_same, changed, data, network, trainer_of
from tolerances import close

import hotloop as hl
from hotloop.epochs import Epochs
from hotloop.kernels import _cuda
from hotloop.kernels._block import SIMULATED

ROWS = 5
OPTIMIZERS = [hl.SGD(), hl.SGD(momentum=0.9, nesterov=True), hl.ASGD(), hl.Rprop(), hl.Adagrad(), hl.Adadelta(),
              hl.RMSprop(), hl.RMSprop(momentum=0.9, centered=True), hl.Adam(), hl.AdamW(amsgrad=True), hl.Adamax(),
              hl.NAdam(), hl.RAdam(), hl.Lion()]


FORMS = [pytest.param(0, id="launched"), pytest.param(np.inf, id="persistent")]


@pytest.fixture(autouse=True)
def one_run(monkeypatch):
    """All steps of a fit in one run, which the simulator takes longer for than anyone would wait."""
    monkeypatch.setattr(Epochs, "_chunk", lambda self: 1000)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Programs as kernels that are launched one by one, then as one whose blocks stay on the device."""
    monkeypatch.setattr("hotloop.cuda_backend._SMALL", request.param)


def both(make, dtype="float32", rows=33, batch=33, epochs=1, **options):
    """What training makes of a new network on the cuda backend and on the numpy backend."""
    generator, found = np.random.default_rng(5), []
    x, y = generator.standard_normal((rows, 5)).astype(np.float32), generator.integers(0, 3, rows)
    for backend in ("cuda", "numpy"):
        optimizer = options.get("optimizer", hl.SGD(lr=0.1))
        trainer = hl.Trainer(make(), hl.CrossEntropyLoss(), optimizer, batch, backend=backend, dtype=dtype,
                             **{name: value for name, value in options.items() if name != "optimizer"})
        made = {"loss": trainer.fit(x, y, epochs=epochs).loss} | trainer.state_dict()
        found.append(made | {"prediction": trainer.predict(x)} | trainer.evaluate(x, y))
    return found


def trained(net, backend, **options):
    """What a gradient and an update of a batch of ROWS rows, or two, make; and what the network is then."""
    x, y = (changed(part, lambda array: array[:ROWS]) for part in data(net))
    trainer = trainer_of(net, backend=backend, batch_size=ROWS, **options)
    found = {f"gradient of {name}": value for name, value in trainer.gradients(x, y).items()}
    found["loss"] = trainer.fit(x, y).loss
    return found | trainer.state_dict() | trainer.evaluate(x, y)


def dense(hidden=33):
    return hl.Sequential(hl.Dense(5, hidden), hl.ReLU(), hl.Dense(hidden, 3), seed=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 33, 70])
def test_a_chain(rows, dtype):
    """Batches of 33 rows and what is left, over two epochs in an order of their own."""
    found, expected = both(dense, dtype, rows, epochs=2)
    assert_close(found, expected, dtype, 2 * rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers(optimizer):
    """The first updates, and coefficients that change with each of them."""
    found, expected = both(lambda: dense(4), rows=3, batch=2, epochs=2, optimizer=optimizer)
    assert_close(found, expected, "float32", 8)


@pytest.mark.parametrize("layer", activation_layers(hl)[::4], ids=repr)
def test_activations(layer):
    """In their own phase of a chain, forwards and backwards."""
    found, expected = both(lambda: hl.Sequential(hl.Dense(5, 2), layer, hl.Dense(2, 3), layer, seed=1), rows=3)
    assert_close(found, expected, "float32", 33)


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_networks_of_any_shape(make):
    found, expected = (trained(network(make), backend) for backend in ("cuda", "numpy"))
    assert_close(found, expected, "float64", 100)


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_becomes_of_gradients(name):
    nets = [hl.Sequential(hl.Dense(5, 3), hl.PReLU(), hl.LayerNorm(3), hl.Dense(3, 2), seed=1) for _ in range(2)]
    found, expected = (trained(net, backend, **MECHANISMS[name])
                       for net, backend in zip(nets, ("cuda", "numpy"), strict=True))
    assert_close(found, expected, "float64", 100)


@pytest.mark.parametrize("op", list(BETWEEN)[::2])
def test_ops_between_layers(op):
    nets = [between(op, 15) for _ in range(2)]
    found, expected = (trained(hl.Network(output.graph["x"], output), backend)
                       for output, backend in zip(nets, ("cuda", "numpy"), strict=True))
    assert_close(found, expected, "float64", 1000)


def test_a_schedule_changes_every_step():
    found, expected = both(lambda: dense(4), rows=5, batch=2, epochs=2, optimizer=hl.Adam(lr=0.1),
                           schedule=hl.CosineAnnealingLR(2))
    assert_close(found, expected, "float32", 10)


def test_two_runs_give_the_same_bits():
    assert_same(*(both(dense, rows=40, batch=20)[0] for _ in range(2)))


@pytest.mark.usefixtures("form")
def test_a_loss_that_is_not_finite_stops_the_run():
    """The network keeps its last finite parameters, and training can go on."""
    x, y = np.random.default_rng(0).standard_normal((6, 5)), np.zeros(6, int)
    states = {}
    for backend in ("cuda", "numpy"):
        net = dense(4)
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(lr=1e30), 2, backend=backend)
        with pytest.raises(hl.NonFiniteError) as error:
            trainer.fit(x, y, epochs=3)
        states[backend] = error.value.args[0]
        assert all(np.isfinite(value).all() for value in net.state_dict().values())
        trainer.optimizer.lr = 1e-3
    assert states["cuda"] == states["numpy"]


@pytest.mark.usefixtures("form")
def test_an_update_that_is_not_finite_stops_the_run():
    x, y = np.full((2, 1), 1e30), np.full((2, 1), -1e30)
    found = []
    for backend in ("cuda", "numpy"):
        net = hl.Sequential(hl.Dense(1, 1), seed=0)
        trainer = hl.Trainer(net, hl.L1Loss(), hl.SGD(lr=1e30), backend=backend)
        with pytest.raises(hl.NonFiniteError) as error:
            trainer.fit(x, y, epochs=2)
        found.append((error.value.args[0], trainer.updates))
    assert found[0] == found[1]


def test_a_saved_run_goes_on_bit_for_bit(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((9, 5)), np.arange(9) % 3
    trainers = [hl.Trainer(dense(4), hl.CrossEntropyLoss(), hl.Adam(), 4, backend="cuda") for _ in range(2)]
    trainers[0].fit(x, y, epochs=2)
    trainers[1].fit(x, y, epochs=1)
    hl.save(trainers[1], tmp_path / "run.safetensors")
    loaded = hl.load(tmp_path / "run.safetensors")
    assert loaded.backend == "cuda"
    loaded.fit(x, y, epochs=1)
    assert_same(loaded.state_dict(), trainers[0].state_dict())


def test_it_continues_what_the_cpu_began():
    """Parameters and states go from backend to backend."""
    x, y = np.random.default_rng(0).standard_normal((9, 5)), np.arange(9) % 3
    first = hl.Trainer(dense(4), hl.CrossEntropyLoss(), hl.Adam(), 4)
    first.fit(x, y)
    second = hl.Trainer(dense(4), hl.CrossEntropyLoss(), hl.Adam(), 4, backend="cuda")
    second.load_state_dict(first.state_dict())
    for name, value in second.state_dict().items():
        np.testing.assert_array_equal(value, first.state_dict()[name])
    second.epoch, second.updates = first.epoch, first.updates
    for trainer in (first, second):
        trainer.fit(x, y)
    for name, value in first.net.state_dict().items():
        close(second.net.state_dict()[name], value, "float32", "training", 18, 1)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("make", [dense, lambda: hl.Sequential(
    hl.Dense(5, 33), hl.BatchNorm1d(33), hl.GELU(), hl.Dropout(0.2), hl.Dense(33, 3), seed=1)], ids=["dense", "layers"])
def test_either_form_trains(make):
    """Several chunks of rows, several blocks, a last batch that is smaller, a gradient cut by its norm."""
    found, expected = both(make, rows=70, batch=40, optimizer=hl.SGD(lr=0.1, momentum=0.9), clip_norm=0.5)
    assert_close(found, expected, "float32", 140)


@pytest.mark.usefixtures("form")
def test_many_rows_are_evaluated(monkeypatch):
    """In several steps of a run, of which each overwrites what the one before left."""
    monkeypatch.setattr("hotloop.inference.PREDICT_ROWS", 70)
    x, y = np.random.default_rng(0).standard_normal((150, 3)), np.arange(150) % 3
    found = []
    for backend in ("cuda", "numpy"):
        net = hl.Sequential(hl.Dense(3, 4), hl.ReLU(), hl.Dense(4, 3), seed=1)
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(), backend=backend, dtype="float64")
        found.append(trainer.evaluate(x, y) | {"prediction": trainer.predict(x)})
    assert_close(*found, "float64", 150)


def test_more_rectangles_across_than_an_axis_has(monkeypatch):
    """They go along the third axis, whose last ones have nothing to do."""
    monkeypatch.setattr("hotloop.cuda_backend._SMALL", 0)
    found = [both(lambda: dense(150), rows=2)[0]]
    monkeypatch.setattr(_cuda, "ACROSS", 2)
    monkeypatch.setattr(_cuda, "launcher", _cuda.launcher.__wrapped__)
    found.append(both(lambda: dense(150), rows=2)[0])
    assert_same(*found)


def test_both_forms_give_the_same_bits(monkeypatch):
    """In the simulator; a compiler may contract formulas otherwise where they are parts of one kernel."""
    found = []
    for least in (0, np.inf):
        monkeypatch.setattr("hotloop.cuda_backend._SMALL", least)
        found.append(both(dense, rows=40, batch=40, optimizer=hl.SGD(lr=0.1, momentum=0.9))[0])
    if SIMULATED:
        assert_same(*found)
    else:
        assert_close(*found, "float32", 40)


@pytest.mark.parametrize("height", [64, 128])
def test_larger_tiles_give_the_same_bits(height, monkeypatch):
    """An element is one chain of multiply-adds whatever the tile."""
    from hotloop.kernels.dense import dense_forward, dense_input_gradient, dense_parameter_gradient

    monkeypatch.setattr("hotloop.cuda_backend._SMALL", 0)
    found = [both(lambda: dense(35), rows=33, batch=33)[0]]
    for cpu in (dense_forward, dense_input_gradient, dense_parameter_gradient):
        larger = next(kernel for kernel in cpu.cuda.larger if kernel.height == height)
        monkeypatch.setattr(cpu, "cuda", larger)
    found.append(both(lambda: dense(35), rows=33, batch=33)[0])
    assert_same(*found)
