"""The memory that training takes above the interpreter and the data, beside what it must hold."""

import importlib.util
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

from .competitor import OWN, Competitor
from .workloads import WORKLOADS, Task, data, weights

ROOT = Path(__file__).parents[2]
PEERS = (Competitor(OWN, "hotloop_peer.Fit", None, (OWN,)),
         Competitor("torch eager", "torch_peer.Eager", 1, ("torch",)))


def measure():
    """By name: bytes at the peak, bytes that must be held, bytes of Python objects that 800 more steps leave."""
    if importlib.util.find_spec("resource") is None:
        return {}
    return {peer.name: in_a_process(peer) for peer in PEERS if not peer.missing}


def in_a_process(competitor):
    """What `observe` finds in a new process."""
    code = f"from {__name__} import *; print(json.dumps(observe({competitor!r})))"
    return json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, text=True,
                                     stdout=subprocess.PIPE).stdout)


def observe(competitor):
    """Train `large` with Adam after a small net, which brings everything else into memory."""
    small, large = (Task(WORKLOADS[name], "adam", WORKLOADS[name].batch, 8) for name in ("small", "large"))
    made = competitor(small)
    made.run(1)
    tracemalloc.start()
    made.run(1)
    before = tracemalloc.get_traced_memory()[0]
    made.run(100)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    parameters = sum(array.size for layer in weights(large.workload) for array in layer)
    activations = large.rows * sum(large.workload.widths[1:])
    data(large)
    before = peak()
    competitor(large).run(2)
    return {"peak": peak() - before, "must": 4 * (3 * parameters + activations), "grown": grown}


def peak():
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what `resource` says there begins with what the process had that started this one
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
