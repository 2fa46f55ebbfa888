"""Reductions of whole arrays: sums and largest elements.

An array of a graph program, flat in C order, is (outer, length, inner) to the kernels, which reduce over `length`.
"""

from math import inf

import numpy as np

from ._block import THREADS, barrier, block_kernel, nears, thread
from ._context import CONTEXT, SCRATCH
from ._jit import kernel
from ._op import Op, linear, register
from ._primitives import LANES, PANEL, SIZE, add_rows, ints, real, reals, select

CHUNK = 4096  # elements that one unit of a sum adds up
_TERMS = 16  # that a thread of a CUDA block takes, about

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


# On CUDA the rows that are cut into rectangles are elements of the result.

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
register(Op("sum", _without, lambda attributes, x: x.sum(tuple(range(*attributes["axes"]))),
            lambda graph, node, up: (_spread(up, node),), tangent=linear, tolerance="row", cases=_AXES))


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
