"""Kernels of hotloop: the op table, and one file for each family of ops with formula, reference and kernels."""

if __name__ == "kernels":
    raise ImportError(
        "this folder is imported as hotloop.kernels, not as kernels: run `pip install -e .` and `import hotloop`"
    )

from . import activations, arithmetic, dense, losses, optimizers
from ._op import OPS

__all__ = ["OPS", "activations", "arithmetic", "dense", "losses", "optimizers"]
