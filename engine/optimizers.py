"""Optimizers: settings, checked. Formulas and kernels stand in `hotloop.kernels.optimizers`, `adagrad` and `adam`."""

from dataclasses import dataclass

import numpy as np

from .settings import Settings, fraction, number, pair, positive, switch

OPTIMIZERS: dict[str, type] = {}  # name -> class: what a trainer takes and a checkpoint can name

_PAIRS = {"betas": ("beta1", "beta2"), "etas": ("etaminus", "etaplus"),  # settings that are two operands
          "step_sizes": ("step_size_min", "step_size_max")}


def _betas(*default):
    return pair(default, *[{"low": 0, "below": 1}] * 2)


class _Optimizer(Settings):
    """What the trainer asks of an optimizer."""

    op: str
    momentum_operand: str | None = None  # the operand that a schedule may cycle, as torch's OneCycleLR does

    def __init_subclass__(cls):
        """Enter the optimizer among those that trainers take."""
        OPTIMIZERS[cls.__name__] = cls

    def states(self):
        """Names of the states in checkpoints and in the op, torch's, in the order of the op's."""
        return ()

    def settings(self, updates):
        """The kernel's scalar operands: numbers, or arrays of one number for each of `updates`, counted from 1."""
        operands = {}
        for name, value in vars(self).items():
            if name in _PAIRS:
                operands |= zip(_PAIRS[name], value, strict=True)
            else:
                operands[name] = int(value) if isinstance(value, bool) else value
        return operands


@dataclass
class SGD(_Optimizer):
    """Gradient descent as in torch: g += weight_decay w; v = momentum v + (1 - dampening) g, at first v = g; w -= lr v.

    (Robbins and Monro 1951; momentum, Polyak 1964.) With nesterov the step is lr (g + momentum v) (Sutskever et al.
    2013); it needs momentum and no dampening.
    """

    lr: float = positive(1e-3)
    momentum: float = fraction(0.0)
    dampening: float = number(0.0)
    weight_decay: float = number(0.0)
    nesterov: bool = switch(False)
    op = "sgd"

    def __post_init__(self):
        """Check what depends on several settings."""
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening = 0, got {self.momentum} and {self.dampening}")

    @property
    def momentum_operand(self):
        """The momentum, where there is one."""
        return "momentum" if self.momentum else None

    def states(self):
        """The velocity, with momentum."""
        return ("momentum_buffer",) if self.momentum else ()


@dataclass
class ASGD(_Optimizer):
    """Averaged gradient descent (Polyak and Juditsky 1992) as in torch: w = (1 - lambd eta) w - eta g.

    In update t eta = lr / (1 + lambd lr (t - 1))^alpha, and the state `ax` follows w: ax += mu (w - ax) with
    mu = 1 / max(1, t - 1 - t0), so that from update t0 + 2 on it is w's mean. Predictions use w; the averages are
    `trainer.state_dict()["optimizer.ax.0.weight"]`. A schedule changes the lr before the fraction alone.
    """

    lr: float = positive(1e-2)
    lambd: float = number(1e-4)
    alpha: float = number(0.75)
    t0: float = number(1e6)
    weight_decay: float = number(0.0)
    op = "asgd"

    def states(self):
        """The average."""
        return ("ax",)

    def settings(self, updates):
        """Further eta's denominator and mu, which change from step to step."""
        done = updates - 1.0
        return super().settings(updates) | {"slowing": (1 + self.lambd * self.lr * done) ** self.alpha,
                                            "mu": 1 / np.maximum(1, done - self.t0)}


@dataclass
class Rprop(_Optimizer):
    """Resilient backpropagation (Riedmiller and Braun 1993) as in torch; meant for full batches.

    Each element has a step of its own, at first lr, within step_sizes; where its gradient keeps its sign the step grows
    by etas[1], where the sign changes it shrinks by etas[0] and the element rests.
    """

    lr: float = positive(1e-2)
    etas: tuple[float, float] = pair((0.5, 1.2), {"low": 0, "below": 1, "open_low": True},
                                     {"low": 1, "open_low": True})
    step_sizes: tuple[float, float] = pair((1e-6, 50.0), {"low": 0}, {"low": 0})
    op = "rprop"

    def states(self):
        """The last gradient and the steps."""
        return ("prev", "step_size")


@dataclass
class Adagrad(_Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011) as in torch: s += g^2, w -= lr_t g / (sqrt(s) + eps).

    lr_t = lr / (1 + (t - 1) lr_decay); s begins at initial_accumulator_value; weight_decay is added to g.
    """

    lr: float = positive(1e-2)
    lr_decay: float = number(0.0)
    weight_decay: float = number(0.0)
    initial_accumulator_value: float = number(0.0)
    eps: float = number(1e-10)
    op = "adagrad"

    def states(self):
        """The sum of squared gradients."""
        return ("sum",)


@dataclass
class Adadelta(_Optimizer):
    """Adadelta (Zeiler 2012) as in torch: v follows g^2, a the squared steps; w -= lr g sqrt(a + eps) / sqrt(v + eps).

    Weight decay is added to g. Keras has lr 0.001 where torch, as the paper, has 1.
    """

    lr: float = positive(1.0)
    rho: float = fraction(0.9)
    eps: float = number(1e-6)
    weight_decay: float = number(0.0)
    op = "adadelta"

    def states(self):
        """Averages of squared gradients and squared steps."""
        return ("square_avg", "acc_delta")


@dataclass
class RMSprop(_Optimizer):
    """RMSprop (Tieleman and Hinton 2012) as in torch: v = alpha v + (1 - alpha) g^2, w -= lr g / (sqrt(v) + eps).

    centered: the variance of g stands for v. momentum: b = momentum b + g / (sqrt(v) + eps), w -= lr b. weight_decay
    is added to g. Keras and TensorFlow have alpha 0.9 and eps 1e-7, TensorFlow under the root.
    """

    lr: float = positive(1e-2)
    alpha: float = fraction(0.99)
    eps: float = number(1e-8)
    weight_decay: float = number(0.0)
    momentum: float = fraction(0.0)
    centered: bool = switch(False)
    op = "rmsprop"

    @property
    def momentum_operand(self):
        """The momentum, where there is one."""
        return "momentum" if self.momentum else None

    def states(self):
        """The average of squared gradients, and what centering and momentum need."""
        return ("square_avg", *["grad_avg"] * self.centered, *["momentum_buffer"] * (self.momentum > 0))


@dataclass
class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015) in torch's form: w -= lr m_hat / (sqrt(v_hat) + eps); weight_decay is added to g.

    amsgrad: the largest v so far stands for v (Reddi, Kale and Kumar 2018). Keras and scikit-learn put eps inside the
    bias correction, which differs for small gradients.
    """

    lr: float = positive(1e-3)
    betas: tuple[float, float] = _betas(0.9, 0.999)
    eps: float = number(1e-8)
    weight_decay: float = number(0.0)
    amsgrad: bool = switch(False)
    op = "adam"
    momentum_operand = "beta1"
    decoupled_weight_decay = False

    def states(self):
        """Averages of gradients and squared gradients, and the largest of the latter."""
        return ("exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * self.amsgrad)

    def settings(self, updates):
        """Further whether weight decay is decoupled."""
        return super().settings(updates) | {"decoupled_weight_decay": int(self.decoupled_weight_decay)}


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w is first multiplied by 1 - lr weight_decay."""

    weight_decay: float = number(1e-2)
    decoupled_weight_decay = True


@dataclass
class Adamax(_Optimizer):
    """Adamax (Kingma and Ba 2015) as in torch: u = max(beta2 u, |g| + eps), w -= lr m_hat / u; weight_decay on g."""

    lr: float = positive(2e-3)
    betas: tuple[float, float] = _betas(0.9, 0.999)
    eps: float = number(1e-8)
    weight_decay: float = number(0.0)
    op = "adamax"
    momentum_operand = "beta1"

    def states(self):
        """The average of gradients and their largest size."""
        return ("exp_avg", "exp_inf")


@dataclass
class NAdam(_Optimizer):
    """NAdam, Adam with Nesterov's momentum (Dozat 2016), as in torch.

    The momentum of update t is mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), for g and for the bias correction.
    weight_decay is added to g, or, with decoupled_weight_decay, w is multiplied by 1 - lr weight_decay.
    """

    lr: float = positive(2e-3)
    betas: tuple[float, float] = _betas(0.9, 0.999)
    eps: float = number(1e-8)
    weight_decay: float = number(0.0)
    momentum_decay: float = number(4e-3)
    decoupled_weight_decay: bool = switch(False)
    op = "nadam"

    def states(self):
        """Averages of gradients and squared gradients."""
        return ("exp_avg", "exp_avg_sq")

    def settings(self, updates):
        """Further this momentum, the next, and the product of all so far, which change from step to step."""
        last, beta1 = int(updates[-1]), self.betas[0]
        if beta1 == 0:
            longest = 1
        else:
            longest = min(last, 1 + int(np.log(1e-20) / np.log(beta1)))  # then the product is 0 beside 1
        momenta = self._momentum(np.arange(1, longest + 1))
        products = np.append(np.cumprod(momenta), 0.0)
        return super().settings(updates) | {"mu": self._momentum(updates), "mu_next": self._momentum(updates + 1),
                                            "mu_product": products[np.minimum(updates - 1, longest)]}

    def _momentum(self, updates):
        return self.betas[0] * (1 - 0.5 * 0.96 ** (updates * self.momentum_decay))


@dataclass
class RAdam(_Optimizer):
    """RAdam, Adam whose first steps do not divide by an uncertain variance (Liu et al. 2020), as in torch.

    weight_decay is added to g, or, with decoupled_weight_decay, w is multiplied by 1 - lr weight_decay.
    """

    lr: float = positive(1e-3)
    betas: tuple[float, float] = _betas(0.9, 0.999)
    eps: float = number(1e-8)
    weight_decay: float = number(0.0)
    decoupled_weight_decay: bool = switch(False)
    op = "radam"
    momentum_operand = "beta1"

    def states(self):
        """Averages of gradients and squared gradients."""
        return ("exp_avg", "exp_avg_sq")


@dataclass
class Lion(_Optimizer):
    """Lion (Chen et al. 2023): w -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay w), m = beta2 m + (1 - beta2) g.

    Every element moves by lr or not at all; take a tenth to a third of Adam's lr. torch has no Lion; the names are
    those of its other optimizers.
    """

    lr: float = positive(1e-4)
    betas: tuple[float, float] = _betas(0.9, 0.99)
    weight_decay: float = number(0.0)
    op = "lion"
    momentum_operand = "beta1"

    def states(self):
        """The average of gradients."""
        return ("exp_avg",)
