"""Nodes of a graph: values with a shape, to which Python's operators apply."""
# ruff: noqa: D105  what the operators mean, the class says

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels.shapes import Shape, axes_of, reshaped, runs, selection, text

if TYPE_CHECKING:
    from .graph import Graph


@dataclass(frozen=True, eq=False)
class Node:
    """A value of the graph: what `op` makes of `inputs`. Nodes are compared by identity.

    Arithmetic (+ - * / ** @), comparisons (< <= > >=: 1 where they hold, else 0; & and | of them), NumPy's ufuncs, and
    indexing by constants make new nodes. Operands that are numbers or arrays become constants; shapes are broadcast as
    in NumPy.
    """

    op: str
    inputs: tuple["Node", ...]
    attributes: dict[str, Any]
    shape: Shape
    name: str
    graph: "Graph" = field(repr=False)

    def __repr__(self):
        """The node as `name[shape]`, the batch as B."""
        return f"{self.name}{text(self.shape)}"

    @property
    def definition(self):
        """What the node is made of: `op(operands, settings)`; of what is made of nothing the op alone."""
        settings = [f"{name}={value}" for name, value in self.attributes.items()]
        made = f"({', '.join([*(operand.name for operand in self.inputs), *settings])})"
        return self.op + (made if self.inputs else "")

    def __reduce__(self):
        """A node is pickled as a name in its graph."""
        return operator.getitem, (self.graph, self.name)

    def __add__(self, other):
        return self.graph.elementwise("add", self, other)

    def __radd__(self, other):
        return self.graph.elementwise("add", other, self)

    def __sub__(self, other):
        return self.graph.elementwise("subtract", self, other)

    def __rsub__(self, other):
        return self.graph.elementwise("subtract", other, self)

    def __mul__(self, other):
        return self.graph.elementwise("multiply", self, other)

    def __rmul__(self, other):
        return self.graph.elementwise("multiply", other, self)

    def __truediv__(self, other):
        return self.graph.elementwise("divide", self, other)

    def __rtruediv__(self, other):
        return self.graph.elementwise("divide", other, self)

    def __pow__(self, other):
        if isinstance(other, int | float) and other in _POWERS:
            return self.graph.elementwise(_POWERS[other], self)
        return self.graph.elementwise("power", self, other)

    def __rpow__(self, other):
        return self.graph.elementwise("power", other, self)

    def __matmul__(self, other):
        return self.graph.matmul(self, other)

    def __rmatmul__(self, other):
        return self.graph.matmul(other, self)

    def __neg__(self):
        return self.graph.elementwise("negative", self)

    def __abs__(self):
        return self.graph.elementwise("absolute", self)

    def __gt__(self, other):
        return self.graph.elementwise("greater", self, other)

    def __ge__(self, other):
        return self.graph.elementwise("greater_equal", self, other)

    def __lt__(self, other):
        return self.graph.elementwise("greater", other, self)

    def __le__(self, other):
        return self.graph.elementwise("greater_equal", other, self)

    def __and__(self, other):
        return self.graph.elementwise("multiply", self, other)

    def __or__(self, other):
        return self.graph.elementwise("maximum", self, other)

    @property
    def ndim(self):
        """Number of dimensions."""
        return len(self.shape)

    @property
    def T(self):
        """The node with its dimensions in reverse order."""
        return self.transpose()

    def transpose(self, *axes):
        """The node with its dimensions in the order `axes`, reversed by default; -1 is the last."""
        order = tuple(axis + self.ndim if -self.ndim <= axis < 0 else axis for axis in _flat(axes))
        return self.graph.apply("transpose", self, axes=order or tuple(reversed(range(self.ndim))))

    def reshape(self, *shape):
        """The elements in another shape, of which one size may be -1. The batch (None) stays a dimension of its own."""
        new = reshaped(self.shape, _flat(shape))
        return self if new == self.shape else self.graph.apply("reshape", self, shape=new)

    def broadcast_to(self, shape):
        """The node repeated along its dimensions of size 1, and new first ones, to `shape`."""
        return self if self.shape == tuple(shape) else self.graph.apply("broadcast_to", self, shape=tuple(shape))

    def sum(self, axis=None, keepdims=False):
        """The sum over one axis, several, or all (None)."""
        return self._reduce("sum", axis, keepdims)

    def max(self, axis=None, keepdims=False):
        """The largest along one axis, several, or all (None); the first of equal ones gets the gradient."""
        return self._reduce("max", axis, keepdims)

    def min(self, axis=None, keepdims=False):
        """The smallest along one axis, several, or all (None); the first of equal ones gets the gradient."""
        return -(-self).max(axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        """The mean over one axis, several, or all (None)."""
        count = self.graph.apply("count", self, axes=axes_of(self.shape, axis))
        return self.sum(axis, keepdims) / count

    def _reduce(self, op, axis, keepdims):
        axes, value = axes_of(self.shape, axis), self
        for run in runs(axes):
            value = self.graph.apply(op, value, axes=run)
        kept = tuple(1 if place in axes else size for place, size in enumerate(self.shape))
        return value.reshape(kept) if keepdims else value

    def __getitem__(self, key):
        starts, steps, sizes, shape = selection(self.shape, key)
        return self.graph.apply("slice", self, starts=starts, steps=steps, sizes=sizes).reshape(shape)

    def depends_on(self, other):
        """Whether `other` is this node or stands on a way to it."""
        reached, todo = set(), [self]
        while todo:
            node = todo.pop()
            if node is other:
                return True
            todo += [operand for operand in node.inputs if operand not in reached]
            reached.update(node.inputs)
        return False

    __iter__ = None  # Python would try indices until one fails

    def __bool__(self):
        raise TypeError(f"{self!r} has no value before its program runs: use where(condition, yes, no) for a choice")

    def __array__(self, *arguments, **options):
        raise TypeError(f"{self!r} has no value before its program runs: compile the graph, call the program")

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f"numpy.{function.__name__} does not take nodes: use their methods, or hotloop's functions")

    def __array_ufunc__(self, ufunc, method, *operands, **options):
        name = ufunc.__name__
        if ufunc is np.matmul and method == "__call__" and not options:
            return self.graph.matmul(*operands)
        if ufunc in (np.less, np.less_equal):
            name, operands = name.replace("less", "greater"), operands[::-1]
        if method != "__call__" or options or name not in OPS or OPS[name].arity != len(operands):
            raise TypeError(f"numpy.{ufunc.__name__} is no op of graphs: the table has "
                            f"{', '.join(sorted(name for name, op in OPS.items() if op.arity))}")
        return self.graph.elementwise(name, *operands)


_POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal"}  # exact and quick where the power is not


def _flat(sizes):
    """The sizes or axes of a call that takes them one by one or as one tuple."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else tuple(sizes)
