"""Matrix products on panels against NumPy, to the bit where only the cut of the work differs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import close

from hotloop.kernels._target import host
from hotloop.kernels.gemm import PLAIN, POSITIVE, WHERE_POSITIVE, gemm, gemm_transposed

sizes = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65])
depths = sizes | st.sampled_from([0, 255, 256, 257, 300, 513])
gaps = st.integers(0, 20)
seeds = st.integers(0, 2**32)


class Panels:
    """A matrix in panels, `gap` numbers apart; NaN wherever no number of it lies."""

    def __init__(self, values, dtype, gap=0):
        (rows, self.cols), self.width = values.shape, host().bindings(dtype)["PANEL"]
        count = max(1, -(-self.cols // self.width))
        self.gap, self.distance = gap, rows * self.width + gap
        self.memory = np.full(count * self.distance, np.nan, dtype)
        self.panels = self.memory.reshape(count, -1)[:, : rows * self.width].reshape(count, rows, self.width)
        for panel, part in zip(self.panels, np.split(values, range(self.width, self.cols, self.width), 1), strict=True):
            panel[:, : part.shape[1]] = part

    @classmethod
    def empty(cls, rows, cols, dtype, gap=0):
        """A result to be: all of one NaN that no computation makes of the other."""
        made = cls(np.zeros((rows, cols)), dtype, gap)
        made.memory.view(np.uint8)[:] = 0xFF
        return made

    def is_empty_beyond(self, columns):
        """Whether nothing was written but the first columns."""
        beyond = Panels.empty(self.panels.shape[1], self.cols, self.memory.dtype, self.gap)
        for first, panel, written in zip(range(0, columns, self.width), beyond.panels, self.panels, strict=False):
            panel[:, : columns - first] = written[:, : columns - first]
        return beyond.memory.tobytes() == self.memory.tobytes()

    @property
    def values(self):
        """The matrix."""
        return np.hstack(list(self.panels))[:, : self.cols]


def whole_vectors(columns, dtype):
    lanes = host().bindings(dtype)["LANES"]
    return -(-columns // lanes) * lanes


def finished(exact, finish, mask):
    if finish == POSITIVE:
        return np.where(exact <= 0, 0, exact)
    return np.where(mask > 0, exact, 0) if finish == WHERE_POSITIVE else exact


@pytest.mark.parametrize("finish", [PLAIN, POSITIVE, WHERE_POSITIVE])
@settings(max_examples=200)
@given(m=sizes, k=depths, n=sizes, bias=st.booleans(), alone=st.booleans(), gap=gaps,
       cut=st.integers(0, 65), seed=seeds)
def test_gemm(worker, dtype, finish, m, k, n, bias, alone, gap, cut, seed):
    """Against float64; then in two runs of rows, and with fewer columns: the same bits, and nothing else touched."""
    generator = np.random.default_rng(seed)
    a, b, start, mask = (generator.standard_normal(shape).astype(dtype)
                         for shape in ((m, k), (k, n), (1 if bias else m, n), (m, n)))
    mask[generator.random(mask.shape) < 0.1] = 0
    places = {"a": Panels(a, dtype, gap), "b": Panels(b, dtype, gap + 3), "start": Panels(start, dtype, gap),
              "mask": Panels(mask, dtype, gap)}
    operands = {name: place.memory for name, place in places.items()} | {
        f"{name}_panel": place.distance for name, place in places.items()}
    operands |= {"start_row": 0 if bias else places["start"].width, "finish": finish, "depth": k}
    before = [place.memory.tobytes() for place in places.values()]

    panel = host().bindings(dtype)["PANEL"]
    line = np.full(-(-k // panel) * panel, np.nan, dtype) if bias and alone else 0
    if seed % 2:  # what is asked for may lie anywhere, beyond what there is, too
        operands |= {"ahead": places["b"].memory, "ahead_panel": places["b"].distance, "ahead_chunk": panel * panel}
    else:
        operands |= dict.fromkeys(("ahead", "ahead_panel", "ahead_chunk"), 0)

    def product(rows, columns):
        c = Panels.empty(m, n, dtype, gap)
        for low, high in rows:
            assert worker(dtype).run(gemm, low, high, c=c.memory, c_panel=c.distance, columns=columns, line=line,
                                     **operands) == 0
        return c

    cut, c = min(cut, m), product([(0, m)], n)
    exact = [value.astype(np.float64) for value in (start, a, b)]
    scale = abs(exact[0]) + abs(exact[1]) @ abs(exact[2])
    close(c.values, finished(exact[0] + exact[1] @ exact[2], finish, mask), dtype, "product", k + 1, scale)
    lanes = host().bindings(dtype)["LANES"]
    rest = n % lanes
    by_themselves = rest if bias and alone and rest <= lanes // 4 and k >= min(rest, 2) * lanes else 0
    assert c.is_empty_beyond(n if by_themselves else whole_vectors(n, dtype))
    assert product([(0, cut), (cut, m)], n).memory.tobytes() == c.memory.tobytes()
    if not by_themselves:
        narrow = whole_vectors(max(n // 2, 1), dtype)
        assert product([(0, m)], narrow).values[:, :narrow].tobytes() == c.values[:, :narrow].tobytes()
    assert [place.memory.tobytes() for place in places.values()] == before


@settings(max_examples=150)
@given(k=depths, zero=st.booleans(), cut=st.integers(0, 32), seed=seeds, data=st.data())
def test_gemm_transposed(worker, dtype, k, zero, cut, seed, data):
    """One panel against one: the same checks."""
    lanes, panel = (host().bindings(dtype)[name] for name in ("LANES", "PANEL"))
    m, n = (data.draw(st.integers(1, panel)) for _ in range(2))
    generator = np.random.default_rng(seed)
    a, b, start = (generator.standard_normal(shape).astype(dtype) for shape in ((k, m), (k, n), (m, n)))
    if zero:
        start = start[:1]
    places = [Panels(value, dtype).memory for value in (a, b, start)]
    before = [place.tobytes() for place in places]
    operands = dict(zip(("a", "b", "start"), places, strict=True)) | {
        "start_row": 0 if zero else panel, "depth": k, "vectors": whole_vectors(n, dtype) // lanes}

    def product(*rows):
        c = Panels.empty(m, n, dtype)
        for low, high in rows:
            assert worker(dtype).run(gemm_transposed, low, high, c=c.memory, **operands) == 0
        return c

    c, cut = product((0, m)), min(cut, m)
    exact = [value.astype(np.float64) for value in (start, a, b)]
    close(c.values, exact[0] + exact[1].T @ exact[2], dtype, "product", k + 1,
          abs(exact[0]) + abs(exact[1].T) @ abs(exact[2]))
    assert c.is_empty_beyond(whole_vectors(n, dtype))
    assert product((0, cut), (cut, m)).memory.tobytes() == c.memory.tobytes()
    assert [place.tobytes() for place in places] == before
