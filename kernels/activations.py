"""Activations: y = f(x) for each element, and dx = dy f'(x); here how they are made.

An entry is a value formula, a slope formula, and two lines of NumPy that judge them; the kernels of a target are made
from the formulas. What a formula takes beside x are the op's parameters, under the names of its attributes. The slope
formula and its reference are given x or y, whichever the entry saves. NaN passes through all of them. Conventions are
torch's. The smooth ones stand in `smooth`, those in pieces with kinks between them in `piecewise`.
"""

from inspect import signature
from itertools import zip_longest

import numpy as np

from ._block import THREADS, block_kernel, blocks, spot, thread
from ._elementwise import BLOCK, SPAN, stages
from ._jit import kernel
from ._op import Op, one_shape, register, same_shape
from ._primitives import PANEL, SIZE, copy, real, reals, room
from ._trace import trace
from .gemm import PLAIN

ACTIVATIONS: dict[str, tuple[str, ...]] = {}  # name -> names of its parameters
_OPERANDS = ("p", "q")  # of the kernels, for the parameters


def activation(name, value, slope, saves, reference, reference_slope, cases=({},), finish=(None, None)):
    """Enter an activation and its backward op into the table, with CPU kernels made from the formulas.

    value, slope, reference, reference_slope: functions of x (the slopes: of what `saves` names, "x" or "y"), then of
    the parameters, at most two. value and slope may be in two stages, see `_elementwise`. cases: parameters to test the
    op with; finish: see `Op`, forward and backward.
    Raises ValueError where the name is taken, there are more parameters, or the cases do not name them.
    """
    parameters = tuple(signature(stages(value)[0]).parameters)[1:]
    if len(parameters) > len(_OPERANDS):
        raise ValueError(f"an activation has at most {len(_OPERANDS)} parameters, {name!r} has {parameters}")
    if any(case.keys() != set(parameters) for case in cases):
        raise ValueError(f"cases of {name!r} must give its parameters {parameters}, got {cases}")
    backward = f"{name}_backward"

    def evaluate(attributes, x):
        return reference(x, **attributes)

    def evaluate_backward(attributes, dy, saved):
        return dy * reference_slope(saved, **attributes)

    def gradient(graph, node, upstream):
        return (graph.apply(backward, upstream, node.inputs[0] if saves == "x" else node, **node.attributes),)

    def gradient_of_backward(graph, node, upstream):
        dy, saved = node.inputs
        given = [node.attributes[parameter] for parameter in parameters]
        first, *then = stages(slope)
        bend = trace(first, saved, *given)
        for stage in then:
            bend = trace(stage, saved, bend, *given)
        second = None
        if isinstance(bend, type(saved)) and bend.depends_on(saved):
            (second,) = graph.gradient(bend, [saved], seed=upstream * dy)
        return graph.apply(backward, upstream, saved, **node.attributes), second

    ACTIVATIONS[name] = parameters
    register(Op(name, one_shape, evaluate, gradient, saves, _forward_kernel(name, value), finish[0], cases=cases,
                arity=1))
    register(Op(backward, same_shape, evaluate_backward, gradient_of_backward, saves, _backward_kernel(name, slope),
                finish[1], cases=cases, arity=2))


def scalar_operands(name, attributes):
    """What the kernels of the activation `name` get for its parameters."""
    values = [float(attributes[parameter]) for parameter in ACTIVATIONS[name]]
    return dict(zip_longest(_OPERANDS, values, fillvalue=0.0))


def _padded(formula, operands):
    """`formula` as a function of its operands and two parameters, whatever it has itself."""
    takes = len(signature(formula).parameters) - operands
    if operands == 1:
        return (lambda x, p, q: formula(x), lambda x, p, q: formula(x, p), formula)[takes]
    return (lambda x, t, p, q: formula(x, t), lambda x, t, p, q: formula(x, t, p), formula)[takes]


def _in_stages(formula):
    """Two stages of a formula, the second of which may give what the first does."""
    first, *then = stages(formula)
    return _padded(first, 1), _padded(then[0], 2) if then else None


def _forward_kernel(name, formula):
    first, then = _in_stages(formula)
    staged = then is not None
    then = then or first

    def forward(x, x_panel, y, y_panel, y_panels, p: float, q: float, context, low, high):
        a, b, end = real(p), real(q), high * PANEL
        own = room(BLOCK)
        for panel in range(y_panels):
            for start in range(low * PANEL, end, BLOCK):
                count = min(BLOCK, end - start)
                copy(own, x + (panel * x_panel + start) * SIZE, count)
                source, target = reals(own, count), reals(y + (panel * y_panel + start) * SIZE, count)
                for i in range(count):
                    target[i] = first(source[i], a, b)
                if staged:
                    for i in range(count):
                        target[i] = then(source[i], target[i], a, b)
        return 0

    def forward_cuda(x, y, y_cols, p: float, q: float, context, row, rows, column, columns):
        for block in blocks(row, rows):
            begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
            source, target = reals(x + begin, count), reals(y + begin, count)
            for i in range(thread(), count, THREADS):
                number = first(source[i], p, q)
                if staged:
                    number = then(source[i], number, p, q)
                target[i] = number
        return 0

    forward = kernel(forward, f"{name}_forward")
    block_kernel(forward, "y", span=SPAN)(forward_cuda)
    return forward


def _backward_kernel(name, formula):
    first, then = _in_stages(formula)
    staged = then is not None
    then = then or first

    def backward(dy, dy_panel, saved, saved_panel, dx, dx_panel, dx_panels, p: float, q: float, context, low, high):
        a, b, end = real(p), real(q), high * PANEL
        slopes = reals(room(BLOCK), BLOCK)
        for panel in range(dx_panels):
            for start in range(low * PANEL, end, BLOCK):
                count = min(BLOCK, end - start)
                kept = reals(saved + (panel * saved_panel + start) * SIZE, count)
                target = _moved(dy + (panel * dy_panel + start) * SIZE, dx + (panel * dx_panel + start) * SIZE, count)
                if staged:
                    for i in range(count):
                        slopes[i] = first(kept[i], a, b)
                    for i in range(count):
                        target[i] = target[i] * then(kept[i], slopes[i], a, b)
                else:
                    for i in range(count):
                        target[i] = target[i] * first(kept[i], a, b)
        return 0

    def backward_cuda(dy, saved, dx, dx_cols, p: float, q: float, context, row, rows, column, columns):
        for block in blocks(row, rows):
            begin, count = spot(block, dx_cols, column) * SIZE, columns * PANEL
            slopes, kept, target = reals(dy + begin, count), reals(saved + begin, count), reals(dx + begin, count)
            for i in range(thread(), count, THREADS):
                slope = first(kept[i], p, q)
                if staged:
                    slope = then(kept[i], slope, p, q)
                target[i] = slopes[i] * slope
        return 0

    backward = kernel(backward, f"{name}_backward")
    block_kernel(backward, "dx", span=SPAN)(backward_cuda)
    return backward


def _moved(source, target, count):
    """View the target, with the source's values in it: a loop over two spans that are the same would not vectorise."""
    if source != target:
        copy(target, source, count)
    return reals(target, count)


def _identity(x):
    return x


def _identity_slope(y):
    return 1.0


activation("identity", _identity, _identity_slope, "y", lambda x: +x, np.ones_like, finish=(PLAIN, PLAIN))
