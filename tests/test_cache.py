"""Compiled code on disk: found where nothing changed, compiled anew where anything did, trusted only from its owner."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest

from hotloop.kernels import _jit
from hotloop.kernels._cache import Cache
from hotloop.kernels._jit import kernel
from hotloop.kernels._primitives import ByPrecision, reals

TRAIN = """
import sys
import numpy as np, hotloop as hl
from hotloop.kernels import _jit
trainer = hl.Trainer(hl.Sequential(hl.Dense(3, 1)), hl.MSELoss(), hl.SGD(lr=0.1), batch_size=8)
x = np.random.default_rng(0).normal(size=(64, 3))
loss = trainer.fit(x, x[:, :1], epochs=20).loss
assert loss[-1] < loss[0] / 10, loss
print(bool(_jit.compiled), "numba" in sys.modules, _jit._disk().folder)
"""
COPY = """
import sys
import numpy as np
from hotloop.kernels import _jit
from hotloop.kernels.data import gather_labels
source, target, context = np.arange(5), np.zeros(5, np.int64), np.zeros(16, np.int64)
row = np.array([0] * _jit.HEADER + [source.ctypes.data, 0, target.ctypes.data])
print("ready", flush=True)
sys.stdin.read()
assert _jit.caller(gather_labels, "float32")(row.ctypes.data, context.ctypes.data, 0, 5) == 0
assert target.tolist() == [0, 1, 2, 3, 4], target
"""


def python(code, stdin=None, **environment):
    """Start the interpreter; a variable that is None is taken away."""
    merged = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.Popen([sys.executable, "-c", code], env=merged, text=True, stdin=stdin, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def output(process):
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed.split()


def scaled(factor, table=(1.0,)):
    """A kernel that differs from others of its name in numbers alone."""

    def scale(x, context, low, high):
        values = reals(x, high)
        for i in range(low, high):
            values[i] = factor * table[0] * values[i]
        return 0

    return kernel(scale)


@pytest.fixture
def restart(monkeypatch, tmp_path):
    """Makes this process forget what it compiled and loaded, as if it were new; its cache folder starts empty."""
    folder = tmp_path / "kernels"
    folder.mkdir(0o700)

    def start():
        monkeypatch.setattr(_jit, "_disk", lambda: Cache(folder))
        monkeypatch.setattr(_jit, "_loaded", {})
        monkeypatch.setattr(_jit, "compiled", [])
        return folder

    start()
    return start


@pytest.fixture
def run(worker):
    def run(function, dtype="float32"):
        """What a kernel makes of ones, and whether it had to be compiled."""
        x, before = np.ones(3, dtype), len(_jit.compiled)
        assert worker(dtype).run(function, 0, 3, x=x) == 0
        return x.tolist(), len(_jit.compiled) > before

    return run


# What is found again


def test_an_entry_is_found_again(restart, run):
    assert run(scaled(2.0)) == ([2, 2, 2], True)
    restart()
    assert run(scaled(2.0)) == ([2, 2, 2], False)


@pytest.mark.parametrize("start_between", [False, True])
def test_kernels_of_one_name_do_not_collide(start_between, restart, run):
    """They differ in a constant, in a table of one precision, in the dtype."""
    kernels = [(scaled(2.0), "float32", 2), (scaled(3.0), "float32", 3), (scaled(2.0), "float64", 2),
               (scaled(2.0, ByPrecision(single=(2.0,), double=(1.0,))), "float32", 4),
               (scaled(2.0, ByPrecision(single=(3.0,), double=(1.0,))), "float32", 6)]
    for function, dtype, factor in kernels:
        assert run(function, dtype) == ([factor] * 3, True)
        if start_between:
            restart()


@pytest.fixture
def key(monkeypatch):
    """Gives the name of a kernel's entry under the circumstances of the moment."""
    monkeypatch.setattr(_jit, "_surroundings", _jit._surroundings.__wrapped__)
    return lambda: _jit.key("name")


@pytest.mark.parametrize("file", sorted(path.name for path in _jit._FOLDER.glob("*.py")))
def test_sources_are_part_of_the_key(file, key, monkeypatch, tmp_path):
    before = key()
    for path in _jit._FOLDER.glob("*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(_jit, "_FOLDER", tmp_path)
    assert key() == before
    with open(tmp_path / file, "a") as source:
        source.write("#")
    assert key() != before


@pytest.mark.parametrize(("name", "value"), [
    ("CHECKED", not _jit.CHECKED), ("host", lambda: replace(_jit.host(), features=_jit.host().features + ",-f16c")),
    ("host", lambda: replace(_jit.host(), cpu="generic-1")), ("version", lambda package: "0.1")])
def test_circumstances_are_part_of_the_key(name, value, key, monkeypatch):
    before, found = key(), value() if name == "host" else value
    module = importlib.metadata if name == "version" else _jit
    monkeypatch.setattr(module, name, (lambda: found) if name == "host" else found)
    assert key() != before


def test_a_warm_process_trains_without_the_compiler():
    output(python(TRAIN))
    compiled, numba, folder = output(python(TRAIN))
    assert folder != "None", "there is no cache folder that is safe to use on this machine"
    assert (compiled, numba) == ("False", "False")


# What is not trusted


def flipped(entry, place):
    return entry[:place] + bytes([entry[place] ^ 1]) + entry[place + 1 :]


@pytest.mark.parametrize("damage", {
    "empty": lambda entry: b"", "half": lambda entry: entry[: len(entry) // 2], "shorter": lambda entry: entry[:-1],
    "longer": lambda entry: entry + b"\0", "header": lambda entry: flipped(entry, 0),
    "code": lambda entry: flipped(entry, len(entry) - 100), "noise": lambda entry: os.urandom(len(entry))}.items(),
    ids=lambda damage: damage[0])
def test_a_damaged_entry_is_compiled_again(damage, restart, run):
    folder, function = restart(), scaled(2.0)
    run(function)
    entry, = folder.iterdir()
    entry.write_bytes(damage[1](entry.read_bytes()))
    restart()
    assert run(function) == ([2, 2, 2], True)
    restart()
    assert run(function) == ([2, 2, 2], False)


def test_a_flip_is_noticed_at_every_place(restart):
    cache = Cache(restart())
    cache.write("key", b"object code")
    entry, = cache.folder.iterdir()
    content = entry.read_bytes()
    assert cache.read("key") == b"object code"
    for place in range(len(content)):
        entry.write_bytes(flipped(content, place))
        assert cache.read("key") is None


owned = pytest.mark.skipif(not hasattr(os, "getuid"), reason="file owners and modes are those of POSIX")


@owned
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_not_used(mode, restart, monkeypatch):
    folder = restart()
    folder.chmod(mode)
    monkeypatch.setenv("HOTLOOP_CACHE_DIR", str(folder))
    assert Cache.default().folder == (folder if mode in (0o700, 0o755) else None)


@owned
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_entry_that_others_can_write_is_not_used(mode, restart):
    cache = Cache(restart())
    cache.write("key", b"object code")
    (cache.folder / "key.o").chmod(mode)
    assert cache.read("key") is None


@owned
def test_what_another_user_owns_is_not_used(restart, monkeypatch):
    cache = Cache(restart())
    cache.write("key", b"object code")
    monkeypatch.setenv("HOTLOOP_CACHE_DIR", str(cache.folder))
    assert Cache.default().folder == cache.folder
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert Cache.default().folder is None
    assert cache.read("key") is None


@owned
def test_a_new_folder_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("HOTLOOP_CACHE_DIR", str(tmp_path / "deep" / "kernels"))
    cache = Cache.default()
    cache.write("key", b"object code")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert (cache.folder / "key.o").stat().st_mode & 0o777 == 0o600


# Where nothing can be kept


def test_training_works_without_a_home():
    """Where it is no folder; and where HOME is not set, so that it is looked up elsewhere."""
    nowhere = {"HOTLOOP_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    homeless, unset = (python(TRAIN, **nowhere, HOME=home) for home in ("/dev/null", None))
    assert output(homeless) == ["True", "True", "None"]
    output(unset)


def test_a_folder_that_cannot_be_written_is_done_without():
    """This one is the user's own, and not even root can make files in it."""
    output(python(COPY, subprocess.DEVNULL, HOTLOOP_CACHE_DIR="/proc/self"))


@pytest.mark.parametrize(("module", "name"), [(tempfile, "mkstemp"), (os, "replace")])
def test_a_failed_write_leaves_nothing(module, name, restart, run, monkeypatch):
    def fail(*arguments, **options):
        raise OSError

    folder = restart()
    monkeypatch.setattr(module, name, fail)
    assert run(scaled(2.0)) == ([2, 2, 2], True)
    assert list(folder.iterdir()) == []


def test_a_folder_that_vanished_is_done_without(restart, run):
    restart().rmdir()
    assert run(scaled(2.0)) == ([2, 2, 2], True)


# Many at once


def test_threads_compile_once(restart, run):
    function, found = scaled(2.0), []
    restart()
    threads = [threading.Thread(target=lambda: found.append(run(function)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[2, 2, 2]] * 8
    assert len(_jit.compiled) == 1


def test_processes_start_cold_together(tmp_path):
    start, go = os.pipe()
    folder = tmp_path / "kernels"
    processes = [python(COPY, start, HOTLOOP_CACHE_DIR=str(folder)) for _ in range(8)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 8
    finally:
        os.close(go)
        os.close(start)
    for process in processes:
        output(process)
    entry, = folder.iterdir()
    assert Cache(folder).read(entry.stem)
