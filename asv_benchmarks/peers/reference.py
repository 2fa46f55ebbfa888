"""What everyone must find before anything is timed: training and prediction in plain NumPy, in float64."""

from functools import cache

import numpy as np

from .workloads import RATES, data, first_batches, weights

TOLERANCE = 1e-5  # relative; for Adam three times what rounding makes, if that is more
UNSURE = 1e-6  # so far off may float32 be that sums up to 2048 numbers around 1


class WrongResultError(Exception):
    """A competitor computes something else."""


def outputs(task, dtype=np.float64):
    """The outputs (rows, outputs) of the first weights."""
    parameters = [array.astype(dtype) for layer in weights(task.workload) for array in layer]
    return _forward(task.workload, parameters, data(task)[0][0].astype(dtype))[0][-1]


def losses(task, dtype=np.float64, edge=0.0):
    """The losses of the first steps, each before its update; edge: where the slope of ReLU changes."""
    parameters = [array.astype(dtype) for layer in weights(task.workload) for array in layer]
    update, found = {"sgd": _sgd, "adam": _adam}[task.goal](parameters), []
    for x, y in first_batches(task):
        values, slopes = _forward(task.workload, parameters, x.astype(dtype), edge)
        loss, slope = (_mean_square if task.workload.regression else _cross_entropy)(values[-1], y)
        update(_backward(parameters, values, slopes, slope))
        found.append(loss)
    return np.array(found)


def check(task, name, found, compared=True, tolerance=0.0):
    """The largest relative error of losses or outputs, absolute where 0 is exact; WrongResultError if it is too large.

    compared: False for losses of a competitor that does not take first weights: they must fall, the error is None.
    tolerance: what is allowed, if that is more than float32 needs.
    """
    if not compared:
        if not found[-1] < found[0]:
            raise WrongResultError(f"{name}, {task}: the loss does not fall, from {found[0]:.6g} to {found[-1]:.6g}")
        return None
    exact, allowed = expected(task)
    found, allowed = np.asarray(found), max(allowed, tolerance)
    if found.shape != exact.shape:
        raise WrongResultError(f"{name}, {task}: the shape is {found.shape}, not {exact.shape}")
    error = _error(task, found, exact)
    if not error <= allowed:
        raise WrongResultError(f"{name}, {task}: off the float64 reference by {error:.1e}, more than {allowed:.1e}")
    return error


@cache
def expected(task):
    """Exact results and the error that is allowed.

    Where rounding decides on which side of 0 the input of a ReLU lies, Adam makes much of it: it divides a gradient by
    its own size. What may come of it, two runs in float32 show that decide all such cases in one way and in the other.
    """
    if task.goal != "adam":
        return (outputs if task.goal == "predict" else losses)(task), TOLERANCE
    exact = losses(task)
    rounded = [losses(task, np.float32, edge) for edge in (-UNSURE, UNSURE)]
    return exact, max(TOLERANCE, *(3 * _error(task, found, exact) for found in rounded))


def _error(task, found, exact):
    """The largest error, of outputs by the largest output, of a loss by itself: that of a single class is 0."""
    scale = np.max(np.abs(exact)) if task.goal == "predict" else np.abs(exact)
    return float(np.max(np.abs(found - exact) / np.where(scale == 0, 1, scale)))


def _forward(workload, parameters, x, edge=0.0):
    """The values that layers take and at last give, and the slopes of hidden layers' activations."""
    *hidden, (last, end) = zip(parameters[::2], parameters[1::2], strict=True)
    values, slopes = [x], []
    for weight, bias in hidden:
        z = values[-1] @ weight.T + bias
        values.append(np.tanh(z) if workload.regression else np.maximum(z, 0))
        slopes.append(1 - values[-1] ** 2 if workload.regression else z > edge)
    return [*values, values[-1] @ last.T + end], slopes


def _backward(parameters, values, slopes, delta):
    """The gradient of every parameter, from the loss's slope at the outputs."""
    gradients = []
    for layer in reversed(range(len(slopes) + 1)):
        gradients = [delta.T @ values[layer], delta.sum(0), *gradients]
        if layer:
            delta = delta @ parameters[2 * layer] * slopes[layer - 1]
    return gradients


def _cross_entropy(z, labels):
    rows = np.arange(len(z))
    z = z - z.max(1, keepdims=True)
    logarithms = z - np.log(np.exp(z).sum(1, keepdims=True))
    slope = np.exp(logarithms)
    slope[rows, labels] -= 1
    return -logarithms[rows, labels].mean(), slope / len(z)


def _mean_square(z, targets):
    return ((z - targets) ** 2).mean(), 2 / z.size * (z - targets)


def _sgd(parameters):
    def update(gradients):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= RATES["sgd"] * gradient

    return update


def _adam(parameters):
    states = [(np.zeros_like(parameter), np.zeros_like(parameter)) for parameter in parameters]
    count = 0

    def update(gradients):
        nonlocal count
        count += 1
        for parameter, gradient, (mean, square) in zip(parameters, gradients, states, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            parameter -= RATES["adam"] * (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)

    return update
