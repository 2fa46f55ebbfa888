"""Kernels for CUDA devices against the references, op by op: in Numba's simulator, or on a device where there is one.

The simulator checks every index; shapes are small, but cross blocks of 32 rows and tiles.
"""

import numpy as np
import pytest
from machine import (
    DENSE,
    ROWWISE,
    SOFTMAXES,
    Machine,
    fitted,
    in_place_and_apart,
    loss_graph,
    prediction_and_target,
)
from test_layer_ops import OPERANDS, draw, scale_of
from test_ops import CHANGES, cases, check_dense, divisor, magnitude, rowwise_inputs
from test_updates import UPDATES
from tolerances import close

from hotloop.graph import Graph
from hotloop.kernels import OPS
from hotloop.kernels._block import BLOCK_KERNELS
from hotloop.kernels.losses import LOSSES

BOTH = [((33, 5), "float32"), ((3, 33), "float64")]


def turns(given):
    """Every case with one of both shapes and dtypes, in turns; the simulator's threads take their time."""
    return [pytest.param(*param.values, *BOTH[place % 2], id=param.id) for place, param in enumerate(given)]
ELSEWHERE = {"track_moments", "batch_moments", "batch_norm_sums"}  # in whole networks: see test_cuda_networks


def test_every_op_is_tested():
    known = {*ROWWISE, *DENSE, *OPERANDS, *UPDATES, *CHANGES, *LOSSES, *(f"{name}_backward" for name in LOSSES)}
    with_kernels = {name for name, op in OPS.items() if op.cpu is not None}
    general = {name for name in with_kernels if OPS[name].arity} | {"max", "first_max"}  # see test_cuda_graphs
    assert with_kernels == known & with_kernels | ELSEWHERE | general
    assert all(hasattr(OPS[name].cpu, "cuda") for name in with_kernels)
    assert all(function.__doc__ or "<locals>" in function.__qualname__ or function.__name__ == "update"
               for function in BLOCK_KERNELS)


@pytest.mark.parametrize(("name", "case", "shape", "dtype"), turns(cases(ROWWISE)))
def test_rowwise(name, case, shape, dtype):
    op, (rows, cols), dtype = OPS[name], shape, np.dtype(dtype)
    inputs = rowwise_inputs(name, case, shape, dtype)
    graph = Graph()
    nodes = [graph.input("x", (None, cols)), graph.target("y", (None, cols))][: len(inputs)]
    node = graph.apply(name, *nodes, **case)
    expected = op.reference(case, *(value.astype(np.float64) for value in inputs))
    terms, scale = 1, abs(inputs[0])
    if op.tolerance == "row":
        terms, scale = cols, None if name in SOFTMAXES else scale.max(-1, keepdims=True)
    for machine in in_place_and_apart(name, dtype, graph, rows, backend="cuda", prediction=node):
        close(machine(*inputs), expected, dtype, op.tolerance, terms, scale)


@pytest.mark.parametrize(("name", "case", "shape", "dtype"), turns(cases(sorted(LOSSES))))
def test_losses(name, case, shape, dtype):
    (rows, cols), case, dtype = shape, fitted(case, shape[1]), np.dtype(dtype)
    x, y, weights = prediction_and_target(name, case, shape, dtype)
    weights = weights if rows < cols else None
    graph, node, *slope = loss_graph(name, cols, case, weights is not None)
    exact = [value.astype(np.float64) if value is not None and value.dtype == dtype else value
             for value in (x, y, weights)]
    largest, count = magnitude(name, case, exact), divisor(name, case, exact)
    machine = Machine("cuda", dtype, graph, rows, loss=node, **({"prediction": slope[0]} if slope else {}))
    found = machine(x, y, weights=weights)
    if slope:
        expected = OPS[slope[0].op].reference(case, 1.0, *exact)
        close(found, expected, dtype, OPS[slope[0].op].tolerance, cols, largest[:, None] / count)
    loss = OPS[name].reference(case, *exact)
    close(machine.losses, [loss], dtype, OPS[name].tolerance, cols * rows, abs(loss) + largest.sum() / count)


@pytest.mark.parametrize(("sizes", "dtype", "bias"), [
    ((33, 33, 33), "float32", True), ((70, 5, 65), "float32", True), ((3, 70, 2), "float64", True),
    ((1, 1, 1), "float64", True), ((33, 5, 33), "float32", False), ((3, 70, 2), "float64", False)], ids=str)
def test_dense(sizes, dtype, bias):
    check_dense("cuda", sizes, bias, np.dtype(dtype))


LAYER_CASES = [(name, case, form) for name, form in OPERANDS.items() if name not in ELSEWHERE
               for case in OPS[name].cases] + [("affine", {}, "xw"), ("prelu", {}, "x1"), ("prelu_backward", {}, "xx1"),
                                               ("prelu_weight_gradient", {}, "xx1")]


@pytest.mark.parametrize(("name", "case", "form", "shape", "dtype"), [
    (*one, *(((33, 10), "float32"), ((3, 70), "float64"))[place % 2])
    for place, one in enumerate(LAYER_CASES)], ids=str)
def test_layers(name, case, form, shape, dtype):
    """Normalization, vectors, random numbers and pooling."""
    (rows, cols), generator, op, dtype = shape, np.random.default_rng(sum(shape)), OPS[name], np.dtype(dtype)
    pool = 2 if name.startswith("glu") else case.get("pool", 1)
    graph, nodes, arrays, parameters, operands = Graph(), [], {}, {}, []
    for letter in form:
        if letter == "k":
            nodes.append(graph.key())
            operands.append((7, 1))  # the machine's seed, and the first update
        elif letter == "m":
            made = ["batch_norm_sums", *nodes] if "m" in form[: len(nodes)] else ["batch_moments", nodes[0]]
            node = graph.apply(made[0], *made[1:3])
            nodes.append(node)
            operands.append(OPS[node.op].reference({}, *operands[:2][: len(node.inputs)]))
        else:
            value = draw(generator, letter, shape, cols // pool, dtype)
            place = f"w{len(parameters)}" if value.ndim == 1 else "xy"[len(arrays)]
            if value.ndim == 1:
                parameters[place] = value
                nodes.append(graph.parameter(place, shape=value.shape))
            else:
                arrays[place] = value
                nodes.append((graph.input if place == "x" else graph.target)(place, (None, value.shape[1])))
            operands.append(value.astype(np.float64))
    node = graph.apply(name, *nodes, **case)
    expected = op.reference(case, *operands)
    scale = scale_of(name, case, [value for value in operands if isinstance(value, np.ndarray)], expected)
    goals = {"prediction": node}
    if name.endswith("_gradient"):
        parameter = next((other for other in nodes if other.op == "parameter"), None)
        if parameter is None:
            parameter = graph.parameter("w", shape=(cols,))
        goals = {"gradients": {parameter: node}}
    machine = Machine("cuda", dtype, graph, rows, parameters, **goals)
    found = machine(*arrays.values())
    if "gradients" in goals:
        found = machine.gradient(parameter)
    close(found, expected, dtype, op.tolerance, max(shape), scale)


