"""Batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167): y = (x - mean x) / sqrt(var x + eps), for each feature.

Mean and biased variance are those over the batch, in training, or running ones; `affine` scales and shifts afterwards.
With s the factor that y is scaled by, dx = s (dy - mean dy - y mean(dy y)).

The moments are a phase of their own, in which a unit is one panel of columns, all rows of it: two rows of panels, mean
and variance; so are the sums of the backward pass. Means are taken first, then the squares of what differs from them,
in blocks: numbers far from zero lose nothing.
"""

import math

import numpy as np

from ._block import COLUMNS, THREADS, WARPS, add_lanes, barrier, block_kernel, blocks, lane, spot, thread, warp
from ._context import BATCH, CONTEXT, SCRATCH
from ._elementwise import SPAN
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, finite, fma, ints, real, reals, select
from .parameters import product, summed


def _value(x, _):
    return x


def _distance(x, mean):
    return x - mean


def _squared_distance(x, mean):
    return (x - mean) * (x - mean)


_add_values, _add_products = summed(_value), summed(product)
_add_distances, _add_squared_distances = summed(_distance), summed(_squared_distance)


@kernel
def batch_moments(x, x_panel, y, y_panel, context, low, high):
    """Mean and biased variance over the batch of the columns of panels [low, high)."""
    cells = ints(context, CONTEXT)
    batch, block = cells[BATCH], cells[SCRATCH]
    for panel in range(low, high):
        source, mean = x + panel * x_panel * SIZE, y + panel * y_panel * SIZE
        variance = mean + PANEL * SIZE
        _add_values(source, source, PANEL, batch, mean, block)
        divide(mean, batch)
        _add_distances(source, mean, 0, batch, variance, block)
        divide(variance, batch)
        means, rest = reals(mean, PANEL), reals(variance, PANEL)
        for j in range(PANEL):
            means[j] = means[j] + rest[j]  # what the rounding of so long a sum had left out
        _add_squared_distances(source, mean, 0, batch, variance, block)
        divide(variance, batch)
    return 0


def divide(total, count):
    """total[j] /= count for a row of a panel."""
    totals = reals(total, PANEL)
    for j in range(PANEL):
        totals[j] = totals[j] / real(count)


def standardize_panel(x, mean, variance, y, rows, eps, scale):
    """Y = (X - mean) / sqrt(variance + eps) for rows of one panel; `scale` is scratch."""
    means, variances, scales = reals(mean, PANEL), reals(variance, PANEL), reals(scale, PANEL)
    for j in range(PANEL):
        scales[j] = 1.0 / math.sqrt(variances[j] + real(eps))
    for i in range(rows):
        source, target = reals(x + i * PANEL * SIZE, PANEL), reals(y + i * PANEL * SIZE, PANEL)
        for j in range(PANEL):
            target[j] = (source[j] - means[j]) * scales[j]


@kernel
def batch_norm(x, x_panel, moments, moments_panel, y, y_panel, y_panels, eps: float, context, low, high):
    """Y = (X - mean) / sqrt(variance + eps) for rows [low, high), with the moments of the batch."""
    scale = ints(context, CONTEXT)[SCRATCH]
    for panel in range(y_panels):
        mean, row = moments + panel * moments_panel * SIZE, low * PANEL * SIZE
        standardize_panel(x + panel * x_panel * SIZE + row, mean, mean + PANEL * SIZE,
                          y + panel * y_panel * SIZE + row, high - low, eps, scale)
    return 0


@kernel
def standardize(x, x_panel, mean, variance, y, y_panel, y_panels, eps: float, context, low, high):
    """Y = (X - mean) / sqrt(variance + eps) for rows [low, high), with statistics gathered before. Y may be X."""
    scale = ints(context, CONTEXT)[SCRATCH]
    for panel in range(y_panels):
        row, place = low * PANEL * SIZE, panel * PANEL * SIZE
        standardize_panel(x + panel * x_panel * SIZE + row, mean + place, variance + place,
                          y + panel * y_panel * SIZE + row, high - low, eps, scale)
    return 0


@kernel
def batch_norm_sums(dy, dy_panel, y, y_panel, sums, sums_panel, context, low, high):
    """Means over the batch of dY and of dY Y, for the columns of panels [low, high)."""
    cells = ints(context, CONTEXT)
    batch, block = cells[BATCH], cells[SCRATCH]
    for panel in range(low, high):
        up, mean = dy + panel * dy_panel * SIZE, sums + panel * sums_panel * SIZE
        along = mean + PANEL * SIZE
        _add_values(up, up, PANEL, batch, mean, block)
        divide(mean, batch)
        _add_products(up, y + panel * y_panel * SIZE, PANEL, batch, along, block)
        divide(along, batch)
    return 0


@kernel
def batch_norm_backward(dy, dy_panel, y, y_panel, moments, moments_panel, sums, sums_panel, dx, dx_panel, dx_panels,
                        eps: float, context, low, high):
    """dX = (dY - mean dY - Y mean(dY Y)) / sqrt(variance + eps) for rows [low, high); dX may be dY."""
    scales = reals(ints(context, CONTEXT)[SCRATCH], PANEL)
    for panel in range(dx_panels):
        variances = reals(moments + (panel * moments_panel + PANEL) * SIZE, PANEL)
        means = reals(sums + panel * sums_panel * SIZE, PANEL)
        alongs = reals(sums + (panel * sums_panel + PANEL) * SIZE, PANEL)
        for j in range(PANEL):
            scales[j] = 1.0 / math.sqrt(variances[j] + real(eps))
        for i in range(low, high):
            up = reals(dy + (panel * dy_panel + i * PANEL) * SIZE, PANEL)
            saved = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            target = reals(dx + (panel * dx_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                target[j] = scales[j] * (up[j] - means[j] - saved[j] * alongs[j])
    return 0


@kernel
def track_moments(moments, moments_panel, moments_panels, moments_cols, mean, variance, batches, momentum: float,
                  cumulative, context, low, high):
    """Let the running mean and variance follow those of the batch, in one unit; returns 1 where one is not finite.

    running += momentum (batch's - running), the batch's variance unbiased; `cumulative` takes 1 / batches so far
    instead of the momentum. What would not be finite keeps its old value.
    """
    count = ints(batches, 1)
    count[0] += 1
    batch = ints(context, CONTEXT)[BATCH]
    share = real(1 / count[0]) if cumulative else real(momentum)
    unbiased = real(batch / (batch - 1))
    bad = False
    for panel in range(moments_panels):
        for kind in range(2):
            new = reals(moments + (panel * moments_panel + kind * PANEL) * SIZE, PANEL)
            running = reals((variance if kind else mean) + panel * PANEL * SIZE, PANEL)
            factor = unbiased if kind else real(1.0)
            for j in range(min(PANEL, moments_cols - panel * PANEL)):
                value = fma(share, factor * new[j] - running[j], running[j])
                good = finite(value)
                bad |= not good
                running[j] = select(good, value, running[j])
    return int(bad)


# On CUDA a warp takes a column: a lane adds up every PANEL-th row, then lanes are added up in pairs.


@block_kernel(batch_moments, "y", height=1, span=COLUMNS)
def batch_moments_cuda(x, x_cols, y, context, row, rows, column, columns):
    """Mean and biased variance over the batch of some columns."""
    batch = ints(context, CONTEXT)[BATCH]
    for first in range(column, column + columns, WARPS):
        c, total = min(first + warp(), x_cols - 1), real(0.0)
        for block in blocks(0, batch):
            total += row_value(x, x_cols, block, c, batch)
        mean = add_lanes(total) / real(batch)
        total = real(0.0)
        for block in blocks(0, batch):
            if block * PANEL + lane() < batch:
                total += row_value(x, x_cols, block, c, batch) - mean
        mean += add_lanes(total) / real(batch)  # what the rounding of so long a sum had left out
        total = real(0.0)
        for block in blocks(0, batch):
            if block * PANEL + lane() < batch:
                distance = row_value(x, x_cols, block, c, batch) - mean
                total += distance * distance
        keep_pair(y, c, mean, add_lanes(total) / real(batch))
    return 0


@block_kernel(batch_norm_sums, "sums", height=1, span=COLUMNS)
def batch_norm_sums_cuda(dy, dy_cols, y, sums, context, row, rows, column, columns):
    """Means over the batch of dY and of dY Y, for some columns."""
    batch = ints(context, CONTEXT)[BATCH]
    for first in range(column, column + columns, WARPS):
        c, total, along = min(first + warp(), dy_cols - 1), real(0.0), real(0.0)
        for block in blocks(0, batch):
            up = row_value(dy, dy_cols, block, c, batch)
            total += up
            along += up * row_value(y, dy_cols, block, c, batch)
        total = add_lanes(total) / real(batch)
        keep_pair(sums, c, total, add_lanes(along) / real(batch))
    return 0


def row_value(x, cols, block, c, batch):
    """Column c of the thread's row in a block, or 0 beyond the batch."""
    if block * PANEL + lane() < batch:
        return reals(x + (spot(block, cols, c) + lane()) * SIZE, 1)[0]
    return real(0.0)


def pair(base, c):
    """Where the first number of column c stands in two rows of panels; the second lies PANEL further."""
    return base + (c // PANEL * 2 * PANEL + c % PANEL) * SIZE


def keep_pair(base, c, first, second):
    """Write both numbers of the warp's column c; warps beyond the last column have that, too."""
    if lane() == 0:
        target = reals(pair(base, c), PANEL + 1)
        target[0] = first
        target[PANEL] = second


@block_kernel(batch_norm, "y", span=SPAN)
def batch_norm_cuda(x, moments, y, y_cols, eps: float, context, row, rows, column, columns):
    """Y = (X - mean) / sqrt(variance + eps), with the moments of the batch."""
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
        source, target = reals(x + begin, count), reals(y + begin, count)
        for i in range(thread(), count, THREADS):
            found = reals(pair(moments, column + i // PANEL), PANEL + 1)
            target[i] = (source[i] - found[0]) * (1.0 / math.sqrt(found[PANEL] + eps))
    return 0


@block_kernel(standardize, "y", span=SPAN)
def standardize_cuda(x, mean, variance, y, y_cols, eps: float, context, row, rows, column, columns):
    """Y = (X - mean) / sqrt(variance + eps), with statistics gathered before. Y may be X."""
    means, variances = reals(mean + column * SIZE, columns), reals(variance + column * SIZE, columns)
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
        source, target = reals(x + begin, count), reals(y + begin, count)
        for i in range(thread(), count, THREADS):
            target[i] = (source[i] - means[i // PANEL]) * (1.0 / math.sqrt(variances[i // PANEL] + eps))
    return 0


@block_kernel(batch_norm_backward, "dx", span=SPAN)
def batch_norm_backward_cuda(dy, y, moments, sums, dx, dx_cols, eps: float, context, row, rows, column, columns):
    """dX = (dY - mean dY - Y mean(dY Y)) / sqrt(variance + eps); dX may be dY."""
    for block in blocks(row, rows):
        begin, count = spot(block, dx_cols, column) * SIZE, columns * PANEL
        ups, saved, target = reals(dy + begin, count), reals(y + begin, count), reals(dx + begin, count)
        for i in range(thread(), count, THREADS):
            variance = reals(pair(moments, column + i // PANEL), PANEL + 1)[PANEL]
            means = reals(pair(sums, column + i // PANEL), PANEL + 1)
            target[i] = 1.0 / math.sqrt(variance + eps) * (ups[i] - means[0] - saved[i] * means[PANEL])
    return 0


@block_kernel(track_moments)
def track_moments_cuda(moments, moments_cols, mean, variance, batches, momentum: float, cumulative, context, row, rows,
                       column, columns):
    """Let the running mean and variance follow those of the batch; see `track_moments`."""
    count, batch = ints(batches, 1)[0] + 1, ints(context, CONTEXT)[BATCH]
    barrier()
    if thread() == 0:
        ints(batches, 1)[0] = count
    share, unbiased, bad = momentum, real(batch) / real(batch - 1), 0
    if cumulative:
        share = 1.0 / real(count)
    for i in range(thread(), 2 * moments_cols, THREADS):
        kind, c = i // moments_cols, i % moments_cols
        running = reals((variance if kind else mean) + c * SIZE, 1)
        new = reals(pair(moments, c), PANEL + 1)[kind * PANEL] * select(kind == 1, unbiased, 1.0)
        value = fma(share, new - running[0], running[0])
        if finite(value):
            running[0] = value
        else:
            bad = 1
    return bad


def _batch_shape(attributes, x, moments):
    if len(x) != 2 or moments != (2, x[1]):
        raise ValueError(f"batch_norm needs x (batch, features) and moments (2, features); got {x} and {moments}")
    return x


def _moments_shape(attributes, x, *same):
    if len(x) != 2 or any(shape != x for shape in same):
        raise ValueError(f"moments need x (batch, features), {x}; got {same}")
    return (2, x[1])


def _statistics_shape(attributes, x, mean, variance):
    if len(x) != 2 or not mean == variance == x[1:]:
        raise ValueError(f"x {x} needs mean and variance of shape {x[1:]}; got {mean} and {variance}")
    return x


def _track_shape(attributes, moments, mean, variance, batches):
    if not mean == variance == moments[1:] or batches != ():
        raise ValueError(f"moments {moments} need running mean and variance {moments[1:]} and a count (); "
                         f"got {mean}, {variance}, {batches}")
    return ()


def _standardize_reference(attributes, x, mean, variance):
    return (x - mean) / np.sqrt(variance + attributes["eps"])


def _batch_norm_backward_reference(attributes, dy, y, moments, sums):
    return (dy - sums[0] - y * sums[1]) / np.sqrt(moments[1] + attributes["eps"])


def _track_reference(attributes, batch, moments, mean, variance, batches):
    batches = batches + 1
    share = 1 / batches if attributes["cumulative"] else attributes["momentum"]
    return (mean + share * (moments[0] - mean), variance + share * (moments[1] * batch / (batch - 1) - variance),
            batches)


def _batch_norm_gradient(graph, node, dy):
    sums = graph.apply("batch_norm_sums", dy, node)
    return graph.apply("batch_norm_backward", dy, node, node.inputs[1], sums, **node.attributes), None


_EPS = ({"eps": 1e-5}, {"eps": 0.1})
register(Op("batch_moments", _moments_shape, lambda attributes, x: np.stack([x.mean(0), x.var(0)]),
            cpu=batch_moments, phase="units", tolerance="row"))
register(Op("batch_norm", _batch_shape, lambda attributes, x, moments: _standardize_reference(attributes, x, *moments),
            _batch_norm_gradient, cpu=batch_norm, tolerance="row", cases=_EPS))
register(Op("standardize", _statistics_shape, _standardize_reference, cpu=standardize, tolerance="row", cases=_EPS))
register(Op("batch_norm_sums", _moments_shape, lambda attributes, dy, y: np.stack([dy.mean(0), (dy * y).mean(0)]),
            cpu=batch_norm_sums, phase="units", tolerance="row"))
register(Op("batch_norm_backward", lambda attributes, dy, y, moments, sums: _batch_shape(attributes, dy, moments),
            _batch_norm_backward_reference, cpu=batch_norm_backward, tolerance="row", cases=_EPS))
register(Op("track_moments", _track_shape, _track_reference, cpu=track_moments, phase="update", tolerance="row",
            cases=({"momentum": 0.1, "cumulative": False}, {"momentum": 0.0, "cumulative": True})))
