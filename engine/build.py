"""From a trainer's parts to the programs that it runs: for prediction, evaluation, gradients and training."""

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels._cores import cores

from . import cost
from .autodiff import differentiate
from .by_feature import by_feature, narrow_rows
from .cpu_backend import layout
from .groups import in_groups
from .plan import plan, shared


def build(trainer, goal, form):
    """The program for `goal` and the form of its `Examples`, with others for few, narrow or many rows where they pay.

    goal: "predict", "gradient", "train", or ("evaluate", name of an output).
    """
    graph, options = _plan(trainer, goal, form)
    program = plan(graph, **options)
    if trainer.backend == "cpu" and any(
            shared(block, max(block.inputs, block.outputs), program.layout) for block in program.blocks):
        few = plan(graph, **options, columns=True)
        program.few, program.few_rows = few, cost.few_rows(program, few, trainer.threads or cores())
    if trainer.backend == "cpu":
        if program.few is None and (rows := narrow_rows(program)):
            program.narrow, program.narrow_rows = by_feature(program), rows
        program.many, program.many_rows = in_groups(program.narrow or program)
    return program


def _plan(trainer, goal, form):
    """A graph and what is to be planned of it."""
    graph, outputs = trainer.net.graph(training=goal in ("train", "gradient"))
    optimizer, objective = trainer.optimizer, trainer.objective
    options = {"states": optimizer.states(), "layout": _layout(trainer), "settings": {"key": _key(trainer.seed)}}
    predictions = {trainer.net.slot("prediction", name): node
                   for name, node in zip(trainer.net.outputs, outputs, strict=True)}
    if goal == "predict":
        return graph, options | {"predictions": predictions}
    if goal not in ("train", "gradient"):  # sums, since batches of different weights are joined
        loss = objective.apply(graph, outputs, form, reduction="sum", only=goal[1])
        return graph, options | {"loss": loss, "predictions": predictions}
    loss = objective.apply(graph, outputs, form)
    updates = [node for node in graph.nodes if node.inputs and OPS[node.op].phase == "update"]
    if goal == "train" and optimizer.op is None:  # it takes the gradient's program, then lets statistics follow
        return graph, options | {"loss": loss, "updates": updates}
    parameters = [node for node in graph.nodes if node.op == "parameter"]
    gradients = dict(zip(parameters, differentiate(graph, loss, parameters), strict=True))
    if trainer.l1 or trainer.l2:
        loss = _penalize(graph, loss, gradients, trainer.penalize_bias, {"l1": trainer.l1, "l2": trainer.l2})
    if goal == "gradient":
        return graph, options | {"loss": loss, "gradients": gradients, "keep_gradient": True}
    for parameter, gradient in _clip(graph, gradients, trainer.clip_value, trainer.clip_norm).items():
        states = [graph.parameter(f"{parameter.name}.{name}", shape=parameter.shape) for name in optimizer.states()]
        updates.append(graph.apply(optimizer.op, parameter, gradient, *states, name=f"{parameter.name}.update"))
    return graph, options | {"loss": loss, "gradients": gradients, "updates": updates}


def _layout(trainer):
    if trainer.backend == "cuda":
        from .cuda_backend import layout as on_device

        return on_device(trainer.dtype)
    return layout(trainer.dtype)


def _key(seed):
    """The seed as the int64 that a step's random numbers start from."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64).view(np.int64)[0])


def _penalize(graph, loss, gradients, bias, amounts):
    """The loss with penalties; their slopes are added in `gradients`."""
    penalized = [parameter for parameter in gradients if bias or len(parameter.shape) > 1]
    for parameter in penalized:
        gradients[parameter] = graph.apply("penalty_gradient", gradients[parameter], parameter, **amounts)
    return graph.apply("penalty", loss, *penalized, **amounts)


def _clip(graph, gradients, value, norm):
    """What the optimizer is given for each parameter's gradient."""
    if value is not None:
        gradients = {parameter: graph.apply("clip_value", gradient, clip_value=value)
                     for parameter, gradient in gradients.items()}
    if norm is not None:
        whole = graph.apply("gradient_norm", *gradients.values())
        gradients = {parameter: graph.apply("clip_norm", gradient, whole, max_norm=norm)
                     for parameter, gradient in gradients.items()}
    return gradients
