"""Layers: descriptions without arrays. A network gives them parameters, a graph gives them meaning."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from . import checks
from .functions import sigmoid, where
from .initializers import INITIALIZERS, initialize
from .node import Node

LAYERS: dict[str, type] = {}  # name -> class: what a network can hold and a checkpoint can name


class Layer:
    """Base of all layers: what a network asks of one. A subclass is entered into LAYERS under its name.

    `pool` is the number of features that become one; where a layer's sizes are not fixed, it takes any multiple of it.
    """

    pool = 1

    def __init_subclass__(cls, abstract=False, **options):
        """Enter the layer among those that networks take, unless it is `abstract`, a base of others."""
        super().__init_subclass__(**options)
        if not abstract:
            LAYERS[cls.__name__] = cls

    def parameters(self):
        """Names and shapes of what is trained, in torch's order."""
        return {}

    def statistics(self):
        """Names and shapes of what lasts but is not trained (torch's buffers), in torch's order; () is a count."""
        return {}

    def initialize(self, generator):
        """Yield (name, first row, rows) until all parameters and statistics have their initial values."""
        return ()

    def sizes(self):
        """Features that the layer takes and gives, or None where it takes what comes."""
        return None

    def least_rows(self, training):
        """Rows that a batch must have."""
        return 1

    def sources(self, graph, prefix):
        """The nodes of parameters and statistics in `graph`, by name; made as `prefix.name` at the first call."""
        return {name: graph.lasting(op, f"{prefix}.{name}", shape)
                for op, shapes in (("parameter", self.parameters()), ("statistic", self.statistics()))
                for name, shape in shapes.items()}

    def __call__(self, x, name=None):
        """What the layer makes of a node x of a graph; called again, it uses the same parameters.

        name: what they are called after, `name.weight`; by default the layer's number in the graph. Raises TypeError
        where x is no node, ValueError where its features do not fit.
        """
        if not isinstance(x, Node):
            raise TypeError(f"{self!r} takes a node of a graph, or a place in a network; got {x!r}")
        return x.graph.call(self, x, name)

    def formula(self, x, **sources):
        """What the layer makes of a node, in ops that every program takes; None if that differs in training and use.

        Compiled graphs run it. Networks do, too, for a layer without parameters; one with parameters has `apply`.
        """
        return None

    def apply(self, graph, x, prefix, training=False):
        """Append to `graph` what the layer makes of x, in training or in use; by default the formula, of x alone."""
        if self.parameters():
            raise NotImplementedError(f"{type(self).__name__} has parameters, so networks need its method apply(graph, "
                                      "x, prefix, training), of ops that train them: dense, affine or prelu")
        made = self.formula(x, **self.sources(graph, prefix))
        if made is None:
            raise NotImplementedError(f"{type(self).__name__} needs a method apply(graph, x, prefix, training), or "
                                      "formula(x, **sources)")
        return made


@dataclass(frozen=True, eq=False)
class Dense(Layer):
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

    def initialize(self, generator):
        """As `init` says."""
        return initialize(generator, self.init, self.parameters())

    def sizes(self):
        """The two sizes."""
        return self.in_features, self.out_features

    def formula(self, x, weight, bias=None):
        """A matrix product."""
        y = x @ weight.T
        return y if bias is None else y + bias

    def apply(self, graph, x, prefix, training=False):
        """Append the layer to `graph`; its parameters are called `prefix.weight` and `prefix.bias`."""
        return graph.apply("dense", x, *self.sources(graph, prefix).values(), name=f"dense_{prefix}")


@dataclass(frozen=True, eq=False)
class _OneOp(Layer, abstract=True):
    """Layers without parameters that are one op of the table, named by `op`; their settings are the op's attributes."""

    op: ClassVar[str]

    def apply(self, graph, x, prefix, training=False):
        """Append the activation to `graph`."""
        return graph.apply(self.op, x, name=f"{self.op}_{prefix}", **self.attributes())

    def formula(self, x):
        """The op itself."""
        return x.graph.apply(self.op, x, **self.attributes())

    def attributes(self):
        """The op's attributes."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}


@dataclass(frozen=True, eq=False)
class AlongFeatures(_OneOp, abstract=True):
    """Base of layers that work along the features of each row: `dim`, as torch has it, can only be -1 or 1."""

    dim: int = -1

    def __post_init__(self):
        """Check the dimension."""
        if checks.integer("dim", self.dim, -1, 1) == 0:
            raise ValueError("dim must be -1 or 1, the features, got 0: rows are examples, computed by themselves")
        object.__setattr__(self, "dim", -1)

    def attributes(self):
        """None: rows are what ops work on."""
        return {}


@dataclass(frozen=True, eq=False)
class Activation(_OneOp, abstract=True):
    """Base of layers that make one number of each: one op of the table, named by `op`.

    A subclass is a layer as it stands: networks take it, checkpoints know it by its name. As a dataclass it has
    settings; these are numbers, the op's attributes, and are checked by `checks.number` with the field's metadata.
    """

    def __post_init__(self):
        """Check the settings."""
        for setting in fields(self):
            value = checks.number(setting.name, getattr(self, setting.name), **setting.metadata)
            object.__setattr__(self, setting.name, value)


@dataclass(frozen=True, eq=False)
class PReLU(Layer):
    """y = x where x > 0, else weight * x, with a trained weight (He et al. 2015); the slope at 0 is the weight.

    num_parameters: 1 for one weight for all features, else their number. init: the weight at first.
    """

    num_parameters: int = 1
    init: float = 0.25

    def __post_init__(self):
        """Check the arguments."""
        object.__setattr__(self, "num_parameters", checks.integer("num_parameters", self.num_parameters, 1))
        object.__setattr__(self, "init", checks.number("init", self.init))

    def parameters(self):
        """The weight."""
        return {"weight": (self.num_parameters,)}

    def initialize(self, generator):
        """All weights are `init`."""
        yield "weight", 0, np.full(self.num_parameters, self.init)

    def sizes(self):
        """One weight is for any number of features."""
        return None if self.num_parameters == 1 else (self.num_parameters, self.num_parameters)

    def formula(self, x, weight):
        """As it says."""
        return where(x > 0, x, weight * x)

    def apply(self, graph, x, prefix, training=False):
        """Append the activation to `graph`."""
        return graph.apply("prelu", x, *self.sources(graph, prefix).values(), name=f"prelu_{prefix}")


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """In training, each number is set to zero with probability p, else divided by 1 - p (Srivastava et al. 2014).

    In use, `predict` and `evaluate`, y = x. What is dropped is a function of the trainer's seed, the number of the
    update, and the places of layer, row in the batch and column: the same on every backend and for any number of
    threads. p: in [0, 1); torch takes 1, too, where nothing is left to train.
    """

    p: float = 0.5

    def __post_init__(self):
        """Check the probability."""
        object.__setattr__(self, "p", checks.number("p", self.p, 0, below=1))

    def apply(self, graph, x, prefix, training=False):
        """Append the op to `graph`, or, in use, nothing."""
        if not training:
            return x
        return graph.apply("dropout", x, graph.key(), p=self.p, place=len(graph.nodes), name=f"dropout_{prefix}")


@dataclass(frozen=True, eq=False)
class GLU(AlongFeatures):
    """y = a sigmoid(b), where a and b are the first and the second half of the features (Dauphin et al. 2017)."""

    op = "glu"
    pool = 2

    def formula(self, x):
        """As it says."""
        half = x.shape[-1] // 2
        return x[..., :half] * sigmoid(x[..., half:])


@dataclass(frozen=True, eq=False)
class Maxout(_OneOp):
    """y_j = the largest of x_jk ... x_jk+k-1, the pool of k features that follow each other (Goodfellow et al. 2013).

    After Dense(i, k o) it is the paper's layer of o units with k linear pieces. Ties send the gradient to the first.
    """

    pool: int = 2
    op = "maxout"

    def __post_init__(self):
        """Check the size of a pool."""
        object.__setattr__(self, "pool", checks.integer("pool", self.pool, 1))

    def formula(self, x):
        """As it says."""
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.pool, self.pool).max(-1)


def activations():
    """The activations by name."""
    return {name: kind for name, kind in LAYERS.items() if issubclass(kind, Activation)}
