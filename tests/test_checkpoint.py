"""Checkpoints: training continues bit for bit; no fault or crash costs the old file."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from freeze_torch import activation_layers
from safetensors.numpy import load_file

import hotloop as hl
from hotloop.layers import LAYERS

ROWS, FEATURES, CLASSES = 203, 5, 3
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and forked processes")


def data():
    generator = np.random.default_rng(7)
    X = generator.standard_normal((ROWS, FEATURES)).astype(np.float32)
    return X, (X @ generator.standard_normal((FEATURES, CLASSES))).argmax(1)


def make(optimizer=None, **settings):
    net = hl.Sequential(hl.Dense(FEATURES, 9), hl.LeakyReLU(0.1), hl.Dense(9, CLASSES, bias=False), seed=3)
    settings = {"batch_size": 8, "seed": 5} | settings
    return hl.Trainer(net, hl.CrossEntropyLoss(), optimizer or hl.Adam(lr=1e-2), **settings)


def assert_same(left, right):
    """Bitwise equal tensors and equal progress."""
    assert left.progress() == right.progress()
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


OPTIMIZERS = hl.optimizers.OPTIMIZERS | {
    "momentum": lambda: hl.SGD(lr=0.05, momentum=0.9, nesterov=True), "amsgrad": lambda: hl.Adam(amsgrad=True),
    "centered": lambda: hl.RMSprop(momentum=0.9, centered=True), "betas": lambda: hl.AdamW(lr=1e-2, betas=(0.8, 0.99))}


# continuing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_two_halves_make_a_whole(path, backend, optimizer, dtype):
    X, y = data()
    whole, half = (make(OPTIMIZERS[optimizer](), backend=backend, dtype=dtype) for _ in range(2))
    losses = whole.fit(X, y, epochs=8).loss
    first = half.fit(X, y, epochs=4).loss
    hl.save(half, path)
    again = hl.load(path)
    assert_same(again, half)
    second = again.fit(X, y, epochs=4).loss
    assert_same(again, whole)
    assert first + second == pytest.approx(losses, rel=1e-12)


class SaveAt:
    """Saves after `batch` batches of `epoch`, and stops there."""

    def __init__(self, path, epoch, batch):
        self.path, self.place = path, (epoch, batch)

    def on_batch_chunk(self, trainer, logs):
        if (logs["epoch"], logs["batch"]) == self.place:
            hl.save(trainer, self.path)
            trainer.stop()


@pytest.mark.parametrize("batch", [1, 13, 25, 26])  # of 26; the last ends the epoch
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_continues_in_the_middle_of_an_epoch(path, monkeypatch, backend, optimizer, batch):
    X, y = data()
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)  # a callback after every batch
    whole, half = (make(OPTIMIZERS[optimizer](), backend=backend) for _ in range(2))
    losses = whole.fit(X, y, epochs=4).loss
    half.fit(X, y, epochs=4, callbacks=[SaveAt(path, 2, batch)])
    again = hl.load(path)
    assert again.progress()["position"] == batch % 26
    rest = again.fit(X, y, epochs=4 - again.epoch).loss
    assert_same(again, whole)
    assert rest == losses[-len(rest) :]


def test_saving_changes_nothing(path, monkeypatch):
    X, y = data()
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    plain, saving = make(), make()
    plain.fit(X, y, epochs=2)
    saving.fit(X, y, epochs=2, callbacks=[type("Save", (), {"on_batch_chunk": lambda _, t, logs: hl.save(t, path)})()])
    assert_same(plain, saving)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_a_copy_goes_on_alone(monkeypatch, backend, copied):
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    X, y = data()
    trainer = make(backend=backend)
    assert_same(copied(trainer), trainer)
    trainer.fit(X, y, callbacks=[type("Stop", (), {"on_batch_chunk": lambda _, t, logs: t.stop()})()])
    other, net = copied(trainer), copied(trainer.net)
    before = {name: value.astype(float) for name, value in trainer.net.state_dict().items()}
    assert_same(other, trainer)
    trainer.fit(X, y, epochs=2)
    other.fit(X, y, epochs=2)
    assert_same(other, trainer)
    assert all(np.array_equal(value, before[name]) for name, value in net.state_dict().items())
    assert repr(other) == repr(trainer) and "epoch 2, " in repr(trainer)


def test_other_backend_and_threads(path):
    X, y = data()
    trainer = make(threads=2)
    trainer.fit(X, y)
    hl.save(trainer, path)
    assert hl.load(path).threads == 2
    assert hl.load(path, threads=None).threads is None
    other = hl.load(path, backend="numpy", threads=1)
    assert (other.backend, other.threads) == ("numpy", 1)
    np.testing.assert_allclose(other.predict(X), trainer.predict(X), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="backend 'gpu'"):
        hl.load(path, backend="gpu")


def test_settings_survive(path):
    trainer = make(hl.SGD(lr=0.3, momentum=0.25, weight_decay=1e-3), dtype="float64", shuffle=False, check_finite=False,
                   l1=0.5, l2=0.25, penalize_bias=True, clip_value=2.0, clip_norm=3.0)
    trainer.optimizer.lr = 0.1  # as a schedule would
    hl.save(trainer, path)
    again = hl.load(path)
    assert again.optimizer == trainer.optimizer and again.loss == trainer.loss
    assert repr(again.net) == repr(trainer.net)
    for name in ("batch_size", "dtype", "seed", "shuffle", "check_finite", "backend", "threads", "l1", "l2",
                 "penalize_bias", "clip_value", "clip_norm"):
        assert getattr(again, name) == getattr(trainer, name)


@pytest.mark.parametrize("loss", [hl.MSELoss(), hl.L1Loss("sum"), hl.BCEWithLogitsLoss(), hl.CrossEntropyLoss()])
def test_every_kind_of_layer_and_loss(path, loss):
    layers = hl.Dense(2, 2, init="he_normal"), *activation_layers(hl)
    trainer = hl.Trainer(hl.Sequential(*layers), loss, hl.AdamW())
    hl.save(trainer, path)
    assert repr(hl.load(path).net) == repr(trainer.net) and hl.load(path).loss == loss


class Own(hl.Tanh):
    """A layer of the user's, with a setting."""

    def __init__(self, strength=1):
        object.__setattr__(self, "strength", strength)


def test_layer_of_the_user(path, monkeypatch):
    monkeypatch.setitem(LAYERS, "Own", Own)
    hl.save(hl.Trainer(hl.Sequential(hl.Dense(2, 2), Own(3)), hl.MSELoss(), hl.SGD()), path)
    assert hl.load(path).net.layers[1].strength == 3
    monkeypatch.delitem(LAYERS, "Own")
    with pytest.raises(ValueError, match="layer 1 is no known kind"):
        hl.load(path)


def test_plain_safetensors_reads_it(path):
    X, y = data()
    trainer = make()
    trainer.fit(X, y)
    hl.save(trainer, path)
    tensors = load_file(path)
    parameters = {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
    assert {name: value.shape for name, value in parameters.items()} == trainer.net.shapes
    assert {"optimizer.exp_avg.0.weight", "optimizer.exp_avg_sq.2.weight"} <= tensors.keys()
    for name, value in trainer.state_dict().items():
        assert np.array_equal(tensors[name], value)


# writing


def test_replaces_through_links_and_keeps_the_mode(tmp_path):
    target, link = tmp_path / "a.safetensors", tmp_path / "latest"
    hl.save(make(), target)
    os.chmod(target, 0o600)
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("no symbolic links here")
    hl.save(make(hl.SGD()), str(link))
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert type(hl.load(target).optimizer) is hl.SGD
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "latest"]


@contextlib.contextmanager
def full_disk(monkeypatch):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def failing(name, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{name}", fail)
        yield


@posix
@pytest.mark.parametrize("fault", ["disk", "fsync", "replace"])
def test_failed_save_leaves_the_old_file(path, monkeypatch, fault):
    X, y = data()
    trainer = make()
    hl.save(trainer, path)
    before = path.read_bytes()
    trainer.fit(X, y)
    with full_disk(monkeypatch) if fault == "disk" else failing(fault, monkeypatch), pytest.raises(OSError):
        hl.save(trainer, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    hl.save(trainer, path)
    assert_same(hl.load(path), trainer)


def test_refuses_to_save(path):
    trainer = make()
    with pytest.raises(ValueError, match="folder"):
        hl.save(trainer, path.parent)
    with pytest.raises(FileNotFoundError):
        hl.save(trainer, path.parent / "none" / "model")
    with pytest.raises(TypeError, match=r"Trainer.*net\.state_dict"):
        hl.save(trainer.net, path)
    trainer.write_parameter("0.weight", np.full((1, 5), np.inf))
    with pytest.raises(ValueError, match=r"0\.weight"):
        hl.save(trainer, path)
    assert os.listdir(path.parent) == []


KILLER = """
import os, random, signal, sys, time
import hotloop as hl
path, kills = sys.argv[1], int(sys.argv[2])
def trainer(seed):
    net = hl.Sequential(hl.Dense(64, 256), hl.ReLU(), hl.Dense(256, 10), seed=seed)
    return hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(), backend="numpy")
trainers = [trainer(seed) for seed in (0, 1)]
hl.save(trainers[0], path)
random.seed(0)
seen = set()
for _ in range(kills):
    child = os.fork()
    if child == 0:
        while True:
            for each in trainers:
                hl.save(each, path)
    time.sleep(random.uniform(0.002, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(hl.load(path).net.seed)
print(len(seen), len(os.listdir(os.path.dirname(path))) - 1)
"""


@posix
def test_killed_while_saving(path):
    run = subprocess.run([sys.executable, "-c", KILLER, str(path), "200"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    files, left = map(int, run.stdout.split())
    assert files == 2  # both were found whole
    assert left > 0  # and some kills came in the middle of a save
