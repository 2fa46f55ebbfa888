"""Newton's method, for graphs of few parameters."""

from dataclasses import dataclass

import numpy as np

from . import checks
from .autodiff import hessian
from .functions import concatenate
from .run import Outcome

_MOST = 256  # parameters: the Hessian's rows are nodes of the graph


@dataclass(frozen=True)
class Newton:
    """Newton's method: w -= lr (H + damping I)^-1 g, with gradient g and Hessian H of the value at w.

    For `GraphProgram.minimize`, up to 256 parameters; torch and scikit-learn have it for no expression of one's own.
    On a quadratic with lr = 1 it needs one step. It goes to any point of slope 0, a maximum or a saddle, too. damping:
    not negative; pulls towards gradient descent (Levenberg 1944, Marquardt 1963), and helps where H is singular.
    """

    lr: float = 1.0
    damping: float = 0.0

    def __post_init__(self):
        """Check the settings."""
        object.__setattr__(self, "lr", checks.number("lr", self.lr, 0, open_low=True))
        object.__setattr__(self, "damping", checks.number("damping", self.damping, 0))


class NewtonEngine:
    """Trains parameters of a graph as the backends' engines do, whose methods it has: each step is a call of one.

    make: makes an engine for nodes. value: the node that is made small, trained: the parameters.
    """

    def __init__(self, make, value, trained):
        size = sum(int(np.prod(node.shape)) for node in trained)
        if size > _MOST:
            raise ValueError(f"Newton's method is for at most {_MOST} parameters, got {size}: "
                             "take an optimizer of first derivatives, such as SGD or Adam")
        self.trained, self.sizes = trained, [int(np.prod(node.shape)) for node in trained]
        slope = concatenate([node.reshape(-1) for node in value.graph.gradient(value, trained)])
        self.engine = make([value, slope, hessian(value.graph, value, trained)])
        self.read, self.write = self.engine.read, self.engine.write

    def run(self, inputs, batch):
        """The value, in a list."""
        return self.engine.run(inputs, batch)[:1]

    def descend(self, inputs, batch, optimizer, settings, steps, goal, traced):
        """Update the parameters `steps` times, or until the value is below `goal`; Outcome and trace."""
        losses, stopped = [], None
        trace = {node: [self.read(node)] for node in self.trained}
        for _ in range(steps):
            value, slope, bend = self.engine.run(inputs, batch)
            losses.append(value)
            if not np.isfinite(value) or value < goal:
                stopped = None if np.isfinite(value) else "loss"
                break
            step = _solved(bend + optimizer.damping * np.eye(len(slope), dtype=slope.dtype), slope)
            stopped = None if np.isfinite(step).all() else "update"
            for node, part in zip(self.trained, np.split(step, np.cumsum(self.sizes)[:-1]), strict=True):
                if not stopped:
                    self.write(node, self.read(node) - optimizer.lr * part.reshape(node.shape))
                trace[node].append(self.read(node))
            if stopped:
                break
        done = len(next(iter(trace.values()))) - 1
        return (Outcome(np.array(losses), done, stopped),
                {node: np.array(values) for node, values in trace.items()} if traced else None)


def _solved(matrix, vector):
    """The solution of matrix @ x = vector; NaN where it has none."""
    try:
        return np.linalg.solve(matrix, vector)
    except np.linalg.LinAlgError:
        return np.full_like(vector, np.nan)
