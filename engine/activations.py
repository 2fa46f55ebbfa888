"""Activation layers, under torch's names. Formulas, slopes and sources stand in `hotloop.kernels`."""

from dataclasses import dataclass, field

from .functions import log_softmax, softmax
from .layers import Activation, AlongFeatures

_POSITIVE = {"low": 0, "open_low": True}


class Identity(Activation):
    """y = x."""

    op = "identity"


class ReLU(Activation):
    """y = max(x, 0); slope 0 at 0 (Nair and Hinton 2010)."""

    op = "relu"


class ReLU6(Activation):
    """y = min(max(x, 0), 6); slope 0 at 0 and 6 (Krizhevsky 2010)."""

    op = "hardtanh"

    def attributes(self):
        """Where it is flat."""
        return {"min_val": 0.0, "max_val": 6.0}


@dataclass(frozen=True, eq=False)
class LeakyReLU(Activation):
    """y = x where x > 0, else negative_slope * x; the slope at 0 is negative_slope (Maas et al. 2013)."""

    negative_slope: float = 0.01
    op = "leaky_relu"


@dataclass(frozen=True, eq=False)
class Threshold(Activation):
    """y = x where x > threshold, else value; slope 0 at the threshold. Torch has no defaults; these make it ReLU."""

    threshold: float = 0.0
    value: float = 0.0
    op = "threshold"


@dataclass(frozen=True, eq=False)
class Hardtanh(Activation):
    """y = min(max(x, min_val), max_val); slope 0 at both (Collobert et al. 2011). Needs min_val < max_val."""

    min_val: float = -1.0
    max_val: float = 1.0
    op = "hardtanh"

    def __post_init__(self):
        """Check the settings."""
        super().__post_init__()
        if self.min_val >= self.max_val:
            raise ValueError(f"min_val must be less than max_val, got {self.min_val} and {self.max_val}")


@dataclass(frozen=True, eq=False)
class RReLU(Activation):
    """y = x where x > 0, else a x, with a drawn for each number in training (Xu et al. 2015).

    In training a is uniform in [lower, upper), a function of the same as what `Dropout` drops; in use it is
    (lower + upper) / 2. Raises ValueError unless 0 <= lower <= upper; torch takes slopes below 0, too.
    """

    lower: float = field(default=1 / 8, metadata={"low": 0})
    upper: float = 1 / 3
    op = "leaky_relu"

    def __post_init__(self):
        """Check the settings."""
        super().__post_init__()
        if self.lower > self.upper:
            raise ValueError(f"lower must be at most upper, got {self.lower} and {self.upper}")

    def attributes(self):
        """The slope in use."""
        return {"negative_slope": (self.lower + self.upper) / 2}

    def formula(self, x):
        """None: training and use differ."""
        return None

    def apply(self, graph, x, prefix, training=False):
        """Append the op of training or that of use to `graph`."""
        if not training:
            return super().apply(graph, x, prefix)
        return graph.apply("rrelu", x, x, graph.key(), lower=self.lower, upper=self.upper,
                           place=len(graph.nodes), name=f"rrelu_{prefix}")


class Hardsigmoid(Activation):
    """y = min(max((x + 3) / 6, 0), 1); slope 0 at -3 and 3 (Courbariaux et al. 2015). Keras 2 has 0.2 x + 0.5."""

    op = "hardsigmoid"


class Hardswish(Activation):
    """y = x hardsigmoid(x); slope 0 at -3, 1 at 3 (Howard et al. 2019)."""

    op = "hardswish"


@dataclass(frozen=True, eq=False)
class Hardshrink(Activation):
    """y = x where |x| > lambd >= 0, else 0; slope 0 at both ends (Donoho and Johnstone 1994)."""

    lambd: float = field(default=0.5, metadata={"low": 0})
    op = "hardshrink"


@dataclass(frozen=True, eq=False)
class Softshrink(Activation):
    """y = sign(x) max(|x| - lambd, 0), lambd >= 0; slope 0 at both ends (Donoho and Johnstone 1994)."""

    lambd: float = field(default=0.5, metadata={"low": 0})
    op = "softshrink"


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), the logistic function (Rumelhart, Hinton and Williams 1986)."""

    op = "sigmoid"


class LogSigmoid(Activation):
    """y = log(1 / (1 + exp(-x))), without overflow or cancellation: logistic regression's log-likelihood (Cox 1958)."""

    op = "log_sigmoid"


class Tanh(Activation):
    """y = tanh x (LeCun et al. 1998)."""

    op = "tanh"


class Tanhshrink(Activation):
    """y = x - tanh x, without cancellation near 0, where y is about x^3 / 3."""

    op = "tanhshrink"


class Softsign(Activation):
    """y = x / (1 + |x|) (Glorot and Bengio 2010)."""

    op = "softsign"


@dataclass(frozen=True, eq=False)
class Softplus(Activation):
    """y = log(1 + exp(beta x)) / beta, beta > 0; y = x where beta x > threshold, as in torch (Dugas et al. 2001)."""

    beta: float = field(default=1.0, metadata=_POSITIVE)
    threshold: float = 20.0
    op = "softplus"


@dataclass(frozen=True, eq=False)
class ELU(Activation):
    """y = x where x > 0, else alpha (exp(x) - 1); the slope at 0 is alpha (Clevert et al. 2016)."""

    alpha: float = 1.0
    op = "elu"


@dataclass(frozen=True, eq=False)
class CELU(Activation):
    """y = x where x > 0, else alpha (exp(x / alpha) - 1), alpha > 0; the slope at 0 is 1 (Barron 2017)."""

    alpha: float = field(default=1.0, metadata=_POSITIVE)
    op = "celu"


class SELU(Activation):
    """y = s x where x > 0, else s a (exp(x) - 1), s = 1.0507, a = 1.6733 (Klambauer et al. 2017); slope s a at 0.

    For their self-normalising networks initialise dense layers with variance 1 / in_features.
    """

    op = "selu"


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

    def attributes(self):
        """None: each form is an op of its own."""
        return {}

    @property
    def op(self):
        """The op of the chosen form."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"


class SiLU(Activation):
    """y = x / (1 + exp(-x)), called swish as well (Hendrycks and Gimpel 2016; Ramachandran et al. 2017)."""

    op = "silu"


class Mish(Activation):
    """y = x tanh(log(1 + exp(x))) (Misra 2019)."""

    op = "mish"


class Softmax(AlongFeatures, Activation):
    """y_i = exp(x_i) / sum_j exp(x_j) over each row (Bridle 1990).

    For classification leave it out and use CrossEntropyLoss, which takes logits.
    """

    op = "softmax"

    def formula(self, x):
        """As it says, without overflow."""
        return softmax(x)


class Softmin(AlongFeatures, Activation):
    """y_i = exp(-x_i) / sum_j exp(-x_j) over each row: the softmax of -x."""

    op = "softmax"

    def apply(self, graph, x, prefix, training=False):
        """Append -x and its softmax to `graph`."""
        return super().apply(graph, graph.apply("negative", x, name=f"negative_{prefix}"), prefix, training)

    def formula(self, x):
        """As it says, without overflow."""
        return softmax(-x)


class LogSoftmax(AlongFeatures, Activation):
    """y_i = x_i - log sum_j exp(x_j) over each row, without overflow.

    For classification leave it out and use CrossEntropyLoss, which takes logits.
    """

    op = "log_softmax"

    def formula(self, x):
        """As it says, without overflow."""
        return log_softmax(x)
