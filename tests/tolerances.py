"""How far a result may lie from the exact one: one table, by dtype and by class of computation."""

import numpy as np

EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}
# Errors in units of epsilon * sqrt(terms), relative to the magnitude of what was computed.
UNITS = {
    "elementwise": 4,  # a few roundings of one element
    "update": 16,  # roundings of one element before and after a quotient whose numerator may cancel
    "row": 4,  # a reduction over a row, or what was divided by one
    "product": 2,  # one chain of fused multiply-adds
    "training": 16,  # steps of a whole network; `terms` counts the rows that went through it
}


def close(actual, expected, dtype, kind, terms=1, scale=None):
    """Assert that `actual` is what a computation of class `kind` over `terms` terms in `dtype` may make of `expected`.

    `scale` is the magnitude of the numbers that were summed or multiplied, which the result may have lost by
    cancellation; by default the largest finite one of each row of `expected`. NaN is never close.
    """
    __tracebackhide__ = True
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    if not expected.size:
        return
    size = np.where(np.isfinite(expected), abs(expected), 0)
    if scale is None:
        scale = size.max(-1, keepdims=True) if size.ndim else size
    with np.errstate(invalid="ignore"):
        error = np.where(actual == expected, 0, abs(actual - expected))
    allowed = UNITS[kind] * EPSILON[np.dtype(dtype).name] * np.sqrt(terms) * np.maximum(size, scale)
    wrong = ~(error <= allowed)
    if wrong.any():
        index = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1)), error.shape)
        raise AssertionError(f"{wrong.sum()} of {wrong.size} differ; [{', '.join(map(str, index))}] is "
                             f"{actual[index]!r}, not {expected[index]!r}: error {error[index]:.3g}, allowed "
                             f"{np.broadcast_to(allowed, error.shape)[index]:.3g}")
