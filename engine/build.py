"""From a trainer's parts to the programs that it runs: for prediction, evaluation, gradients and training."""

from .autodiff import differentiate
from .plan import plan


def build(goal, net, loss, optimizer, kind, layout):
    """The program for `goal`: "predict", "evaluate", "gradient" or "train"; `kind` of targets, "labels" or "target"."""
    graph, prediction = net.graph()
    options = {"states": optimizer.states(), "layout": layout}
    if goal == "predict":
        return plan(graph, prediction=prediction, **options)
    value = loss.apply(graph, prediction, kind)
    if goal == "evaluate":
        return plan(graph, loss=value, prediction=prediction, **options)
    parameters = [node for node in graph.nodes if node.op == "parameter"]
    gradients = dict(zip(parameters, differentiate(graph, value, parameters), strict=True))
    if goal == "gradient":
        return plan(graph, loss=value, gradients=gradients, keep_gradient=True, **options)
    updates = []
    for parameter, gradient in gradients.items():
        states = [graph.parameter(f"{parameter.name}.{name}", parameter.shape) for name in optimizer.states()]
        updates.append(graph.apply(optimizer.op, parameter, gradient, *states, name=f"{parameter.name}.update"))
    return plan(graph, loss=value, gradients=gradients, updates=updates, **options)
