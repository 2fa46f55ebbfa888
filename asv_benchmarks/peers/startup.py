"""Seconds from the start of a process: to the end of imports, and of the first steps of training."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .competitor import OWN, Competitor
from .workloads import WORKLOADS, Task

ROOT = Path(__file__).parents[2]
NETS = ("small", "mnist")  # the second is trained afterwards in the same process
IMPORTS = ("numpy", "numba", "hotloop", "torch", "jax")
FIRST = (("NumPy", "numpy_peer.Training", "numpy"), ("torch eager", "torch_peer.Eager", "torch"),
         ("JAX jit", "jax_peer.Jit", "jax"))
EMPTY, FILLED = f"{OWN}, empty cache", f"{OWN}, filled cache"


def measure(rounds, threads):
    """Lists over interleaved rounds by what was started: seconds to each thing that it finished."""
    imports = {f"import {name}": f"import {name}, time; print(time.time())"
               for name in IMPORTS if importlib.util.find_spec(name)}
    peers = [Competitor(name, make, max(threads), (package,)) for name, make, package in FIRST]
    found = {}
    for _ in range(rounds):
        for name, code in {"python": "import time; print(time.time())", **imports}.items():
            found.setdefault(name, []).append(seconds(code))
        with tempfile.TemporaryDirectory() as folder:
            for name in (EMPTY, FILLED):
                own = Competitor(OWN, "hotloop_peer.Fit", None, (OWN,))
                found.setdefault(name, []).append(steps(own, HOTLOOP_CACHE_DIR=folder))
        for peer in peers:
            if not peer.missing:
                found.setdefault(str(peer), []).append(steps(peer))
    return found


def seconds(code, **variables):
    """From the start of a process that runs `code` to each of the times that it prints."""
    started = time.time()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | variables, check=True, text=True,
                          stdout=subprocess.PIPE)
    return [float(line) - started for line in done.stdout.split()]


def steps(competitor, **variables):
    """Seconds to the ends of the first steps of both nets."""
    return seconds(f"from {__name__} import *; first_steps({competitor!r})", **competitor.environment, **variables)


def first_steps(competitor):
    """In a new process: one step of each net, and the time when it was made."""
    for name in NETS:
        workload = WORKLOADS[name]
        competitor(Task(workload, "sgd", workload.batch)).run(1)
        print(time.time())
