"""Layers with parameters, statistics or random numbers of their own: in training, in use, in files, on any threads."""

import copy
import pickle
import re

import numpy as np
import pytest
from tolerances import close

import hotloop as hl

BACKENDS = ("numpy", "cpu")
NETS = {
    "layer norm": lambda: [hl.LayerNorm(6), hl.Dense(6, 33), hl.LayerNorm((33,), bias=False), hl.ReLU(),
                           hl.Dense(33, 3)],
    "rms norm": lambda: [hl.Dense(6, 33), hl.RMSNorm(33), hl.Tanh(), hl.Dense(33, 3), hl.RMSNorm(3, 0.1)],
    "batch norm": lambda: [hl.BatchNorm1d(6), hl.Tanh(), hl.Dense(6, 33, bias=False), hl.BatchNorm1d(33, momentum=None),
                           hl.ReLU(), hl.Dense(33, 3, bias=False), hl.BatchNorm1d(3)],
    "untracked": lambda: [hl.Dense(6, 9, bias=False), hl.BatchNorm1d(9, track_running_stats=False, affine=False),
                          hl.GELU(), hl.Dense(9, 3)],
    "prelu": lambda: [hl.PReLU(6), hl.Dense(6, 33), hl.PReLU(), hl.Dense(33, 3)],
    "dropout": lambda: [hl.Dropout(0.1), hl.Dense(6, 33), hl.ReLU(), hl.Dropout(), hl.Dense(33, 3)],
    "rrelu": lambda: [hl.RReLU(), hl.Dense(6, 33), hl.RReLU(0.2, 0.9), hl.Dense(33, 3)],
    "pools": lambda: [hl.Maxout(3), hl.GLU(), hl.Dense(1, 34), hl.GLU(), hl.Dense(17, 9), hl.Maxout(3)],
}
nets = pytest.mark.parametrize("name", NETS)
backends = pytest.mark.parametrize("backend", BACKENDS)


def make(name, **options):
    options = {"dtype": "float64", "batch_size": 8, "seed": 3} | options
    return hl.Trainer(hl.Sequential(*NETS[name](), seed=1), hl.CrossEntropyLoss(), hl.Adam(lr=0.01), **options)


def data(rows=45):
    generator = np.random.default_rng(5)
    return generator.standard_normal((rows, 6)), generator.integers(0, 3, rows)


def bits(trainer, *others):
    return b"".join(np.asarray(value).tobytes() for value in (*trainer.state_dict().values(), *others))


@nets
def test_backends_agree(name, dtype):
    x, y = data()
    one, other = (make(name, backend=backend, dtype=dtype) for backend in BACKENDS)
    found, expected = one.gradients(x, y), other.gradients(x, y)
    for key, value in found.items():
        close(value, expected[key], dtype, "training", 45, scale=max(1, abs(expected[key]).max()))
    close(one.fit(x, y, epochs=2).loss, other.fit(x, y, epochs=2).loss, dtype, "training", 90)
    close(one.predict(x), other.predict(x), dtype, "training", 4096, scale=max(1, abs(other.predict(x)).max()))


@nets
def test_any_number_of_threads_and_any_chunks(name, dtype, monkeypatch):
    x, y = data()
    found = set()
    for threads, seconds in ((1, 1e3), (2, 0), (3, 1e-4), (5, 1e3)):
        monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", seconds)
        trainer = make(name, threads=threads, dtype=dtype)
        found.add(bits(trainer, trainer.fit(x, y, epochs=3).loss, trainer.predict(x)))
    assert len(found) == 1


@nets
def test_what_memory_held_before_changes_nothing(name, dtype):
    """A step's bits do not depend on it, and the padding of parameters stays zero."""
    x, y = data(13)
    found = []
    for fill in (0, 0xFF):
        trainer = make(name, dtype=dtype)
        program = trainer.program(x, y)
        for _ in range(3):
            trainer._backend.working[:] = fill
            trainer.step(x, y)
        found.append(trainer._backend.lasting.tobytes())
        used = sum(block.outputs * (block.inputs + (block.vector is not None)) for block in program.blocks)
        assert np.count_nonzero(np.frombuffer(found[-1], dtype, program.elements)) <= used
    assert found[0] == found[1]


@nets
@backends
def test_files_copies_and_pickles_go_on(name, backend, tmp_path):
    """From the middle of an epoch, bit for bit, statistics and random numbers too."""
    x, y = data()

    class Stop:
        def on_batch_chunk(self, trainer, logs):
            if trainer.updates == 4:
                trainer.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
        trainer = make(name, backend=backend)
        trainer.fit(x, y, callbacks=[Stop()])
    assert trainer.updates == 4
    hl.save(trainer, tmp_path / "net")
    others = [hl.load(tmp_path / "net"), copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]
    expected = bits(trainer, trainer.fit(x, y, epochs=2).loss, trainer.predict(x))
    for other in others:
        assert bits(other, other.fit(x, y, epochs=2).loss, other.predict(x)) == expected


@nets
def test_a_state_goes_round(name):
    trainer = make(name)
    trainer.fit(*data())
    state = trainer.net.state_dict()
    net = hl.Sequential(*NETS[name]())
    net.load_state_dict(state)
    found = net.state_dict()
    assert list(found) == list(state) and all(np.array_equal(found[key], value) for key, value in state.items())
    assert repr(eval(repr(net), vars(hl))) == repr(net)


@backends
def test_names_shapes_and_first_values_are_torchs(backend):
    layers = [hl.Dense(4, 5), hl.BatchNorm1d(5), hl.PReLU(5, 0.1), hl.LayerNorm(5), hl.RMSNorm(5), hl.PReLU()]
    net = hl.Sequential(*layers)
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.1), backend=backend)
    names = ["0.weight", "0.bias", *(f"1.{name}" for name in (
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked")), "2.weight", "3.weight", "3.bias",
        "4.weight", "5.weight"]
    first = net.state_dict()
    trainer.step(np.random.default_rng(0).standard_normal((6, 4)), np.ones((6, 5)))
    for state in (first, net.state_dict()):
        assert list(state) == names
        assert state["1.num_batches_tracked"].shape == () and state["1.num_batches_tracked"].dtype == np.int64
        assert all(state[name].shape == (5,) for name in names[3:5] + names[7:11]) and state["5.weight"].shape == (1,)
    assert all((first[name] == 1).all() for name in ("1.weight", "1.running_var", "3.weight", "4.weight"))
    assert not any(first[name].any() for name in ("1.bias", "1.running_mean", "1.num_batches_tracked", "3.bias"))
    assert (first["2.weight"] == 0.1).all() and first["5.weight"] == 0.25
    assert net.state_dict()["1.num_batches_tracked"] == 1
    assert list(trainer.gradients(np.ones((6, 4)), np.ones((6, 5)))) == list(net.shapes)


def test_wrong_counts_are_refused():
    net = hl.Sequential(hl.Dense(2, 2), hl.BatchNorm1d(2))
    state = net.state_dict()
    with pytest.raises(TypeError, match="num_batches_tracked must hold a count, got dtype float64"):
        net.load_state_dict(state | {"1.num_batches_tracked": np.array(1.0)})


# statistics


@backends
def test_only_training_moves_the_statistics(backend):
    trainer = make("batch norm", backend=backend)
    x, y = data()
    trainer.fit(x, y)
    before = bits(trainer)
    for _ in range(2):
        trainer.predict(x), trainer.evaluate(x, y), trainer.gradients(x, y)
    assert bits(trainer) == before
    trainer.step(x, y)
    assert trainer.net.state_dict()["0.num_batches_tracked"] == 7


@backends
def test_a_loss_that_is_not_finite_leaves_the_statistics(backend):
    trainer = make("batch norm", backend=backend, check_finite=False)
    x, y = data()
    trainer.step(x, y)
    before = bits(trainer)
    x[7, 2] = np.nan
    with pytest.raises(hl.NonFiniteError):
        trainer.step(x, y)
    assert bits(trainer) == before


@backends
def test_statistics_beyond_the_dtype_stop_the_training(backend):
    net = hl.Sequential(hl.BatchNorm1d(1), hl.Dense(1, 1))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=1e-3), backend=backend)
    with pytest.raises(hl.NonFiniteError, match="update"):
        trainer.step([[3e30], [-3e30]], [[0.0], [1.0]])
    assert all(np.isfinite(value).all() for value in net.state_dict().values())


@backends
def test_without_statistics_all_rows_are_one_batch(backend, monkeypatch):
    trainer, (x, y) = make("untracked", backend=backend), data(600)
    state = trainer.net.state_dict()
    hidden = x @ state["0.weight"].T
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    head = hl.Trainer(hl.Sequential(hl.GELU(), hl.Dense(9, 3)), hl.CrossEntropyLoss(), hl.SGD(), dtype="float64")
    head.net.load_state_dict({"1.weight": state["3.weight"], "1.bias": state["3.bias"]})
    close(trainer.predict(x), head.predict(hidden), "float64", "training", 600)
    monkeypatch.setattr("hotloop.inference._EVALUATE_ROWS", 100)
    close(trainer.evaluate(x, y)["loss"], head.evaluate(hidden, y)["loss"], "float64", "training", 600)


@backends
@pytest.mark.parametrize("method", ["fit", "step", "gradients"])
def test_batch_norm_needs_two_rows_in_training(backend, method):
    trainer, (x, y) = make("batch norm", backend=backend), data(17)
    rows = slice(None) if method == "fit" else slice(1)
    before = bits(trainer)
    with pytest.raises(ValueError, match=r"layer \d, BatchNorm1d.* at least 2 rows"):
        getattr(trainer, method)(x[rows], y[rows])
    assert bits(trainer) == before and trainer.predict(x[:1]).shape == (1, 3)
    assert trainer.evaluate(x[:1], y[:1])["loss"] > 0
    with pytest.raises(ValueError, match="at least 2 rows"):
        make("untracked", backend=backend).predict(x[:1])


# dropout


@backends
def test_dropout_acts_in_training_alone(backend):
    layers = [hl.Dense(6, 400, bias=False), hl.Dropout(0.25), hl.Dense(400, 1, bias=False)]
    trainer = hl.Trainer(hl.Sequential(*layers), hl.MSELoss(), hl.SGD(lr=1e-9), backend=backend)
    x = np.ones((4, 6))
    weight, head = trainer.net.state_dict().values()
    close(trainer.predict(x)[:, 0], (x @ weight.T @ head.T)[:, 0], "float32", "training", 400, scale=1)
    dropped = trainer.gradients(x[:1], [[0.0]])["2.weight"][0] == 0
    assert 50 < dropped.sum() < 150
    trainer.step(x, x[:, :1])
    assert (dropped != (trainer.gradients(x[:1], [[0.0]])["2.weight"][0] == 0)).any()


def test_dropout_follows_seed_and_place():
    x, y = data()
    found = [make("dropout", seed=seed, shuffle=False).step(x, y) for seed in (1, 1, 2, 2**80)]
    assert found[0] == found[1] and len(set(found)) == 3


@backends
def test_rrelu_draws_slopes_in_training_alone(backend):
    layers = [hl.Dense(6, 400, bias=False), hl.RReLU(0.2, 0.6), hl.Dense(400, 1, bias=False)]
    trainer = hl.Trainer(hl.Sequential(*layers), hl.MSELoss(), hl.SGD(lr=1e-9), backend=backend)
    x, target = np.ones((4, 6)), np.zeros((4, 1))
    weight, head = trainer.net.state_dict().values()
    hidden = x @ weight.T
    used = np.where(hidden > 0, hidden, 0.4 * hidden)
    close(trainer.predict(x)[:, 0], (used @ head.T)[:, 0], "float32", "training", 400, scale=1)

    def slopes():
        """The gradient of the head is proportional to what it was given."""
        found = trainer.gradients(x[:1], target[:1])["2.weight"][0] / hidden[0]
        return found / found[hidden[0] > 0].mean()

    first = slopes()
    above, below = first[hidden[0] > 0], first[hidden[0] <= 0]
    close(above, np.ones_like(above), "float32", "training", 400)
    assert 0.2 <= below.min() < 0.22 and 0.58 < below.max() <= 0.6
    assert abs(below.mean() - 0.4) < 5 * 0.4 / np.sqrt(12 * below.size)
    trainer.step(x, target)
    assert (abs(slopes() - first)[hidden[0] <= 0] > 1e-4).mean() > 0.9


# arguments

BAD = [
    (lambda: hl.LayerNorm((3, 4)), TypeError, "normalized_shape", "(3, 4)"),
    (lambda: hl.LayerNorm(0), ValueError, "normalized_shape", "at least 1"),
    (lambda: hl.LayerNorm(3, eps=0), ValueError, "eps", "more than 0"),
    (lambda: hl.LayerNorm(3, bias=1), TypeError, "bias", "True or False"),
    (lambda: hl.RMSNorm(3, eps=-1), ValueError, "eps", "more than 0"),
    (lambda: hl.BatchNorm1d(2.0), TypeError, "num_features", "integer"),
    (lambda: hl.BatchNorm1d(3, momentum=2), ValueError, "momentum", "at most 1", "2.0"),
    (lambda: hl.BatchNorm1d(3, momentum=-0.1), ValueError, "momentum", "at least 0"),
    (lambda: hl.BatchNorm1d(3, affine=None), TypeError, "affine", "True or False"),
    (lambda: hl.PReLU(0), ValueError, "num_parameters", "at least 1"),
    (lambda: hl.PReLU(init=np.nan), ValueError, "init", "finite"),
    (lambda: hl.Dropout(1), ValueError, "p", "less than 1", "1.0"),
    (lambda: hl.Dropout(-0.1), ValueError, "p", "at least 0"),
    (lambda: hl.RReLU(-0.1), ValueError, "lower", "at least 0"),
    (lambda: hl.RReLU(0.5), ValueError, "lower", "at most upper", "0.5"),
    (lambda: hl.Maxout(0), ValueError, "pool", "at least 1"),
    (lambda: hl.Sequential(hl.Dense(3, 5), hl.GLU()), ValueError, "layer 1", "of 2", "layer 0 gives 5"),
    (lambda: hl.Sequential(hl.Dense(3, 5), hl.Maxout(3)), ValueError, "layer 1", "of 3", "layer 0 gives 5"),
    (lambda: hl.Sequential(hl.Dense(3, 6), hl.GLU(), hl.Dense(6, 1)), ValueError, "layer 2 takes 6", "layer 1 gives 3"),
    (lambda: hl.Sequential(hl.Dense(3, 6), hl.LayerNorm(5)), ValueError, "layer 1 takes 5", "layer 0 gives 6"),
    (lambda: hl.Sequential(hl.Dense(3, 3), *[hl.PReLU()] * 2), ValueError, "layer 2", "twice", "new PReLU"),
    (lambda: hl.Sequential(hl.BatchNorm1d(3)), ValueError, "at least one Dense"),
]


@pytest.mark.parametrize(("call", "kind", "words"), [(call, kind, words) for call, kind, *words in BAD],
                         ids=[str(number) for number in range(len(BAD))])
def test_bad_construction(call, kind, words):
    with pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)):
        call()
