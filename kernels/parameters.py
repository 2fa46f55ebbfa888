"""Parameter vectors: y = w x + b with a w and b for each feature, PReLU with trained slopes, and their gradients.

In the arena a vector is a run of whole panels; the numbers past its last are zero and stay so. The gradient of each is
a sum over the batch: a unit is one panel of columns, whose rows are added up in blocks, one order for any number of
threads, and handed to the optimizer. Where a vector is one number for all features, one unit adds up all panels.
"""

import numpy as np

from ._block import COLUMNS, THREADS, WARPS, add_lanes, add_threads, block_kernel, blocks, lane, spot, thread, warp
from ._context import BATCH, CONTEXT, GRADIENT, SCRATCH, ZEROS
from ._elementwise import SPAN
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, call, fma, ints, real, reals, select

_ROWS = 64  # that are added up by themselves before their sum joins the others


def update(chain, gradient, first, count, onto, context):
    """Let the optimizer `chain`, if there is one, update `count` elements from `first` on by their `gradient`.

    onto: the whole gradient as it is so far, to which this part is added first, or 0.
    """
    if onto:
        sums, parts = reals(onto + first * SIZE, count), reals(gradient, count)
        for i in range(count):
            sums[i] = sums[i] + parts[i]
        gradient = onto + first * SIZE
    if chain:
        ints(context, CONTEXT)[GRADIENT] = gradient - first * SIZE
        return call(ints(chain, 1)[0], chain, context, first, first + count)
    return 0


def summed(term):
    """A helper that adds up term(a, b) over rows of a panel: blocks of rows first, then block after block.

    It takes addresses a and b, b's rows `b_row` apart (0 repeats one), and leaves PANEL sums in `total`; `block` is
    scratch for as many.
    """
    def add(a, b, b_row, rows, total, block):
        totals, sums = reals(total, PANEL), reals(block, PANEL)
        for j in range(PANEL):
            totals[j] = 0.0
        for first in range(0, rows, _ROWS):
            for j in range(PANEL):
                sums[j] = 0.0
            for i in range(first, min(first + _ROWS, rows)):
                left, right = reals(a + i * PANEL * SIZE, PANEL), reals(b + i * b_row * SIZE, PANEL)
                for j in range(PANEL):
                    sums[j] = sums[j] + term(left[j], right[j])
            for j in range(PANEL):
                totals[j] = totals[j] + sums[j]

    return add


def vector_gradient(name, term, shape, reference):
    """Enter the gradient of a parameter vector: the sum over the batch of term(dy, x), features apart or together."""
    add = summed(term)

    def sums(dy, dy_panel, dy_panels, dy_cols, x, x_panel, w_first, w_cols, gradient, onto, chain, context,
             low, high):
        cells = ints(context, CONTEXT)
        batch, scratch = cells[BATCH], cells[SCRATCH]
        apart = w_cols == dy_cols
        status = 0
        for unit in range(low, high):
            begin = w_first + unit * PANEL
            target = gradient + begin * SIZE if gradient and not onto else scratch
            totals, parts = reals(target, PANEL), reals(scratch + PANEL * SIZE, PANEL)
            for j in range(PANEL):
                totals[j] = 0.0
            for panel in range(unit, unit + 1 if apart else dy_panels):
                add(dy + panel * dy_panel * SIZE, x + panel * x_panel * SIZE, PANEL, batch,
                    scratch + PANEL * SIZE, scratch + 2 * PANEL * SIZE)
                for j in range(min(PANEL, dy_cols - panel * PANEL)):
                    totals[j] = totals[j] + parts[j]
            if not apart:
                for j in range(1, PANEL):
                    totals[0] = totals[0] + totals[j]
                    totals[j] = 0.0
            status |= update(chain, target, begin, PANEL, onto, context)
        return status

    def sums_cuda(dy, dy_cols, x, w_first, w_cols, gradient, onto, context, row, rows, column, columns):
        batch = ints(context, CONTEXT)[BATCH]
        if w_cols == dy_cols:  # features apart, one a warp; what fills up the last panel is none
            for first in range(column, min(column + columns, dy_cols), WARPS):
                c, total = first + warp(), real(0.0)
                for block in blocks(0, batch):
                    if block * PANEL + lane() < batch and c < dy_cols:
                        place = (spot(block, dy_cols, c) + lane()) * SIZE
                        total += term(reals(dy + place, 1)[0], reals(x + place, 1)[0])
                total = add_lanes(total)
                if lane() == 0 and c < min(column + columns, dy_cols):
                    add_to(gradient + (w_first + c) * SIZE, total, onto)
            for c in range(max(column, dy_cols) + thread(), column + columns, THREADS):
                add_to(gradient + (w_first + c) * SIZE, 0.0, onto)
        else:
            total = real(0.0)
            for block in blocks(0, batch):
                count, begin = dy_cols * PANEL, spot(block, dy_cols, 0) * SIZE
                for i in range(thread(), count, THREADS):
                    if block * PANEL + lane() < batch:
                        total += term(reals(dy + begin, count)[i], reals(x + begin, count)[i])
            total = add_threads(total)
            for c in range(column + thread(), column + columns, THREADS):
                add_to(gradient + (w_first + c) * SIZE, select(c == 0, total, 0.0), onto)
        return 0

    sums.__name__ = sums.__qualname__ = name
    block_kernel(sums, "w", span=COLUMNS)(sums_cuda)
    register(Op(name, shape, reference, cpu=kernel(sums), phase="units", tolerance="product"))


def add_to(address, value, onto):
    """On CUDA, write a number, or add it to what is there."""
    target = reals(address, 1)
    if onto:
        value = target[0] + value
    target[0] = value


def product(dy, x):
    """The term of a scale's gradient."""
    return dy * x


def _first(dy, x):
    return dy


def _vector_shape(attributes, x, w, *b):
    if len(x) != 2 or any(vector != x[1:] for vector in (w, *b)):
        raise ValueError(f"affine of x (batch, features) {x} needs vectors of shape {x[1:]}; got {(w, *b)}")
    return x


@kernel
def affine(x, x_panel, w, b, y, y_panel, y_panels, context, low, high):
    """Y = X w + b for rows [low, high), w and b a number for each feature; without b it is zero. Y may be X."""
    zeros = ints(context, CONTEXT)[ZEROS]
    for panel in range(y_panels):
        scale = reals(w + panel * PANEL * SIZE, PANEL)
        shift = reals(b + panel * PANEL * SIZE if b else zeros, PANEL)
        for i in range(low, high):
            source = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                target[j] = fma(source[j], scale[j], shift[j])
    return 0


@block_kernel(affine, "y", span=SPAN)
def affine_cuda(x, w, b, y, y_cols, context, row, rows, column, columns):
    """Y = X w + b; Y may be X."""
    scales = reals(w + column * SIZE, columns)
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
        source, target = reals(x + begin, count), reals(y + begin, count)
        for i in range(thread(), count, THREADS):
            shift = real(0.0)
            if b:
                shift = reals(b + (column + i // PANEL) * SIZE, 1)[0]
            target[i] = fma(source[i], scales[i // PANEL], shift)
    return 0


def _affine_reference(attributes, x, w, b=0):
    return x * w + b


def _affine_gradient(graph, node, dy):
    x, w, *b = node.inputs
    return (graph.apply("affine", dy, w), graph.apply("affine_weight_gradient", dy, x),
            *[graph.apply("affine_bias_gradient", dy) for _ in b])


register(Op("affine", _vector_shape, _affine_reference, _affine_gradient, cpu=affine))
vector_gradient("affine_weight_gradient", product, lambda attributes, dy, x: dy[1:],
                lambda attributes, dy, x: (dy * x).sum(0))
vector_gradient("affine_bias_gradient", _first, lambda attributes, dy: dy[1:], lambda attributes, dy: dy.sum(0))

# PReLU (He et al. 2015, arXiv:1502.01852): y = x where x > 0, else w x, with one w for each feature or one for all.


def _slopes(w, w_cols, panel, row):
    """Address of a panel of slopes; one slope for all features is repeated in `row`."""
    if w_cols > 1:
        return w + panel * PANEL * SIZE
    slope, slopes = reals(w, 1)[0], reals(row, PANEL)
    for j in range(PANEL):
        slopes[j] = slope
    return row


@kernel
def prelu(x, x_panel, w, w_cols, y, y_panel, y_panels, context, low, high):
    """Y = X where X > 0, else w X, for rows [low, high); Y may be X."""
    row = ints(context, CONTEXT)[SCRATCH]
    for panel in range(y_panels):
        slopes = reals(_slopes(w, w_cols, panel, row), PANEL)
        for i in range(low, high):
            source = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                target[j] = source[j] * select(source[j] > 0.0, 1.0, slopes[j])
    return 0


@kernel
def prelu_backward(dy, dy_panel, x, x_panel, w, w_cols, dx, dx_panel, dx_panels, context, low, high):
    """dX = dY where X > 0, else w dY; dX may be dY."""
    row = ints(context, CONTEXT)[SCRATCH]
    for panel in range(dx_panels):
        slopes = reals(_slopes(w, w_cols, panel, row), PANEL)
        for i in range(low, high):
            up = reals(dy + (panel * dy_panel + i * PANEL) * SIZE, PANEL)
            saved = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(dx + (panel * dx_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                target[j] = up[j] * select(saved[j] > 0.0, 1.0, slopes[j])
    return 0


@block_kernel(prelu, "y", span=SPAN)
def prelu_cuda(x, w, w_cols, y, y_cols, context, row, rows, column, columns):
    """Y = X where X > 0, else w X; Y may be X."""
    slopes = reals(w, w_cols)
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
        source, target = reals(x + begin, count), reals(y + begin, count)
        for i in range(thread(), count, THREADS):
            slope = slopes[min(column + i // PANEL, w_cols - 1)]
            target[i] = source[i] * select(source[i] > 0.0, 1.0, slope)
    return 0


@block_kernel(prelu_backward, "dx", span=SPAN)
def prelu_backward_cuda(dy, x, w, w_cols, dx, dx_cols, context, row, rows, column, columns):
    """dX = dY where X > 0, else w dY; dX may be dY."""
    slopes = reals(w, w_cols)
    for block in blocks(row, rows):
        begin, count = spot(block, dx_cols, column) * SIZE, columns * PANEL
        ups, saved, target = reals(dy + begin, count), reals(x + begin, count), reals(dx + begin, count)
        for i in range(thread(), count, THREADS):
            slope = slopes[min(column + i // PANEL, w_cols - 1)]
            target[i] = ups[i] * select(saved[i] > 0.0, 1.0, slope)
    return 0


def _negative_product(dy, x):
    return select(x > 0.0, 0.0, dy * x)


def _prelu_shape(attributes, x, w):
    if len(x) != 2 or w not in ((1,), x[1:]):
        raise ValueError(f"prelu of x (batch, features) {x} needs a slope of shape (1,) or {x[1:]}; got {w}")
    return x


def _prelu_gradient(graph, node, dy):
    x, w = node.inputs
    return graph.apply("prelu_backward", dy, x, w), graph.apply("prelu_weight_gradient", dy, x, w)


def _prelu_weight_reference(attributes, dy, x, w):
    terms = np.where(x > 0, 0, dy * x)
    return terms.sum(0) if w.size == x.shape[1] else terms.sum().reshape(1)


register(Op("prelu", _prelu_shape, lambda attributes, x, w: np.where(x > 0, x, w * x), _prelu_gradient, cpu=prelu))
register(Op("prelu_backward", lambda attributes, dy, x, w: _prelu_shape(attributes, x, w),
            lambda attributes, dy, x, w: np.where(x > 0, dy, w * dy), cpu=prelu_backward))
vector_gradient("prelu_weight_gradient", _negative_product, lambda attributes, dy, x, w: w, _prelu_weight_reference)
