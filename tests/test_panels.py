"""Rows of panels: gathered from a data set, turned into columns of scratch, and back."""

import numpy as np
import pytest
from test_gemm import Panels, whole_vectors

from hotloop.kernels._context import REST, START
from hotloop.kernels._panels import from_columns, to_columns
from hotloop.kernels.data import gather

columns = pytest.mark.parametrize("cols", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 70])


def untouched(array):
    """Whether these numbers of `Panels.empty` are as they were."""
    return (np.ascontiguousarray(array).view(np.uint8) == 0xFF).all()


@columns
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 8, 9, 15, 16, 17, 31, 40, 63])
def test_rows_become_columns_and_rows_again(worker, dtype, rows, cols):
    values = np.random.default_rng(rows * cols).standard_normal((rows, cols)).astype(dtype)
    x, stride = Panels(values, dtype, 64), whole_vectors(rows, dtype) + 32
    scratch = np.full((whole_vectors(cols, dtype), stride), np.nan, dtype)
    assert worker(dtype).run(to_columns, 0, rows, x=x.memory, x_panel=x.distance, columns=cols, target=scratch,
                             stride=stride) == 0
    assert np.array_equal(scratch[:cols, :rows], values.T)
    y = Panels.empty(rows + 8, cols, dtype, 64)
    assert worker(dtype).run(from_columns, 0, rows, source=scratch, stride=stride, columns=cols, y=y.memory,
                             y_panel=y.distance) == 0
    assert np.array_equal(y.values[:rows], values)
    assert (np.hstack(list(y.panels))[:rows, cols : whole_vectors(cols, dtype)] == 0).all()
    assert untouched(y.panels[:, rows:]) and untouched(y.memory.reshape(len(y.panels), -1)[:, -y.gap :])


@columns
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_are_gathered(worker, dtype, cols, shuffled):
    generator, start, low, high = np.random.default_rng(cols), 5, 3, 20
    data, order = generator.standard_normal((40, cols)).astype(dtype), generator.permutation(40)
    y, one = Panels.empty(30, cols, dtype), worker(dtype)
    one.cells[[START, REST]] = start, 40 - start
    assert one.run(gather, low, high, source=data, source_cols=cols, order=order if shuffled else 0, y=y.memory,
                   y_panel=y.distance) == 0
    rows = np.arange(start + low, start + high)
    assert np.array_equal(y.values[low:high], data[order[rows] if shuffled else rows])
    assert untouched(y.panels[:, :low]) and untouched(y.panels[:, high:])
