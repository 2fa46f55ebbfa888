"""Losses: descriptions. Formulas, gradients and reductions stand in the loss files of `hotloop.kernels`.

Arguments go by name, but for the reduction. x is the prediction (rows, out_features), y the target. Reductions are
torch's: "mean" divides value and gradient by the number of elements for losses of numbers (scikit-learn: by the rows),
by the rows, or their weights, for losses of classes; "sum" by nothing. ("none" leaves nothing to minimise.)

With sample weights s, one for each row, "sum" is sum s_i l_i and "mean" divides it by sum s_i in place of the number of
rows, as scikit-learn does; a class weight multiplies s_i where torch's mean divides by class weights, too. Rows that
count for nothing change neither loss nor gradient; a batch without any other has loss and gradient 0 (torch: loss NaN).
"""

import math
from dataclasses import KW_ONLY, dataclass, fields
from typing import ClassVar

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels.losses import LOSSES as RULES

from . import checks


@dataclass(frozen=True)
class Loss:
    """A loss with torch's `reduction`."""

    reduction: str = "mean"

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum")
    kinds: ClassVar[tuple[str, ...]] = ("target",)  # of targets: numbers like the prediction; "labels": class indices
    target_range = -math.inf, math.inf
    cuts: ClassVar[tuple[float, float] | None] = None  # prediction and target above which the answer is yes

    def __post_init__(self):
        """Check every argument."""
        if not isinstance(self.reduction, str) or self.reduction not in self.reductions:
            raise ValueError(f"reduction must be {' or '.join(map(repr, self.reductions))}".replace("'", '"')
                             + f", got {self.reduction!r}: training needs one number, and other arguments go by name")
        for field in fields(self)[1:]:
            object.__setattr__(self, field.name, self._checked(field.name, getattr(self, field.name)))

    def _checked(self, name, value):
        return value if value is None else checks.numbers(name, value, 0)

    def op_for(self, kind):
        """The op for targets of this kind."""
        return self.op

    def apply(self, graph, prediction, kind, sample=None, reduction=None, name="y"):
        """Append the target `name`, of kind "labels" or "target", and the loss to `graph`; sample: weights of rows."""
        target = graph.labels(name) if kind == "labels" else graph.target(name, prediction.shape)
        attributes = {name: getattr(self, name) for name in OPS[self.op_for(kind)].cases[0]}
        operands = prediction, target, *([] if sample is None else [sample])
        return graph.apply(self.op_for(kind), *operands, name="loss",
                           **attributes | {"reduction": reduction or self.reduction})

    def target_columns(self, outputs):
        """Numbers in a row of targets of kind "target", for so many outputs."""
        return outputs

    def share(self, kind, columns):
        """The number of elements that a row counts for in the mean; 0 for a sum."""
        op = self.op_for(kind)
        return RULES[op].operands({name: getattr(self, name) for name in OPS[op].cases[0]}, columns)["share"]

    def counted(self, y):
        """Which rows count, those whose label is not ignored; None for all."""
        return None

    def weights(self, y, counted):
        """What each row counts for in the mean, where `counted` says which count; None for 1."""
        return None if counted is None else counted.astype(float)

    def outside(self, y):
        """Which targets are out of range, and the range in words."""
        low, high = self.target_range
        if y.size and (y.min() < low or y.max() > high):  # NaN passes: it is check_finite's affair
            return (y < low) | (y > high), f"lie between {low} and {high}"
        return np.zeros_like(y, bool), ""

    @property
    def has_accuracy(self):
        """Whether targets are classes, which outputs name or not."""
        return self.cuts is not None

    def right(self, outputs, y):
        """For each row, the share of outputs that name the target's class."""
        return ((outputs > self.cuts[0]) == (y > self.cuts[1])).mean(1)


# numbers and densities


@dataclass(frozen=True)
class MSELoss(Loss):
    """Mean over all elements of (x - y)^2; no 1/2."""

    op = "mse_loss"


@dataclass(frozen=True)
class HalfMSELoss(Loss):
    """Mean over all elements of (x - y)^2 / 2, scikit-learn's squared error; torch has none."""

    op = "half_mse_loss"


@dataclass(frozen=True)
class L1Loss(Loss):
    """Mean over all elements of |x - y|; slope 0 at 0."""

    op = "l1_loss"


@dataclass(frozen=True)
class SmoothL1Loss(Loss):
    """Mean over all elements of d^2 / (2 beta) where d = |x - y| < beta, else d - beta / 2 (Girshick 2015).

    beta = 0 makes it L1Loss.
    """

    _: KW_ONLY
    beta: float = 1.0
    op = "smooth_l1_loss"

    def _checked(self, name, value):
        return checks.number(name, value, 0)


@dataclass(frozen=True)
class HuberLoss(Loss):
    """Mean over all elements of d^2 / 2 where d = |x - y| <= delta, else delta (d - delta / 2) (Huber 1964)."""

    _: KW_ONLY
    delta: float = 1.0
    op = "huber_loss"

    def _checked(self, name, value):
        return checks.number(name, value, 0, open_low=True)


@dataclass(frozen=True)
class LogCoshLoss(Loss):
    """Mean over all elements of log cosh(x - y), as in Keras; torch has none."""

    op = "log_cosh_loss"


@dataclass(frozen=True)
class PoissonNLLLoss(Loss):
    """Mean over all elements of exp(x) - y x for counts y, x being the log of their rate.

    log_input=False: x is the rate, and the loss x - y log(x + eps). full: adds Stirling's approximation of log y!,
    y log y - y + log(2 pi y) / 2, where y > 1.
    """

    _: KW_ONLY
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    target_range = 0, math.inf

    def _checked(self, name, value):
        return checks.number(name, value, 0, open_low=True) if name == "eps" else checks.switch(name, value)

    def op_for(self, kind):
        """One op for each of the four formulas."""
        return f"poisson_nll{'' if self.log_input else '_rate'}{'_full' if self.full else ''}_loss"


@dataclass(frozen=True)
class KLDivLoss(Loss):
    """Mean over all elements of y (log y - x), the divergence of y from exp(x): x are log-probabilities.

    log_target: y are log-probabilities, too, and the loss is exp(y) (y - x). reduction "batchmean", the divergence as
    mathematics has it, divides by the rows alone.
    """

    _: KW_ONLY
    log_target: bool = False
    reductions = "mean", "sum", "batchmean"

    def _checked(self, name, value):
        return checks.switch(name, value)

    @property
    def target_range(self):
        """Probabilities may be scaled, their logarithms are anything."""
        return (-math.inf if self.log_target else 0), math.inf

    def op_for(self, kind):
        """One op for probabilities, one for their logarithms."""
        return "kl_div_log_loss" if self.log_target else "kl_div_loss"


# yes and no


@dataclass(frozen=True)
class BCELoss(Loss):
    """Binary cross-entropy of probabilities x against targets in [0, 1]; BCEWithLogitsLoss is more accurate.

    Mean over all elements of -w (y log x + (1 - y) log(1 - x)), each logarithm at least -100, as in torch; x must lie
    in [0, 1]: let the network end with Sigmoid. weight: w, one number for each output; torch's other shapes of it are
    sample weights.
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    op, target_range, cuts = "bce_loss", (0, 1), (0.5, 0.5)


@dataclass(frozen=True)
class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(x) against targets in [0, 1], from the logits x.

    Mean over all elements of w (p y softplus(-x) + (1 - y) softplus(x)), softplus(x) = max(x, 0) + log(1 + exp(-|x|)).
    weight: w, pos_weight: p, each one number for each output.
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    pos_weight: tuple[float, ...] | None = None
    op, target_range, cuts = "bce_with_logits_loss", (0, 1), (0, 0.5)


@dataclass(frozen=True)
class MultiLabelSoftMarginLoss(Loss):
    """BCEWithLogitsLoss averaged over the outputs of each row, then reduced over the rows: "sum" adds the rows' means.

    weight: one number for each output.
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
    """Mean over all elements of log(1 + exp(-y x)) for targets -1 and 1, the logistic loss, without overflow."""

    op, cuts = "soft_margin_loss", (0, 0)


@dataclass(frozen=True)
class HingeEmbeddingLoss(_Signs):
    """Mean over all elements of x where y is 1, max(0, margin - x) where y is -1; x is a distance.

    Slope 0 at the margin (torch: -1).
    """

    _: KW_ONLY
    margin: float = 1.0
    op = "hinge_embedding_loss"

    def _checked(self, name, value):
        return checks.number(name, value)


# classes


class _Classes(Loss):
    """A loss of class indices (rows,)."""

    kinds: ClassVar[tuple[str, ...]] = ("labels",)
    has_accuracy = True
    ignore_index: int | None = None

    def counted(self, y):
        """All rows but those with the label `ignore_index`."""
        if self.ignore_index is None or y.ndim > 1 or (self.ignore_index < 0 and len(y) and y.min() >= 0):
            return None
        counted = y != self.ignore_index
        return None if counted.all() else counted

    def right(self, outputs, y):
        """Whether the largest output, the first of several, is the label's, or the most probable class's."""
        return (outputs.argmax(1) == (y if y.ndim == 1 else y.argmax(1))).astype(float)


class _WeightedClasses(_Classes):
    """A loss whose mean divides by the weights of the rows' classes."""

    def _checked(self, name, value):
        if name == "ignore_index":
            return checks.integer(name, value, -(2**63), 2**63 - 1)
        return checks.number(name, value, 0, 1) if name == "label_smoothing" else super()._checked(name, value)

    def weights(self, y, counted):
        """The weight of each row's class, 0 for an ignored row; 1 where targets are distributions, as in torch."""
        if self.weight is None or y.ndim > 1:
            return super().weights(y, counted)
        if counted is None:
            return np.take(self.weight, y)
        return np.where(counted, np.take(self.weight, np.where(counted, y, 0)), 0)


@dataclass(frozen=True)
class CrossEntropyLoss(_WeightedClasses):
    """Cross-entropy of softmax(x) from the logits x (rows, classes).

    Targets are class indices (rows,) or a distribution over the classes for each row (rows, classes). weight: a factor
    w_c for each class; the mean divides by the weights of the labels' classes, or by the rows for distributions.
    ignore_index: rows with this label count for nothing. label_smoothing: s mixes a share s of the uniform distribution
    into the target (Szegedy et al. 2016).
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    kinds = "labels", "target"
    target_range = 0, math.inf

    def op_for(self, kind):
        """One op for class indices, one for smoothed ones, one for distributions."""
        if kind == "target":
            return "cross_entropy_probabilities"
        return "cross_entropy_smooth" if self.label_smoothing else "cross_entropy"


@dataclass(frozen=True)
class NLLLoss(_WeightedClasses):
    """Negative log-likelihood -w_y x_y of log-probabilities x (rows, classes) and class indices y.

    weight, ignore_index: as for CrossEntropyLoss, which takes logits and needs no logarithm before it.
    """

    _: KW_ONLY
    weight: tuple[float, ...] | None = None
    ignore_index: int = -100
    op = "nll_loss"


@dataclass(frozen=True)
class MultiMarginLoss(_Classes):
    """Multi-class hinge: w_y / classes times the sum over c != y of max(0, margin - x_y + x_c)^p, p being 1 or 2.

    (Weston and Watkins 1999.) Averaged over the rows, whatever their classes' weights.
    """

    _: KW_ONLY
    p: int = 1
    margin: float = 1.0
    weight: tuple[float, ...] | None = None
    op = "multi_margin_loss"

    def _checked(self, name, value):
        if name == "p":
            return checks.integer(name, value, 1, 2)
        return checks.number(name, value) if name == "margin" else super()._checked(name, value)


@dataclass(frozen=True)
class MultiLabelMarginLoss(Loss):
    """Hinge for several labels: 1 / classes times the sum over labels j and other classes c of max(0, 1 - x_j + x_c).

    A row of targets holds class indices up to the first -1, and is as long as the row of outputs; what stands after
    that does not count. A label that stands there twice counts twice, as in torch. Averaged over the rows.
    """

    op = "multilabel_margin_loss"

    def outside(self, y):
        """All but whole numbers from -1 to the last class."""
        return (y != np.floor(y)) | (y < -1) | (y >= y.shape[1]), f"be class indices, 0 ... {y.shape[1] - 1}, or -1"


@dataclass(frozen=True)
class ZeroOneLoss(_Classes):
    """Share of rows whose largest output, the first of several, is not the label's: for evaluation.

    It is flat, so training with it raises ValueError; predictions and `evaluate` need no gradient.
    """

    op = "zero_one_loss"


LOSSES: dict[str, type[Loss]] = {kind.__name__: kind for kind in (
    MSELoss, HalfMSELoss, L1Loss, SmoothL1Loss, HuberLoss, LogCoshLoss, PoissonNLLLoss, KLDivLoss, BCELoss,
    BCEWithLogitsLoss, MultiLabelSoftMarginLoss, HingeLoss, SquaredHingeLoss, ExponentialLoss, SoftMarginLoss,
    HingeEmbeddingLoss, CrossEntropyLoss, NLLLoss, MultiMarginLoss, MultiLabelMarginLoss, ZeroOneLoss)}
