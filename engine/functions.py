"""Functions of graph nodes. Numbers and arrays beside a node become constants; shapes are broadcast as in NumPy."""

from .node import Node


def _elementwise(op, *operands, **attributes):
    nodes = [operand for operand in operands if isinstance(operand, Node)]
    if not nodes:
        raise TypeError(f"{op} needs a node of a graph among its operands, got {operands}")
    return nodes[0].graph.elementwise(op, *operands, **attributes)


def _node(x, function):
    if not isinstance(x, Node):
        raise TypeError(f"{function} needs a node of a graph, got {x!r}")
    return x


def exp(x):
    """e**x."""
    return _elementwise("exp", x)


def expm1(x):
    """e**x - 1, accurate near 0."""
    return _elementwise("expm1", x)


def log(x):
    """The natural logarithm; -inf at 0, NaN below."""
    return _elementwise("log", x)


def log1p(x):
    """ln(1 + x), accurate near 0; -inf at -1, NaN below."""
    return _elementwise("log1p", x)


def sin(x):
    """The sine of an angle in radians."""
    return _elementwise("sin", x)


def cos(x):
    """The cosine of an angle in radians."""
    return _elementwise("cos", x)


def erf(x):
    """The error function."""
    return _elementwise("erf", x)


def sqrt(x):
    """The square root; NaN below 0."""
    return _elementwise("sqrt", x)


def square(x):
    """x * x."""
    return _elementwise("square", x)


def sign(x):
    """-1, 0 or 1; its derivative is 0 everywhere."""
    return _elementwise("sign", x)


def absolute(x):
    """|x|, with slope 0 at 0."""
    return _elementwise("absolute", x)


def tanh(x):
    """The hyperbolic tangent."""
    return _elementwise("tanh", x)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return _elementwise("sigmoid", x)


def relu(x):
    """max(x, 0), with slope 0 at 0."""
    return _elementwise("relu", x)


def maximum(x, y):
    """The larger of each pair; where they are equal, each gets half of the gradient. NaN if one is."""
    return _elementwise("maximum", x, y)


def minimum(x, y):
    """The smaller of each pair; where they are equal, each gets half of the gradient. NaN if one is."""
    return _elementwise("minimum", x, y)


def equal(x, y):
    """1 where x == y, else 0. (== compares nodes, not their values.)"""
    return _elementwise("equal", x, y)


def not_equal(x, y):
    """1 where x != y, else 0. (!= compares nodes, not their values.)"""
    return 1 - equal(x, y)


def where(condition, yes, no):
    """`yes` where the condition is not 0, else `no`. Raises TypeError for the bool that == and != make of nodes."""
    if isinstance(condition, bool):
        raise TypeError(f"where needs a node or array as condition, got {condition}: == and != compare nodes "
                        "themselves, equal and not_equal their values")
    return _elementwise("where", condition, yes, no)


def sum(x, axis=None, keepdims=False):
    """The sum over one axis, several, or all (None)."""
    return _node(x, "sum").sum(axis, keepdims)


def mean(x, axis=None, keepdims=False):
    """The mean over one axis, several, or all (None)."""
    return _node(x, "mean").mean(axis, keepdims)


def max(x, axis=None, keepdims=False):
    """The largest along one axis, several, or all (None); the first of equal ones gets the gradient."""
    return _node(x, "max").max(axis, keepdims)


def min(x, axis=None, keepdims=False):
    """The smallest along one axis, several, or all (None); the first of equal ones gets the gradient."""
    return _node(x, "min").min(axis, keepdims)


def logsumexp(x, axis=None, keepdims=False):
    """log(sum(exp(x))) over one axis, several, or all, without overflow; -inf where all are -inf."""
    top = _finite_top(x, axis)
    total = log(exp(x - top).sum(axis, keepdims=True)) + top
    return total if keepdims else total.reshape(x.sum(axis).shape)


def softmax(x, axis=-1):
    """exp(x) / sum(exp(x)) along an axis, without overflow."""
    e = exp(x - _finite_top(x, axis))
    return e / e.sum(axis, keepdims=True)


def log_softmax(x, axis=-1):
    """x - logsumexp(x) along an axis; what is large is subtracted first, so that large x lose nothing."""
    below = x - _finite_top(x, axis)
    return below - log(exp(below).sum(axis, keepdims=True))


def _finite_top(x, axis):
    """The largest along an axis, or 0 where it is infinite; a constant to derivatives, which it does not change."""
    top = detach(_node(x, "softmax or logsumexp").max(axis, keepdims=True))
    return where(equal(top - top, 0.0), top, 0.0)


def detach(x):
    """x, as a constant for derivatives."""
    return _node(x, "detach").graph.apply("detach", x)


def reshape(x, shape):
    """The elements in another shape, of which one size may be -1."""
    return _node(x, "reshape").reshape(shape)


def transpose(x, axes=None):
    """x with its dimensions in another order, reversed by default; axes count from the end where they are negative."""
    return _node(x, "transpose").transpose(axes) if axes is not None else _node(x, "transpose").transpose()


def concatenate(nodes, axis=0):
    """Nodes joined along an axis that is not the batch."""
    graph, parts = _parts(nodes)
    place = axis + parts[0].ndim if axis < 0 else axis
    if not 0 <= place < parts[0].ndim:
        raise ValueError(f"axis {axis} is outside the dimensions of {parts[0]!r}")
    return graph.apply("concatenate", *parts, axis=place)


def stack(nodes, axis=0):
    """Nodes of one shape joined along a new axis."""
    _, parts = _parts(nodes)
    place = axis + parts[0].ndim + 1 if axis < 0 else axis
    return concatenate([part.reshape((*part.shape[:place], 1, *part.shape[place:])) for part in parts], place)


def _parts(nodes):
    """The graph of some nodes, numbers and arrays, and all of them as nodes."""
    nodes = list(nodes)
    graph = next((node.graph for node in nodes if isinstance(node, Node)), None)
    if graph is None:
        raise TypeError(f"a list of nodes is needed, got {nodes}")
    return graph, [graph.constant(node) for node in nodes]


def matmul(x, y):
    """The matrix product of vectors, matrices, or stacks of matrices that broadcast, as in NumPy."""
    return (x if isinstance(x, Node) else _node(y, "matmul")).graph.matmul(x, y)
