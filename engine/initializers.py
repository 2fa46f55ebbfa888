"""Initial weights, each a function of generator, outputs, inputs; float64."""

import math


def _uniform(limit):
    return lambda generator, outputs, inputs: generator.uniform(-1, 1, (outputs, inputs)) * limit(outputs, inputs)


def _normal(deviation):
    return lambda generator, outputs, inputs: generator.standard_normal((outputs, inputs)) * deviation(outputs, inputs)


INITIALIZERS = {
    "torch": _uniform(lambda outputs, inputs: 1 / math.sqrt(inputs)),
    "he_uniform": _uniform(lambda outputs, inputs: math.sqrt(6 / inputs)),
    "he_normal": _normal(lambda outputs, inputs: math.sqrt(2 / inputs)),
    "glorot_uniform": _uniform(lambda outputs, inputs: math.sqrt(6 / (inputs + outputs))),
    "glorot_normal": _normal(lambda outputs, inputs: math.sqrt(2 / (inputs + outputs))),
}


def initialize(generator, name, shapes):
    """Initial values of a dense layer's parameters, by parameter name; `shapes` as `Dense.parameters` gives them."""
    outputs, inputs = shapes["weight"]
    values = {"weight": INITIALIZERS[name](generator, outputs, inputs)}
    if "bias" in shapes:
        drawn = generator.uniform(-1, 1, outputs) / math.sqrt(inputs)
        values["bias"] = drawn if name == "torch" else drawn * 0
    return values
