"""Runs general graphs in plain NumPy, one line a node, in order. It judges the compiled programs."""

import numpy as np

from .numpy_backend import evaluate, of_step, updated
from .run import Outcome


class NumpyGraph:
    """Has the methods of `CpuGraph` and shares no code with it."""

    def __init__(self, live, roots, dtype, threads=None, updated=()):
        self.live, self.roots, self.updated, self.dtype = live, roots, updated, np.dtype(dtype)
        self.parameters = {node: np.zeros(node.shape, self.dtype) for node in live if node.op == "parameter"}

    def read(self, node):
        """A copy of a parameter."""
        return self.parameters[node].copy()

    def write(self, node, value):
        """Set a parameter."""
        self.parameters[node] = np.array(value, self.dtype).reshape(node.shape)

    def run(self, inputs, batch):
        """The roots' values."""
        values = self._evaluate(inputs, batch)
        return [values[root].item() if values[root].ndim == 0 else np.array(values[root]) for root in self.roots]

    def runner(self, batch):
        """What `run` does, for this size of the batch."""
        return lambda inputs: self.run(inputs, batch)

    def _evaluate(self, inputs, batch):
        values = dict(self.parameters)
        with np.errstate(all="ignore"):
            for node in self.live:
                if node.op == "input":
                    values[node] = inputs[node]
                elif node.op == "constant":
                    values[node] = node.attributes["value"].astype(self.dtype)
                elif node.op != "parameter":
                    values[node] = evaluate(node, batch, map(values.get, node.inputs))
        return values

    def descend(self, inputs, batch, optimizer, settings, steps, goal, traced):
        """Update the parameters `steps` times, or until the first root is below `goal`; Outcome and trace."""
        states = {node: [np.zeros(node.shape, self.dtype) for _ in optimizer.states()] for node, _ in self.updated}
        losses, trace, stopped = [], {node: [value] for node, value in self.parameters.items()}, None
        for done in range(steps):
            values = self._evaluate(inputs, batch)
            losses.append(float(values[self.roots[0]]))
            if not np.isfinite(losses[-1]) or losses[-1] < goal:
                stopped = None if np.isfinite(losses[-1]) else "loss"
                break
            for node, gradient in self.updated:
                with np.errstate(all="ignore"):
                    good, self.parameters[node], *states[node] = updated(
                        optimizer.op, of_step(settings, done), done + 1, values[gradient], self.parameters[node],
                        *states[node])
                if not good:
                    stopped = "update"
            for node, value in self.parameters.items():
                trace[node].append(value)
            if stopped:
                break
        done = len(next(iter(trace.values()))) - 1
        kept = {node: np.array(values) for node, values in trace.items()} if traced else None
        return Outcome(np.array(losses), done, stopped), kept
