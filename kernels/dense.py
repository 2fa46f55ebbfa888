"""The dense layer: Y = X W + b, and its three gradients.

    Y[b, o]  = sum_i X[b, i] W[i, o] + bias[o]
    dX[b, i] = sum_o dY[b, o] W[i, o]
    dW[i, o] = sum_b X[b, i] dY[b, o],   dbias[o] = sum_b dY[b, o]

In the arena W lies in panels of PANEL output columns; a panel holds its I rows of PANEL values one after the other
and, as row I, the bias. One panel row is what the forward tile loads, a run of rows is what the gradient tile makes
and the optimizer updates, and a square of it, transposed in registers, is what the input gradient loads. X and Y lie
in panels of PANEL columns, too (see `gemm`). Columns past the last are zero in W, and stay so; those of X and dY may
hold anything: no element of a result is made of them, and the gradient's are set to zero.
"""

from ._context import BATCH, CONTEXT, SCRATCH, ZEROS
from ._jit import by_feature, kernel
from ._op import Op, register
from ._primitives import (
    BY_FEATURE,
    LANES,
    PANEL,
    SIZE,
    TILE,
    add_rows,
    call,
    copy,
    ints,
    prefetch,
    reals,
    transpose,
    widen,
)
from .dense_by_feature import (
    bias_gradient_by_feature,
    dense_forward_by_feature,
    dense_input_gradient_by_feature,
    unit_gradient_by_feature,
)
from .gemm import gemm, gemm_transposed
from .parameters import update

DENSE_GROUP = 4  # units that the optimizer takes at once
_FAR_BYTES = 512 * 1024  # of weights: see `far`
_NEAR_BYTES = 256 * 1024  # of X that meet all of dY before the next do


@kernel
def dense_forward(x, x_panel, x_cols, w, y, y_panel, y_cols, finish, chain, context, low, high):
    """Y = finish(X W + b) for rows [low, high), then the instruction `chain` (an activation) on the same rows."""
    size, ahead = (x_cols + 1) * PANEL, 0
    if far(x_cols, y_cols):
        ahead = w + size * SIZE
    gemm(x, x_panel, w, size, y, y_panel, w + x_cols * PANEL * SIZE, 0, size, finish, 0, 0, x_cols, y_cols,
         ints(context, CONTEXT)[SCRATCH], ahead, size, PANEL * PANEL, context, low, high)
    if chain:
        return call(ints(chain, 1)[0], chain, context, low, high)
    return 0


@kernel
def dense_input_gradient(dy, dy_panel, dy_cols, w, dx, dx_panel, dx_cols, dx_width, finish, mask, mask_panel, chain,
                         context, low, high):
    """dX = finish(dY W') for rows [low, high), then the instruction `chain` on the same rows."""
    for panel in range(-(-dx_width // PANEL)):
        input_gradient_panel(dy, dy_panel, dy_cols, w, dx, dx_panel, dx_cols, dx_width, finish, mask, mask_panel, panel,
                             context, low, high)
    if chain:
        return call(ints(chain, 1)[0], chain, context, low, high)
    return 0


@kernel
def input_gradient_panel(dy, dy_panel, dy_cols, w, dx, dx_panel, dx_cols, dx_width, finish, mask, mask_panel, panel,
                         context, low, high):
    """One panel of dX for rows [low, high).

    The panel of W' is made in the worker's scratch, dy_cols x PANEL, by transposing squares, and used for all rows.
    """
    cells = ints(context, CONTEXT)
    turned, zeros = cells[SCRATCH], cells[ZEROS]
    panel_size, first = (dx_cols + 1) * PANEL, panel * PANEL
    width, ahead = min(PANEL, dx_width - first), 0
    if far(dx_cols, dy_cols):
        ahead = w + (first + PANEL) * PANEL * SIZE
    if dy_cols == 1:  # to turn squares takes longer
        line, column = reals(turned, width), reals(w + first * PANEL * SIZE, width * PANEL)
        for i in range(width):
            line[i] = column[i * PANEL]
    else:
        for o in range(0, dy_cols, LANES):
            square = w + (o // PANEL * panel_size + first * PANEL + o % PANEL) * SIZE
            if o % PANEL == 0 and o + PANEL < dy_cols:  # to the next panel's rows no prefetcher leads
                for place in range(0, width * PANEL * SIZE, 64):
                    prefetch(square + panel_size * SIZE + place)
            for i in range(0, width, LANES):
                transpose(square + i * PANEL * SIZE, PANEL, turned + (o * PANEL + i) * SIZE, PANEL)
    if first + width > dx_cols:  # rows of the bias and of what follows were turned along
        for o in range(dy_cols):
            line = reals(turned + o * PANEL * SIZE, PANEL)
            for i in range(dx_cols - first, width):
                line[i] = 0.0
    gemm(dy, dy_panel, turned, 0, dx + panel * dx_panel * SIZE, 0, zeros, 0, 0, finish,
         mask + panel * mask_panel * SIZE, 0, dy_cols, min(width, dx_cols - first),
         turned + -(-dy_cols // LANES) * LANES * PANEL * SIZE, ahead, 0, panel_size, context, low, high)
    return 0


@kernel
def dense_parameter_gradient(x, x_panel, x_cols, dy, dy_panel, dy_cols, dy_width, w, w_first, bias, by_panel, gradient,
                             onto, chain, context, low, high):
    """dW and dbias for units [low, high), then the optimizer `chain` on their elements, group by group.

    A unit is PANEL rows of one panel of W; the last unit of a panel takes the bias row along. With `by_panel` all units
    of a panel follow each other; without, those of some rows do, so that little of X is read for them. The gradient of
    up to DENSE_GROUP units that follow each other is made in the worker's scratch. It goes to `gradient`, which is laid
    out as all parameters are, or, where that is 0, no further; it is added to what is there if that is `onto`, for
    parameters that are used several times. `w_first` is the place of this layer's first element among all parameters.
    """
    strips, status = dense_strips(x_cols), 0
    while low < high:
        panel, panels, stop = 0, -(-dy_cols // PANEL), high
        if by_panel:
            panel = low // strips
            panels = 1 if low % strips else max(1, (high - low) // strips)
            stop = min(high, (panel + panels) * strips)
        status |= _units(panel, panels, x, x_panel, x_cols, dy, dy_panel, dy_cols, dy_width, w_first, bias, gradient,
                         onto, chain, context, low - panel * strips, stop - panel * strips)
        low = stop
    return status


def _units(first_panel, panels, x, x_panel, x_cols, dy, dy_panel, dy_cols, dy_width, w_first, bias, gradient, onto,
           chain, context, low, high):
    """Units [low, high) of `panels` panels from `first_panel` on; see `dense_parameter_gradient`."""
    cells = ints(context, CONTEXT)
    batch, scratch = cells[BATCH], cells[SCRATCH]
    strips = dense_strips(x_cols)
    most = max(DENSE_GROUP, _NEAR_BYTES // (batch * PANEL * SIZE + 1) // DENSE_GROUP * DENSE_GROUP)
    status = 0
    unit = low
    while unit < high:
        first_strip = unit // (most * panels) * most
        near = min(most, strips - first_strip)
        spot = unit - first_strip * panels
        panel, strip = first_panel + spot // near, first_strip + spot % near
        group = min(DENSE_GROUP, first_strip + near - strip, high - unit)
        column, width = dy + panel * _distance(dy_panel) * SIZE, min(PANEL, dy_width - panel * PANEL)
        columns = min(PANEL, dy_cols - panel * PANEL)
        rows = min(group * PANEL, x_cols - strip * PANEL)
        for first in range(0, rows, PANEL):
            inputs = x + (strip * PANEL + first) // PANEL * _distance(x_panel) * SIZE
            target, height = scratch + first * PANEL * SIZE, min(PANEL, rows - first)
            if BY_FEATURE:
                unit_gradient_by_feature(inputs, x_cols, column, dy_cols, target, _square_room(context), batch, height,
                                         columns)
            else:
                _unit_gradient(inputs, column, target, batch, height, columns, context)
        if bias and strip + group == strips:
            target = scratch + rows * PANEL * SIZE
            if BY_FEATURE:
                bias_gradient_by_feature(cells[ZEROS] + PANEL * SIZE, column, dy_cols, target, batch, columns)
            else:
                add_rows(column, batch, width // LANES, target)
            rows += 1
        if columns < PANEL:
            for i in range(rows):
                widen(scratch + i * PANEL * SIZE, columns, scratch + i * PANEL * SIZE)
        begin = w_first + (panel * (x_cols + 1) + strip * PANEL) * PANEL
        place = scratch
        if gradient and not onto:
            place = gradient + begin * SIZE
            copy(place, scratch, rows * PANEL)
        status |= update(chain, place, begin, rows * PANEL, onto, context)
        unit += group
    return status


def _distance(panel):
    """Numbers from one panel of a buffer's columns to the next; by feature it is in the same block of rows."""
    if BY_FEATURE:
        return PANEL * PANEL
    return panel


def _unit_gradient(x, dy, target, batch, rows, columns, context):
    """`rows` x `columns` of dW; few columns as the transpose of dY' X, whose tiles are as wide as the unit is high.

    May write as many rows as fill the last vector.
    """
    zeros = ints(context, CONTEXT)[ZEROS]
    if rows > columns and (columns <= TILE or LANES < columns <= 2 * TILE):
        turned = _square_room(context)
        gemm_transposed(dy, x, turned, zeros, 0, batch, -(-rows // LANES), context, 0, columns)
        for i in range(0, rows, LANES):
            for j in range(0, columns, LANES):
                transpose(turned + (j * PANEL + i) * SIZE, PANEL, target + (i * PANEL + j) * SIZE, PANEL)
    else:
        gemm_transposed(x, dy, target, zeros, 0, batch, -(-columns // LANES), context, 0, rows)


def _square_room(context):
    """Where there is room for PANEL x PANEL numbers beside the gradient of a group."""
    return ints(context, CONTEXT)[SCRATCH] + dense_scratch(PANEL, LANES) * SIZE


def far(inputs, outputs):
    """Whether weights are so many that they are not in the second-level cache when they are read again."""
    return (inputs + 1) * outputs * SIZE >= _FAR_BYTES


def dense_scratch(panel, lanes):
    """Numbers that the gradient of a group takes: whole vectors of rows and the bias. A turned unit stands after it."""
    return (DENSE_GROUP * panel + lanes) * panel


def dense_strips(inputs):
    """Units of one panel of the parameter gradient."""
    return -(-inputs // PANEL)


def _dense_shape(attributes, x, w, *bias):
    if len(x) != 2 or len(w) != 2 or x[1] != w[1] or (bias and bias[0] != (w[0],)):
        raise ValueError(f"dense needs x (batch, in), weight (out, in), bias (out,); got {x}, {w}, {bias}")
    return (x[0], w[0])


def _dense_reference(attributes, x, w, *bias):
    y = x @ w.T
    return y + bias[0] if bias else y


def _dense_gradient(graph, node, dy):
    x, w, *bias = node.inputs
    return (graph.apply("dense_input_gradient", dy, w), graph.apply("dense_weight_gradient", x, dy),
            *[graph.apply("dense_bias_gradient", dy) for _ in bias])


dense_forward.by_feature, dense_input_gradient.by_feature = dense_forward_by_feature, dense_input_gradient_by_feature
by_feature(dense_parameter_gradient)
register(Op("dense", _dense_shape, _dense_reference, _dense_gradient, cpu=dense_forward, tolerance="product"))
register(Op("dense_input_gradient", lambda attributes, dy, w: (dy[0], w[1]), lambda attributes, dy, w: dy @ w,
            cpu=dense_input_gradient, tolerance="product"))
register(Op("dense_weight_gradient", lambda attributes, x, dy: (dy[1], x[1]), lambda attributes, x, dy: dy.T @ x,
            cpu=dense_parameter_gradient, tolerance="product"))
register(Op("dense_bias_gradient", lambda attributes, dy: (dy[1],), lambda attributes, dy: dy.sum(0),
            cpu=dense_parameter_gradient, tolerance="product"))
