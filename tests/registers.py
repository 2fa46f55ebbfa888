"""What kernels for CUDA devices take of a device: writes docs/cuda_kernels.md, without one.

`python tests/registers.py` compiles every kernel by itself, as it is launched where nothing is chained to it: Numba
makes NVVM's intermediate code, NVIDIA's libnvvm makes PTX of that, and NVIDIA's assembler ptxas makes the device's code
and says what a thread of it takes.
"""

import os
import re
import subprocess
import tempfile
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from hotloop.kernels import _cuda, _jit, _steps
from hotloop.kernels._block import BLOCK_KERNELS, SIMULATED
from hotloop.kernels._cores import cores

DOCUMENT = Path(__file__).parents[1] / "docs" / "cuda_kernels.md"
CAPABILITIES = (7, 5), (8, 0), (9, 0)
HEADER = """| kernel | sm_75 | sm_80 | sm_90 | sm_90, float64 | stack | stack, float64 | shared |
|---|---|---|---|---|---|---|---|"""
# NVIDIA's own functions, whose way for huge angles computes in float64, and has a stack for their digits.
OF_NVIDIA = {"sin", "cos"}
# By module: kernels of one make, whose rows the table has as one.
GROUPS = {
    "hotloop.kernels._elementwise": "Arithmetic and elementary functions",
    "hotloop.kernels.activations": "Activations and their slopes",
}
TEXT = """# Kernels for CUDA devices

`python tests/registers.py` writes this document; it needs no device. It compiles every kernel by itself, as it is
launched where no other is chained to it: {versions}.

- Registers are those of one thread, in float32 where nothing else is said, for devices of compute capability 7.5, 8.0
  and 9.0. A block has {threads} threads, and a device's multiprocessor has 65536 registers: so many blocks share it.
- Stack is the memory in bytes that a thread has beside them, the most of any of these devices. `sin` and `cos` are
  NVIDIA's: in float64 they keep the digits of huge angles there, and in float32 they alone compute in float64, for such
  angles. Any other kernel that has a stack lacks registers; those that would in float64 are for float32 alone.
- Shared is the memory in bytes that a block's threads share, in float32; float64 takes twice as much.
- The three sizes of a tile are its rows, its columns, and the steps of a sum that a block takes from memory at a time.
- Kernels that apply one formula to each element are in one row, from the least to the most.

{table}

{groups}
"""


@dataclass(frozen=True)
class Usage:
    """What ptxas says of a kernel for one kind of device: registers and bytes of a thread; and what PTX it was."""

    registers: int
    stack: int
    spilled: int
    double: str  # the first line of PTX that computes in float64, if any
    wide: int  # loads from the device's memory of more than one number


def kernels():
    """Every kernel for CUDA of this package, by name: that of its CPU kernel, with the tile's sizes if it has one.

    A kernel is left out that takes a formula from elsewhere.
    """
    beside = {}
    for cpu in _jit.kernels:
        for function in (cpu.cuda, *getattr(cpu.cuda, "larger", ())) if hasattr(cpu, "cuda") else ():
            beside[function] = cpu.__name__
    named = {}
    for function in BLOCK_KERNELS:
        if function.__module__.startswith("hotloop.") and not _jit._foreign(function):
            name = beside.get(function, function.__name__.removesuffix("_cuda"))
            if hasattr(function, "larger"):
                name += f"_{function.height}x{function.span}x{function.deep}"
            if named.setdefault(name, function) is not function:
                raise ValueError(f"two kernels for CUDA are called {name}")
    return named


@cache
def assembler():
    """The path of ptxas in the wheel nvidia-cuda-nvcc, or None: another one may be too old for what libnvvm writes."""
    try:
        files = metadata.files("nvidia-cuda-nvcc") or ()
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "ptxas"), None)


def lacking():
    """What is missing here to compile for CUDA devices and how to get it, or nothing."""
    if assembler() is None:
        return "there is no ptxas: install nvidia-cuda-nvcc"
    try:
        _cuda.target()
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
    except Exception as error:
        return f"there is no compiler for CUDA devices ({error}): install numba-cuda and nvidia-nvvm"
    return ""


def examine(names, dtype, capabilities=CAPABILITIES, walks=False):
    """By compute capability, the `Usage` of what launches kernels that are chained, or one; or of what walks over them.

    Raises ValueError where one cannot be compiled, with what it was for: it can be sent to another process.
    """
    known, found, what = kernels(), {}, f"{' | '.join(names)} in {np.dtype(dtype)}"
    functions = tuple(sorted({known[name] for name in names}, key=lambda function: function.kind))
    try:
        with _jit._uncollected():
            codes = _cuda.ptx(functions, dtype, capabilities, _cuda._walk if walks else None)
            for capability in capabilities:
                what = f"{' | '.join(names)} in {np.dtype(dtype)} for {device(capability)}"
                found[capability] = assembled(next(codes), capability)
    except Exception as error:
        raise ValueError(f"{what}: {error}") from None
    return found


def configure(grid):
    """The blocks along each axis where so many are asked for, down and across; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _cuda.configured(_cuda.launcher((_steps.end_step,), np.dtype(np.float32)), grid, 1024, 0).griddim


def device(capability):
    """The compiler's name of devices of a compute capability."""
    return "sm_{}{}".format(*capability)


def assembled(code, capability):
    """The `Usage` of PTX on devices of a compute capability.

    Raises ValueError where ptxas refuses it, or where it is for another capability.
    """
    target = re.search(r"^\.target (\w+)", code, re.M)
    if target is None or target.group(1) != device(capability):
        raise ValueError(f"its PTX is for {target and target.group(1)}")
    partly = ["-c"] if ".extern .func" in code else []  # the rest, by which blocks meet, is the driver's
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(code, "utf-8")
        said = subprocess.run([assembler(), "-v", *partly, f"-arch={device(capability)}", source, "-o", os.devnull],
                              capture_output=True, text=True)
    if said.returncode:
        raise ValueError(f"ptxas says {said.stderr}")

    def numbers(pattern):
        return [int(number) for number in re.findall(pattern, said.stderr)]

    (registers,), stack = numbers(r"Used (\d+) registers"), numbers(r"(\d+) bytes (?:stack frame|cumulative stack)")
    double = re.search(r"^.*\.f64.*$", code, re.M)
    return Usage(registers, max(stack), sum(numbers(r"(\d+) bytes spill")), double.group().strip() if double else "",
                 len(re.findall(r"ld\.global\.v\d", code)))


def measure(name):
    """The columns of a kernel, as numbers."""
    single, double = examine([name], np.float32), None
    if not kernels()[name].single:
        double = examine([name], np.float64)
    stacks = [max(usage.stack for usage in usages.values()) if usages else "" for usages in (single, double)]
    return [*(usage.registers for usage in single.values()), double[CAPABILITIES[-1]].registers if double else "",
            *stacks, kernels()[name].near * np.dtype(np.float32).itemsize]


def document(measured):
    """The text of the document from the columns of each kernel."""
    rows, groups = [], {}
    for name, function in kernels().items():
        group = GROUPS.get(function.__module__)
        if group is None or any(measured[name][4:6]):
            rows.append((f"`{name}`", *measured[name]))
        else:
            groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        spans = zip(*(measured[name] for name in names), strict=True)
        rows.append((f"{group}, {len(names)} kernels", *(
            f"{min(span)}-{max(span)}" if min(span) < max(span) else min(span) for span in spans)))
    rows.sort(key=lambda row: row[0].strip("`").lower())
    lists = [textwrap.fill(f"{group}: {', '.join(f'`{name}`' for name in sorted(names))}.", 120)
             for group, names in groups.items()]
    table = "\n".join([HEADER, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])
    return TEXT.format(versions=versions(), threads=_cuda.THREADS, table=table, groups="\n\n".join(lists))


def versions():
    """What compiled."""
    said = subprocess.run([assembler(), "--version"], capture_output=True, text=True, check=True).stdout
    return (f"numba-cuda {metadata.version('numba-cuda')}, libnvvm {metadata.version('nvidia-nvvm')}, "
            f"ptxas {re.search(r'V([0-9.]+)', said).group(1)}")


def documented():
    """The kernels that the document names."""
    return set(re.findall(r"`(\w+)`", DOCUMENT.read_text("utf-8").partition("\n\n| kernel")[2]))


def main():
    """Compile all kernels and write the document; it ends with status 1 where registers are too few."""
    if SIMULATED or lacking():
        raise SystemExit(lacking() or "the simulator compiles nothing: unset NUMBA_ENABLE_CUDASIM")
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        measured = dict(zip(kernels(), pool.map(measure, kernels()), strict=True))
    DOCUMENT.write_text(document(measured), "utf-8")
    short = [name for name, columns in measured.items() if any(columns[4:6]) and name not in OF_NVIDIA]
    if short:
        raise SystemExit(f"these have too few registers: {', '.join(short)}")


if __name__ == "__main__":
    main()
