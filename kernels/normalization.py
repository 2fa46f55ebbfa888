"""Normalization along a row: layer norm and RMS norm; `batch_norm` goes along a column.

    layer norm (Ba et al. 2016, arXiv:1607.06450)          y = (x - mean x) / sqrt(var x + eps)
    RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)   y = x / sqrt(mean x^2 + eps)

Variances are biased, as in torch; `affine` scales and shifts afterwards. With s the factor that y is scaled by,

    dx = s (dy - mean dy - y mean(dy y)),   for RMS norm without mean dy.

Means are taken first, then the squares of what differs from them, in blocks: numbers far from zero lose nothing.
The kernels work in columns of the worker's scratch.
"""

import math

import numpy as np

from ._block import WARPS, add_warps, block_kernel, blocks, lane, spot, warp
from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._panels import add_columns, from_columns, group_rows, group_size, to_columns, whole
from ._primitives import DOUBLE, LANES, PANEL, SIZE, ints, real, reals
from .softmax import scale_columns


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

    def moments(given, cols, eps):
        """On CUDA, of the thread's row: its mean, 0 if it is not centred, and the factor that y is scaled by."""
        mean, total = real(0.0), real(0.0)
        if centred:
            for c in range(warp(), cols, WARPS):
                mean += given[c * PANEL + lane()]
            mean = add_warps(mean) / real(cols)
        for c in range(warp(), cols, WARPS):
            distance = given[c * PANEL + lane()] - mean
            total += distance * distance
        return mean, 1.0 / math.sqrt(add_warps(total) / real(cols) + machine_epsilon(eps))

    def forward_cuda(x, y, y_cols, eps: float, context, row, rows, column, columns):
        for block in blocks(row, rows):
            begin, count = spot(block, y_cols, 0) * SIZE, y_cols * PANEL
            given, target = reals(x + begin, count), reals(y + begin, count)
            mean, scale = moments(given, y_cols, eps)
            for c in range(warp(), y_cols, WARPS):
                target[c * PANEL + lane()] = (given[c * PANEL + lane()] - mean) * scale
        return 0

    def backward_cuda(dy, x, dx, dx_cols, eps: float, context, row, rows, column, columns):
        for block in blocks(row, rows):
            begin, count = spot(block, dx_cols, 0) * SIZE, dx_cols * PANEL
            ups, given, target = reals(dy + begin, count), reals(x + begin, count), reals(dx + begin, count)
            mean, scale = moments(given, dx_cols, eps)
            total, along = real(0.0), real(0.0)
            for c in range(warp(), dx_cols, WARPS):
                up = ups[c * PANEL + lane()]
                total += up
                along += up * ((given[c * PANEL + lane()] - mean) * scale)
            total, along = add_warps(total) / real(dx_cols), add_warps(along) / real(dx_cols)
            if not centred:
                total = real(0.0)
            for c in range(warp(), dx_cols, WARPS):
                y = (given[c * PANEL + lane()] - mean) * scale
                target[c * PANEL + lane()] = scale * (ups[c * PANEL + lane()] - total - y * along)
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
    block_kernel(forward, "y")(forward_cuda)
    block_kernel(backward, "dx")(backward_cuda)
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
