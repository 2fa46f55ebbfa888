"""Losses of yes and no, elementwise: targets in [0, 1], or, for the losses of the margin y x, -1 and 1."""

import numpy as np

from ._primitives import select
from .elementary import exp, log, log1p, sigmoid, softplus
from .losses import elementwise_loss

_FARTHEST = -100.0  # no logarithm of a probability counts for less, in torch too
_FLATTEST = 1e-12  # nor does x (1 - x) in the slope


def _probabilities(x, y, p):
    """-y log x - (1 - y) log(1 - x), each logarithm at least -100."""
    yes, no = log(x), log1p(-x)
    yes, no = select(yes < _FARTHEST, _FARTHEST, yes), select(no < _FARTHEST, _FARTHEST, no)
    return (y - 1.0) * no - y * yes


def _probabilities_slope(x, y, p):
    spread = x * (1.0 - x)
    return (x - y) / select(spread < _FLATTEST, _FLATTEST, spread)


elementwise_loss("bce_loss", _probabilities, _probabilities_slope,
                 lambda x, y, p: -y * np.maximum(np.log(x), -100) - (1 - y) * np.maximum(np.log1p(-x), -100),
                 lambda x, y, p: (x - y) / np.maximum(x * (1 - x), x.dtype.type(1e-12)),
                 weight=True, cases=({"weight": None}, {"weight": (0.5, 2.0, 0.0)}))

# From logits: (1 - y) softplus(x) + p y softplus(-x), where p is the weight of the positive targets and softplus(x) is
# max(x, 0) + log(1 + exp(-|x|)), which neither overflows nor cancels.


def _logits(x, y, p):
    positive, no, yes = select(x > 0.0, x, 0.0), 1.0 - y, p * y
    return no * positive + yes * (positive - x) + (no + yes) * log1p(exp(select(x > 0.0, -x, x)))


def _logits_slope(x, y, p):
    e = exp(select(x > 0.0, -x, x))
    return ((1.0 - y) * select(x < 0.0, e, 1.0) - p * y * select(x < 0.0, 1.0, e)) / (1.0 + e)


def _logits_reference(x, y, p):
    return (1 - y) * np.logaddexp(0, x) + p * y * np.logaddexp(0, -x)


def _logits_reference_slope(x, y, p):
    return (1 - y) * _sigmoid_reference(x) - p * y * _sigmoid_reference(-x)


def _sigmoid_reference(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)

elementwise_loss("bce_with_logits_loss", _logits, _logits_slope, _logits_reference, _logits_reference_slope,
                 "pos_weight", weight=True, cases=({"weight": None, "pos_weight": None},
                                                   {"weight": (0.5, 2.0, 0.0), "pos_weight": (3.0, 0.25)}))


def _labels(x, y, p):
    return _logits(x, y, 1.0)


def _labels_slope(x, y, p):
    return _logits_slope(x, y, 1.0)


elementwise_loss("multilabel_soft_margin_loss", _labels, _labels_slope, lambda x, y, p: _logits_reference(x, y, 1),
                 lambda x, y, p: _logits_reference_slope(x, y, 1), weight=True, per_row=True,
                 cases=({"weight": None}, {"weight": (0.5, 2.0, 0.0)}))

# Losses of the margin y x, y being -1 or 1.


def _hinge(x, y, p):
    return select(y * x >= 1.0, 0.0, 1.0 - y * x)


def _hinge_slope(x, y, p):
    return select(y * x >= 1.0, 0.0, -y)


elementwise_loss("hinge_loss", _hinge, _hinge_slope, lambda x, y, p: np.maximum(0, 1 - y * x),
                 lambda x, y, p: np.where(y * x < 1, -y, 0).astype(x.dtype))


def _squared_hinge(x, y, p):
    gap = _hinge(x, y, p)
    return gap * gap


def _squared_hinge_slope(x, y, p):
    return -2.0 * y * _hinge(x, y, p)


elementwise_loss("squared_hinge_loss", _squared_hinge, _squared_hinge_slope,
                 lambda x, y, p: np.maximum(0, 1 - y * x) ** 2, lambda x, y, p: -2 * y * np.maximum(0, 1 - y * x))


def _exponential(x, y, p):
    return exp(-y * x)


def _exponential_slope(x, y, p):
    return -y * exp(-y * x)


elementwise_loss("exponential_loss", _exponential, _exponential_slope, lambda x, y, p: np.exp(-y * x),
                 lambda x, y, p: -y * np.exp(-y * x))


def _soft_margin(x, y, p):
    return softplus(-y * x)


def _soft_margin_slope(x, y, p):
    return -y * sigmoid(-y * x)


elementwise_loss("soft_margin_loss", _soft_margin, _soft_margin_slope, lambda x, y, p: np.logaddexp(0, -y * x),
                 lambda x, y, p: -y * _sigmoid_reference(-y * x))

# x is a distance, small where y is 1 (R. Hadsell, S. Chopra and Y. LeCun 2006).


def _embedding(x, y, p):
    return select(y > 0.0, x, select(x >= p, 0.0, p - x))


def _embedding_slope(x, y, p):
    return select(y > 0.0, 1.0, select(x >= p, 0.0, -1.0))


elementwise_loss("hinge_embedding_loss", _embedding, _embedding_slope,
                 lambda x, y, p: np.where(y > 0, x, np.maximum(0, p - x)),
                 lambda x, y, p: np.where(y > 0, 1, np.where(x < p, -1, 0)).astype(x.dtype),
                 "margin", cases=({"margin": 1.0}, {"margin": 2.5}))
