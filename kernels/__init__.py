"""Kernels of hotloop: the op table, and one file for each family of ops with formula, reference and kernels."""

if __name__ == "kernels":
    raise ImportError(
        "import hotloop.kernels, not kernels: after `pip install -e .` that is the name of this folder"
    )

from . import (
    activations,
    adagrad,
    adam,
    arithmetic,
    batch_norm,
    binary_losses,
    class_losses,
    clipping,
    cross_entropy,
    dense,
    dense_cuda,
    dropout,
    losses,
    normalization,
    optimizers,
    parameters,
    penalties,
    piecewise,
    pooling,
    products_cuda,
    reductions,
    regression_losses,
    rrelu,
    smooth,
    softmax,
    sweep,
    tensors,
)
from ._op import OPS

__all__ = [
    "OPS", "activations", "adagrad", "adam", "arithmetic", "batch_norm", "binary_losses", "class_losses", "clipping",
    "cross_entropy", "dense", "dense_cuda", "dropout", "losses", "normalization", "optimizers", "parameters",
    "penalties", "piecewise", "pooling", "products_cuda", "reductions", "regression_losses", "rrelu", "smooth",
    "softmax", "sweep", "tensors",
]
