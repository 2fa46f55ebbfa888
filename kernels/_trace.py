"""Reads an elementwise formula another way: called with nodes of a graph or with arrays, of which it makes the same.

So the slope formula of an activation can itself be differentiated, to any order, and a formula of the user's judged.
"""

import math
import types

import numpy as np

from . import _primitives
from . import elementary as e
from ._jit import is_helper, names_read
from ._op import OPS
from .exponential import LIFT, exp_lifted, left
from .gates import gelu_slope_end, gelu_slope_tail, sigmoid_end


def trace(formula, *operands):
    """What `formula` makes of nodes or arrays, and numbers. Raises ValueError for functions that no op stands for."""
    return _meaning(formula.__name__, formula)(*operands)


def _rebound(function):
    """A copy of `function` whose names mean ops on nodes."""
    scope = {name: _meaning(name, value) for name, value in names_read(function).items()}
    cells = tuple(types.CellType(scope[name]) for name in function.__code__.co_freevars)
    return types.FunctionType(function.__code__, scope | {"__builtins__": __builtins__}, function.__name__,
                              function.__defaults__, cells)


def _meaning(name, value):
    if value is math:
        return _Math()
    if isinstance(value, types.FunctionType) and value in _MEANINGS:
        return _MEANINGS[value]
    if getattr(value, "__module__", None) == _primitives.__name__ and callable(value):
        def unknown(*operands):
            raise ValueError(f"{name} has no op that could be differentiated")

        return unknown
    return _rebound(value) if is_helper(value) else value


class _Math:
    """What formulas may use of the module `math`."""

    sqrt = staticmethod(np.sqrt)

    def __getattr__(self, name):
        value = getattr(math, name)
        if isinstance(value, float):
            return value
        raise AttributeError(f"math.{name} has no op: take what hotloop.kernels.elementary has")


def _select(condition, yes, no):
    if isinstance(condition, bool):  # it compares parameters alone
        return yes if condition else no
    if isinstance(condition, np.ndarray):
        return np.where(condition, yes, no)
    return condition.graph.elementwise("where", condition, yes, no)


def _normal_pdf(x):
    return np.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))


def _erf(x):
    return OPS["erf"].reference({}, x) if isinstance(x, np.ndarray) else x.graph.elementwise("erf", x)


def _normal_cdf(x):
    return 0.5 * (1.0 + _erf(x * math.sqrt(0.5)))


def _sigmoid(x):
    return OPS["sigmoid"].reference({}, x) if isinstance(x, np.ndarray) else x.graph.elementwise("sigmoid", x)


def _softplus(x):
    return np.maximum(x, 0.0) + np.log1p(np.exp(-abs(x)))


def _left(x, least):
    return np.maximum(_select(x < 0.0, x, -x), least)


_MEANINGS = {
    _primitives.select: _select, _primitives.fma: lambda a, b, c: a * b + c,
    e.exp: np.exp, e.expm1: np.expm1, e.log: np.log, e.log1p: np.log1p, e.pow: np.power, e.sin: np.sin, e.cos: np.cos,
    e.tanh: np.tanh, e.tanhshrink: lambda x: x - np.tanh(x), e.sigmoid: _sigmoid, e.softplus: _softplus, e.erf: _erf,
    e.sigmoid_slope: lambda x: _sigmoid(x) * _sigmoid(-x),
    e.normal_pdf: _normal_pdf, e.normal_cdf: _normal_cdf,
    e.clamp: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    left: _left, exp_lifted: lambda n: np.exp(n) * 2.0**LIFT, sigmoid_end: lambda x, e: _sigmoid(x),
    gelu_slope_tail: lambda x: None, gelu_slope_end: lambda x, tail: _normal_cdf(x) + x * _normal_pdf(x),
}
