"""The comparison of backends, and the command line."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hotloop as hl
from hotloop.__main__ import main
from hotloop.compare import compare
from hotloop.kernels import _jit
from hotloop.numpy_backend import NumpyBackend

SMALL = {"widths": (6, 9, 3), "batch": 8, "steps": 30, "rounds": 1}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["MSELoss", "L1Loss", "BCEWithLogitsLoss", "CrossEntropyLoss"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_backends_agree(optimizer, loss, dtype):
    result = compare(loss=loss, optimizer=optimizer, dtype=dtype, activation="Tanh", **SMALL)
    assert result.agrees
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [found.name for found in result.before] == ["output", "loss", *(f"gradient of {name}" for name in names)]
    assert [found.name for found in result.after] == [*names, "loss"]
    for first, last in result.losses.values():
        assert last < first  # it was training that was compared
    assert result.seconds.keys() == {"numpy", "cpu"} and result.speed > 0
    assert "the backends agree" in str(result)


def test_trains_as_many_steps_as_asked(monkeypatch):
    made = []
    monkeypatch.setattr("hotloop.compare._times", lambda trainers, *_: made.extend(trainers.values()) or {
        name: [1.0] for name in trainers})
    for steps in (1, 99, 100, 101, 250):
        compare(**SMALL | {"steps": steps})
        assert [trainer.updates for trainer in made[-2:]] == [steps, steps]


@pytest.mark.parametrize("wrong", [1e-3, np.nan, np.inf])
def test_finds_a_wrong_parameter(monkeypatch, wrong):
    def spoiled(self, program, region, name, read=NumpyBackend.read):
        value = read(self, program, region, name)
        if region == "gradient" and name == "2.bias":
            value[1] += wrong
        return value

    monkeypatch.setattr(NumpyBackend, "read", spoiled)
    result = compare(**SMALL)
    assert not result.agrees and "THE BACKENDS DIFFER" in str(result)
    assert [found.name for found in result.before if not found.relative <= found.tolerance] == ["gradient of 2.bias"]


def test_command_compares(capsys):
    arguments = ["compare", "--net", "6-9-3", "--batch", "8", "--steps", "20", "--optimizer", "SGD", "--threads", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("6-9-3 ReLU, CrossEntropyLoss, SGD(lr=0.1")
    assert re.search(r"time of a step: numpy [\d.]+ [um]s, cpu [\d.]+ [um]s \(threads: 2\), [\d.]+x", printed)
    assert main([*arguments, "--tolerance", "0"]) == 1
    assert "too large" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["compare", "--net", "64"], "at least two widths"),
    (["compare", "--net", "6-0-3"], "at least 1"),
    (["compare", "--steps", "0"], "batch and steps"),
    (["compare", "--lr", "-1"], "lr must be"),
    (["show", "--draw", "program.doc"], "doc"),
])
def test_command_explains(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["compare", "--net", "64x10"], ["compare", "--loss", "Unknown"], ["train"]])
def test_command_refuses(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_command_shows(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "program.svg"
    assert main(["show", "--net", "6-9-3", "--loss", "MSELoss", "--draw", str(path)]) == 0
    printed = capsys.readouterr().out
    net = hl.Sequential(hl.Dense(6, 9), hl.ReLU(), hl.Dense(9, 3))
    program = hl.Trainer(net, hl.MSELoss(), hl.Adam()).program(np.zeros((1, 6)), np.zeros((1, 3)))
    assert printed == f"{program}\n" and path.exists()


WARM = """
import numpy as np, hotloop as hl
from hotloop.compare import compare
from hotloop.kernels import _jit
for activation in hl.layers.activations():
    for optimizer in hl.optimizers.OPTIMIZERS:
        compare((3, 4, 2), activation, "MSELoss", optimizer, batch=4, steps=2, rounds=1)
for loss in hl.losses.LOSSES:
    if loss != "ZeroOneLoss":
        compare((3, 4, 2), "Tanh", loss, "SGD", batch=4, steps=2, rounds=1)
print(_jit.compiled)
"""


def test_warmup_compiles_all_that_training_needs(tmp_path):
    """Most of it is there in a run of everything: only some is taken away here."""
    own = [kernel for kernel in _jit.kernels if kernel.__module__.startswith("hotloop.")]
    for kernel in own[25:]:
        entry = _jit.folder() / f"{_jit.key(_jit.symbol(kernel, 'float32'))}.o"
        if entry.exists():
            shutil.copy2(entry, tmp_path)
    environment = os.environ | {"HOTLOOP_CACHE_DIR": str(tmp_path)}

    def run(*arguments):
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)

    head, *lines, end = run("-m", "hotloop", "warmup", "--dtype", "float32").stdout.splitlines()
    assert re.fullmatch(rf"compiling {len(lines)} kernels; .*{re.escape(str(tmp_path))}", head) and "ready" in end
    pattern = re.compile(rf" *\d+/{len(lines)}  \w+float32 +[\d.]+ s")
    assert len(lines) > 20 and all(pattern.fullmatch(line) for line in lines)
    assert run("-c", WARM).stdout.strip() == "[]"
    lines = run("-m", "hotloop", "warmup", "--dtype", "float32").stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("compiling 0 kernels")


def test_warmup_needs_a_folder(tmp_path):
    folder = tmp_path / "open to others"
    folder.mkdir()
    folder.chmod(0o777)
    ended = subprocess.run([sys.executable, "-m", "hotloop", "warmup"], capture_output=True, text=True,
                           env=os.environ | {"HOTLOOP_CACHE_DIR": str(folder)})
    assert ended.returncode == 2 and "HOTLOOP_CACHE_DIR" in ended.stderr and not list(folder.iterdir())
