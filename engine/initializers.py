"""Initial weights: each draws rows of a weight (outputs, inputs), float64, from a generator."""

import math

_BLOCK = 1 << 16  # numbers drawn at a time: a large weight never stands in memory twice


def _uniform(limit):
    return lambda generator, rows, outputs, inputs: generator.uniform(-1, 1, (rows, inputs)) * limit(outputs, inputs)


def _normal(deviation):
    return lambda generator, rows, outputs, inputs: (
        generator.standard_normal((rows, inputs)) * deviation(outputs, inputs))


INITIALIZERS = {
    "torch": _uniform(lambda outputs, inputs: 1 / math.sqrt(inputs)),
    "he_uniform": _uniform(lambda outputs, inputs: math.sqrt(6 / inputs)),
    "he_normal": _normal(lambda outputs, inputs: math.sqrt(2 / inputs)),
    "glorot_uniform": _uniform(lambda outputs, inputs: math.sqrt(6 / (inputs + outputs))),
    "glorot_normal": _normal(lambda outputs, inputs: math.sqrt(2 / (inputs + outputs))),
}


def initialize(generator, name, shapes):
    """Draw a dense layer's parameters, `shapes` as `Dense.parameters` gives them.

    Yields (parameter, first row, rows); the values do not depend on how many rows come at a time.
    """
    outputs, inputs = shapes["weight"]
    step = max(1, _BLOCK // inputs)
    for first in range(0, outputs, step):
        yield "weight", first, INITIALIZERS[name](generator, min(step, outputs - first), outputs, inputs)
    if "bias" in shapes:
        drawn = generator.uniform(-1, 1, outputs) / math.sqrt(inputs)
        yield "bias", 0, drawn if name == "torch" else drawn * 0
