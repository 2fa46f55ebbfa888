"""The op table: everything that a graph node can be, each declared once, in the file that holds its kernels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .shapes import Shape

OPS: dict[str, "Op"] = {}


@dataclass(frozen=True)
class Op:
    """One operation of the graph.

    name: what graphs, programs and error messages call it.
    shape: `(attributes, *input shapes) -> output shape`; raises ValueError with both shapes where they do not fit.
    reference: `(attributes, *arrays) -> array`, plain NumPy, sharing nothing with the kernels: it judges them, and
        it is what the numpy backend runs.
    gradient: `(graph, node, upstream) -> nodes`, one node or None for each input; None for an op without one.
    saves: "x" or "y", for an elementwise op whose backward op reads its input or its output.
    cpu: the CPU kernel, compiled by itself; None for an op that exists inside other kernels alone. Its operands come
        in the order of the node's: the inputs, then the result; attributes are known by their names.
    finish: how `gemm` applies the op to its registers (see there), where it can.
    phase: "rows" for a kernel that works on rows of the batch, "units" for one that works on panels of columns over
        the whole batch, "update" for one that changes statistics once a step's loss is known to be finite.
    states: names of an optimizer's state operands, each laid out as the parameters.
    tolerance: the row of the tests' tolerance table that its results are held to.
    cases: attributes that the tests try the op with; their names are those that the op takes.
    tangent: `(graph, node, tangents) -> node`, forward mode; a tangent is a node or None for zero. `linear` for an op
        that is linear in its operands together; None for elementwise ones, where it follows from `gradient`.
    arity: the number of operands of an elementwise op; 0 for others.
    wide: a kernel like `cpu` that the plan takes where rows have many columns (`_rows`).
    """

    name: str
    shape: Callable[..., Shape]
    reference: Callable[..., np.ndarray]
    gradient: Callable[..., tuple] | None = None
    saves: str | None = None
    cpu: Callable[..., int] | None = None
    finish: int | None = None
    phase: str = "rows"
    states: tuple[str, ...] = ()
    tolerance: str = "elementwise"
    cases: tuple[Mapping[str, Any], ...] = ({},)
    tangent: Callable[..., Any] | None = None
    arity: int = 0
    wide: Callable[..., int] | None = None


def register(op):
    """Enter `op` into the table; a name is taken once."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is in the table already: choose another name")
    OPS[op.name] = op
    return op


def linear(graph, node, tangents):
    """The forward-mode rule of linear ops: the op itself, of the tangents."""
    moved = [graph.constant(0.0).broadcast_to(operand.shape) if tangent is None else tangent
             for operand, tangent in zip(node.inputs, tangents, strict=True)]
    return graph.apply(node.op, *moved, **node.attributes)


def one_shape(attributes, x):
    """The shape rule of elementwise ops with one operand."""
    return x


def same_shape(attributes, x, y):
    """The shape rule of elementwise ops with two operands."""
    if x != y:
        raise ValueError(f"expected operands of one shape, got {x} and {y}")
    return x


def three_of_one_shape(attributes, x, y, z):
    """The shape rule of elementwise ops with three operands."""
    return same_shape(attributes, same_shape(attributes, x, y), z)
