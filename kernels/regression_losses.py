"""Losses of numbers and of densities, elementwise: see `losses.elementwise_loss`. d = x - y is the error."""

import numpy as np

from ._primitives import select
from .elementary import exp, expm1, log, log1p, tanh
from .losses import elementwise_loss


def _square(x, y, p):
    return (x - y) * (x - y)


def _square_slope(x, y, p):
    return 2.0 * (x - y)


elementwise_loss("mse_loss", _square, _square_slope, lambda x, y, p: (x - y) ** 2, lambda x, y, p: 2 * (x - y))


def _half_square(x, y, p):
    return 0.5 * (x - y) * (x - y)


def _half_square_slope(x, y, p):
    return x - y


elementwise_loss("half_mse_loss", _half_square, _half_square_slope, lambda x, y, p: (x - y) ** 2 / 2,
                 lambda x, y, p: x - y)


def _absolute(x, y, p):
    return select(x > y, x - y, y - x)


def _absolute_slope(x, y, p):
    return select(x > y, 1.0, select(x < y, -1.0, x - y))


elementwise_loss("l1_loss", _absolute, _absolute_slope, lambda x, y, p: np.abs(x - y), lambda x, y, p: np.sign(x - y))

# Huber's loss (P. Huber 1964) for errors up to p, d^2 / 2, and beyond, p (|d| - p / 2); smooth L1 (R. Girshick 2015,
# arXiv:1504.08083) is Huber's over p, and |d| for p = 0.


def _huber(x, y, p):
    d = _absolute(x, y, p)
    return select(d < p, 0.5 * d * d, p * (d - 0.5 * p))


def _huber_slope(x, y, p):
    d = x - y
    return select(d >= p, p, select(d <= -p, -p, d))


elementwise_loss("huber_loss", _huber, _huber_slope,
                 lambda x, y, p: np.where(abs(x - y) <= p, (x - y) ** 2 / 2, p * abs(x - y) - p**2 / 2),
                 lambda x, y, p: np.clip(x - y, -p, p), "delta", cases=({"delta": 1.0}, {"delta": 2.5}))


def _smooth(x, y, p):
    d = _absolute(x, y, p)
    return select(d < p, 0.5 * d * (d / p), d - 0.5 * p)


def _smooth_slope(x, y, p):
    d = x - y
    return select(_absolute(x, y, p) < p, d / p, _absolute_slope(x, y, p))


def _smooth_reference(x, y, p):
    d = np.abs(x - y)
    return np.where(d < p, d**2 / (2 * p if p else 1), d - p / 2)


elementwise_loss("smooth_l1_loss", _smooth, _smooth_slope, _smooth_reference,
                 lambda x, y, p: np.clip((x - y) / p, -1, 1) if p else np.sign(x - y),
                 "beta", cases=({"beta": 1.0}, {"beta": 2.5}, {"beta": 0.0}))


def _log_cosh(x, y, p):
    """log cosh d = log1p((e^|d| - 1)^2 / (2 e^|d|)), without cancellation near 0; |d| - log 2 far out."""
    d = _absolute(x, y, p)
    e = expm1(select(d > 20.0, 20.0, d))
    return select(d > 20.0, d - 0.6931471805599453, log1p(0.5 * e * (e / (e + 1.0))))


def _log_cosh_slope(x, y, p):
    return tanh(x - y)


def _log_cosh_reference(x, y, p):
    d = np.abs(x - y)
    near = np.log1p(2 * np.sinh(np.minimum(d, 1) / 2) ** 2)
    return np.where(d < 1, near, d + np.log1p(np.exp(-2 * d)) - x.dtype.type(np.log(2)))


elementwise_loss("log_cosh_loss", _log_cosh, _log_cosh_slope, _log_cosh_reference, lambda x, y, p: np.tanh(x - y))

# Poisson negative log-likelihood of counts y, for the log of the rate or the rate itself, x; without log y!, or with
# Stirling's approximation of it where y > 1.


def _poisson_log(x, y, p):
    return exp(x) - y * x


def _poisson_log_slope(x, y, p):
    return exp(x) - y


def _poisson_rate(x, y, p):
    return x - y * log(x + p)


def _poisson_rate_slope(x, y, p):
    return 1.0 - y / (x + p)


def _with_log_factorial(value):
    def full(x, y, p):
        stirling = y * log(y) - y + 0.5 * log(6.283185307179586 * y)
        return value(x, y, p) + select(y > 1.0, stirling, 0.0)

    return full


def _add_log_factorial(reference):
    def full(x, y, p):
        many = np.maximum(y, 1)
        stirling = many * np.log(many) - many + np.log(2 * np.pi * many) / 2
        return reference(x, y, p) + np.where(y > 1, stirling, 0).astype(x.dtype)

    return full


for _name, _value, _slope, _reference, _reference_slope, _parameter, _cases in (
        ("poisson_nll_loss", _poisson_log, _poisson_log_slope, lambda x, y, p: np.exp(x) - y * x,
         lambda x, y, p: np.exp(x) - y, "", ({},)),
        ("poisson_nll_rate_loss", _poisson_rate, _poisson_rate_slope, lambda x, y, p: x - y * np.log(x + p),
         lambda x, y, p: 1 - y / (x + p), "eps", ({"eps": 1e-8}, {"eps": 0.1}))):
    elementwise_loss(_name, _value, _slope, _reference, _reference_slope, _parameter, cases=_cases)
    elementwise_loss(_name.replace("_loss", "_full_loss"), _with_log_factorial(_value), _slope,
                     _add_log_factorial(_reference), _reference_slope, _parameter, cases=_cases)

# Kullback-Leibler divergence (Kullback and Leibler 1951) of target densities y, or of their logs, from log densities x.

_DIVERGENCES = ("mean", "sum", "batchmean")


def _divergence(x, y, p):
    return select(y == 0.0, 0.0, y * (log(y) - x))


def _divergence_slope(x, y, p):
    return -y


elementwise_loss("kl_div_loss", _divergence, _divergence_slope,
                 lambda x, y, p: np.where(y == 0, 0, y * (np.log(np.where(y == 0, 1, y)) - x)).astype(x.dtype),
                 lambda x, y, p: -y, reductions=_DIVERGENCES)


def _log_divergence(x, y, p):
    return exp(y) * (y - x)


def _log_divergence_slope(x, y, p):
    return -exp(y)


elementwise_loss("kl_div_log_loss", _log_divergence, _log_divergence_slope, lambda x, y, p: np.exp(y) * (y - x),
                 lambda x, y, p: -np.exp(y), reductions=_DIVERGENCES)


def _itself(x, y, p):
    return x


def _one(x, y, p):
    return 1.0


# What nodes of a graph have made of prediction and target; it is given as both operands.
elementwise_loss("formula_loss", _itself, _one, lambda x, y, p: x, lambda x, y, p: np.ones_like(x), narrow=False)
