"""Losses that are expressions of graph nodes: of the package, and of the user's own."""

import math
from dataclasses import KW_ONLY, dataclass

from . import checks, features
from .functions import log, maximum, square
from .graph import Graph
from .loss import Loss
from .losses import LOSSES
from .node import Node


class FormulaLoss(Loss):
    """A loss given by a formula of the nodes of prediction and target; its gradient is derived.

    A subclass has a method `formula(x, y)` that makes one number for each row, or several, of x (batch, outputs) and
    y (batch, `target_columns(outputs)`), with elementwise ops and what moves or reduces the features of a row. The mean
    is over all the numbers it makes. It is known to checkpoints once it stands in LOSSES.
    """

    def formula(self, x, y):
        """The terms of the loss."""
        raise NotImplementedError(f"{type(self).__name__} needs a method formula(x, y)")

    def apply(self, graph, prediction, kind, sample=None, reduction=None, name="y"):
        """Append target, terms and loss to `graph`; see `Loss.apply`."""
        target = graph.target(name, (None, self.target_columns(prediction.shape[1])))
        terms = self._terms(prediction, target)
        return graph.apply("formula_loss", terms, terms, *([] if sample is None else [sample]), name="loss",
                           reduction=reduction or self.reduction)

    def share(self, kind, columns):
        """The number of terms that a row counts for in the mean; 0 for a sum."""
        graph = Graph()
        x, y = (graph.input(name, (None, size)) for name, size in (("x", columns), ("y", self.target_columns(columns))))
        return 0 if self.reduction == "sum" else self._terms(x, y).shape[1]

    def _terms(self, x, y):
        before = len(x.graph.nodes)
        terms = self.formula(x, y)
        if not isinstance(terms, Node) or terms.graph is not x.graph or terms.shape[:1] != (None,):
            raise ValueError(f"the formula of {self!r} must make a node of shape (batch, ...) of {x!r} and {y!r}, one "
                             f"loss for each row or several; it made {terms!r}")
        for node in x.graph.nodes[before:]:
            features.check(node)
        if not terms.depends_on(x):
            raise ValueError(f"the formula of {self!r} must use the prediction {x!r}; it made {terms!r} without it")
        return terms.reshape(None, math.prod(terms.shape[1:]))


@dataclass(frozen=True)
class GaussianNLLLoss(FormulaLoss):
    """Negative log-likelihood of normal distributions (Nix and Weigend 1994): (log v + (x - y)^2 / v) / 2, v >= eps.

    The network gives 2 n outputs for n targets: n means x, then n variances, which must not be negative (end that half
    with Softplus, say). v = max(variance, eps); in torch its gradient passes unhindered below eps, here it is 0 there.
    full: add log(2 pi) / 2. Torch takes the variances as an argument of their own.
    """

    _: KW_ONLY
    full: bool = False
    eps: float = 1e-6

    def _checked(self, name, value):
        return checks.switch(name, value) if name == "full" else checks.number(name, value, 0, open_low=True)

    def target_columns(self, outputs):
        """One target for a mean and a variance."""
        if outputs % 2:
            raise ValueError(f"{self!r} takes as many means as variances, an even number of outputs; got {outputs}")
        return outputs // 2

    def formula(self, x, y):
        """As it says."""
        mean, variance = x[:, : y.shape[1]], maximum(x[:, y.shape[1] :], self.eps)
        terms = 0.5 * (log(variance) + square(mean - y) / variance)
        return terms + 0.5 * math.log(2 * math.pi) if self.full else terms


def custom_loss(name, formula):
    """Enter a loss of your own, for networks; return its class, which takes `reduction`, "mean" or "sum".

    name: an identifier that no loss has. formula: a function of the nodes of prediction and target, both (batch,
    outputs), that makes one number for each row, or several, of them; see `FormulaLoss`. The gradient is derived, every
    backend runs it; checkpoints and pickles know it by its name, so it has to be entered before they are loaded.

        quantile = hl.custom_loss("quantile", lambda x, y: hl.maximum(0.9 * (y - x), 0.1 * (x - y)))
        trainer = hl.Trainer(net, loss=quantile(), optimizer=hl.Adam())

    Raises TypeError for what are no name and function, ValueError for a name that is taken. Whether the formula fits is
    found when a trainer is made.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"a loss's name must be an identifier, got {name!r}")
    if name in LOSSES:
        raise ValueError(f"the loss {name!r} exists already: choose another name")
    if not callable(formula):
        raise TypeError(f"a loss's formula must be a function of two nodes, got {formula!r}")
    made = dataclass(frozen=True)(type(name, (FormulaLoss,), {
        "formula": lambda self, x, y: formula(x, y), "__reduce__": lambda self: (_entered, (name, self.reduction)),
        "__doc__": f"The loss {name!r}.", "__module__": getattr(formula, "__module__", None)}))
    LOSSES[name] = made
    return made


def _entered(name, reduction):
    """The loss of this name: what a pickle of one holds, whose formula it cannot."""
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}: enter it with custom_loss first")
    return LOSSES[name](reduction)


LOSSES["GaussianNLLLoss"] = GaussianNLLLoss
