"""Losses of numbers and densities. What holds for all losses stands in `loss`."""

import math
from dataclasses import KW_ONLY, dataclass

from . import checks
from .loss import Loss


@dataclass(frozen=True)
class MSELoss(Loss):
    """Mean over all elements of (x - y)^2; no 1/2 (least squares, Legendre 1805)."""

    op = "mse_loss"


@dataclass(frozen=True)
class HalfMSELoss(Loss):
    """Mean over all elements of (x - y)^2 / 2, scikit-learn's squared error; torch has none."""

    op = "half_mse_loss"


@dataclass(frozen=True)
class L1Loss(Loss):
    """Mean over all elements of |x - y|; slope 0 at 0 (least absolute deviations, Boscovich 1757)."""

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
    y log y - y + log(2 pi y) / 2, where y > 1. (Nelder and Wedderburn 1972.)
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
    mathematics has it, divides by the rows alone. (Kullback and Leibler 1951.)
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
