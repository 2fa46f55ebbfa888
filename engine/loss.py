"""What all losses have in common. Formulas, gradients and reductions stand in the loss files of `hotloop.kernels`.

Arguments go by name, but for the reduction. x is the prediction (rows, out_features), y the target. Reductions are
torch's: "mean" divides value and gradient by the number of elements for losses of numbers (scikit-learn: by the rows),
by the rows, or their weights, for losses of classes; "sum" by nothing. ("none" leaves nothing to minimise.)

With sample weights s, one for each row, "sum" is sum s_i l_i and "mean" divides it by sum s_i in place of the number of
rows, as scikit-learn does; a class weight multiplies s_i where torch's mean divides by class weights, too. Rows that
count for nothing change neither loss nor gradient; a batch without any other has loss and gradient 0 (torch: loss NaN).
"""

import math
from dataclasses import dataclass, fields
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
    needs: ClassVar[str | None] = None  # of outputs, where not every number has a loss
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

    def surely(self, kind, outputs):
        """The least and the largest target that pass every check and count like all others; None for no such range."""
        if kind == "labels":
            classes = np.arange(outputs)
            weights = self.weights(classes, None)
            alike = self.counted(classes) is None and (weights is None or weights.all())
            return (0, outputs - 1) if alike else None
        return self.target_range if type(self).outside is Loss.outside else None

    @property
    def has_accuracy(self):
        """Whether targets are classes, which outputs name or not."""
        return self.cuts is not None

    def right(self, outputs, y):
        """For each row, the share of outputs that name the target's class."""
        return ((outputs > self.cuts[0]) == (y > self.cuts[1])).mean(1)
