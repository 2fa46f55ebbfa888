"""Damaged, foreign and hostile files: no worse than a clear error."""

import json
import os
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_checkpoint import make, posix

import hotloop as hl


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def tiny():
    """The trainer with the smallest file that still has every part."""
    return hl.Trainer(hl.Sequential(hl.Dense(1, 1)), hl.MSELoss(), hl.SGD(momentum=0.5), batch_size=2)


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
