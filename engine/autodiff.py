"""Differentiation: appends to a graph the nodes that compute derivatives, so they can be differentiated again."""

from collections.abc import Mapping

from hotloop.kernels import OPS

from .node import Node


def differentiate(graph, value, wrt, seed=None):
    """Reverse mode: append the gradient of sum(seed * value); return the gradient nodes of `wrt`, in its order.

    seed: a node, number or array of the shape of `value`; 1 by default, for scalars alone. A node used several times
    gets the sum of what comes back along each use. Raises ValueError where `value` is no scalar and there is no seed,
    does not depend on a node of `wrt`, or passes through an op without a gradient.
    """
    wrt = _checked(graph, [value, *_several(wrt)])[1:]
    if seed is None and value.shape != ():
        raise ValueError(f"the gradient of {value!r} needs a scalar: reduce it, say by its mean, or give a seed")
    start = graph.constant(1.0 if seed is None else seed)
    if start.shape != value.shape:
        raise ValueError(f"the seed must have the shape of {value!r}, got {start!r}")
    needed = _between(graph, value, wrt)
    gradients = {value: start}
    for node in reversed(list(graph.nodes)):
        if node not in needed or node not in gradients or not node.inputs:
            continue
        rule = _rule(node)
        for operand, gradient in zip(node.inputs, rule(graph, node, gradients[node]), strict=True):
            if gradient is None or operand not in needed:
                continue
            if operand in gradients:
                gradient = graph.apply("add", gradients[operand], gradient)
            gradients[operand] = gradient
    for node in wrt:
        if node not in needed:
            raise ValueError(f"{value!r} does not depend on {node!r}: take it out of the gradient's arguments")
        if node not in gradients:  # every way to it has slope 0
            gradients[node] = graph.constant(0.0).broadcast_to(node.shape)
    return [gradients[node] for node in wrt]


def hessian(graph, value, wrt):
    """The matrix of the second derivatives of a scalar: rows and columns are all elements of `wrt`, one after another.

    As many reverse passes as elements, each a part of the graph. Raises what `differentiate` does.
    """
    wrt = _several(wrt)
    slopes = [gradient.reshape(-1) for gradient in differentiate(graph, value, wrt)]
    rows = []
    for slope in slopes:
        for place in range(slope.shape[0]):
            bends = [differentiate(graph, slope[place], [node])[0] if slope.depends_on(node) else
                     graph.constant(0.0).broadcast_to(node.shape) for node in wrt]
            rows.append(graph.apply("concatenate", *(bend.reshape(1, -1) for bend in bends), axis=1))
    return graph.apply("concatenate", *rows, axis=0)


def jvp(graph, value, tangents):
    """Forward mode: append the directional derivative of `value`; return its node, of the shape of `value`.

    tangents: node -> direction, a node, number or array of its shape. Raises ValueError where a direction has another
    shape, `value` does not depend on any of the nodes, or passes through an op without a derivative.
    """
    if not isinstance(tangents, Mapping) or not tangents:
        raise TypeError(f"tangents must map nodes to their directions, such as {{x: 1.0}}, got {tangents!r}")
    _checked(graph, [value, *tangents])
    directions = {node: graph.constant(direction) for node, direction in tangents.items()}
    for node, direction in directions.items():
        if direction.shape != node.shape:
            raise ValueError(f"the direction of {node!r} must have its shape, got {direction!r}")
    needed = _between(graph, value, directions)
    for node in list(graph.nodes):
        if node not in needed or node in directions or not node.inputs:
            continue
        moved = [directions.get(operand) for operand in node.inputs]
        if any(tangent is not None for tangent in moved):
            tangent = _tangent(graph, node, moved)
            if tangent is not None:
                directions[node] = tangent
    if value not in needed:
        raise ValueError(f"{value!r} does not depend on {', '.join(map(repr, tangents))}")
    return directions[value] if value in directions else graph.constant(0.0).broadcast_to(value.shape)


def _tangent(graph, node, moved):
    op = OPS.get(node.op)
    if op is not None and op.tangent is not None:
        return op.tangent(graph, node, moved)
    if op is None or not op.arity:
        raise ValueError(f"op {node.op!r} of node {node!r} has no forward-mode rule: use the gradient")
    rule, total = _rule(node), None
    for place, tangent in enumerate(moved):  # the Jacobian is diagonal: its product is the same from either side
        part = None if tangent is None else rule(graph, node, tangent)[place]
        if part is not None:
            total = part if total is None else graph.apply("add", total, part)
    return total


def _rule(node):
    if node.op == "layer":
        raise ValueError(f"{node!r} = {node.attributes['layer']!r} differs in training and in use, or with the dtype: "
                         "give its nodes to a Network, which a Trainer trains")
    if node.op not in OPS or OPS[node.op].gradient is None:
        raise ValueError(f"op {node.op!r} of node {node!r} has no gradient: it can be evaluated; leave it out of what "
                         "is differentiated, such as a training loss")
    return OPS[node.op].gradient


def _several(nodes):
    if not isinstance(nodes, list | tuple) or not nodes:
        raise TypeError(f"wrt must be a list of nodes, such as [x], got {nodes!r}")
    return nodes


def _checked(graph, nodes):
    for node in nodes:
        if not isinstance(node, Node) or node.graph is not graph:
            raise ValueError(f"{node!r} is not a node of this graph")
    return nodes


def _between(graph, value, wrt):
    """The nodes on a path from one of `wrt` to `value`."""
    below = set(wrt)
    for node in graph.nodes:
        if any(operand in below for operand in node.inputs):
            below.add(node)
    above = {value}
    for node in reversed(graph.nodes):
        if node in above:
            above.update(node.inputs)
    return below & above
