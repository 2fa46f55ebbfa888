"""Compiling ahead: helpers do as this process does, and nothing depends on them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hotloop.kernels import _ahead, _jit, cross_entropy, data, gemm, losses
from hotloop.kernels._cache import Cache

JOBS = [(data.gather_labels, "float32"), (losses.total_loss, "float64"), (data.store, "float64")]
NAMES = {_jit.symbol(*job) for job in JOBS}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache folder; what this process compiled and loaded is forgotten."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(_jit, "_disk", lambda: Cache(tmp_path))
    monkeypatch.setattr(_jit, "_loaded", {})
    monkeypatch.setattr(_jit, "compiled", [])
    return tmp_path


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_helpers_write_what_this_process_would(folder, monkeypatch):
    reported, rest = [], _ahead._rest
    with monkeypatch.context() as patch:
        patch.setattr(_ahead, "_rest", lambda jobs: rest(jobs) if isinstance(
            _ahead.threading.current_thread(), _ahead._Helper) else iter(()))  # this process only waits
        _ahead.compile_ahead(JOBS, 2, lambda name, seconds: reported.append(name))
    helped = entries(folder).keys()
    assert set(reported) == set(_jit.compiled) == NAMES and len(helped) == len(JOBS)
    for path in folder.iterdir():
        path.unlink()
    _ahead.compile_ahead(JOBS, 1)
    assert entries(folder).keys() == helped


def test_nothing_is_compiled_twice(folder):
    for _ in range(2):
        _ahead.compile_ahead(JOBS + JOBS, 2)
    assert sorted(_jit.compiled) == sorted(NAMES)


def test_kernels_that_are_called_come_along(folder):
    missing = _jit.missing([(cross_entropy.cross_entropy, "float32")])
    names = [_jit.symbol(function, dtype) for function, dtype in missing]
    assert len(names) == len(set(names)) > 1 and _jit.symbol(gemm.gemm, "float32") not in names
    assert any("to_columns" in name for name in names)


def test_a_kernel_of_the_user_is_compiled_here(folder):
    def local(x, context, low, high):
        return 0

    _ahead.compile_ahead([*JOBS, (_jit.kernel(local), "float32")], 2)
    assert len(_jit.compiled) == 4 or _jit.missing([(local, "float32")])  # a helper that was asked for it declined
    assert _jit.address(local, "float32")


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('ready', flush=True); input()", "print('hello')"])
def test_helpers_that_fail_cost_only_time(folder, monkeypatch, code):
    monkeypatch.setattr(_ahead, "_HELPER", code)
    _ahead.compile_ahead(JOBS, 3)
    for function, dtype in JOBS:
        assert _jit.address(function, dtype)


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/editor", "/nowhere/python3"])
def test_without_an_interpreter(folder, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    _ahead.compile_ahead(JOBS, 2)
    assert set(_jit.compiled) == NAMES


def test_without_a_folder(monkeypatch):
    monkeypatch.setattr(_jit, "_disk", lambda: Cache(None))
    monkeypatch.setattr(_jit, "_loaded", {})
    monkeypatch.setattr(_jit, "build", None)
    _ahead.compile_ahead(JOBS, 2)


@pytest.mark.parametrize(("chosen", "missing", "cores", "processes"), [
    ("", 0, 8, 1), ("", 3, 8, 1), ("", 4, 8, 2), ("", 12, 8, 4), ("", 100, 64, 4), ("", 12, 2, 2), ("1", 100, 64, 1),
    ("8", 100, 2, 8), ("many", 12, 2, 2)])
def test_number_of_processes(monkeypatch, chosen, missing, cores, processes):
    monkeypatch.setenv("HOTLOOP_COMPILE_PROCESSES", chosen)
    monkeypatch.setattr(_ahead, "cores", lambda: cores)
    assert _ahead._wanted(missing) == processes


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupt_ends_the_helpers(tmp_path):
    code = ("import hotloop.kernels as k; from hotloop.kernels import _ahead; print('go', flush=True)\n"
            "_ahead.compile_ahead([(op.cpu, d) for op in k.OPS.values() if op.cpu for d in ('float32', 'float64')], 3)")
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"HOTLOOP_CACHE_DIR": str(tmp_path)},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    process.stdout.readline()
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
