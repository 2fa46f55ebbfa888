"""Reverse-mode differentiation: appends to a graph the nodes that compute gradients."""

from hotloop.kernels import OPS


def differentiate(graph, value, wrt):
    """Append the gradient of the scalar `value`; return the gradient nodes of `wrt`, in its order.

    A node used several times gets the sum of what comes back along each use. Raises ValueError where `value` is no
    scalar, does not depend on a node of `wrt`, or passes through an op without a gradient.
    """
    if value.shape != ():
        raise ValueError(f"the gradient of {value!r} needs a scalar: reduce it first")
    needed = _between(graph, value, wrt)
    gradients = {value: graph._source("one", f"d_{value.name}", ())}
    for node in reversed(list(graph.nodes)):
        if node not in needed or node not in gradients or not node.inputs:
            continue
        rule = OPS[node.op].gradient
        if rule is None:
            raise ValueError(f"op {node.op!r} of node {node!r} has no gradient: it can be evaluated, not "
                             "trained with; leave it out of the training loss")
        for operand, gradient in zip(node.inputs, rule(graph, node, gradients[node]), strict=True):
            if gradient is None or operand not in needed:
                continue
            if operand in gradients:
                gradient = graph.apply("add", gradients[operand], gradient)
            gradients[operand] = gradient
    for node in wrt:
        if node not in gradients:
            raise ValueError(f"{value!r} does not depend on {node!r}: take it out of the gradient's arguments")
    return [gradients[node] for node in wrt]


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
