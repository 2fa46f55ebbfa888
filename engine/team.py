"""Worker threads: helpers wait in compiled code and are lent to one run at a time."""

import ctypes
import os
import sys
import threading
import time
from functools import cache, lru_cache

import numpy as np

from hotloop.kernels import _jit, walk
from hotloop.kernels import team as posts
from hotloop.kernels._cores import cores

KERNELS = posts.lead, posts.serve
_WATCH_SECONDS = 200e-6  # how long a helper looks out for the next job: waking it takes about as long
_NEAR_SECONDS = 20e-6  # how much of that it keeps its core for itself
_MEET_SECONDS = 40e-6  # how long a worker waits for others before it offers its core
_KNOWN_SECONDS = 0.01  # how long the number of cores is believed: to ask takes as long as a small step


class Team:
    """Runs one job, again and again, with as many workers each time as it is told.

    job: the row, an int64 array, of `kernel`, which is `walk` or runs as worker `low` likewise. shared: the int64 cells
    that its workers share.
    """

    def __init__(self, kernel, job, shared):
        self.job, self.shared = job, shared
        self.alone = _jit.caller(kernel, np.float32)
        self.job_address, job[0] = job.ctypes.data, _jit.address(kernel, np.float32)
        self.helpers = []  # whose boxes the row names
        self.cells = memoryview(shared)

    def run(self, workers):
        """Call the job's kernel for worker 0 ... workers - 1, each on its own thread, 0 on this one.

        No thread touches the job's memory when this returns. Nothing interrupts it between the first and the last.
        """
        helpers = []
        self.shared[:] = 0
        try:
            _running[self] = workers
            if workers == 1:
                self.alone(self.job_address, 0, 0, 0)
                return
            while len(helpers) < workers - 1:
                helpers.append(_helper())
            if helpers != self.helpers:
                self._address(helpers)
            if sum(_running.values()) <= _cores():
                self.cells[walk.SPINS] = turns()[2]
            self.lead(self.row_address, 0, 0, 0)
        finally:
            _running.pop(self, None)
            _idle.extend(reversed(helpers))

    def _address(self, helpers):
        """Let the row that leads a run name these helpers."""
        self.boxes = np.array([helper.box for helper in helpers])
        self.row = _row(posts.lead, job=self.job_address, shared=self.shared.ctypes.data,
                        boxes=self.boxes.ctypes.data, count=len(helpers), yielder=YIELDER, releaser=_RELEASER)
        self.lead, self.row_address = _jit.caller(posts.lead, np.float32), self.row.ctypes.data
        self.helpers = list(helpers)


class _Helper(threading.Thread):
    """A thread that does what comes into its mailbox `box`."""

    def __init__(self):
        super().__init__(name="hotloop worker", daemon=True)
        memory = np.zeros(posts.BOX + 8, np.int64)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # the thread may outlive the interpreter's objects
        self.box = memory.ctypes.data + -memory.ctypes.data % 64
        self.cells = memory[(self.box - memory.ctypes.data) // 8 :]
        self.cells[posts.LOCK] = _locked()
        near, far, _ = turns()
        self.row = _row(posts.serve, box=self.box, near=near, far=far, yielder=YIELDER, acquirer=_ACQUIRER)
        self.serve = _jit.caller(posts.serve, np.float32)
        self.start()

    def run(self):
        """Stay in compiled code, which has no need of the interpreter."""
        self.serve(self.row.ctypes.data, 0, 0, 0)

    def quit(self):
        """Let an idle helper's thread end."""
        self.cells[posts.JOB] = posts.QUIT
        ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(int(self.cells[posts.LOCK])))


_idle: list[_Helper] = []  # the last one put here is the likeliest to be awake
_running: dict[Team, int] = {}  # workers of the runs that are on


def _helper():
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


def spare():
    """Cores that no run of another thread takes, at least 1: what a run should take that may choose."""
    return max(1, _cores() - sum(_running.values()))


def _cores():
    """The number of cores, as it was a moment ago."""
    return _counted(int(time.monotonic() / _KNOWN_SECONDS))


@lru_cache(maxsize=1)
def _counted(moment):
    return cores()


@cache
def turns():
    """Turns of a waiting loop: without and with offers of the core before a helper sleeps; without, at a barrier."""
    serve = _jit.caller(posts.serve, np.float32)
    box = np.zeros(posts.BOX, np.int64)

    def seconds(near, far):
        row, found = _row(posts.serve, box=box.ctypes.data, near=near, far=far, yielder=YIELDER, acquirer=0), []
        for _ in range(5):
            started = time.perf_counter()
            serve(row.ctypes.data, 0, 1, 0)
            found.append((time.perf_counter() - started) / (near + far))
        return min(found)

    pause, offer = seconds(400, 0), seconds(0, 20)
    return round(_NEAR_SECONDS / pause), round((_WATCH_SECONDS - _NEAR_SECONDS) / offer), round(_MEET_SECONDS / pause)


def _row(kernel, **operands):
    """The row that calls `kernel` with these operands."""
    return np.array([0] * _jit.HEADER + [operands[name] for name in _jit.operands(kernel)], np.int64)


def _in_child():
    """A forked child has none of its parent's threads."""
    _idle.clear()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _locked():
    """A lock of the interpreter's, taken."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = allocate()
    if not lock:
        raise MemoryError("no more locks for worker threads")
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(lock), 1)
    return lock


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def _yielder():
    """Address of the C function that gives up a thread's time slice."""
    return _address(ctypes.windll.kernel32.SwitchToThread if sys.platform == "win32"
                    else ctypes.CDLL(None).sched_yield)


YIELDER = _yielder()
_ACQUIRER = _address(ctypes.pythonapi.PyThread_acquire_lock)
_RELEASER = _address(ctypes.pythonapi.PyThread_release_lock)
