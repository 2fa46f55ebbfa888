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
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import special

from hotloop.cpu_backend import CpuBackend, layout
from hotloop.graph import Graph
from hotloop.kernels import OPS, _jit, elementary
from hotloop.kernels._primitives import reals
from hotloop.kernels._target import cores, host
from hotloop.plan import plan

DOCUMENT = Path(__file__).parents[1] / "docs" / "accuracy.md"
HEADER = """| function | largest error, ULP | at | wrong special values | subnormal results | tested | seconds |
|---|---|---|---|---|---|---|"""
PATTERNS, CHUNK, COLUMNS = 2**32, 2**14, 64


def _gelu_tanh(x):
    x = np.maximum(x, -40)  # 0 from there, also at -inf
    return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# What judges a function, in float64. An op that is not named here is judged by its own reference.
REFERENCES = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(x, 0),
    "tanh": np.tanh,
    "tanhshrink": lambda x: np.where(np.abs(x) < 0.01, x**3 / 3 - 2 * x**5 / 15, x - np.tanh(x)),
    "sin": np.sin,
    "cos": np.cos,
    "erf": special.erf,
    "normal_cdf": special.ndtr,
    "normal_pdf": lambda x: np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    "gelu": lambda x: np.maximum(x, -40) * special.ndtr(x),
    "gelu_tanh": _gelu_tanh,
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


def compiled(name, dtype):
    """`name` as a function on arrays of `dtype` whose sizes are multiples of COLUMNS, computed by compiled kernels."""
    return _op(name, np.dtype(dtype)) if name in OPS else _function(getattr(elementary, name), np.dtype(dtype))


def _op(name, dtype):
    graph = Graph()
    node = graph.apply(name, graph.input("x", (None, COLUMNS)), **attributes(name))
    program, backend = plan(graph, layout(dtype), predictions={"prediction": node}), CpuBackend(dtype, threads=1)

    def evaluate(x):
        x = x.reshape(-1, COLUMNS)
        y = np.full_like(x, np.nan)
        backend.prepare(program, len(x))
        backend.run(program, {"x": x, "prediction": y}, steps=1, start=0, rows=len(x), batch=len(x))
        return y.ravel()

    return evaluate


def _function(value, dtype):
    def run(x, y, context, low, high):
        source, target = reals(x, high), reals(y, high)
        for i in range(low, high):
            target[i] = value(source[i])
        return 0

    run.__name__ = run.__qualname__ = value.__name__
    call, cells = _jit.caller(_jit.kernel(run), dtype), np.zeros(_jit.HEADER + 2, np.int64)

    def evaluate(x):
        y = np.full_like(x, np.nan)
        cells[_jit.HEADER :] = x.ctypes.data, y.ctypes.data
        assert call(cells.ctypes.data, 0, 0, x.size) == 0
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
    rounded = exact.astype(np.float32)
    size = rounded.view(np.uint32) & 0x7fffffff
    small = (size - 1 < 0x7fffff) & (size > 0)
    subnormals = "none" if not small.any() else "flushed" if (y[small] == 0).any() else "gradual"
    off = np.flatnonzero(rounded.view(np.uint32) != y.view(np.uint32))
    off = off[~(np.isnan(y[off]) & np.isnan(exact[off]))]
    if not off.size:
        inexact = np.flatnonzero((y != exact) & ~np.isinf(y) & ~np.isnan(y))
        return Findings(0.5, float(x[inexact[0]]), 0, subnormals) if inexact.size else Findings(subnormals=subnormals)
    x, y, exact, rounded = x[off], y[off].astype(np.float64), exact[off], rounded[off]
    wrong = np.isnan(y) | np.isnan(exact) | (np.isinf(exact) & np.isinf(x)) | (y == 0) & (exact == 0)
    wrong |= (np.signbit(y) != np.signbit(exact)) & ((y == 0) | (exact == 0))
    unit = np.spacing(np.minimum(abs(rounded), np.finfo(np.float32).max)).astype(np.float64)
    error = abs(np.clip(y, -(2.0**128), 2.0**128) - np.clip(exact, -(2.0**128), 2.0**128)) / unit
    error[wrong] = 0
    worst = error.argmax()
    return Findings(float(error[worst]), float(x[worst]), int(wrong.sum()), subnormals)


def arguments(first, count, every):
    """`count` bit patterns as float32, one drawn from each `every` that follow each other from `first` on."""
    within = np.random.default_rng(first).integers(0, every, count) if every > 1 else 0
    return (first + np.arange(count) * every + within).astype(np.uint32).view(np.float32)


_evaluators = {}


def examine(name, first, every):
    """The findings of one chunk of arguments."""
    if name not in _evaluators:
        _evaluators[name] = compiled(name, np.float32)
    x = arguments(first, min(CHUNK, PATTERNS // every), every)
    y = _evaluators[name](x)
    with np.errstate(all="ignore"):
        return judge(x, y, np.asarray(reference(name)(x.astype(np.float64))))


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
        compiled(name, np.float32)(np.zeros(COLUMNS, np.float32))
    chunks = range(0, PATTERNS, CHUNK * options.every)
    tested = f"one of {options.every}" if options.every > 1 else "all"
    with ProcessPoolExecutor(cores(), get_context("fork")) as pool:
        for name in options.names or names():
            started = time.perf_counter()
            results = pool.map(examine, [name] * len(chunks), chunks, [options.every] * len(chunks), chunksize=16)
            cells = [*sum(results, Findings()).cells(), tested, f"{time.perf_counter() - started:.0f}"]
            print(name, *cells, flush=True)
            write(published(section()) | {name: cells})


if __name__ == "__main__":
    main()
