"""How far the elementwise functions lie from the exact ones in float32: writes docs/accuracy.md.

`python tests/accuracy.py [--every N] [names]` runs every elementwise op of one operand that stands in the op table, and
the functions of `hotloop.kernels.elementary`, or those named, on all 2**32 bit patterns, or on one in N, drawn from each
N that follow each other. The compiled kernels compute, float64 formulas of NumPy and SciPy judge. Rows of the table that
were not run are kept. Each processor, with or without fused multiply-adds, has a table of its own;
`NUMBA_CPU_NAME=generic` makes that of processors without.
"""

import argparse
import math
import sys
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
from hotloop.kernels._op import one_shape
from hotloop.kernels._primitives import reals
from hotloop.kernels._target import cores, host
from hotloop.plan import plan

DOCUMENT = Path(__file__).parents[1] / "docs" / "accuracy.md"
PATTERNS, CHUNK, COLUMNS = 2**32, 2**18, 64


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
    "sin": np.sin,
    "cos": np.cos,
    "erf": special.erf,
    "normal_cdf": special.ndtr,
    "normal_pdf": lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "gelu": lambda x: np.maximum(x, -40) * special.ndtr(x),
    "gelu_tanh": _gelu_tanh,
}


def names():
    """Every function that has one operand and one result for each element."""
    unary = [name for name, op in OPS.items() if op.shape is one_shape and op.cpu and op.tolerance == "elementwise"]
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
    program, backend = plan(graph, layout(dtype), prediction=node), CpuBackend(dtype, threads=1)

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


@dataclass
class Findings:
    """What came out of some arguments: the largest error in units in the last place, where, and what was wrong.

    wrong: results that are NaN and should not be or the other way round, zeros of the wrong sign, poles missed.
    subnormal: exact results below the normal numbers; flushed: those that came out as zero and should not have.
    """

    error: float = 0.0
    at: float = 0.0
    wrong: int = 0
    subnormal: int = 0
    flushed: int = 0

    def __add__(self, other):
        worst = max(self, other, key=lambda findings: findings.error)
        return Findings(worst.error, worst.at, self.wrong + other.wrong, self.subnormal + other.subnormal,
                        self.flushed + other.flushed)

    @property
    def subnormals(self):
        """How results below the normal numbers are treated."""
        return "none" if not self.subnormal else "flushed" if self.flushed else "gradual"


def judge(x, y, exact):
    """Compare float32 results `y` at `x` with float64 values: the distance from the exact value, not its rounding.

    A unit is the spacing of float32 at the exact value. Infinity counts as 2**128, so that overflow is an error of its
    distance, too.
    """
    limits = np.finfo(np.float32)
    wrong = (np.isnan(y) != np.isnan(exact)) | (np.isinf(exact) & np.isinf(x) & (y != exact))
    wrong |= ((y == 0) | (exact == 0)) & (np.signbit(y) != np.signbit(exact)) & ~np.isnan(exact)
    size = np.minimum(abs(exact), 2.0**128)
    unit = np.spacing(np.minimum(size, float(limits.max)).astype(np.float32)).astype(np.float64)
    error = abs(np.clip(y, -(2.0**128), 2.0**128, dtype=np.float64) - np.copysign(size, exact)) / unit
    error[np.isnan(error)] = 0
    worst, small = error.argmax(), (size < limits.tiny) & (size >= limits.smallest_subnormal)
    return Findings(float(error[worst]), float(x[worst]), int(wrong.sum()), int(small.sum()),
                    int((small & (y == 0)).sum()))


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


def table(text, title):
    """The rows of a section of the document, by name: error, place, wrong values, subnormals, tested, seconds."""
    _, found, section = text.partition(f"## {title}\n")
    lines = [line.strip("| ").split(" | ") for line in section.partition("\n## ")[0].splitlines() if line[:2] == "| "]
    return {name.strip("`"): cells for name, *cells in lines[1:]} if found else {}


def title():
    """The section of this processor."""
    return "With fused multiply-adds" if host().bindings(np.float32)["FUSED"] else "Without fused multiply-adds"


def main():
    """Run what the command line asks for and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="one bit pattern in so many (a power of two)")
    parser.add_argument("names", nargs="*", help="functions to run; all, if none is named")
    options = parser.parse_args()
    for name in options.names or names():
        compiled(name, np.float32)
    with ProcessPoolExecutor(cores(), get_context("fork")) as pool:
        for name in options.names or names():
            started = time.perf_counter()
            chunks = range(0, PATTERNS, CHUNK * options.every)
            results = pool.map(examine, [name] * len(chunks), chunks, [options.every] * len(chunks), chunksize=16)
            findings = sum(results, Findings())
            print(f"{name:15} {findings} {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
