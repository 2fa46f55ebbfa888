"""Compiles several kernels at once: other processes help, and hand over through the cache on disk.

A helper is a plain interpreter that is told a kernel's symbol and cache key on its standard input, compiles the kernel
if it finds the same under that symbol, and says so. Whatever goes wrong with it, the kernel is compiled where it is
needed.
"""

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

from . import _jit
from ._cores import cores

_SHARE = 4  # kernels that make one more process worth its start
_MOST = 4  # processes that a program takes; `warmup` takes all cores
_HELPER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hotloop.kernels._ahead import serve; serve()"


def compile_ahead(kernels, processes=None, report=None):
    """Compile those of `kernels`, pairs of function and dtype, and of what they call, that are not on disk yet.

    processes: with this one; by default up to 4 and one for 4 kernels, or HOTLOOP_COMPILE_PROCESSES. report: called
    with (symbol, seconds) after each. Does nothing where there is no folder to keep them in.
    """
    missing = _jit.missing(kernels)
    if not missing or _jit.folder() is None:
        return
    if processes is None:
        processes = _wanted(len(missing))
    jobs = queue.SimpleQueue()
    for job in sorted(missing, key=lambda job: -_jit.extent(job[0])):
        jobs.put(job)
    helpers = [_Helper(jobs, report) for _ in range(min(processes, len(missing)) - 1)] if _interpreter() else []
    try:
        for function, dtype in _rest(jobs):
            started = time.perf_counter()
            _jit.build(function, dtype)
            if report is not None:
                report(_jit.symbol(function, dtype), time.perf_counter() - started)
        for helper in helpers:
            helper.join()
    finally:  # also after Ctrl-C
        for helper in helpers:
            helper.end()


def _wanted(missing):
    chosen = os.environ.get("HOTLOOP_COMPILE_PROCESSES", "")
    return min(int(chosen) if chosen.isdecimal() else min(cores(), _MOST), 1 + missing // _SHARE)


def _interpreter():
    """Whether there is an interpreter to start; a program that embeds Python names itself, or nothing."""
    return os.path.basename(sys.executable or "").lower().startswith("python")


def _rest(jobs):
    while True:
        try:
            yield jobs.get_nowait()
        except queue.Empty:
            return


class _Helper(threading.Thread):
    """Feeds a helper process with jobs, one after the other."""

    def __init__(self, jobs, report):
        super().__init__(name="hotloop compiler", daemon=True)
        self.jobs, self.report = jobs, report
        self.process = None
        with contextlib.suppress(OSError):
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _HELPER, json.dumps(sys.path)], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {
                    "HOTLOOP_CACHE_DIR": str(_jit.folder())},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0))
            self.start()

    def run(self):
        with contextlib.suppress(OSError, ValueError):  # the process is gone: what is left is compiled elsewhere
            if self.process.stdout.readline() != "ready\n":
                return
            for function, dtype in _rest(self.jobs):
                name, started = _jit.symbol(function, dtype), time.perf_counter()
                self.process.stdin.write(f"{name} {dtype} {_jit.key(name)}\n")
                self.process.stdin.flush()
                if self.process.stdout.readline() != "done\n":
                    continue
                _jit.compiled.append(name)
                if self.report is not None:
                    self.report(name, time.perf_counter() - started)

    def join(self, timeout=None):
        if self.process is not None:
            super().join(timeout)

    def end(self):
        """Stop the process; its work is done, or not wanted any more."""
        if self.process is not None:
            self.process.kill()
            self.join()
            self.process.communicate()


def serve():
    """What a helper process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    gc.disable()  # it would look through all of Numba again and again in these few seconds
    sys.modules.setdefault("scipy", None)  # Numba would import it, for products of its own
    from . import _compile, data, sweep, walk  # noqa: F401  what takes long, and all kernels, before the first job

    known = {_jit.symbol(function, dtype): function for function in _jit.kernels for dtype in ("float32", "float64")}
    print("ready", flush=True)
    for line in sys.stdin:
        name, dtype, key = line.split()
        if name in known and _jit.key(name) == key:
            _jit.build(known[name], dtype)
            print("done", flush=True)
        else:
            print("unknown", flush=True)
