"""Ops on whole arrays: moving elements (broadcasting, transposing, slicing, joining), reductions, matrix products.

In a graph program an array lies flat, in C order. Everything that only moves elements is one kernel, `move`: a copy
between two strided views.
"""

from math import inf, prod

import numpy as np

from ._block import THREADS, barrier, block_kernel, nears, thread
from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, linear, register
from ._primitives import LANES, PANEL, SIZE, add_rows, copy, ints, real, reals, select
from .shapes import broadcast, reshaped, text

DIMENSIONS = 3  # cells of `move` for each: size, stride of the source, stride of the target
CHUNK = 4096  # elements that one unit of a sum adds up


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


# Sums: elements are added in chunks of CHUNK, the chunks' sums in a next pass, so that neither accuracy nor bits depend
# on how the work is dealt out.


@kernel
def sum_chunks(x, y, length, inner, chunks, context, low, high):
    """y[o, c, j] = sum over chunk c of x[o, :, j]; units are pairs (o, c). x is (outer, length, inner)."""
    own = ints(context, CONTEXT)[SCRATCH]
    lanes = reals(own, PANEL)
    for unit in range(low, high):
        outer, first = unit // chunks, unit % chunks * CHUNK
        count = min(CHUNK, length - first)
        source = x + (outer * length + first) * inner * SIZE
        target = reals(y + unit * inner * SIZE, inner)
        if inner == 1:
            whole = count // PANEL
            add_rows(source, whole, PANEL // LANES, own)
            total = lanes[0]
            for i in range(1, PANEL):
                total = total + lanes[i]
            rest = reals(source, count)
            for i in range(whole * PANEL, count):
                total = total + rest[i]
            target[0] = total
        else:
            for j in range(inner):
                target[j] = 0.0
            for i in range(count):
                line = reals(source + i * inner * SIZE, inner)
                for j in range(inner):
                    target[j] = target[j] + line[j]
    return 0


@kernel
def max_forward(x, y, length, inner, context, low, high):
    """y[o, j] = the largest of x[o, :, j], NaN if there is one, for o in [low, high)."""
    for outer in range(low, high):
        target = reals(y + outer * inner * SIZE, inner)
        line = reals(x + outer * length * inner * SIZE, inner)
        for j in range(inner):
            target[j] = line[j]
        for i in range(1, length):
            line = reals(x + (outer * length + i) * inner * SIZE, inner)
            for j in range(inner):
                target[j] = select(line[j] > target[j], line[j], select(line[j] != line[j], line[j], target[j]))
    return 0


@kernel
def first_max(x, y, length, inner, context, low, high):
    """y[o, i, j] = 1 at the first i where x[o, :, j] is largest, else 0, for o in [low, high)."""
    for outer in range(low, high):
        for j in range(inner):
            best, place = reals(x + (outer * length * inner + j) * SIZE, 1)[0], 0
            for i in range(length):
                at = ((outer * length + i) * inner + j) * SIZE
                value = reals(x + at, 1)[0]
                reals(y + at, 1)[0] = 0.0
                if value > best or (value != value and best == best):
                    best, place = value, i
            reals(y + ((outer * length + place) * inner + j) * SIZE, 1)[0] = 1.0
    return 0


# On CUDA the rows that are cut into rectangles are elements of the result, or of what is moved, a column of them.

RUN = 4 * THREADS  # elements that a block moves
_TERMS = 16  # of a reduction that a thread takes, about


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


# A reduction has `depth` threads for each element of its result, a power of 2, and a rectangle is THREADS / depth
# elements: where there are many terms, or few, as many threads have something to do.


def depth_of(length):
    """Threads for each element of a reduction over so many terms, at most CHUNK."""
    depth = 1
    while depth < THREADS and depth * _TERMS < length:
        depth *= 2
    return depth


def _chunks_on_cuda(start, joined):
    """The kernel that reduces chunks of CHUNK terms, from `start` on; `joined` makes one number of two."""

    def chunks_cuda(x, y, length, inner, chunks, depth, context, row, rows, column, columns):
        shared, width = nears(0, THREADS), THREADS // depth
        place, turn = thread() % width, thread() // width
        if inner == 1:  # neighbouring threads read what lies together
            place, turn = thread() // depth, thread() % depth
        own, total = turn * width + place, real(start)
        if place < rows:
            unit, along = (row + place) // inner, (row + place) % inner
            first = unit % chunks * CHUNK
            source = x + ((unit // chunks * length + first) * inner + along) * SIZE
            for i in range(turn, min(CHUNK, length - first), depth):
                total = joined(total, reals(source + i * inner * SIZE, 1)[0])
        barrier()
        shared[own] = total
        half = depth // 2
        while half > 0:
            barrier()
            if turn < half:
                shared[own] = joined(shared[own], shared[own + half * width])
            half //= 2
        if turn == 0 and place < rows:
            reals(y + (row + place) * SIZE, 1)[0] = shared[own]
        return 0

    return chunks_cuda


def _sum_of_two(x, y):
    return x + y


def _larger_of_two(x, y):
    return select((y > x) | (y != y), y, x)


block_kernel(sum_chunks, "y", height=THREADS, in_place=False)(_chunks_on_cuda(0.0, _sum_of_two))
block_kernel(max_forward, "y", height=THREADS, in_place=False)(_chunks_on_cuda(-inf, _larger_of_two))


@block_kernel(first_max, "y", height=THREADS, near=2 * THREADS, in_place=False)
def first_max_cuda(x, y, length, inner, depth, context, row, rows, column, columns):
    """y[o, i, j] = 1 at the first i where x[o, :, j] is largest, else 0; each thread looks through a stretch of i."""
    tops, owners, width = nears(0, THREADS), nears(THREADS, THREADS), THREADS // depth
    place, turn = thread() % width, thread() // width
    own, stretch = turn * width + place, (length + depth - 1) // depth
    first, stop = turn * stretch, min((turn + 1) * stretch, length)
    begin = ((row + place) // inner * length * inner + (row + place) % inner) * SIZE
    best, top = first, real(-inf)
    if place < rows:
        for i in range(first, stop):
            at = begin + i * inner * SIZE
            value = reals(x + at, 1)[0]
            reals(y + at, 1)[0] = 0.0
            if value > top or (value != value and top == top):
                best, top = i, value
    barrier()
    tops[own], owners[own] = top, real(turn)
    half = depth // 2
    while half > 0:
        barrier()
        if turn < half:
            other = own + half * width
            value, held = tops[other], tops[own]
            same = value == held or (value != value and held != held)
            if value > held or (value != value and held == held) or (same and owners[other] < owners[own]):
                tops[own], owners[own] = value, owners[other]
        half //= 2
    barrier()
    if place < rows and owners[place] == real(turn):
        reals(y + begin + best * inner * SIZE, 1)[0] = 1.0
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


def _without(attributes, x):
    """The shape rule of reductions over the neighbouring axes `axes`, (first, stop)."""
    first, stop = attributes["axes"]
    if not 0 <= first < stop <= len(x):
        raise ValueError(f"axes {first} to {stop} are not among the dimensions of {x}")
    return x[:first] + x[stop:]


def _largest_shape(attributes, x):
    if 0 in x[slice(*attributes["axes"])]:
        raise ValueError(f"there is no largest of nothing: {x} has no elements along axes {attributes['axes']}")
    return _without(attributes, x)


def _spread(value, node):
    """A reduction's value or gradient, repeated over what was reduced."""
    (x,) = node.inputs
    first, stop = node.attributes["axes"]
    return value.reshape(x.shape[:first] + (1,) * (stop - first) + x.shape[stop:]).broadcast_to(x.shape)


_AXES = ({"axes": (0, 1)}, {"axes": (1, 2)}, {"axes": (0, 2)})
register(Op("sum", _without, lambda attributes, x: x.sum(tuple(range(*attributes["axes"]))), _like(_spread),
            tangent=linear, tolerance="row", cases=_AXES))


def _marks(attributes, x):
    first, stop = attributes["axes"]
    flat = x.reshape(*x.shape[:first], -1, *x.shape[stop:])
    places = np.expand_dims(flat.argmax(first), first)
    marks = np.zeros_like(flat)
    np.put_along_axis(marks, places, 1, first)
    return marks.reshape(x.shape)


def _max_gradient(graph, node, upstream):
    return (_spread(upstream, node) * graph.apply("first_max", *node.inputs, **node.attributes),)


def _max_tangent(graph, node, tangents):
    marks = graph.apply("first_max", *node.inputs, **node.attributes)
    return graph.apply("sum", tangents[0] * marks, **node.attributes)


register(Op("max", _largest_shape, lambda attributes, x: x.max(tuple(range(*attributes["axes"]))), _max_gradient,
            cpu=max_forward, tangent=_max_tangent, cases=_AXES))
register(Op("first_max", lambda attributes, x: x, _marks, lambda graph, node, up: (None,), cpu=first_max,
            tangent=lambda graph, node, tangents: None, cases=_AXES))
register(Op("count", lambda attributes, x: (), lambda attributes, x: np.asarray(
    np.prod([x.shape[axis] for axis in attributes["axes"]]), x.dtype), lambda graph, node, up: (None,),
    tangent=lambda graph, node, tangents: None, cases=({"axes": (0,)},)))


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
