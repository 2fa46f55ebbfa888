"""Losses: descriptions. Formulas, gradients and reductions stand in `hotloop.kernels.losses`."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class _Loss:
    """A loss with torch's `reduction`: "mean" or "sum". ("none" leaves nothing to minimise.)"""

    reduction: str = "mean"

    def __post_init__(self):
        """Check the reduction."""
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {self.reduction!r}: training needs one number')

    target_range = -math.inf, math.inf

    def apply(self, graph, prediction, kind):
        """Append target and loss to `graph`; `kind` is "labels" or "target"."""
        if kind == "labels":
            target = graph.labels("y")
        else:
            target = graph.target("y", prediction.shape)
        return graph.apply(self.op_for(kind), prediction, target, reduction=self.reduction, name="loss")

    def op_for(self, kind):
        """The op for targets of this kind."""
        return self.op


@dataclass(frozen=True)
class MSELoss(_Loss):
    """Mean over all elements of (x - y)^2; no 1/2."""

    op = "mse_loss"


@dataclass(frozen=True)
class L1Loss(_Loss):
    """Mean over all elements of |x - y|; slope 0 at 0."""

    op = "l1_loss"


@dataclass(frozen=True)
class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigmoid(x) against targets in [0, 1], from the logits x.

    Mean over all elements of max(x, 0) - x y + log(1 + exp(-|x|)).
    """

    op = "bce_with_logits_loss"
    target_range = 0, 1


@dataclass(frozen=True)
class CrossEntropyLoss(_Loss):
    """Cross-entropy of softmax(x) from the logits x (batch, classes), averaged over the batch.

    Targets are class indices (batch,) or a distribution over the classes for each row (batch, classes).
    """

    target_range = 0, math.inf

    def op_for(self, kind):
        """One op for class indices, one for distributions."""
        return "cross_entropy" if kind == "labels" else "cross_entropy_probabilities"


LOSSES = {kind.__name__: kind for kind in (MSELoss, L1Loss, BCEWithLogitsLoss, CrossEntropyLoss)}
