"""Every kernel for CUDA devices through NVIDIA's compiler and assembler, for three generations of devices, without one.

The simulator, in which the other tests run, compiles nothing: a process of its own does, where it is off. Kernels are
compiled as they are launched: by themselves, chained, and all those of a small program as one. Numba takes most of the
time, for each kernel and dtype, so that float64 is left to some of them and the last of the devices: those that hold
the most numbers in registers, and of those that are made by one function from a formula the longest.
`tests/registers.py` compiles all of them in float64.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import registers
from registers import CAPABILITIES, OF_NVIDIA, kernels

from hotloop.kernels import OPS, _cuda, _jit

OPTIMIZERS = [name for name, op in OPS.items() if hasattr(op.cpu, "table")]
FORWARD, DOWN, GRADIENT = "dense_forward_32x64x32", "dense_input_gradient_32x64x32", "dense_parameter_gradient_64x64x32"
# What programs chain: activations to what makes their operand, and to a gradient all that happens to it.
CHAINS = [
    (FORWARD, "gelu_forward"),
    ("dense_forward_128x128x8", "gelu_forward"),
    ("dense_input_gradient_128x128x8", "gelu_backward"),
    ("clip_norm", "adam"),
    (GRADIENT, "penalty_gradient", "clip_value", "adam"),
    *((GRADIENT, name) for name in OPTIMIZERS if name != "adam"),
]
# A small program's whole step.
STEP = ("begin_step", "gather", FORWARD, "gelu_forward", "mse_loss", "total_loss", "keep_loss", "gelu_backward", DOWN,
        GRADIENT, "adam", "end_step")


def in_float64():
    """The names of kernels that are compiled in float64 here."""
    found, makers = set(), {}
    for name, kernel in sorted(kernels().items(), key=lambda item: _jit.extent(item[1])):
        if kernel.near > _cuda.THREADS and not kernel.single:
            found.add(name)
        elif name not in OF_NVIDIA:
            makers.setdefault((kernel.__code__.co_filename, kernel.__qualname__), []).append(name)
    return sorted(found.union(made[-1] for made in makers.values() if len(made) > 1))


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


def check(compiler, names, dtype, walks=False):
    """Compile kernels that are launched together, or one, and see that all a device's threads have room for it."""
    dtype, chain = np.dtype(dtype), " | ".join(names)
    capabilities = CAPABILITIES if dtype == np.float32 else CAPABILITIES[-1:]
    for capability, usage in compiler.submit(registers.examine, names, dtype, capabilities, walks).result().items():
        where = f"{chain} in {dtype} for {registers.device(capability)}: {usage}"
        assert dtype == np.float64 or not usage.double or OF_NVIDIA & {*names}, where
        assert not usage.spilled, where
        assert not usage.stack or OF_NVIDIA & {*names}, where
        assert usage.wide or not any(hasattr(kernels()[name], "deep") for name in names), f"no wide loads: {where}"
        assert usage.registers <= 255 and usage.registers * _cuda.THREADS <= REGISTERS, where
    near = max(kernels()[name].near for name in names) * dtype.itemsize
    assert near <= SHARED, f"{chain} in {dtype}: a block shares {near} bytes"


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in kernels()),
                                             *((name, "float64") for name in in_float64())])
def test_kernels(compiler, name, dtype):
    check(compiler, [name], dtype)


@pytest.mark.parametrize("names", CHAINS, ids=" | ".join)
def test_chains(compiler, names):
    check(compiler, names, "float32")


def test_a_small_program(compiler):
    check(compiler, STEP, "float32", walks=True)


def test_a_grid_warns_of_nothing(compiler):
    """Of one block, as small programs have, and of more across than a device has places along an axis."""
    for grid, expected in (((1, 1), (1, 1, 1)), ((2, 70_000), (2, 32_768, 3))):
        assert compiler.submit(registers.configure, grid).result() == expected


def test_the_document_names_every_kernel():
    assert registers.documented() == {*kernels()}, "python tests/registers.py writes docs/cuda_kernels.md anew"


def test_what_cannot_be_compiled_is_named(compiler):
    """By the compiler, which has no such devices; by the assembler; and where PTX is for another device."""
    with pytest.raises(ValueError, match=r"^add in float32 for sm_10: "):
        compiler.submit(registers.examine, ["add"], "float32", [(7, 5), (1, 0)]).result()
    with pytest.raises(ValueError, match=r"^ptxas says .*Parsing error"):
        compiler.submit(registers.assembled, ".version 8.0\n.target sm_90\nnonsense", (9, 0)).result()
    with pytest.raises(ValueError, match=r"^its PTX is for sm_90$"):
        compiler.submit(registers.assembled, ".version 8.0\n.target sm_90\n", (8, 0)).result()
