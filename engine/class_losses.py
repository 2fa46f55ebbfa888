"""Losses of classes. What holds for all losses stands in `loss`."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from . import checks
from .loss import Loss


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
    into the target (Szegedy et al. 2016). The loss of a softmax: Bridle 1990.
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

    As in torch; weight, ignore_index: as for CrossEntropyLoss, which takes logits and needs no logarithm before it.
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
