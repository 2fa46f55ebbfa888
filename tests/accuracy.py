"""How far the elementwise functions lie from the exact ones in float32: writes docs/accuracy.md.

`python tests/accuracy.py [--every N] [names]` runs every elementwise op of one operand in the op table, and the
functions of `hotloop.kernels.elementary`, or those named, on all 2**32 bit patterns, or on one drawn from each N that
follow each other. The compiled kernels compute, float64 formulas of NumPy and SciPy judge. Rows of the document that
were not run stay as they are. Processors with and without fused multiply-adds have a table each;
`NUMBA_CPU_NAME=generic` stands for the others.
"""

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numba
import numpy as np
from scipy import special

from hotloop.kernels import OPS, _context, _jit, elementary
from hotloop.kernels._cores import cores
from hotloop.kernels._elementwise import elementwise_kernel
from hotloop.kernels._target import host
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands

DOCUMENT = Path(__file__).parents[1] / "docs" / "accuracy.md"
HEADER = """| function | largest error, ULP | at | wrong special values | subnormal results | tested | seconds |
|---|---|---|---|---|---|---|"""
PATTERNS, TASK, CHUNK = 2**32, 2**24, 2**13  # arrays of a chunk stay in cache and in memory that is there already


def _tanhshrink(x):
    z = x * x
    return np.where(z < 1e-5, x * z * (1 / 3 - z * (2 / 15)), x - np.tanh(x))


def _gelu_tanh(x):
    x = np.maximum(x, -40)  # 0 from there, also at -inf
    return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))


def _mish(x):
    e = np.exp(np.minimum(x, 40))  # 1 from there
    n = e * (e + 2)
    return np.maximum(x, -1000) * (n / (n + 2))


# What judges a function, in float64: fast, and good for far more digits than float32 has. An op that is not named here
# is judged by its own reference.
REFERENCES = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(x, 0),
    "tanh": np.tanh,
    "tanhshrink": _tanhshrink,
    "sin": np.sin,
    "cos": np.cos,
    "erf": special.erf,
    "normal_cdf": special.ndtr,
    "normal_pdf": lambda x: np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    "gelu": lambda x: np.maximum(x, -40) * special.ndtr(x),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: np.maximum(x, -1000) * special.expit(x),
    "mish": _mish,
}


def names():
    """Every function that has one operand and one result for each element."""
    unary = [name for name, op in OPS.items() if op.arity == 1 and not _jit._foreign(op.cpu)]
    return [*unary, *(name for name in REFERENCES if name not in unary)]


def attributes(name):
    """The attributes that an op is tried with, as float32 holds them."""
    return {key: float(np.float32(value)) if isinstance(value, float) else value
            for key, value in OPS[name].cases[0].items()}


def reference(name):
    """The float64 function that judges `name`."""
    if name in REFERENCES:
        return REFERENCES[name]
    return lambda x: OPS[name].reference(attributes(name), x)


@cache
def compiled(name, dtype):
    """`name` as a function on arrays of `dtype`, whole panels of them, computed by its compiled kernel."""
    dtype = np.dtype(dtype)
    kernel = OPS[name].cpu if name in OPS else elementwise_kernel(name, getattr(elementary, name), 1)
    scalars = scalar_operands(name, attributes(name)).values() if name in ACTIVATIONS else ()
    scalars = np.array([*scalars], np.float64).view(np.int64)
    call, cells = _jit.caller(kernel, dtype), np.zeros(_jit.HEADER + len(_jit.operands(kernel)), np.int64)
    panel = host().bindings(dtype)["PANEL"]
    zeros, context = np.zeros(panel, dtype), np.zeros(_context.CONTEXT, np.int64)
    context[_context.ZEROS] = zeros.ctypes.data

    def evaluate(x):
        y = np.full_like(x, np.nan)
        cells[_jit.HEADER :] = x.ctypes.data, 0, y.ctypes.data, 0, 1, *scalars
        assert zeros.size and call(cells.ctypes.data, context.ctypes.data, 0, x.size // panel) == 0
        return y

    return evaluate


@dataclass(frozen=True)
class Findings:
    """What came out of some arguments: the largest error in units in the last place, where, and what was wrong.

    wrong: results that are NaN and should not be or the other way round, zeros of the wrong sign, missed infinities.
    subnormals: "none" where no result lies below the normal numbers, "flushed" if one of them came out as zero though
    it should not, else "gradual".
    """

    error: float = 0.0
    at: float = 0.0
    wrong: int = 0
    subnormals: str = "none"

    def __add__(self, other):
        worst = max(self, other, key=lambda findings: findings.error)
        return Findings(worst.error, worst.at, self.wrong + other.wrong,
                        min(self.subnormals, other.subnormals))  # in the order of the alphabet

    def cells(self):
        """The columns of the document."""
        return [f"{math.ceil(self.error * 100) / 100:.2f}", f"{self.at:.9g}" if self.error else "", str(self.wrong),
                self.subnormals]


def judge(x, y, exact):
    """Compare float32 results `y` at `x` with float64 values: their distance from the value, not from its rounding.

    A unit is the spacing of float32 at the value; infinity counts as 2**128. The error of a value that is rounded
    correctly is given as 1/2, or as 0 if it is exact.
    """
    error, worst, wrong, small, flushed = _compare(x, y, exact)
    return Findings(error, float(x[worst]), wrong, "flushed" if flushed else "gradual" if small else "none")


@numba.njit
def _compare(x, y, exact):
    """In one pass: the largest error and its index, the number of wrong special values, subnormal and flushed ones."""
    error, worst, wrong, small, flushed = 0.0, 0, 0, False, False
    for i in range(x.size):
        given, value, rounded = np.float64(y[i]), exact[i], np.float32(exact[i])
        size = rounded.view(np.uint32) & 0x7FFFFFFF
        if 0 < size < 0x800000:
            small = True
            flushed |= given == 0
        if rounded.view(np.uint32) == np.float32(y[i]).view(np.uint32):
            if given != value and abs(given) < np.inf and error < 0.5:
                error, worst = 0.5, i
        elif _special(x[i], given, value):
            wrong += not (np.isnan(given) and np.isnan(value))
        else:
            distance = abs(_bounded(given) - _bounded(value)) / 2.0 ** (min(max(size >> 23, 1), 254) - 150)
            if distance > error:
                error, worst = distance, i
    return error, worst, wrong, small, flushed


@numba.njit
def _special(x, given, value):
    """Whether two results that differ have no distance: NaN, an infinity that is a limit, a zero of the wrong sign."""
    zeros = (given == 0 or value == 0) and math.copysign(1, given) != math.copysign(1, value)
    return np.isnan(given) or np.isnan(value) or (np.isinf(value) and np.isinf(x)) or zeros


@numba.njit
def _bounded(value):
    return max(-(2.0**128), min(value, 2.0**128))


def arguments(first, count, every):
    """`count` bit patterns as float32, one drawn from each `every` that follow each other from `first` on."""
    bits = np.uint32(first) + np.uint32(every) * np.arange(count, dtype=np.uint32)
    if every > 1:
        bits += np.random.default_rng(first).integers(0, every, count, np.uint32)
    return bits.view(np.float32)


def examine(name, every, start):
    """The findings of one task's arguments."""
    evaluate, exactly, total = compiled(name, np.float32), reference(name), Findings()
    for first in range(start, start + TASK, CHUNK * every):
        x = arguments(first, min(CHUNK, TASK // every), every)
        with np.errstate(all="ignore"):
            total += judge(x, evaluate(x), np.asarray(exactly(x.astype(np.float64))))
    return total


def section():
    """The heading of this processor's table."""
    return "With fused multiply-adds" if host().fused else "Without fused multiply-adds"


def published(heading):
    """The document's table under a heading: name -> cells (error, at, wrong, subnormals, tested, seconds)."""
    _, _, text = DOCUMENT.read_text("utf-8").partition(f"\n## {heading}\n")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")]
            for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {name: cells for name, *cells in rows}


def write(rows):
    """Put this processor's table into the document."""
    head, mark, text = DOCUMENT.read_text("utf-8").partition(f"\n## {section()}\n")
    _, following, rest = text.partition("\n## ")
    lines = [f"| `{name}` | {' | '.join(cells)} |" for name, cells in sorted(rows.items())]
    DOCUMENT.write_text(f"{head}{mark}\n{HEADER}\n" + "\n".join(lines) + "\n" + following + rest, "utf-8")


def main():
    """Run what the command line asks for and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="one bit pattern in so many, a power of two")
    parser.add_argument("names", nargs="*", help="functions to run; all, if none is named")
    options = parser.parse_args()
    for name in options.names or names():  # before the fork: no process compiles what another one does
        examine(name, TASK // CHUNK, 0)
    tested = f"one of {options.every}" if options.every > 1 else "all"
    with ProcessPoolExecutor(cores(), get_context("fork")) as pool:
        for name in options.names or names():
            started = time.perf_counter()
            results = pool.map(partial(examine, name, options.every), range(0, PATTERNS, TASK))
            cells = [*sum(results, Findings()).cells(), tested, f"{time.perf_counter() - started:.0f}"]
            print(name, *cells, flush=True)
            write(published(section()) | {name: cells})


if __name__ == "__main__":
    main()
