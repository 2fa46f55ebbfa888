"""Layers: descriptions without arrays. A network gives them parameters, a graph gives them meaning."""

from dataclasses import dataclass

from . import checks
from .initializers import INITIALIZERS

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


class Activation:
    """Base of layers without parameters that are one op of the table, named by `op`; `attributes` are the op's.

    A subclass is a layer as it stands: networks take it, checkpoints know it by its name.
    """

    op: str

    def __init_subclass__(cls, **options):
        """Enter the layer among those that networks take."""
        super().__init_subclass__(**options)
        LAYERS[cls.__name__] = cls

    def parameters(self):
        """No parameters."""
        return {}

    def apply(self, graph, x, prefix):
        """Append the activation to `graph`."""
        return graph.apply(self.op, x, name=f"{self.op}_{prefix}", **self.attributes())

    def attributes(self):
        """The op's attributes."""
        return {}


@dataclass(frozen=True, eq=False)
class Identity(Activation):
    """y = x."""

    op = "identity"


@dataclass(frozen=True, eq=False)
class ReLU(Activation):
    """y = max(x, 0); slope 0 at 0."""

    op = "relu"


@dataclass(frozen=True, eq=False)
class LeakyReLU(Activation):
    """y = x where x > 0, else negative_slope * x; the slope at 0 is negative_slope."""

    negative_slope: float = 0.01
    op = "leaky_relu"

    def __post_init__(self):
        """Check the slope."""
        object.__setattr__(self, "negative_slope", checks.number("negative_slope", self.negative_slope))

    def attributes(self):
        """The slope."""
        return {"negative_slope": float(self.negative_slope)}


@dataclass(frozen=True, eq=False)
class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x))."""

    op = "sigmoid"


@dataclass(frozen=True, eq=False)
class Tanh(Activation):
    """y = tanh x."""

    op = "tanh"


@dataclass(frozen=True, eq=False)
class GELU(Activation):
    """y = x P(Z <= x) for a standard normal Z (Hendrycks and Gimpel 2016).

    approximate: "none" for the exact form (erf), "tanh" for the paper's approximation.
    """

    approximate: str = "none"

    def __post_init__(self):
        """Check the name."""
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh", got {self.approximate!r}')

    @property
    def op(self):
        """The op of the chosen form."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"


@dataclass(frozen=True, eq=False)
class Softmax(Activation):
    """y_i = exp(x_i) / sum_j exp(x_j) over each row.

    For classification leave it out and use CrossEntropyLoss, which takes logits.
    """

    op = "softmax"
