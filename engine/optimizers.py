"""Optimizers: settings, checked. Formulas and kernels stand in `hotloop.kernels.optimizers`."""

from dataclasses import dataclass, fields

from . import checks


class _Optimizer:
    """What the trainer asks of an optimizer."""

    op: str

    def __setattr__(self, name, value):
        """Check every setting, also one that is changed during training."""
        settings = [field.name for field in fields(self)]
        if name not in settings:
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}, only {', '.join(settings)}")
        super().__setattr__(name, self._checked(name, value))


@dataclass
class SGD(_Optimizer):
    """Gradient descent as in torch: g += weight_decay w; v = momentum v + (1 - dampening) g, at first v = g; w -= lr v.

    With nesterov the step is lr (g + momentum v); it needs momentum and no dampening.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    op = "sgd"

    def __post_init__(self):
        """Check what depends on several settings."""
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening = 0, got {self.momentum} and {self.dampening}")

    def _checked(self, name, value):
        if name == "nesterov":
            return checks.switch(name, value)
        return checks.number(name, value, 0, below=1 if name == "momentum" else None, open_low=name == "lr")

    def states(self):
        """Names of the states in checkpoints, in the order of the op's."""
        return ("momentum_buffer",) if self.momentum else ()

    def settings(self):
        """The kernel's scalar operands."""
        return {"lr": self.lr, "momentum": self.momentum, "dampening": self.dampening,
                "weight_decay": self.weight_decay, "nesterov": int(self.nesterov)}


@dataclass
class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015) in torch's form: w -= lr m_hat / (sqrt(v_hat) + eps); weight_decay is added to g.

    Keras and scikit-learn put eps inside the bias correction, which differs for small gradients.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    op = "adam"
    decoupled = False

    def _checked(self, name, value):
        if name == "betas":
            if not hasattr(value, "__len__") or len(value) != 2:
                raise ValueError(f"betas must be two numbers, got {value!r}")
            return tuple(checks.number(f"betas[{i}]", beta, 0, below=1) for i, beta in enumerate(value))
        return checks.number(name, value, 0, open_low=name == "lr")

    def states(self):
        """Names of the states in checkpoints, torch's, in the order of the op's."""
        return ("exp_avg", "exp_avg_sq")

    def settings(self):
        """The kernel's scalar operands."""
        return {"lr": self.lr, "beta1": self.betas[0], "beta2": self.betas[1], "eps": self.eps,
                "weight_decay": self.weight_decay, "decoupled": int(self.decoupled)}


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w is first multiplied by 1 - lr weight_decay."""

    weight_decay: float = 1e-2
    decoupled = True


OPTIMIZERS = {kind.__name__: kind for kind in (SGD, Adam, AdamW)}
