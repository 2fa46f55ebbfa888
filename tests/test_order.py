"""The order of an epoch's rows is public: checkpoints of older versions go on alike, on every backend."""

import numpy as np
import pytest

from hotloop.order import permutation


@pytest.mark.parametrize("rows", [1, 2, 499, 500, 511, 512, 513, 1023, 1025, 32767, 32768, 32769, 44000, 300_000])
def test_the_order_of_rows_is_that_of_numpy(rows):
    for seed, epoch in ((0, 0), (0, 1), (7, 0), (2**40, 12345)):
        order = permutation(seed, epoch, rows, "float32")
        assert order.dtype == np.int64
        np.testing.assert_array_equal(order, np.random.default_rng([seed, epoch]).permutation(rows))


def test_too_few_random_words_are_no_matter(monkeypatch):
    monkeypatch.setattr("hotloop.order._draws", lambda rows: rows)
    np.testing.assert_array_equal(permutation(0, 0, 1000, "float32"), np.random.default_rng([0, 0]).permutation(1000))


def test_random_words_suffice(monkeypatch):
    expected = [np.random.default_rng([1, epoch]).permutation(1400) for epoch in range(500)]
    monkeypatch.setattr(np.random, "default_rng", None)
    for epoch, order in enumerate(expected):
        np.testing.assert_array_equal(permutation(1, epoch, 1400, "float32"), order)
