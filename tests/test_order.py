"""The order of an epoch's rows is public: checkpoints of older versions go on alike, on every backend."""

import numpy as np
import pytest

from hotloop.numpy_backend import NumpyBackend
from hotloop.order import Orders, permute


def numpy_order(seed, epoch, rows):
    return np.random.default_rng([seed, epoch]).permutation(rows)


@pytest.mark.parametrize("rows", [1, 2, 499, 500, 511, 512, 513, 1023, 1025, 32767, 32768, 32769, 44000, 300_000])
def test_the_order_of_rows_is_that_of_numpy(rows):
    order = np.empty(rows, np.int64)
    for seed, epoch in ((0, 0), (0, 1), (7, 0), (2**40, 12345)):
        permute(seed, epoch, order, "float32")
        np.testing.assert_array_equal(order, numpy_order(seed, epoch, rows))


def test_many_orders_are_those_of_numpy():
    """Places are refused at every stage of some of these."""
    order = np.empty(1400, np.int64)
    for epoch in range(500):
        permute(1, epoch, order, "float32")
        np.testing.assert_array_equal(order, numpy_order(1, epoch, 1400))


def test_orders_of_epochs_that_follow_each_other():
    """Whatever ranges are asked for after each other, some of whose epochs are there already."""
    orders, written = Orders(lambda *given: written.append(given[1]) or NumpyBackend.permute(*given), 3, 7), []
    for epochs in (range(1), range(3), range(2, 4), range(2, 9), range(5, 6), range(5, 8), range(20, 22), range(1)):
        expected = np.concatenate([numpy_order(3, epoch, 7) for epoch in epochs])
        np.testing.assert_array_equal(orders.of(epochs), expected)
    assert written == [0, 1, 2, 3, *range(4, 9), 6, 7, 20, 21, 0]
