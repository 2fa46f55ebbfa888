"""Checkpoints: training continues bit for bit; no file, fault or crash does worse than a clear error."""

import contextlib
import copy
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from freeze_torch import activation_layers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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


def tiny():
    """The trainer with the smallest file that still has every part."""
    return hl.Trainer(hl.Sequential(hl.Dense(1, 1)), hl.MSELoss(), hl.SGD(momentum=0.5), batch_size=2)


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
    monkeypatch.setattr("hotloop.trainer._CHUNK_SECONDS", 0)  # a callback after every batch
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
    monkeypatch.setattr("hotloop.trainer._CHUNK_SECONDS", 0)
    plain, saving = make(), make()
    plain.fit(X, y, epochs=2)
    saving.fit(X, y, epochs=2, callbacks=[type("Save", (), {"on_batch_chunk": lambda _, t, logs: hl.save(t, path)})()])
    assert_same(plain, saving)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_a_copy_goes_on_alone(monkeypatch, backend, copied):
    monkeypatch.setattr("hotloop.trainer._CHUNK_SECONDS", 0)
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


# reading damaged files


def load_or_refuse(path, **options):
    """True for a valid load, False for the one error that a bad file may raise."""
    try:
        hl.load(path, **options)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    return True


def test_every_truncation_is_refused(path):
    hl.save(tiny(), path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not load_or_refuse(path), length
    path.write_bytes(content + b"\0")
    assert not load_or_refuse(path)


def test_byte_flips(path):
    hl.save(tiny(), path)
    content = path.read_bytes()
    generator, loaded = random.Random(0), 0
    with open(path, "r+b", buffering=0) as file:
        for _ in range(100_000):
            place = generator.randrange(len(content))
            file.seek(place)
            file.write(bytes([content[place] ^ generator.randrange(1, 256)]))
            loaded += load_or_refuse(path, backend="numpy")
            file.seek(place)
            file.write(content[place : place + 1])
    assert 0 < loaded < 50_000


def rewrite(path, description=None, tensors=None):
    """Save a small trainer with description or tensors changed by a function."""
    trainer = make()
    hl.save(trainer, path)
    with safe_open(path, framework="numpy") as file:
        parts = json.loads(file.metadata()["hotloop"])
    arrays = load_file(path)
    if description:
        description(parts)
    if tensors:
        tensors(arrays)
    save_file(arrays, path, {"hotloop": json.dumps(parts)})


def put(*keys):
    """A change that puts the last of `keys` under the keys before it."""
    *way, last, value = keys

    def change(parts):
        for key in way:
            parts = parts[key]
        parts[last] = value

    return change


LAYER = ("network", "layers", 0)
DESCRIPTIONS = {
    "newer format": (put("format", 2), "format is 2"),
    "format of another type": (put("format", [1]), r"format is \[1\]"),
    "a list for the network": (put("network", []), "network must have layers, seed"),
    "missing progress": (lambda parts: parts.pop("progress"), "must have .*progress"),
    "unknown part": (put("code", "import os"), "must have"),
    "unknown setting": (put("trainer", "callbacks", []), "trainer must have"),
    "layers no list": (put("network", "layers", {"0": {}}), "layers must be a list"),
    "no layers": (put("network", "layers", []), "at least one Dense"),
    "nested": (put("network", "layers", [[[[]]]]), "layer 0 is no known kind"),
    "foreign code": (put(*LAYER, "kind", "os.system"), "'os.system'.*choose one of Dense"),
    "foreign optimizer": (put("optimizer", "kind", "__import__"), "optimizer is no known kind"),
    "loss as layer": (put(*LAYER, {"kind": "MSELoss", "reduction": "mean"}), "layer 0 is no known kind"),
    "unhashable kind": (put("loss", "kind", ["MSELoss"]), "loss is no known kind"),
    "unknown argument": (put(*LAYER, "owner", 1), "layer 0: .*owner"),
    "unhashable argument": (put(*LAYER, "init", []), "layer 0"),
    "converted argument": (put("optimizer", {"kind": "SGD", "nesterov": {}}), "optimizer: nesterov must be True"),
    "negative learning rate": (put("optimizer", "lr", -1.0), "optimizer: lr must be"),
    "endless learning rate": (put("optimizer", "lr", float("inf")), "holds Infinity"),
    "too large a number": (put("optimizer", "lr", 10**400), "optimizer: "),
    "text for a number": (put("optimizer", "lr", "0.1"), "lr must be a number"),
    "sizes that do not fit": (put(*LAYER, "out_features", 8), "layer 2 takes 9 features, but layer 0 gives 8"),
    "huge sizes": (put(*LAYER, "in_features", 10**12), r"0\.weight must be F32"),
    "no bias": (put(*LAYER, "bias", False), r"has \['0\.bias'"),
    "other states": (put("optimizer", {"kind": "SGD", "momentum": 0.5}), "misses tensors .*momentum_buffer"),
    "other dtype": (put("trainer", "dtype", "float64"), "must be F64"),
    "hostile dtype": (put("trainer", "dtype", "(1000000000,)f8"), "dtype must be"),
    "unknown backend": (put("trainer", "backend", "fpga"), "unknown backend 'fpga'"),
    "negative threads": (put("trainer", "threads", -1), "threads must be"),
    "text for a switch": (put("trainer", "shuffle", "no"), "shuffle must be"),
    "fraction": (put("trainer", "batch_size", 2.5), "batch_size must be an integer"),
    "negative seed": (put("network", "seed", -1), "seed must be"),
    "position outside": (put("progress", "position", 1), "position 1 lies outside"),
    "negative epoch": (put("progress", "epoch", -1), "epoch must be"),
    "huge count": (put("progress", "updates", 2**60), "must be less than"),
    "text for a sum": (put("progress", "loss_sum", "1"), "loss_sum must be"),
    "infinite sum": (put("progress", "loss_sum", 10**400), "cannot load"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_wrong_description(path, case):
    change, message = DESCRIPTIONS[case]
    rewrite(path, description=change)
    with pytest.raises(ValueError, match=message) as caught:
        hl.load(path)
    assert str(path) in str(caught.value)


def nan(tensors):
    tensors["0.weight"][0, 0] = np.nan


TENSORS = {
    "missing": (lambda tensors: tensors.pop("2.weight"), r"misses tensors \['2\.weight'\]"),
    "extra": (put("3.weight", np.zeros(2, np.float32)), r"has \['3\.weight'\]"),
    "shape": (put("0.bias", np.zeros((9, 1), np.float32)), r"0\.bias must be F32 of shape \(9,\)"),
    "dtype": (put("0.bias", np.zeros(9, np.float16)), r"0\.bias must be F32 .* got F16"),
    "integers": (put("0.bias", np.zeros(9, np.int64)), r"0\.bias must be F32 .* got I64"),
    "not finite": (nan, r"0\.weight holds values that are not finite"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_wrong_tensors(path, case):
    change, message = TENSORS[case]
    rewrite(path, tensors=change)
    with pytest.raises(ValueError, match=message):
        hl.load(path)


def raw(header, content=b""):
    """A safetensors file of this header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def description_of(path):
    hl.save(tiny(), path)
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_bfloat16_is_refused(path):
    header = {"__metadata__": description_of(path)}
    for place, name in enumerate(sorted(tiny().state_dict())):
        shape = [1] if name.endswith("bias") else [1, 1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [2 * place, 2 * place + 2]}
    path.write_bytes(raw(header, bytes(8)))
    with pytest.raises(ValueError, match="got BF16"):
        hl.load(path)


def hostile_files(path):
    metadata = description_of(path)
    huge = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}
    parts = json.loads(metadata["hotloop"])
    parts["network"]["layers"] = [{"kind": "Dense", "in_features": 10**9, "out_features": 10**9}]
    yield raw({"__metadata__": {"hotloop": json.dumps(parts)}, "0.weight": huge})
    yield raw({"__metadata__": {"hotloop": json.dumps(parts)}})
    yield raw({"__metadata__": {"hotloop": "[" * 100_000}})
    yield raw({"__metadata__": {"hotloop": '{"format": 1' + "0" * 100_000 + "}"}})
    yield raw({"__metadata__": {"other": "1"}})
    yield raw({})
    yield raw([])
    yield struct.pack("<Q", 2**63) + b"{}"
    yield struct.pack("<Q", 99_999_999) + b"{}"
    yield bytes(1000)
    yield b""


def test_hostile_headers_take_no_memory(path):
    files = list(hostile_files(path))
    for content in files:
        path.write_bytes(content)
        tracemalloc.start()
        try:
            assert not load_or_refuse(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2_000_000 + 20 * len(content)


def test_huge_batch_size_takes_no_memory(path):
    rewrite(path, description=put("trainer", "batch_size", 10**15))
    assert hl.load(path).batch_size == 10**15


def test_foreign_files_are_refused(path):
    marker = path.parent / "executed"

    class Hostile:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path.write_bytes(pickle.dumps(Hostile()))
    assert not load_or_refuse(path)
    np.savez(path.parent / "arrays.npz", weights=np.array([Hostile()], dtype=object))
    marker.unlink(missing_ok=True)
    assert not load_or_refuse(path.parent / "arrays.npz")
    assert not marker.exists()


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        hl.load(path)
    with pytest.raises(ValueError, match="folder"):
        hl.load(path.parent)


@posix
def test_pipe_is_refused_at_once(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="device"):
        hl.load(path)
