"""Layers: descriptions without arrays. A network gives them parameters, a graph gives them meaning."""

from dataclasses import dataclass, fields
from typing import ClassVar

from . import checks
from .initializers import INITIALIZERS
from .node import Node

LAYERS: dict[str, type] = {}  # name -> class: what a network can hold and a checkpoint can name


@dataclass(frozen=True, eq=False)
class Dense:
    """y = x W' + b (torch's Linear): weight (out_features, in_features), bias (out_features,).

    init: "torch" (uniform +-1/sqrt(in) for weight and bias, torch's default), or "he_uniform", "he_normal" (He et al.
    2015), "glorot_uniform", "glorot_normal" (Glorot and Bengio 2010), with zero bias. Raises TypeError or ValueError
    for sizes that are no positive integers and for unknown names.
    """

    in_features: int
    out_features: int
    bias: bool = True
    init: str = "torch"

    def __post_init__(self):
        """Check the arguments."""
        object.__setattr__(self, "in_features", checks.integer("in_features", self.in_features, 1))
        object.__setattr__(self, "out_features", checks.integer("out_features", self.out_features, 1))
        object.__setattr__(self, "bias", checks.switch("bias", self.bias))
        if not isinstance(self.init, str) or self.init not in INITIALIZERS:
            raise ValueError(f"unknown init {self.init!r}: choose one of {', '.join(INITIALIZERS)}")

    def parameters(self):
        """Names and shapes of the parameters, in torch's order."""
        shapes = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.bias else {})

    def apply(self, graph, x, prefix):
        """Append the layer to `graph`; its parameters are called `prefix.weight` and `prefix.bias`."""
        own = [graph.parameter(f"{prefix}.{name}", shape=shape) for name, shape in self.parameters().items()]
        return graph.apply("dense", x, *own, name=f"dense_{prefix}")


LAYERS["Dense"] = Dense


@dataclass(frozen=True, eq=False)
class Activation:
    """Base of layers without parameters that are one op of the table, named by `op`.

    A subclass is a layer as it stands: networks take it, checkpoints know it by its name. As a dataclass it has
    settings; these are numbers, the op's attributes, and are checked by `checks.number` with the field's metadata.
    """

    op: ClassVar[str]

    def __init_subclass__(cls, **options):
        """Enter the layer among those that networks take."""
        super().__init_subclass__(**options)
        LAYERS[cls.__name__] = cls

    def __post_init__(self):
        """Check the settings."""
        for setting in fields(self):
            value = checks.number(setting.name, getattr(self, setting.name), **setting.metadata)
            object.__setattr__(self, setting.name, value)

    def parameters(self):
        """No parameters."""
        return {}

    def apply(self, graph, x, prefix):
        """Append the activation to `graph`."""
        return graph.apply(self.op, x, name=f"{self.op}_{prefix}", **self.attributes())

    def __call__(self, x):
        """The activation of a node of a graph."""
        if not isinstance(x, Node):
            raise TypeError(f"{self!r} takes a node of a graph, or a place in a network; got {x!r}")
        return x.graph.apply(self.op, x, **self.attributes())

    def attributes(self):
        """The op's attributes."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}
