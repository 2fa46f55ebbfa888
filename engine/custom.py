"""Operations of the user's own: a formula and its derivative join graphs, networks and every backend."""

import types

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels._trace import trace
from hotloop.kernels.activations import activation

from .layers import Activation

_POINTS = np.array([0.5, 1.5, 0.25, 0.75])  # where formulas are tried


def operation(name, value, derivative, numpy=None, numpy_derivative=None):
    """Enter an elementwise operation; return it as a layer that can also be called on nodes of a graph.

    name: an identifier that no op has. value, derivative: plain functions of one number, written with operators and
    the functions of `hotloop.kernels.elementary`, such as select(x > 0.0, x, 0.0) for a choice; they are compiled when
    first used and kept on disk like the package's own. numpy, numpy_derivative: the same for arrays, which judge the
    compiled ones (`compare`); made of the formulas where they are not given. Gradients of gradients follow from the
    formula of the derivative. Raises TypeError for what are no such functions, ValueError for a name that is taken.

        from hotloop.kernels.elementary import exp

        bump = hl.operation("bump", lambda x: exp(-x * x), lambda x: -2.0 * x * exp(-x * x))
        net = hl.Sequential(hl.Dense(2, 16), bump, hl.Dense(16, 1))
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"an operation's name must be an identifier, got {name!r}")
    if name in OPS or f"{name}_backward" in OPS:
        raise ValueError(f"the op {name!r} exists already: choose another name")
    for what, formula in (("value", value), ("derivative", derivative)):
        if not isinstance(formula, types.FunctionType):
            raise TypeError(f"{what} must be a plain Python function of one number, got {formula!r}")
        try:
            found = np.asarray(trace(formula, _POINTS) + np.zeros_like(_POINTS))
            alone = np.array([trace(formula, point) + np.zeros(1) for point in _POINTS[:, None]])
        except Exception as error:
            raise TypeError(f"{what} of {name!r} cannot be applied to numbers: {error}. Write it with operators and "
                            "the functions of hotloop.kernels.elementary, a choice with its select") from error
        if found.dtype != np.float64:
            raise TypeError(f"{what} of {name!r} must give real numbers, gave {found.dtype}")
        if not np.allclose(found, alone.ravel(), rtol=1e-6, equal_nan=True):
            raise ValueError(f"{what} of {name!r} must look at each number by itself: of {_POINTS} together it makes "
                             f"{found}, of each alone {alone.ravel()}")
    for what, formula, line in (("numpy", value, numpy), ("numpy_derivative", derivative, numpy_derivative)):
        if line is not None:
            _check_line(f"{what} of {name!r}", formula, line)

    def of_arrays(formula):
        return lambda x: np.asarray(trace(formula, x) + np.zeros_like(x), x.dtype)

    activation(name, value, derivative, "x", numpy or of_arrays(value), numpy_derivative or of_arrays(derivative))
    return type(name, (Activation,), {"op": name, "__doc__": f"The operation {name!r}.", "__module__": value.__module__,
                                      "__repr__": lambda self: name})()


def _check_line(what, formula, line):
    """Refuse a line of NumPy that does not give for each number what the formula gives."""
    if not callable(line):
        raise TypeError(f"{what} must be a function of arrays, got {line!r}")
    try:
        with np.errstate(all="ignore"):
            wanted = np.asarray(trace(formula, _POINTS) + np.zeros_like(_POINTS))
            found = np.asarray(line(_POINTS.copy()))
    except Exception as error:
        raise TypeError(f"{what} cannot be applied to an array: {error}") from error
    if found.shape != _POINTS.shape or not np.allclose(found, wanted, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise ValueError(f"{what} gives {found} at {_POINTS}, the formula {wanted}: they must agree for each number")
