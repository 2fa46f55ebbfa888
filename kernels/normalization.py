"""Normalization: layer norm and RMS norm along a row, batch norm along a column.

    layer norm (Ba et al. 2016, arXiv:1607.06450)          y = (x - mean x) / sqrt(var x + eps)
    RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)   y = x / sqrt(mean x^2 + eps)
    batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167)  layer norm's formula over the batch, for each feature

Variances are biased, as in torch; `affine` scales and shifts afterwards. With s the factor that y is scaled by,

    dx = s (dy - mean dy - y mean(dy y)),   for RMS norm without mean dy.

Means are taken first, then the squares of what differs from them, in blocks: numbers far from zero lose nothing.
Along rows the kernels work in columns of the worker's scratch. Along columns the moments are a phase of their own, in
which a unit is one panel of columns, all rows of it.
"""

import math

import numpy as np

from ._context import BATCH, CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import add_columns, from_columns, group_rows, group_size, to_columns, whole
from ._primitives import DOUBLE, LANES, PANEL, SIZE, finite, fma, ints, real, reals, select
from .parameters import product, summed
from .softmax import scale_columns

# Along rows


def _row_norm(name, centred, mean_square):
    """Enter a norm over each row; `centred` subtracts the mean. `mean_square`, NumPy: x -> (x centred, mean square)."""

    def normalize(z, squares, group, columns, rows, eps, scale, block):
        """z -> y in place, and what y was scaled by; `squares` and `block` are scratch."""
        lines = whole(rows)
        scales, width = reals(scale, lines), real(columns)
        if centred:
            add_columns(z, group, columns, rows, scale, block)
            for c in range(columns):
                column = reals(z + c * group * SIZE, lines)
                for i in range(lines):
                    column[i] = column[i] - scales[i] / width
        multiply_columns(z, z, squares, group, columns, rows)
        add_columns(squares, group, columns, rows, scale, block)
        floor = machine_epsilon(eps)
        for i in range(lines):
            scales[i] = 1.0 / math.sqrt(scales[i] / width + floor)
        scale_columns(z, group, columns, rows, scale)

    def forward(x, x_panel, y, y_panel, y_cols, eps: float, context, low, high):
        z = ints(context, CONTEXT)[SCRATCH]
        group, size = group_rows(y_cols, LANES, SIZE), group_size(y_cols, LANES, SIZE)
        squares, scale, block = z + size * SIZE, z + 2 * size * SIZE, z + (2 * size + group) * SIZE
        for first in range(low, high, group):
            count, row = min(group, high - first), first * PANEL * SIZE
            to_columns(x + row, x_panel, y_cols, z, group, context, 0, count)
            normalize(z, squares, group, y_cols, count, eps, scale, block)
            from_columns(z, group, y_cols, y + row, y_panel, context, 0, count)
        return 0

    def backward(dy, dy_panel, x, x_panel, dx, dx_panel, dx_cols, eps: float, context, low, high):
        up = ints(context, CONTEXT)[SCRATCH]
        group, size = group_rows(dx_cols, LANES, SIZE), group_size(dx_cols, LANES, SIZE)
        kept, products, scale = up + size * SIZE, up + 2 * size * SIZE, up + 3 * size * SIZE
        mean, along, block = scale + group * SIZE, scale + 2 * group * SIZE, scale + 3 * group * SIZE
        for first in range(low, high, group):
            count, row = min(group, high - first), first * PANEL * SIZE
            lines = whole(count)
            to_columns(dy + row, dy_panel, dx_cols, up, group, context, 0, count)
            to_columns(x + row, x_panel, dx_cols, kept, group, context, 0, count)
            normalize(kept, products, group, dx_cols, count, eps, scale, block)
            multiply_columns(up, kept, products, group, dx_cols, count)
            add_columns(products, group, dx_cols, count, along, block)
            add_columns(up, group, dx_cols, count, mean, block)
            scales, means, alongs = reals(scale, lines), reals(mean, lines), reals(along, lines)
            width = real(dx_cols)
            for i in range(lines):
                means[i] = means[i] / width if centred else 0.0
                alongs[i] = alongs[i] / width
            for c in range(dx_cols):
                ups, ys = reals(up + c * group * SIZE, lines), reals(kept + c * group * SIZE, lines)
                for i in range(lines):
                    ups[i] = scales[i] * (ups[i] - means[i] - ys[i] * alongs[i])
            from_columns(up, group, dx_cols, dx + row, dx_panel, context, 0, count)
        return 0

    def evaluate(attributes, x):
        centred_x, square = mean_square(x)
        return centred_x / np.sqrt(square + _numpy_eps(attributes, x))

    def evaluate_backward(attributes, dy, x):
        centred_x, square = mean_square(x)
        root = np.sqrt(square + _numpy_eps(attributes, x))
        slope = dy - centred_x * (dy * centred_x).mean(-1, keepdims=True) / root**2
        return (slope - slope.mean(-1, keepdims=True) if centred else slope) / root

    def gradient(graph, node, dy):
        return (graph.apply(f"{name}_backward", dy, node.inputs[0], **node.attributes),)

    forward.__name__ = forward.__qualname__ = name
    backward.__name__ = backward.__qualname__ = f"{name}_backward"
    cases = ({"eps": 1e-5}, {"eps": 0.1})
    register(Op(name, one_shape, evaluate, gradient, "x", kernel(forward), tolerance="row", cases=cases))
    register(Op(f"{name}_backward", same_shape, evaluate_backward, None, "x", kernel(backward), tolerance="row",
                cases=cases))


def multiply_columns(a, b, y, stride, columns, rows):
    """y[c, i] = a[c, i] b[c, i]; y may be a or b."""
    lines = whole(rows)
    for c in range(columns):
        left, right = reals(a + c * stride * SIZE, lines), reals(b + c * stride * SIZE, lines)
        target = reals(y + c * stride * SIZE, lines)
        for i in range(lines):
            target[i] = left[i] * right[i]


def machine_epsilon(eps):
    """`eps`, or where that is 0 the distance of 1 from the next number of the type."""
    least = 2.220446049250313e-16 if DOUBLE else 1.1920928955078125e-07
    return real(eps) if eps > 0.0 else least


def _numpy_eps(attributes, x):
    return attributes["eps"] or np.finfo(x.dtype).eps


def _about_mean(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred, (centred**2).mean(-1, keepdims=True)


_row_norm("layer_norm", True, _about_mean)
_row_norm("rms_norm", False, lambda x: (x, (x**2).mean(-1, keepdims=True)))

# Along columns. Moments are two rows of panels, mean and biased variance; so are the sums of the backward pass.


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
