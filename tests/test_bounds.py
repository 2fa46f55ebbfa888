"""Kernels read and write nothing past the memory that they are given: a page that nobody may touch follows it."""

import os
import subprocess
import sys

import pytest

GUARDED = """
import ctypes, mmap
import numpy as np
import hotloop as hl
from hotloop import build, cpu_backend, graph_cpu

if NARROW:
    build.narrow_rows = lambda program: 1

protect, kept = ctypes.CDLL(None).mprotect, []

def guarded(size, line=64):
    page = mmap.PAGESIZE
    pages = -(-max(size, 1) // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    array = np.frombuffer(memory, np.uint8)
    assert protect(ctypes.c_void_p(array.ctypes.data + pages * page), ctypes.c_size_t(page), 0) == 0
    kept.append((memory, array))
    first = (pages * page - size) // line * line
    return array[first : first + size]

cpu_backend.aligned_zeros = graph_cpu.aligned_zeros = guarded

def use(widths, batch, optimizer, dtype):
    layers = []
    for sizes in zip(widths, widths[1:]):
        layers += [hl.Dense(*sizes), hl.Tanh()]
    trainer = hl.Trainer(hl.Sequential(*layers[:-1], seed=0), hl.MSELoss(), optimizer, batch_size=batch, dtype=dtype)
    X, Y = (guarded((2 * batch + 1) * columns * np.dtype(dtype).itemsize, 1).view(dtype).reshape(-1, columns)
            for columns in (widths[0], widths[-1]))
    trainer.fit(X, Y)
    trainer.step(X[:batch], Y[:batch]), trainer.gradients(X, Y), trainer.evaluate(X, Y)
    trainer.predict(X), trainer.predict(X[:1])

for widths in ([600, 900, 2], [5, 33, 2], [3, 7, 1], [2, 16, 16, 2], [1, 1, 1], [30, 100, 130]):
    for batch in (1, 2, 33, 1500):
        for optimizer in (hl.SGD(), hl.Adam()):
            print(widths, batch, optimizer, flush=True)
            use(widths, batch, optimizer, DTYPE)
g = hl.Graph()
x, w, b = g.input("x", (None, 5)), g.parameter("w", np.ones((5, 37))), g.parameter("b", np.ones(37))
print("graph", flush=True)
program = g.compile((hl.exp(-(x @ w + b)) * hl.sin(w.sum())).mean(), wrt=[w, b], dtype=DTYPE)
program(x=np.ones((19, 5)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="memory is protected by POSIX's mprotect")
@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_past_the_end_is_touched(dtype, narrow):
    """With `narrow`, by programs by feature for any widths."""
    done = subprocess.run([sys.executable, "-c", f"DTYPE, NARROW = {dtype.name!r}, {narrow}\n{GUARDED}"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
