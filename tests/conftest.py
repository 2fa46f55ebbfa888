"""What several test files share: the dtypes, ways to run a trainer, and a worker to call single kernels with."""

import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # before hotloop is imported; 0 where a device is to be tested

import signal
import sys

import hypothesis
import numpy as np
import pytest

from hotloop import cpu_backend
from hotloop.brief_calls import BriefCalls
from hotloop.kernels import _ahead, _jit
from hotloop.kernels._context import BATCH, CONTEXT, GRADIENT, LOSS, SCRATCH, UPDATE, WEIGHT, ZEROS
from hotloop.kernels._cores import cores
from hotloop.kernels._target import host
from hotloop.pace import Pace

PACE = cpu_backend._Bound.pace


class Fixed(Pace):
    """A number of workers that nothing changes."""

    def tell(self, *run):
        pass


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.setswitchinterval(1e-4)  # threads of the simulator wait for each other
# The nets of the tests are worth one worker: let those that ask for more have them.
cpu_backend._Bound.pace = lambda self, threads, *load: (
    PACE(self, threads, *load) if threads is None else Fixed(min(threads, self.most), threads))
hypothesis.settings.register_profile("hotloop", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("hotloop")


def pytest_configure(config):
    """A run of everything, by several processes, needs all kernels: compile them before these come upon them."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        own = [kernel for kernel in _jit.kernels if kernel.__module__.startswith("hotloop.")]
        _ahead.compile_ahead([(kernel, dtype) for kernel in own for dtype in ("float32", "float64")], cores())


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="session")
def worker():
    return Worker


@pytest.fixture
def step_by_step(monkeypatch):
    """A callback after every step."""
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)


@pytest.fixture
def generally(monkeypatch):
    """What a function does where no call is made in brief."""

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(BriefCalls, "_keep_brief", lambda *arguments: None)
            return function(*arguments)

    return run


@pytest.fixture
def by_panels(monkeypatch):
    """No program by feature, which one worker runs where rows are few."""
    monkeypatch.setattr("hotloop.build.narrow_rows", lambda program: 0)


@pytest.fixture
def always_by_feature(monkeypatch):
    """Every program by feature that can be, for any number of rows."""
    monkeypatch.setattr("hotloop.build.narrow_rows", lambda program: 1)


@pytest.fixture(params=["by panels", "by feature"])
def either_way(request, monkeypatch):
    """Programs by panels, then those by feature that can be."""
    monkeypatch.setattr("hotloop.build.narrow_rows", lambda program: request.param == "by feature")


class Worker:
    """One worker's context and scratch."""

    def __init__(self, dtype="float32", batch=0, update=1, gradient=None, scratch=4096):
        self.dtype = np.dtype(dtype)
        panel = host().bindings(dtype)["PANEL"]
        self.memory = np.full(scratch + 2 * panel, np.nan, dtype)
        self.memory[scratch:] = [0] * panel + [1] * panel
        self.cells = np.zeros(CONTEXT, np.int64)
        self.cells[[BATCH, UPDATE, GRADIENT, SCRATCH, ZEROS]] = (
            batch, update, _word(gradient), self.memory.ctypes.data, self.memory[scratch:].ctypes.data)
        self.cells.view(np.float64)[WEIGHT] = batch

    @property
    def loss(self):
        return self.cells.view(np.float64)[LOSS]

    def run(self, function, low, high, **operands):
        """Call the compiled kernel on [low, high) and return its status; an array stands for its address."""
        names = _jit.operands(function)
        row = np.zeros(_jit.HEADER + len(names), np.int64)
        for cell, name in enumerate(names, _jit.HEADER):
            real = function.__annotations__.get(name) is float
            row[cell] = np.float64(operands[name]).view(np.int64) if real else _word(operands[name])
        return _jit.caller(function, self.dtype)(row.ctypes.data, self.cells.ctypes.data, low, high)


def _word(value):
    return value.ctypes.data if isinstance(value, np.ndarray) else value or 0
