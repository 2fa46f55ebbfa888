"""Checks derivatives of graphs against central differences."""

import numpy as np

from . import checks
from .graph import Graph
from .node import Node

RANDOM = object()  # a seed drawn at random


class GradientError(ValueError):
    """A derivative is not what central differences say.

    argument, index: the element concerned. derivative: by the graph. difference: by central differences.
    """

    def __init__(self, message, argument, index, derivative, difference):
        """Keep the numbers beside the message."""
        super().__init__(message)
        self.argument, self.index, self.derivative, self.difference = argument, index, derivative, difference


def numerical_gradient(function, *arrays, step=1e-6, seed=None, backend="numpy"):
    """The gradient of sum(seed * function(*arrays)) by central differences: (f(x + h) - f(x - h)) / (2 h).

    function: makes a node of one node an array. step: h; the error is about h**2 times the third derivative, plus
    1e-16 / h times the value. Returns one float64 array for each of `arrays`.
    """
    step = checks.number("step", step, 0, open_low=True)
    program, _, weights = _program(function, arrays, backend, seed)
    arrays = [np.array(array, np.float64) for array in arrays]
    gradients = [np.zeros_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            kept, values = array[index], []
            for moved in (kept + step, kept - step):
                array[index] = moved
                values.append(np.sum(weights * program(**_named(program, arrays))))
            array[index] = kept
            gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradients


def gradcheck(function, *arrays, step=1e-6, rtol=1e-3, atol=1e-5, backend="cpu"):
    """Compare reverse mode, forward mode and central differences of `function` at `arrays`, in float64.

    function: makes a node of one node an array, say `lambda x, w: hl.tanh(x @ w)`; an output that is no scalar is
    weighted by random numbers. Returns the largest |derivative - difference|. Raises GradientError, which names
    function, argument, index and both values, where it is beyond atol + rtol |difference|.
    """
    program, nodes, weights = _program(function, arrays, backend, RANDOM)
    graph, value = program.graph, program.outputs[0]
    name = getattr(function, "__name__", repr(function)) + ", its values weighed at random" * bool(value.shape)
    gradients = dict.fromkeys((node.name for node in nodes), 0.0)  # what the value does not depend on
    known = [node for node in nodes if value.depends_on(node)]
    if known:
        program = graph.compile(value, wrt=known, seed=weights, backend=backend)
        gradients |= program(**_named(program, arrays))[1]
    differences = numerical_gradient(function, *arrays, step=step, seed=weights, backend=backend)
    generator, largest = np.random.default_rng(1), 0.0
    for number, (node, difference) in enumerate(zip(nodes, differences, strict=True)):
        derivative = np.broadcast_to(gradients[node.name], difference.shape)
        error = np.abs(derivative - difference)
        wrong = ~(error <= atol + rtol * np.abs(difference))
        if wrong.any():
            index = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(
                error, nan=np.inf), -1)), error.shape))
            raise GradientError(f"{name}, argument {number}, index {index}: the gradient is {derivative[index]:.10g}, "
                                f"central differences with step {step:g} give {difference[index]:.10g}", number, index,
                                float(derivative[index]), float(difference[index]))
        largest = max(largest, float(error.max(initial=0)))
        if node not in known:
            continue
        direction = generator.standard_normal(node.shape)
        program = graph.compile(graph.jvp(value, {node: direction}), backend=backend)
        forward = np.sum(weights * program(**_named(program, arrays)))
        expected = float(np.sum(direction * derivative))
        if not abs(forward - expected) <= 1e-8 * (1 + np.sum(np.abs(direction * derivative))):
            raise GradientError(f"{name}, argument {number}: forward mode gives {forward:.10g} along a direction, "
                                f"reverse mode {expected:.10g}", number, None, float(forward), expected)
    return largest


def _program(function, arrays, backend, seed):
    graph = Graph()
    nodes = [graph.input(f"x{number}", np.shape(array)) for number, array in enumerate(arrays)]
    value = function(*nodes)
    if not isinstance(value, Node) or value.graph is not graph:
        raise TypeError(f"the function must make a node of its arguments, made {value!r}")
    if seed is None and value.shape != ():
        raise ValueError(f"{value!r} is no scalar: give a seed")
    if seed is RANDOM:
        seed = np.random.default_rng(0).uniform(0.5, 1.5, value.shape) if value.shape else None
    weights = np.asarray(1.0 if seed is None else seed, np.float64)
    return graph.compile(value, backend=backend), nodes, weights


def _named(program, arrays):
    """The arrays by name, those that the program takes."""
    return {f"x{number}": array for number, array in enumerate(arrays) if f"x{number}" in program.inputs}
