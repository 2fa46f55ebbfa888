"""General ops within networks: what they make of the features of each row, lowered to kernels on panels."""

from math import prod

import numpy as np

from hotloop.kernels import OPS, features
from hotloop.kernels.activations import ACTIVATIONS
from hotloop.kernels.shapes import part, repeated, strides, views


def columns(node):
    """The features that a node of shape (batch, ...) has."""
    return prod(node.shape[1:])


def origin(node):
    """The node whose buffer this node's is: its own, but for reshapes."""
    while node.op == "reshape":
        node = node.inputs[0]
    return node


def constant(node):
    """The value of a node that is made of constants alone, in float64; None for others."""
    if node.op == "constant":
        return node.attributes["value"]
    if None in node.shape or not node.inputs or node.op not in OPS:
        return None
    if node.op == "count":
        sizes = [node.inputs[0].shape[axis] for axis in node.attributes["axes"]]
        return None if None in sizes else np.array(float(prod(sizes)))
    values = []
    for operand in reversed(node.inputs):  # the first one of a long sum is the deepest
        values.append(constant(operand))
        if values[-1] is None:
            return None
    with np.errstate(all="ignore"):
        return np.asarray(OPS[node.op].reference(node.attributes, *reversed(values)))


def check(node):
    """Refuse, with a ValueError, a node of a general graph that has no meaning for each row by itself."""
    if constant(node) is not None:
        return
    apart = node.shape[:1] == (None,) and all(operand.shape[:1] == (None,) or constant(operand) is not None
                                              for operand in node.inputs)
    if not (apart and known(node.op) and _keeps_rows(node)):
        raise ValueError(f"{node!r} = {node.op}({', '.join(map(repr, node.inputs))}): a network can hold layers, "
                         "elementwise ops, and what moves or reduces the features of each row; leave parameters and "
                         "products to layers, and compile the graph for other expressions")
    if not all(isinstance(size, int) and size > 0 for size in node.shape[1:]):
        raise ValueError(f"{node!r} has no features: a network needs one at least everywhere")


def known(op):
    """Whether networks can hold this op of general graphs."""
    return op in LOWERINGS or op == "reshape" or (op in OPS and OPS[op].arity > 0)


def _keeps_rows(node):
    """Whether the batch stays the first dimension and nothing is joined or reduced over it."""
    axes = node.attributes.get("axes")
    if node.op == "transpose":
        return axes[0] == 0
    return node.op not in ("sum", "max", "first_max") or axes[0] > 0


def general(node):
    """Whether `lower` knows the node's op, and it is none that layers have kernels for."""
    return node.op in LOWERINGS or (OPS[node.op].arity > 0 and node.op.removesuffix("_backward") not in ACTIVATIONS)


def lower(planner, node):
    """Let `planner` emit the instruction for a node of a general op."""
    check(node)
    if node.op in LOWERINGS:
        LOWERINGS[node.op](planner, node, *node.inputs)
    else:
        names = "xyz"[: len(node.inputs) + 1] if len(node.inputs) < 3 else "abcy"
        buffers = [*(planner.of(operand) for operand in node.inputs), planner.buffer(node)]
        planner.emit(node.op, OPS[node.op].cpu, "rows", [node], dict(zip(names, buffers, strict=True)), (names[-1],))


def _move(planner, node, x, sizes, x_steps, y_steps, x_first=0, y_first=0):
    table = views(sizes, x_steps, y_steps)
    planner.emit(node.op, features.move_features, "rows", [node], {
        "x": planner.of(x), "y": planner.buffer(node), "views": np.array(table, np.int64), "dimensions": len(table),
        "x_first": x_first, "y_first": y_first}, ("y",))


def _broadcast(planner, node, x):
    value = constant(x)
    if value is not None:
        numbers = np.zeros(planner.layout.panels(columns(node)) * planner.layout.panel, planner.layout.dtype)
        with np.errstate(over="ignore"):  # float32 has infinity for it
            numbers[: columns(node)] = np.broadcast_to(value, (1, *node.shape[1:])).ravel()
        planner.emit(node.op, features.fill_features, "rows", [node], {"values": numbers, "y": planner.buffer(node)},
                     ("y",))
        return
    _move(planner, node, x, node.shape[1:], repeated(x.shape[1:], node.shape[1:]), strides(node.shape[1:]))


def _transpose(planner, node, x):
    steps = strides(x.shape[1:])
    _move(planner, node, x, node.shape[1:], [steps[axis - 1] for axis in node.attributes["axes"][1:]],
          strides(node.shape[1:]))


def _slice(planner, node, x):
    first, steps = _part(node, x.shape)
    _move(planner, node, x, node.shape[1:], steps, strides(node.shape[1:]), x_first=first)


def _embed(planner, node, x):
    zeros = np.zeros(planner.layout.panels(columns(node)) * planner.layout.panel, planner.layout.dtype)
    planner.emit("zeros", features.fill_features, "rows", [], {"values": zeros, "y": planner.buffer(node)}, ("y",))
    first, steps = _part(node, node.shape)
    _move(planner, node, x, x.shape[1:], strides(x.shape[1:]), steps, y_first=first)


def _part(node, shape):
    """Where a slice of the features of this shape begins, and its steps."""
    return part(node.attributes["starts"][1:], node.attributes["steps"][1:], shape[1:])


def _concatenate(planner, node, *parts):
    axis, first, steps = node.attributes["axis"], 0, strides(node.shape[1:])
    for x in parts:
        _move(planner, node, x, x.shape[1:], strides(x.shape[1:]), steps, y_first=first * steps[axis - 1])
        first += x.shape[axis]


def _reduce(planner, node, x):
    first, stop = node.attributes["axes"]
    planner.work_on_rows(columns(x))
    operands = {"x": planner.of(x), "y": planner.buffer(node), "inner": prod(x.shape[stop:])}
    if node.op == "first_max":
        operands["length"] = prod(x.shape[first:stop])
    planner.emit(node.op, _REDUCTIONS[node.op], "rows", [node], operands, ("y",))


_REDUCTIONS = {"sum": features.sum_features, "max": features.max_features, "first_max": features.first_max_features}
LOWERINGS = {"broadcast_to": _broadcast, "transpose": _transpose, "slice": _slice, "embed": _embed,
             "concatenate": _concatenate} | dict.fromkeys(_REDUCTIONS, _reduce)
