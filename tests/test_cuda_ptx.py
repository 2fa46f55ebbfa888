"""Every kernel for CUDA devices through NVIDIA's compiler and assembler, for three generations of devices, without one.

The simulator, in which the other tests run, compiles nothing: a process of its own does, where it is off. Kernels are
compiled as they are launched: by themselves and chained. Numba takes most of the time, for each kernel and dtype, so
that float64 is left to some of them and the last of the devices: those that hold the most numbers in registers, and of
those that are made by one function from a formula the longest. `tests/registers.py` compiles all of them in float64.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import registers
from registers import CAPABILITIES, kernels

from hotloop.kernels import OPS, _cuda, _jit

# NVIDIA's own functions, whose way for huge angles computes in float64, and has a stack for their digits.
OF_NVIDIA = {"sin", "cos"}
OPTIMIZERS = [name for name, op in OPS.items() if hasattr(op.cpu, "table")]
GRADIENT = "dense_parameter_gradient_64x64x32"
# What programs chain: activations to what makes their operand, and to a gradient all that happens to it.
CHAINS = [
    ("dense_forward_32x64x32", "gelu_forward"),
    ("dense_forward_128x128x8", "gelu_forward"),
    ("dense_input_gradient_128x128x8", "gelu_backward"),
    ("affine_weight_gradient", "clip_value", "adam"),
    ("clip_norm", "adam"),
    (GRADIENT, "penalty_gradient", "clip_value", "adam"),
    *((GRADIENT, name) for name in OPTIMIZERS),
]


def in_float64():
    """The names of kernels that are compiled in float64 here."""
    makers = {}
    for name, kernel in sorted(kernels().items(), key=lambda item: _jit.extent(item[1])):
        makers.setdefault((kernel.__code__.co_filename, kernel.__qualname__), []).append(name)
    tiles = [name for name, kernel in kernels().items() if kernel.near > _cuda.THREADS]
    return sorted({*tiles, *(made[-1] for made in makers.values() if len(made) > 1)})


SHARED, REGISTERS = 48 * 1024, 65536  # bytes that a block has unless it asks for more, and what all its threads have


@pytest.fixture(scope="module")
def compiler():
    """A process that compiles for devices; skips where it cannot."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NUMBA_ENABLE_CUDASIM", "0")
            lacking = pool.submit(registers.lacking).result()
        if lacking:
            pytest.skip(lacking)
        yield pool


def check(compiler, names, dtype):
    """Compile kernels that are chained, or one, and see that a device can run them as fast as it runs such kernels."""
    dtype, chain = np.dtype(dtype), " | ".join(names)
    capabilities = CAPABILITIES if dtype == np.float32 else CAPABILITIES[-1:]
    for capability, usage in compiler.submit(registers.examine, names, dtype, capabilities).result().items():
        where = f"{chain} in {dtype} for compute capability {capability[0]}.{capability[1]}: {usage}"
        assert dtype == np.float64 or not usage.double or OF_NVIDIA & {*names}, where
        assert not usage.spilled, where
        assert not usage.stack or OF_NVIDIA & {*names}, where
        assert usage.registers <= 255 and usage.registers * _cuda.THREADS <= REGISTERS, where
    assert max(kernels()[name].near for name in names) * dtype.itemsize <= SHARED, chain


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in kernels()),
                                             *((name, "float64") for name in in_float64())])
def test_kernels(compiler, name, dtype):
    check(compiler, [name], dtype)


@pytest.mark.parametrize("names", CHAINS, ids=" | ".join)
def test_chains(compiler, names):
    check(compiler, names, "float32")


def test_the_document_names_every_kernel():
    assert registers.documented() == {*kernels()}, "python tests/registers.py writes docs/cuda_kernels.md anew"


def test_ptxas_refuses_what_is_no_code(compiler):
    with pytest.raises(ValueError, match="ptxas for sm_90"):
        compiler.submit(registers.assembled, ".version 8.0\n.target sm_90\nnonsense", (9, 0)).result()
    with pytest.raises(ValueError, match="sm_80"):
        compiler.submit(registers.assembled, ".version 8.0\n.target sm_90\n", (8, 0)).result()
