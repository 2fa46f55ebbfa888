"""Losses of yes and no. What holds for all losses stands in `loss`."""

from dataclasses import KW_ONLY, dataclass

from . import checks
from .loss import Loss


@dataclass(frozen=True)
class BCELoss(Loss):
    """Binary cross-entropy of probabilities x against targets in [0, 1]; BCEWithLogitsLoss is more accurate.

    Mean over all elements of -w (y log x + (1 - y) log(1 - x)), each logarithm at least -100, as in torch; x must lie
    in [0, 1]: let the network end with Sigmoid. weight: w, one number for each output; torch's other shapes of it are
    sample weights. (Cox 1958.)
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    op, target_range, cuts = "bce_loss", (0, 1), (0.5, 0.5)
    needs = "BCELoss needs outputs in [0, 1]: end the network with Sigmoid(), or take BCEWithLogitsLoss"


@dataclass(frozen=True)
class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(x) against targets in [0, 1], from the logits x.

    Mean over all elements of w (p y softplus(-x) + (1 - y) softplus(x)), softplus(x) = max(x, 0) + log(1 + exp(-|x|)).
    weight: w, pos_weight: p, each one number for each output. (Cox 1958.)
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    pos_weight: tuple[float, ...] | None = None
    op, target_range, cuts = "bce_with_logits_loss", (0, 1), (0, 0.5)


@dataclass(frozen=True)
class MultiLabelSoftMarginLoss(Loss):
    """BCEWithLogitsLoss averaged over the outputs of each row, then reduced over the rows: "sum" adds the rows' means.

    As in torch. weight: one number for each output.
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    op, target_range, cuts = "multilabel_soft_margin_loss", (0, 1), (0, 0.5)


class _Signs(Loss):
    """A loss whose targets are -1 and 1."""

    def outside(self, y):
        """All but -1 and 1."""
        return abs(y) != 1, "be -1 or 1"


@dataclass(frozen=True)
class HingeLoss(_Signs):
    """Mean over all elements of max(0, 1 - y x) for targets -1 and 1; slope 0 at 1 (Cortes and Vapnik 1995)."""

    op, cuts = "hinge_loss", (0, 0)


@dataclass(frozen=True)
class SquaredHingeLoss(_Signs):
    """Mean over all elements of max(0, 1 - y x)^2 for targets -1 and 1; torch has none."""

    op, cuts = "squared_hinge_loss", (0, 0)


@dataclass(frozen=True)
class ExponentialLoss(_Signs):
    """Mean over all elements of exp(-y x) for targets -1 and 1, AdaBoost's loss (Freund and Schapire 1997)."""

    op, cuts = "exponential_loss", (0, 0)


@dataclass(frozen=True)
class SoftMarginLoss(_Signs):
    """Mean over all elements of log(1 + exp(-y x)) for targets -1 and 1, the logistic loss, without overflow.

    (Friedman, Hastie and Tibshirani 2000.)
    """

    op, cuts = "soft_margin_loss", (0, 0)


@dataclass(frozen=True)
class HingeEmbeddingLoss(_Signs):
    """Mean over all elements of x where y is 1, max(0, margin - x) where y is -1; x is a distance.

    As in torch, but for slope 0 at the margin (torch: -1).
    """

    _: KW_ONLY
    margin: float = 1.0
    op = "hinge_embedding_loss"

    def _checked(self, name, value):
        return checks.number(name, value)
