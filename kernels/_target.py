"""The processor that kernels are compiled for: name, features, and the register tile that suits it."""

import os
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
import numpy as np


@dataclass(frozen=True)
class Target:
    """A processor as LLVM names it, with the vector width and tile height chosen for it.

    `lanes32` is the number of float32 values in one vector register, `rows` the height of the register tile; the
    tile is two vectors wide. 32 registers take 14 rows, 16 registers take 6 (rows x 2 sums, 2 operands, 1 splat).
    LLVM's tuning for processors with AVX-512 would give loops vectors of half the width, but for `-prefer-256-bit`.
    """

    cpu: str
    features: str
    lanes32: int
    rows: int

    @property
    def fused(self):
        """Whether it multiplies and adds with one rounding: an option of x86, a part of every 64-bit ARM."""
        return "+fma" in self.features.split(",") or _arm()

    def bindings(self, dtype):
        """The module-level names of `_primitives` as they are for this target and dtype."""
        dtype = np.dtype(dtype)
        lanes = self.lanes32 * 4 // dtype.itemsize
        return {
            "real": dtype.type,
            "DOUBLE": dtype == np.float64,
            "SIZE": dtype.itemsize,
            "LANES": lanes,
            "PANEL": 2 * lanes,
            "TILE": self.rows,
            "NARROW": max(self.rows, 8),  # two sums a cycle, each 4 cycles long, are 8 at a time
            "SUMS": min(16 if self.rows > 8 else 8, 2 * lanes),  # what 32 or 16 registers have room for
            "FUSED": self.fused,
            "BY_FEATURE": False,
            # A tile asks for a square of a panel while it takes 256 steps: see `gemm`. Measured with AVX-512; where
            # there are but 16 registers they are full, and requests cost a sum its place.
            "AHEAD": (2 * lanes) ** 2 * dtype.itemsize // 256 if self.lanes32 == 16 else 0,
            "ROUND": dtype.type(1.5 / np.finfo(dtype).eps),
        }


@cache
def host():
    """The target of this process: the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES make of it.

    Features given without a name are the whole truth: the host's name would bring its own features back in.
    """
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
        cpu = name or llvm.get_host_cpu_name()
    else:
        cpu = name or "generic"
    present = {flag[1:] for flag in features.split(",") if flag.startswith("+")}
    if "avx512f" in present:
        return Target(cpu, f"{features},-prefer-256-bit", 16, 14)
    if "avx" in present:
        return Target(cpu, features, 8, 6)
    return Target(cpu, features, 4, 14 if _arm() else 6)


def _arm():
    return llvm.get_process_triple().startswith(("aarch64", "arm64"))
