"""Ops on whole arrays: moving elements (broadcasting, transposing, slicing, joining), matrix products.

In a graph program an array lies flat, in C order. Everything that only moves elements is one kernel, `move`: a copy
between two strided views.
"""

from math import prod

import numpy as np

from ._block import THREADS, block_kernel, thread
from ._jit import kernel
from ._op import Op, linear, register
from ._primitives import SIZE, copy, ints, reals
from .shapes import broadcast, reshaped, text

DIMENSIONS = 3  # cells of `move` for each: size, stride of the source, stride of the target


@kernel
def move(x, y, views, dimensions, context, low, high):
    """y[view] = x[view], for indices [low, high) of the first dimension; `views` gives (size, x step, y step) of each.

    Steps count elements. The last dimension is the inner loop.
    """
    cells = ints(views, dimensions * DIMENSIONS)
    count = 1
    for place in range(1, dimensions - 1):
        count *= cells[place * DIMENSIONS]
    inner = (dimensions - 1) * DIMENSIONS
    size, x_step, y_step = cells[inner], cells[inner + 1], cells[inner + 2]
    for first in range(low, high):
        for number in range(count):
            source, target, rest = first * cells[1], first * cells[2], number
            for back in range(dimensions - 2):
                place = (dimensions - 2 - back) * DIMENSIONS
                index = rest % cells[place]
                rest //= cells[place]
                source += index * cells[place + 1]
                target += index * cells[place + 2]
            if x_step == 1 and y_step == 1:
                copy(y + target * SIZE, x + source * SIZE, size)
            elif x_step == 0 and y_step == 1:
                value, line = reals(x + source * SIZE, 1)[0], reals(y + target * SIZE, size)
                for i in range(size):
                    line[i] = value
            else:
                for i in range(size):
                    reals(y + (target + i * y_step) * SIZE, 1)[0] = reals(x + (source + i * x_step) * SIZE, 1)[0]
    return 0


@kernel
def clear(y, context, low, high):
    """Zero elements [low, high) of y."""
    line = reals(y + low * SIZE, high - low)
    for i in range(high - low):
        line[i] = 0.0
    return 0


# On CUDA the rows that are cut into rectangles are elements of what is moved, a column of them.

RUN = 4 * THREADS  # elements that a block moves


@block_kernel(move, "y", height=RUN, in_place=False)
def move_cuda(x, y, views, dimensions, context, row, rows, column, columns):
    """y[view] = x[view], for elements [row, row + rows) of the view; see `move`."""
    cells = ints(views, dimensions * DIMENSIONS)
    for number in range(row + thread(), row + rows, THREADS):
        source, target, rest = 0, 0, number
        for back in range(dimensions - 1):
            place = (dimensions - 1 - back) * DIMENSIONS
            index = rest % cells[place]
            rest //= cells[place]
            source += index * cells[place + 1]
            target += index * cells[place + 2]
        reals(y + (target + rest * cells[2]) * SIZE, 1)[0] = reals(x + (source + rest * cells[1]) * SIZE, 1)[0]
    return 0


@block_kernel(clear, "y", height=RUN)
def clear_cuda(y, context, row, rows, column, columns):
    """Zero elements [row, row + rows) of y."""
    line = reals(y + row * SIZE, rows)
    for i in range(thread(), rows, THREADS):
        line[i] = 0.0
    return 0


# Shape rules, references and gradients.


def _broadcast_shape(attributes, x):
    if broadcast(x, attributes["shape"]) != attributes["shape"]:
        raise ValueError(f"{x} does not broadcast to {attributes['shape']}")
    return attributes["shape"]


def _broadcast_gradient(graph, node, upstream):
    (x,) = node.inputs
    new = upstream.ndim - len(x.shape)
    repeated = tuple(axis for axis, size in enumerate(upstream.shape)
                     if axis < new or (x.shape[axis - new] == 1 and size != 1))
    return (upstream.sum(repeated).reshape(x.shape),)


register(Op("broadcast_to", _broadcast_shape, lambda attributes, x: np.broadcast_to(x, attributes["shape"]).copy(),
            _broadcast_gradient, tangent=linear, cases=({"shape": (4, 3)},)))


def _like(rule):
    """A gradient rule that gives the upstream gradient the operand's shape."""
    return lambda graph, node, upstream: (rule(upstream, node),)


register(Op("reshape", lambda attributes, x: reshaped(x, attributes["shape"]),
            lambda attributes, x: x.reshape(attributes["shape"]),
            _like(lambda up, node: up.reshape(node.inputs[0].shape)), tangent=linear, cases=({"shape": (2, 6)},)))


def _transpose_shape(attributes, x):
    if sorted(attributes["axes"]) != list(range(len(x))):
        raise ValueError(f"axes must be an order of {tuple(range(len(x)))}, got {attributes['axes']}")
    return tuple(x[axis] for axis in attributes["axes"])


register(Op("transpose", _transpose_shape, lambda attributes, x: np.ascontiguousarray(x.transpose(attributes["axes"])),
            _like(lambda up, node: up.transpose(tuple(np.argsort(node.attributes["axes"]).tolist()))),
            tangent=linear, cases=({"axes": (1, 0)},)))


def _view(attributes, array):
    """The part of an array that `slice` reads and `embed` writes."""
    part = array
    for axis, (start, step, size) in enumerate(zip(*(attributes[name] for name in ("starts", "steps", "sizes")),
                                                   strict=True)):
        chosen = slice(None) if size is None else start + step * np.arange(size)
        part = part[(slice(None),) * axis + (chosen,)]
    return part


def _embed(attributes, x):
    y = np.zeros(attributes["shape"], x.dtype)
    places = [np.arange(total) if size is None else start + step * np.arange(size)
              for start, step, size, total in zip(*(attributes[name] for name in ("starts", "steps", "sizes")), y.shape,
                                                  strict=True)]
    y[np.ix_(*places)] = x
    return y


def _part_shape(attributes, whole):
    """The shape of a part of an array, which must lie inside of it."""
    starts, steps, sizes = (attributes[name] for name in ("starts", "steps", "sizes"))
    for size, start, step, total in zip(sizes, starts, steps, whole, strict=True):
        if total is None:
            inside = (size, start, step) == (None, 0, 1)
        else:
            inside = size is not None and all(0 <= end < total for end in (start, start + step * (size - 1)) if size)
        if not inside:
            raise ValueError(f"{size} elements from {start} on in steps of {step} do not lie inside of {whole}")
    return sizes


def _embedded_shape(attributes, x):
    if _part_shape(attributes, attributes["shape"]) != x:
        raise ValueError(f"{x} must have the shape {attributes['sizes']} of the part that it becomes")
    return attributes["shape"]


_SLICE = {"starts": (1, 0), "steps": (1, 2), "sizes": (2, 2)}
register(Op("slice", _part_shape, lambda attributes, x: _view(attributes, x).copy(),
            lambda graph, node, up: (graph.apply("embed", up, shape=node.inputs[0].shape, **node.attributes),),
            tangent=linear, cases=(_SLICE,)))
register(Op("embed", _embedded_shape, _embed, lambda graph, node, up: (graph.apply(
    "slice", up, **{name: value for name, value in node.attributes.items() if name != "shape"}),),
    tangent=linear, cases=(_SLICE | {"shape": (4, 3)},)))


def _joined_shape(attributes, *shapes):
    axis = attributes["axis"]
    if not 0 <= axis < min(map(len, shapes)):
        raise ValueError(f"axis {axis} is outside the dimensions of {shapes}")
    rests = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    if len(rests) > 1 or any(shape[axis] is None for shape in shapes):
        raise ValueError(f"arrays joined along axis {axis}, never the batch, must agree in all others; got {shapes}")
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _joined_gradient(graph, node, upstream):
    axis, first, parts = node.attributes["axis"], 0, []
    for x in node.inputs:
        size = x.shape[axis]
        parts.append(upstream[(slice(None),) * axis + (slice(first, first + size),)])
        first += size
    return tuple(parts)


register(Op("concatenate", _joined_shape, lambda attributes, *arrays: np.concatenate(arrays, attributes["axis"]),
            _joined_gradient, tangent=linear, cases=({"axis": 1},)))


# Products: x of shape (stack, rows, inner) and y of shape (stack, inner, columns), where each of the four stands for
# any number of dimensions: attributes say how many there are of the stack and the inner ones. Their gradients are such
# products, too.


def _product_shape(attributes, x, y):
    stacked, inner = attributes["stacked"], len(x) - attributes["contracted"]
    rest = stacked + attributes["contracted"]
    if not 0 <= stacked <= inner < len(x) or (x[:stacked], x[inner:]) != (y[:stacked], y[stacked:rest]):
        raise ValueError(f"needs (..., m, k) and (..., k, n), {stacked} dimensions of stacks and {len(x) - inner} of k "
                         f"being equal, got {text(x)} and {text(y)}")
    return (*x[:inner], *y[rest:])


def product_sizes(attributes, x, y):
    """(stack, rows, inner, columns) as numbers of elements, for operands of the shapes x and y."""
    stacked, inner = attributes["stacked"], len(x) - attributes["contracted"]
    return prod(x[:stacked]), prod(x[stacked:inner]), prod(x[inner:]), prod(y[stacked + attributes["contracted"] :])


def _product(attributes, x, y):
    stack, rows, inner, columns = product_sizes(attributes, x.shape, y.shape)
    product = x.reshape(stack, rows, inner) @ y.reshape(stack, inner, columns)
    return product.reshape(_product_shape(attributes, x.shape, y.shape))


def _product_gradient(graph, node, upstream):
    """dx = upstream y^T, dy = x^T upstream, in each pair of the stacks."""
    (x, y), stacked = node.inputs, node.attributes["stacked"]
    inner = x.ndim - node.attributes["contracted"]
    rest = stacked + node.attributes["contracted"]
    return (graph.apply("matmul", upstream, _transposed(y, stacked, rest), stacked=stacked, contracted=y.ndim - rest),
            graph.apply("matmul", _transposed(x, stacked, inner), upstream, stacked=stacked,
                        contracted=inner - stacked))


def _transposed(node, stacked, middle):
    """`node` with its dimensions [stacked, middle) behind those from `middle` on."""
    return node.transpose(*range(stacked), *range(middle, node.ndim), *range(stacked, middle))


def _product_tangent(graph, node, tangents):
    (x, y), (dx, dy) = node.inputs, tangents
    parts = [graph.apply("matmul", *pair, **node.attributes) for pair in ((dx, y), (x, dy)) if None not in pair]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


register(Op("matmul", _product_shape, _product, _product_gradient, tangent=_product_tangent, tolerance="product",
            cases=({"stacked": 0, "contracted": 1}, {"stacked": 1, "contracted": 1}, {"stacked": 1, "contracted": 2})))
