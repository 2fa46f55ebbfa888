"""Static graphs: nodes with an op, operands and a shape, checked when they are made."""

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from hotloop.kernels import OPS

Shape = tuple[int | None, ...]  # None is the batch dimension, always the first
SOURCES = ("input", "target", "labels", "weights", "parameter", "one")  # nodes without an op


@dataclass(frozen=True, eq=False)
class Node:
    """A value of the graph: what `op` makes of `inputs`. Nodes are compared by identity."""

    op: str
    inputs: tuple["Node", ...]
    attributes: dict[str, Any]
    shape: Shape
    name: str

    def __repr__(self):
        """The node as `name[shape]`, the batch as B."""
        return f"{self.name}[{', '.join('B' if size is None else str(size) for size in self.shape)}]"


@dataclass
class Graph:
    """Nodes in an order in which each follows its operands."""

    nodes: list[Node] = field(default_factory=list)

    def input(self, name, shape):
        """A value fed at every step, its first dimension the batch (None)."""
        return self._source("input", name, shape)

    def target(self, name, shape):
        """What the prediction is compared with: floating point, shape of the prediction."""
        return self._source("target", name, shape)

    def labels(self, name):
        """Class indices, int64, one for each row of the batch."""
        return self._source("labels", name, (None,))

    def weights(self, name):
        """Sample weights, floating point, one for each row of the batch."""
        return self._source("weights", name, (None,))

    def parameter(self, name, shape):
        """A trained value."""
        if any(size is None for size in shape):
            raise ValueError(f"parameter {name!r} needs a fixed shape, got {shape}: only inputs have a batch")
        return self._source("parameter", name, shape)

    def apply(self, op, *inputs, name=None, **attributes):
        """Add the node that `op` makes of `inputs`.

        Raises ValueError where the op is unknown, an operand belongs to another graph, or operands, attributes or
        shapes do not fit.
        """
        if op not in OPS:
            raise ValueError(f"unknown op {op!r}: the table has {', '.join(sorted(OPS))}")
        for node in inputs:
            if node not in self._members:
                raise ValueError(f"{op}: operand {node!r} is not a node of this graph")
        if attributes.keys() != OPS[op].cases[0].keys():
            raise ValueError(f"{op} takes the attributes {sorted(OPS[op].cases[0])}, got {sorted(attributes)}")
        rule, shapes = OPS[op].shape, [node.shape for node in inputs]
        try:
            signature(rule).bind(attributes, *shapes)
        except TypeError:
            needed = ", ".join(list(signature(rule).parameters)[1:])
            raise ValueError(f"{op} takes operands ({needed}), got {len(inputs)}: {inputs}") from None
        try:
            shape = rule(attributes, *shapes)
        except ValueError as error:
            raise ValueError(f"{op}({', '.join(map(repr, inputs))}): {error}") from None
        return self._add(Node(op, inputs, attributes, shape, self._free(name or op)))

    def _source(self, op, name, shape):
        if name in self._names:
            raise ValueError(f"the graph has a node {name!r} already: choose another name")
        return self._add(Node(op, (), {}, tuple(shape), name))

    def _add(self, node):
        self.nodes.append(node)
        self._members.add(node)
        self._names.add(node.name)
        return node

    def _free(self, name):
        if name not in self._names:
            return name
        number = 2
        while f"{name}_{number}" in self._names:
            number += 1
        return f"{name}_{number}"

    def __post_init__(self):
        """Index the nodes that the graph starts with."""
        self._members = set(self.nodes)
        self._names = {node.name for node in self.nodes}
