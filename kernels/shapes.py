"""Shapes of graph nodes: tuples of sizes, None for the batch, which a program learns when it runs."""

import operator
from math import prod

Shape = tuple[int | None, ...]


def text(shape):
    """A shape as messages show it: [B, 3]."""
    return f"[{', '.join('B' if size is None else str(size) for size in shape)}]"


def concrete(shape, batch):
    """The shape with the batch's size in place of None."""
    return tuple(batch if size is None else size for size in shape)


def strides(shape):
    """Steps from an element to the next along each dimension of an array in C order."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def repeated(shape, whole):
    """Steps along the dimensions of `whole` through an array of `shape` that is broadcast to it, 0 where it repeats."""
    own = [step if size != 1 else 0 for size, step in zip(shape, strides(shape), strict=True)]
    return [0] * (len(whole) - len(shape)) + own


def part(starts, steps, whole):
    """Where a part of an array of the shape `whole` begins, and its steps, in elements; given by its indices."""
    distances = strides(whole)
    return (sum(start * distance for start, distance in zip(starts, distances, strict=True)),
            [step * distance for step, distance in zip(steps, distances, strict=True)])


def views(sizes, *steps):
    """The dimensions that two strided views have in common, as few as do: (size, step, step) of each, at least one."""
    merged: list[tuple[int, ...]] = []
    for size, *own in reversed(list(zip(sizes, *steps, strict=True))):
        if merged and all(step == merged[-1][0] * last for step, last in zip(own, merged[-1][1:], strict=True)):
            merged[-1] = (size * merged[-1][0], *merged[-1][1:])
        elif size != 1:
            merged.append((size, *own))
    return tuple(reversed(merged)) or ((1, *(1 for _ in steps)),)


def broadcast(*shapes):
    """The common shape of operands by NumPy's rule; ValueError where there is none."""
    length = max(map(len, shapes))
    result: list[int | None] = []
    for sizes in zip(*((1,) * (length - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        wanted = {size for size in sizes if size != 1} or {1}
        if len(wanted) > 1:
            raise ValueError(f"shapes {', '.join(map(text, shapes))} do not broadcast: sizes must be equal or 1")
        result.append(wanted.pop())
    return tuple(result)


def axes_of(shape, axis):
    """`axis`, an integer, several, or None for all, as a sorted tuple of axes of `shape`."""
    if axis is None:
        return tuple(range(len(shape)))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = []
    for one in given:
        place = operator.index(one)
        if not -len(shape) <= place < len(shape):
            raise ValueError(f"axis {place} is outside the {len(shape)} dimensions of {text(shape)}")
        axes.append(place % len(shape))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis {given} names a dimension of {text(shape)} twice")
    return tuple(sorted(axes))


def runs(axes):
    """Neighbouring axes as ranges (first, stop), the last ones first."""
    ranges: list[tuple[int, int]] = []
    for axis in reversed(axes):
        if ranges and ranges[-1][0] == axis + 1:
            ranges[-1] = (axis, ranges[-1][1])
        else:
            ranges.append((axis, axis + 1))
    return ranges


def reshaped(old, new):
    """`new`, where one size may be -1, as the shape of as many elements; ValueError where it cannot be."""
    new = tuple(None if size is None else operator.index(size) for size in new)
    if new.count(-1) == 1:
        rest = _fixed(size for size in new if size != -1)
        left = None if None in old and None not in new else _fixed(old) // max(rest, 1)
        new = tuple(left if size == -1 else size for size in new)
    if _fixed(new) != _fixed(old) or new.count(None) != old.count(None) or any(s is not None and s < 0 for s in new):
        raise ValueError(f"{text(old)} cannot be reshaped to {text(new)}: the number of elements must stay, and the "
                         "batch (None) must stay a dimension of its own")
    return new


def _fixed(shape):
    return prod(size for size in shape if size is not None)


def selection(shape, key):
    """What basic indexing by constants takes: starts, steps and sizes for each dimension, and the resulting shape.

    None among sizes is the whole batch. Raises TypeError for other than integers, slices, None and Ellipsis,
    IndexError outside the shape, ValueError for a part of the batch.
    """
    key = key if isinstance(key, tuple) else (key,)
    indexed = sum(part is not None and part is not Ellipsis for part in key)
    if indexed > len(shape) or sum(part is Ellipsis for part in key) > 1:
        raise IndexError(f"{key} has more indices than the {len(shape)} dimensions of {text(shape)}")
    filler = (slice(None),) * (len(shape) - indexed)
    place = next((i for i, part in enumerate(key) if part is Ellipsis), len(key))
    key = (*key[:place], *filler, *key[place + 1 :])
    starts, steps, sizes, result, axis = [], [], [], [], 0
    for part in key:
        if part is None:
            result.append(1)
            continue
        size = shape[axis]
        if size is None:
            if part != slice(None):
                raise ValueError(f"dimension {axis} of {text(shape)} is the batch: take all of it, with `:`")
            chosen, start, step = None, 0, 1
        elif isinstance(part, slice):
            start, stop, step = part.indices(size)
            chosen = len(range(start, stop, step))
        else:
            try:
                start, step, chosen = operator.index(part), 1, 1
            except TypeError:
                raise TypeError(f"index {part!r} of {text(shape)} must be an integer or a slice of constants") from None
            if not -size <= start < size:
                raise IndexError(f"index {start} is outside dimension {axis} of {text(shape)}")
            start %= size
        starts.append(start)
        steps.append(step)
        sizes.append(chosen)
        if isinstance(part, slice):
            result.append(chosen)
        axis += 1
    return tuple(starts), tuple(steps), tuple(sizes), tuple(result)
