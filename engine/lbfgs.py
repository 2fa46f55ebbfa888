"""L-BFGS through SciPy: the whole data set in every step, on the trainer's own gradient program."""

from dataclasses import dataclass

import numpy as np

from .errors import NonFiniteError
from .settings import Settings, integer, number


@dataclass
class LBFGS(Settings):
    """Limited-memory BFGS with a line search (Liu and Nocedal 1989; SciPy's L-BFGS-B), for full batches of small data.

    One epoch of `fit`, or one `step`, is a run of up to max_iter iterations or max_eval evaluations of loss and
    gradient on all rows it is given, whatever the trainer's batch_size: as one step of torch's LBFGS. It ends early
    where no element of the gradient is larger than tolerance_grad or the loss falls by less than the share
    tolerance_change. history_size: pairs that stand for the Hessian; they are forgotten between runs, so that two short
    runs are not one long one. torch searches along a line only when asked to; its lr has no counterpart here. SciPy
    computes in float64, the network in the trainer's dtype: prefer dtype="float64". Schedules and clipping are refused.
    Running statistics follow once, at the end of a run; `Dropout` and `RReLU` draw once for all of it.

    Raises ImportError without SciPy.
    """

    max_iter: int = integer(200)
    max_eval: int = integer(15000)
    tolerance_grad: float = number(1e-5)
    tolerance_change: float = number(1e-9)
    history_size: int = integer(10)

    def __post_init__(self):
        """Look for SciPy at once."""
        try:
            import scipy.optimize  # noqa: F401
        except ImportError:
            raise ImportError("LBFGS needs SciPy: pip install scipy") from None

    def states(self):
        """None that last."""
        return ()

    op = momentum_operand = None

    def settings(self, updates):
        """The step length that a line search tries first."""
        return {"lr": 1.0}

    def minimize(self, net, loss_and_gradients):
        """Train `net`; return its losses before and after, and the number of iterations.

        Whatever ends the run, the network holds the last parameters that an iteration accepted.
        """
        from scipy.optimize import minimize

        accepted, losses = net.state_dict(), []

        def evaluate(vector):
            net.load_state_dict(accepted | _split(vector, net.shapes))
            loss, gradients = loss_and_gradients()
            losses.append(loss)
            return loss, _joined(gradients, net.shapes)

        def accept(vector):
            nonlocal accepted
            accepted = accepted | _split(vector.copy(), net.shapes)

        options = {"maxiter": self.max_iter, "maxfun": self.max_eval, "gtol": self.tolerance_grad,
                   "ftol": self.tolerance_change, "maxcor": self.history_size}
        try:
            result = minimize(evaluate, _joined(accepted, net.shapes), jac=True, method="L-BFGS-B", callback=accept,
                              options=options)
        finally:
            net.load_state_dict(accepted)
        if not np.isfinite(losses[0]):
            raise NonFiniteError(f"the loss is {losses[0]} before the first iteration: scale the data", 1, losses[0])
        return losses[0], float(result.fun), result.nit


def _joined(arrays, names):
    """All numbers of the arrays with these names as one float64 vector."""
    return np.concatenate([arrays[name].ravel() for name in names]).astype(np.float64)


def _split(vector, shapes):
    """What `_joined` joined."""
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in
            zip(shapes.items(), np.split(vector, ends[:-1]), strict=True)}
