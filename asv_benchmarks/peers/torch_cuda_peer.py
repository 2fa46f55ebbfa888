"""torch on a CUDA device: eager, and with a captured graph, each with TF32 as well.

TF32 rounds the factors of products to 10 bits, and is named where it is on.
"""

import torch

from . import torch_peer
from .workloads import RATES


class Eager(torch_peer.Eager):
    """torch's loop of steps."""

    tf32 = False

    def __init__(self, task, threads):
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.set_default_device("cuda")
        super().__init__(task, 1)
        self.net.to("cuda")

    def ready(self, x, y):
        """A batch of tensors on the device."""
        return torch.from_numpy(x).to("cuda"), torch.from_numpy(y).to("cuda")

    def finish(self):
        """Wait for the last one."""
        torch.cuda.synchronize()


class EagerTF32(Eager):
    """The same with TF32."""

    tf32 = True


class Graphs(Eager):
    """A step captured once and replayed for each batch, which is copied to where the graph reads it."""

    def __init__(self, task, threads):
        super().__init__(task, threads)
        if task.goal == "adam":  # SGD can be captured as it is
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATES["adam"], fused=True, capturable=True)
        self.graph, self.eager = None, super().step

    def step(self, x, y):
        """Replay the step; the first call captures it, on a copy of the parameters that is put back."""
        if self.graph is None:
            self.x, self.y = x.clone(), y.clone()
            self._capture()
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.value

    def _capture(self):
        kept = [parameter.detach().clone() for parameter in self.net.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.eager(self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.value = self.eager(self.x, self.y)
        with torch.no_grad():
            for parameter, before in zip(self.net.parameters(), kept, strict=True):
                parameter.copy_(before)
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        value.zero_()


class GraphsTF32(Graphs):
    """The same with TF32."""

    tf32 = True


def ceilings():
    """What the device can do, measured by torch: float32 and TF32 GFLOP/s of a product, GB/s of a copy."""
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device: install a build of it for the driver's CUDA, or uninstall it")
    found = {"CUDA of torch": torch.version.cuda, **_peaks()}
    torch.cuda.empty_cache()  # those that are timed need the room
    return found


def _peaks():
    """GFLOP/s of products of 8192 rows and columns, GB/s of a copy of a gibibyte."""
    found, size = {}, 8192
    a, b = torch.randn(2, size, size, device="cuda")
    for name, allowed in (("float32 GFLOP/s", False), ("TF32 GFLOP/s", True)):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        found[name] = 2 * size**3 / _seconds(lambda: a @ b) / 1e9
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    found["GB/s"] = 2 * source.nbytes / _seconds(lambda: target.copy_(source)) / 1e9
    return found


def _seconds(call, rounds=20):
    """The median of rounds, by the device's clock."""
    call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in events)[rounds // 2] / 1e3

