"""The numpy backend: a program's graph nodes, one line of NumPy each, in order. It judges the others."""

import numpy as np

from hotloop.kernels import OPS
from hotloop.kernels.shapes import concrete

from .features import constant
from .run import Outcome

_DATA = "input", "target", "labels", "weights"  # sources that the caller's arrays give, by their names


class NumpyBackend:
    """Executes programs in plain NumPy; parameters and optimizer states are arrays in torch's shapes.

    Has the methods of `CpuBackend`, shares no code with it, and ignores how the program fused and placed things.
    """

    def __init__(self, dtype, threads=None):
        self.dtype = np.dtype(dtype)
        self.parameters, self.states, self.gradients = {}, {}, {}

    def prepare(self, program, capacity):
        """Make the parameters and states of `program`, zero, where there are none yet."""
        for region in ("parameters", *(f"state {i}" for i in range(program.states))):
            for block in program.blocks:
                for name, shape in block.shapes().items():
                    kind = np.int64 if block.counts else self.dtype
                    self._region(region).setdefault(name, np.zeros(shape, kind))

    def bind(self, program):
        """Nothing to bind: nodes are run as they are."""

    def unbind(self):
        """Nothing is bound."""

    def hold(self, arrays):
        """Nothing to hold."""

    @staticmethod
    def permute(seed, epoch, order):
        """Write the order of an epoch's rows, int64."""
        order[:] = np.random.default_rng([seed, epoch]).permutation(len(order))

    def read(self, program, region, name):
        """A copy of one parameter, of one optimizer state of it, or of its gradient."""
        return self._region(region)[name].copy()

    def write(self, program, region, name, rows, first=0):
        """Overwrite rows of one parameter, statistic or optimizer state, from row `first`; a count is one row."""
        np.atleast_1d(self._region(region)[name])[first : first + len(rows)] = rows

    def _region(self, region):
        if region == "parameters":
            return self.parameters
        if region == "gradient":
            return self.gradients
        return self.states.setdefault(region, {})

    def run(self, program, arrays, *, steps, start, rows, batch, update=1, strict=True):
        """Run `steps` steps as `CpuBackend.run` does."""
        losses, done, order, before = np.full(steps, np.nan), 0, arrays.get("order"), 0
        for step in range(steps):
            size = min(batch, rows - start)
            chosen = slice(start, start + size) if order is None else order[before + start : before + start + size]
            with np.errstate(all="ignore"):
                verdict = self._step(program, arrays, chosen, start, update + step, losses, step, strict)
            if verdict == "loss":
                return Outcome(losses[: step + 1], done, "loss")
            done += 1
            if verdict == "update":
                return Outcome(losses[:done], done, "update")
            start += size
            if start >= rows:
                start = 0
                before += rows if order is not None and len(order) > rows else 0
        return Outcome(losses, done, None)

    def _step(self, program, arrays, chosen, start, update, losses, step, strict):
        values, wanted = {}, {gradient: parameter.name for parameter, gradient in program.gradients.items()}
        for instruction in program.instructions:
            if instruction.op == "store":
                name = instruction.operands["target"].name
                result = self._operand(values, program, update, program.predictions[name])
                arrays[name][start:start + len(result)] = result
            for node in instruction.nodes:
                if node.op in _DATA:
                    values[node] = arrays[node.name][chosen]
                    values["rows"] = len(values[node])
                elif OPS[node.op].states:
                    if not self._update(program, node, values, step, update):
                        values["overflow"] = True
                elif OPS[node.op].phase == "update":
                    if not self._track(node, values):
                        values["overflow"] = True
                else:
                    operands = [self._operand(values, program, update, operand) for operand in node.inputs]
                    values[node] = evaluate(node, values["rows"], operands)
                    if node in wanted:
                        self.gradients[wanted[node]] = values[node]
                if node is program.loss:
                    losses[step] = values[node]
                    if strict and not np.isfinite(losses[step]):
                        return "loss"
        return "update" if values.get("overflow") else None

    def _operand(self, values, program, update, node):
        if node.op in ("parameter", "statistic"):
            return self.parameters[node.name]
        if node.op == "key":
            return program.settings["key"], update
        value = constant(node)
        if value is not None:
            return value.astype(self.dtype)
        if node.op == "reshape" and node not in values:
            operand = self._operand(values, program, update, node.inputs[0])
            values[node] = evaluate(node, values["rows"], [operand])
        return values[node]

    def _track(self, node, values):
        source, *statistics = node.inputs
        old = [self.parameters[statistic.name] for statistic in statistics]
        new = OPS[node.op].reference(node.attributes, values["rows"], values[source], *old)
        for statistic, before, value in zip(statistics, old, new, strict=True):
            self.parameters[statistic.name] = np.where(np.isfinite(value), value, before).astype(before.dtype)
        return all(np.isfinite(value).all() for value in new)

    def _update(self, program, node, values, step, update):
        parameter, gradient, *states = node.inputs
        regions = [self.parameters, *(self.states[f"state {i}"] for i in range(len(states)))]
        good, *new = updated(node.op, of_step(program.settings, step), update, values[gradient],
                             *(region[parameter.name] for region in regions))
        for region, value in zip(regions, new, strict=True):
            region[parameter.name] = value
        return good


def evaluate(node, rows, operands):
    """The value of a node by its reference."""
    attributes = {name: concrete(value, rows) if name == "shape" else value for name, value in node.attributes.items()}
    return np.asarray(OPS[node.op].reference(attributes, *operands))


def of_step(settings, step):
    """The settings of one step: numbers, where some have an array with a number for each."""
    return {name: float(value[step]) if isinstance(value, np.ndarray) else value for name, value in settings.items()}


def updated(op, settings, update, gradient, parameter, *states):
    """Whether an optimizer's update is finite, then parameter and states after it.

    A parameter that would not be finite stays as it is; a state that would not be is given a gradient of zero.
    """
    reference, dtype = OPS[op].reference, parameter.dtype
    sound = np.isfinite(reference(settings, update, parameter, gradient, *states)[1:]).all(0)
    new = reference(settings, update, parameter, np.where(sound, gradient, 0).astype(dtype), *states)
    new = [np.asarray(value, dtype) for value in new]
    good = np.isfinite(new[0]) & sound
    return [good.all(), np.where(good, new[0], parameter), *new[1:]]
