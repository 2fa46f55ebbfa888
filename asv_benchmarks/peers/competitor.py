"""Who takes part, with how many threads, and what each must offer.

A competitor is a class of one of the files `*_peer.py`, made with a task and a number of threads. `results()` gives the
losses of the first steps, or outputs, for `reference.check`; `run(count)` trains so many epochs, or predicts so often.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass

from .workloads import data, first_batches

OWN = "hotloop"  # the name of what the others are measured by
TF32 = "TF32"  # what names end with whose products round their factors to 10 bits
TF32_ERROR = 5e-3  # allowed in their losses: five times what such products made of the nets here in NumPy; without TF32
                   # the same code is held to what float32 makes


class Steps:
    """Training that is a loop of Python over batches that are ready; what is left to say is `step(x, y)`."""

    compared = True  # whether it takes first weights, so that its losses are known

    def __init__(self, task):
        self.task, self.batches = task, [self.ready(x, y) for x, y in zip(*data(task), strict=True)]

    def ready(self, x, y):
        """A batch as `step` takes it."""
        return x, y

    def loss(self, result):
        """The number in what `step` returned."""
        return float(result)

    def finish(self):
        """Wait for what was started."""

    def results(self):
        """The losses of the first steps, each before its update."""
        return [self.loss(self.step(*self.ready(x, y))) for x, y in first_batches(self.task)]

    def run(self, count):
        """Train `count` epochs."""
        for _ in range(count):
            for x, y in self.batches:
                self.step(x, y)
        self.finish()


class Prediction:
    """Prediction of the same rows again and again by `self.call()`, which returns the outputs."""

    compared = True

    def results(self):
        """The outputs."""
        return self.call()

    def run(self, count):
        """Predict `count` times."""
        call = self.call
        for _ in range(count):
            call()


@dataclass(frozen=True)
class Competitor:
    """A class by its place, the packages that it needs, and its threads, None for a choice of its own."""

    name: str
    make: str
    threads: int | None
    packages: tuple[str, ...]

    def __str__(self):
        """Name and threads."""
        if self.threads is None:
            return self.name
        return f"{self.name}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def missing(self):
        """Packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]

    @property
    def tolerance(self):
        """The relative error that its arithmetic may make where that is more than float32's, else 0."""
        return TF32_ERROR if self.name.endswith(TF32) else 0.0

    @property
    def environment(self):
        """Variables of its process: libraries read them when they are loaded."""
        if self.threads is None:  # on a device others share with it, of which JAX would take three quarters at once
            return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if "jax" in self.packages else {}
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        single = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if self.threads == 1 else {}
        return pools | single

    def confine(self):
        """Leave this process as many cores as it has threads, where nothing else limits JAX's."""
        if "jax" in self.packages and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.threads])

    def __call__(self, task):
        """The competitor, ready for a task."""
        module, name = self.make.split(".")
        return getattr(importlib.import_module(f".{module}", __package__), name)(task, self.threads)


def cores():
    """Cores that this process may use, by affinity and quota."""
    from hotloop.kernels._cores import cores  # here, as the peers' own processes do without hotloop

    return cores()


def on_device(goal):
    """Everyone for training on a CUDA device, ours first; predictions are not timed there."""
    if goal == "predict":
        return []
    found = [(OWN, "hotloop_peer.OnDevice", (OWN, "numba_cuda")),
             ("hotloop in order", "hotloop_peer.OrderedOnDevice", (OWN, "numba_cuda"))]
    found += [(f"torch {name}", f"torch_cuda_peer.{make}", ("torch",)) for name, make in (
        ("eager", "Eager"), ("graphs", "Graphs"), (f"eager {TF32}", "EagerTF32"), (f"graphs {TF32}", "GraphsTF32"))]
    found += [("JAX jit", "jax_peer.JitOnDevice", ("jax",)), ("JAX scan", "jax_peer.ScanOnDevice", ("jax",))]
    return [Competitor(name, make, None, packages) for name, make, packages in found]


def competitors(goal, threads, compiled=False):
    """Everyone for training or prediction, ours first; compiled: torch.compile, too, which takes minutes."""
    if goal == "predict":
        ours, others = [(OWN, "hotloop_peer.Predict", None)], [
            ("NumPy", "numpy_peer.Predict", ("numpy",)), ("torch", "torch_peer.Predict", ("torch",)),
            ("JAX", "jax_peer.Predict", ("jax",)), ("ONNX Runtime", "onnx_peer.Predict", ("onnx", "onnxruntime")),
            ("ONNX Runtime bound", "onnx_peer.Bound", ("onnx", "onnxruntime"))]
    else:
        ours, others = [(OWN, "hotloop_peer.Fit", None), ("hotloop in order", "hotloop_peer.Ordered", None),
                        ("hotloop step", "hotloop_peer.Step", None)], [
            ("NumPy", "numpy_peer.Training", ("numpy",)), ("torch eager", "torch_peer.Eager", ("torch",)),
            ("JAX jit", "jax_peer.Jit", ("jax",)), ("JAX scan", "jax_peer.Scan", ("jax",)),
            ("scikit-learn", "sklearn_peer.Training", ("sklearn",))]
        others += [("torch compile", "torch_peer.Compiled", ("torch",))] if compiled else []
    found = [Competitor(*one, (OWN,)) for one in ours]
    found += [Competitor(OWN, ours[0][1], count, (OWN,)) for count in threads]
    return found + [Competitor(name, make, count, packages) for name, make, packages in others for count in threads]
