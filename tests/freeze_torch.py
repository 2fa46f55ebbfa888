"""Values of torch, kept in frozen/*.npz: training runs of the nets of CASES, ACTIVATIONS over a grid, LOSSES.

Run by hand, with torch installed: `python tests/freeze_torch.py`. The tests read the files and need no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "frozen"
STEPS, BATCH, ROWS = 10, 6, 57  # the last batch is short


@dataclass(frozen=True)
class Case:
    """A net, a loss and an optimizer, made from the names of a module: `hotloop`, or torch's under those names.

    targets: "labels", "probabilities" (rows that sum to 1), "bits" (0 or 1) or "numbers".
    """

    layers: Callable[[Any], list]
    targets: str
    loss: str
    optimizer: str
    settings: dict[str, Any]
    loss_settings: dict[str, Any] = field(default_factory=dict)


def _of(optimizer, **settings):
    """A case that is about its optimizer."""
    return Case(lambda m: [m.Dense(7, 9), m.Tanh(), m.Dense(9, 3)], "numbers", "MSELoss", optimizer, settings)


CASES = {
    "relu_cross_entropy_nesterov": Case(
        lambda m: [m.Dense(7, 17), m.ReLU(), m.Dense(17, 9), m.ReLU(), m.Dense(9, 5)], "labels",
        "CrossEntropyLoss", "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "tanh_gelu_bce_adam": Case(
        lambda m: [m.Dense(7, 9), m.Tanh(), m.Dense(9, 8), m.GELU(), m.Dense(8, 3)], "bits",
        "BCEWithLogitsLoss", "Adam", {"lr": 0.02, "weight_decay": 0.05}),
    "leaky_sigmoid_mse_adamw": Case(
        lambda m: [m.Dense(7, 8), m.LeakyReLU(0.2), m.Dense(8, 9), m.Sigmoid(), m.Dense(9, 2)], "numbers",
        "MSELoss", "AdamW", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "gelu_tanh_l1_dampening": Case(
        lambda m: [m.Tanh(), m.Dense(7, 9), m.GELU("tanh"), m.Dense(9, 1)], "numbers",
        "L1Loss", "SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    "softmax_mse_adam": Case(
        lambda m: [m.Dense(7, 9), m.Identity(), m.Sigmoid(), m.Dense(9, 5), m.Softmax()], "probabilities",
        "MSELoss", "Adam", {"lr": 0.05}),
    "probabilities_without_bias_sum": Case(
        lambda m: [m.Dense(7, 8, bias=False), m.ReLU(), m.Dense(8, 5, bias=False)], "probabilities",
        "CrossEntropyLoss", "SGD", {"lr": 0.01}, {"reduction": "sum"}),
    "layer_norm_rms_norm_adam": Case(
        lambda m: [m.LayerNorm(7), m.Dense(7, 33), m.LayerNorm(33, 1e-3, bias=False), m.GELU(), m.Dense(33, 9),
                   m.RMSNorm(9), m.ReLU(), m.Dense(9, 8), m.RMSNorm(8, 0.1, False), m.Dense(8, 5),
                   m.LayerNorm(5, 0.01, elementwise_affine=False)],
        "labels", "CrossEntropyLoss", "Adam", {"lr": 0.01}),
    "batch_norm_momentum": Case(
        lambda m: [m.BatchNorm1d(7), m.GELU(), m.Dense(7, 33, bias=False), m.BatchNorm1d(33, 1e-3, 0.3), m.Tanh(),
                   m.Dense(33, 9, bias=False), m.BatchNorm1d(9, 0.1, None), m.Sigmoid(),
                   m.Dense(9, 8, bias=False), m.BatchNorm1d(8, 0.1, affine=False), m.Dense(8, 2)],
        "numbers", "MSELoss", "SGD", {"lr": 0.05, "momentum": 0.9}),
    "batch_norm_untracked": Case(
        lambda m: [m.Dense(7, 9, bias=False), m.BatchNorm1d(9, track_running_stats=False), m.GELU(), m.Dense(9, 3)],
        "bits", "BCEWithLogitsLoss", "SGD", {"lr": 0.1}),
    "prelu_glu_adamw": Case(
        lambda m: [m.PReLU(), m.Dense(7, 34), m.PReLU(34), m.Dense(34, 18), m.GLU(), m.Dense(9, 9), m.PReLU(init=0.4),
                   m.Dropout(0.0), m.RReLU(0.3, 0.3), m.Dense(9, 2)], "numbers",
        "MSELoss", "AdamW", {"lr": 0.02, "weight_decay": 0.1}),
    "asgd": _of("ASGD", lr=0.1, lambd=0.1, alpha=0.6, t0=4, weight_decay=0.01),
    "rprop": _of("Rprop", lr=0.02, etas=(0.4, 1.3), step_sizes=(0.01, 0.03)),
    "adagrad": _of("Adagrad", lr=0.05, lr_decay=0.1, weight_decay=0.01, initial_accumulator_value=0.1, eps=1e-3),
    "adadelta": _of("Adadelta", lr=2.0, rho=0.8, eps=1e-3, weight_decay=0.01),
    "rmsprop": _of("RMSprop", lr=0.01, alpha=0.9, eps=1e-3, weight_decay=0.01),
    "rmsprop_centered": _of("RMSprop", lr=0.01, alpha=0.9, eps=0.01, momentum=0.8, centered=True),
    "rmsprop_momentum": _of("RMSprop", lr=0.01, alpha=0.9, eps=1e-3, momentum=0.8),
    "adam_amsgrad": _of("Adam", lr=0.05, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.01, amsgrad=True),
    "adamw_amsgrad": _of("AdamW", lr=0.05, betas=(0.8, 0.7), eps=1e-3, amsgrad=True),
    "adamax": _of("Adamax", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01),
    "nadam": _of("NAdam", lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01, momentum_decay=0.1),
    "nadam_decoupled": _of("NAdam", lr=0.02, eps=1e-3, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": _of("RAdam", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01),
    "radam_decoupled": _of("RAdam", lr=0.05, betas=(0.9, 0.95), weight_decay=0.1, decoupled_weight_decay=True),
    "lion": _of("Lion", lr=0.01, betas=(0.8, 0.9), weight_decay=0.1),
}


class Lion:
    """Algorithm 2 of Chen et al. 2023, which torch does not have, for torch's parameters."""

    def __init__(self, parameters, lr, betas, weight_decay):
        self.lr, self.betas, self.decay = lr, betas, weight_decay
        self.means = [(parameter, np.zeros_like(parameter.detach().numpy())) for parameter in parameters]

    def zero_grad(self):
        for parameter, _ in self.means:
            parameter.grad = None

    def step(self):
        beta1, beta2 = self.betas
        for parameter, mean in self.means:
            w, g = parameter.detach().numpy(), parameter.grad.numpy()
            w -= self.lr * (np.sign(beta1 * mean + (1 - beta1) * g) + self.decay * w)
            mean[...] = beta2 * mean + (1 - beta2) * g


SCHEDULES = {  # name: class, settings and, for a sequence or chain, its parts
    "constant": ("ConstantLR", {"factor": 0.25, "total_iters": 4}),
    "linear": ("LinearLR", {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 6}),
    "step": ("StepLR", {"step_size": 4, "gamma": 0.3}),
    "multi_step": ("MultiStepLR", {"milestones": [2, 3, 11], "gamma": 0.5}),
    "exponential": ("ExponentialLR", {"gamma": 0.8}),
    "cosine": ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
    "one_cycle": ("OneCycleLR", {"max_lr": 0.5, "total_steps": 20}),
    "one_cycle_linear": ("OneCycleLR", {"max_lr": 0.5, "total_steps": 20, "pct_start": 0.25, "three_phase": True,
                                        "anneal_strategy": "linear", "div_factor": 10.0, "final_div_factor": 5.0}),
    "plateau": ("ReduceLROnPlateau", {"patience": 1, "factor": 0.5}),
    "plateau_with_rest": ("ReduceLROnPlateau", {"mode": "max", "patience": 0, "cooldown": 2, "threshold": 0.2,
                                                "threshold_mode": "abs", "min_lr": 0.03}),
    "sequence": ("SequentialLR", {"milestones": [5]}, "linear", "exponential"),
    "chain": ("ChainedScheduler", {}, "linear", "exponential", "step"),
}
LOSSES_OF_EPOCHS = (5.0, 4.0, 4.1, 3.9999, 3.99999, 3.0, 3.1, 3.2, 3.1, 3.0, *[2.9] * 5, 2.5, 2.6, 2.7, 2.8, 2.9)


def build_schedule(module, name, *optimizer):
    """A schedule of SCHEDULES, of torch or of hotloop."""
    kind, settings, *parts = SCHEDULES[name]
    parts = [build_schedule(module, part, *optimizer) for part in parts]
    if not parts:
        return getattr(module, kind)(*optimizer, **settings)
    first = optimizer if kind == "SequentialLR" else ()
    return getattr(module, kind)(*first, parts, **settings)


def freeze_schedules():
    """Learning rate and momentum at each count, by name."""
    import torch

    found = {}
    for name in SCHEDULES:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.5)
        schedule = build_schedule(torch.optim.lr_scheduler, name, optimizer)
        group, found[name] = optimizer.param_groups[0], []
        for loss in LOSSES_OF_EPOCHS:
            found[name].append((group["lr"], group["momentum"]))
            optimizer.step()
            schedule.step(*[loss] if SCHEDULES[name][0] == "ReduceLROnPlateau" else [])
    return {name: np.array(values) for name, values in found.items()}


ACTIVATIONS = [  # names and arguments, the same in both
    ("Identity",), ("ReLU",), ("ReLU6",), ("LeakyReLU", 0.2), ("RReLU",), ("Threshold", 0.25, -1.5), ("Hardtanh",),
    ("Hardtanh", -0.5, 2.0), ("Hardsigmoid",), ("Hardswish",), ("Hardshrink",), ("Hardshrink", 1.25), ("Softshrink",),
    ("Softshrink", 1.25), ("Sigmoid",), ("LogSigmoid",), ("Tanh",), ("Tanhshrink",), ("Softsign",), ("Softplus",),
    ("Softplus", 2.5, 4.0), ("ELU",), ("ELU", 0.3), ("CELU",), ("CELU", 0.3), ("SELU",), ("GELU",), ("GELU", "tanh"),
    ("SiLU",), ("Mish",), ("Softmax",), ("Softmin",), ("LogSoftmax",)]
_AWAY = [1e-30, 1e-6, 1e-3, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.6, 2, 2.5, 3, 4, 6, 10, 20, 20.25, 50, 80, 88.75, 100, 1e3]
GRID = np.array([0, 1e12, *_AWAY, *(-x for x in _AWAY), -1e12], np.float32).reshape(-1, 7)  # kinks and extremes
SIGNS = np.resize(np.array([1, -1], np.float32), GRID.shape)  # the gradient that comes back to them


def activation_layers(module):
    """The ACTIVATIONS, made from the names of a module."""
    return [getattr(module, name)(*arguments) for name, *arguments in ACTIVATIONS]


_WEIGHT = (0.5, 2.0, 0.0, 1.5, 1.0)
LOSSES = [  # name, targets, settings; each under every reduction that it has
    ("MSELoss", "numbers", {}), ("L1Loss", "numbers", {}),
    ("SmoothL1Loss", "numbers", {"beta": 0.7}), ("SmoothL1Loss", "numbers", {"beta": 0.0}),
    ("HuberLoss", "numbers", {"delta": 0.7}),
    ("BCELoss", "bits", {}), ("BCELoss", "probabilities", {"weight": _WEIGHT}),
    ("BCEWithLogitsLoss", "bits", {}),
    ("BCEWithLogitsLoss", "probabilities", {"weight": _WEIGHT, "pos_weight": _WEIGHT[::-1]}),
    ("CrossEntropyLoss", "labels", {}), ("CrossEntropyLoss", "labels", {"weight": _WEIGHT}),
    ("CrossEntropyLoss", "labels", {"label_smoothing": 0.2}),
    ("CrossEntropyLoss", "ignored", {"weight": _WEIGHT, "label_smoothing": 0.2}),
    ("CrossEntropyLoss", "labels", {"ignore_index": 1, "weight": _WEIGHT}),
    ("CrossEntropyLoss", "probabilities", {"weight": _WEIGHT, "label_smoothing": 0.2}),
    ("NLLLoss", "labels", {}), ("NLLLoss", "ignored", {"weight": _WEIGHT}),
    ("KLDivLoss", "probabilities", {}), ("KLDivLoss", "numbers", {"log_target": True}),
    ("PoissonNLLLoss", "counts", {}), ("PoissonNLLLoss", "counts", {"full": True}),
    ("PoissonNLLLoss", "counts", {"log_input": False, "eps": 0.01}),
    ("PoissonNLLLoss", "counts", {"log_input": False, "full": True}),
    ("SoftMarginLoss", "signs", {}), ("HingeEmbeddingLoss", "signs", {"margin": 1.3}),
    ("MultiLabelSoftMarginLoss", "bits", {}), ("MultiLabelSoftMarginLoss", "bits", {"weight": _WEIGHT}),
    ("MultiMarginLoss", "labels", {}), ("MultiMarginLoss", "labels", {"p": 2, "margin": 1.7, "weight": _WEIGHT}),
    ("GaussianNLLLoss", "numbers", {}), ("GaussianNLLLoss", "numbers", {"full": True, "eps": 0.01}),
    ("MultiLabelMarginLoss", "several", {}),
]


def draw_targets(generator, kind, rows, outputs):
    """Targets of a kind, in float32's numbers, so that both dtypes train on the same."""
    if kind == "labels":
        return generator.integers(0, outputs, rows)
    if kind == "ignored":
        return np.where(np.arange(rows) % 3 == 1, -100, generator.integers(0, outputs, rows))
    if kind == "signs":
        return generator.choice([-1, 1], (rows, outputs)).astype(np.float32)
    if kind == "counts":
        return generator.poisson(2, (rows, outputs)).astype(np.float32)
    if kind == "several":  # labels of a row up to the first -1
        return np.where(np.arange(outputs) < generator.integers(0, outputs + 1, (rows, 1)),
                        generator.integers(0, outputs, (rows, outputs)), -1).astype(np.float32)
    if kind == "bits":
        return generator.integers(0, 2, (rows, outputs)).astype(np.float32)
    if kind == "probabilities":
        return generator.dirichlet(np.ones(outputs), rows).astype(np.float32)
    return generator.standard_normal((rows, outputs)).astype(np.float32)


def torch_module(torch):
    """torch.nn under hotloop's names."""
    from types import SimpleNamespace

    rowwise = {name: partial(getattr(torch.nn, name), -1) for name in ("Softmax", "Softmin", "LogSoftmax")}
    return SimpleNamespace(**vars(torch.nn) | {"Dense": torch.nn.Linear} | rowwise)


def freeze_activations():
    """Values and gradients of the ACTIVATIONS over the GRID, by activation and dtype."""
    import torch

    frozen = {}
    for case, layer in zip(ACTIVATIONS, activation_layers(torch_module(torch)), strict=True):
        for dtype in (torch.float32, torch.float64):
            x = torch.tensor(GRID, dtype=dtype, requires_grad=True)
            y = layer.eval()(x)
            y.backward(torch.tensor(SIGNS, dtype=dtype))
            frozen[f"{case}/{str(dtype).removeprefix('torch.')}"] = np.stack([y.detach().numpy(), x.grad.numpy()])
    return frozen


def freeze(case, seed):
    """Everything that the tests compare with, by name."""
    import torch

    module = torch_module(torch)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    net = torch.nn.Sequential(*case.layers(module))
    initial = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    outputs = next(layer.out_features for layer in reversed(net) if isinstance(layer, torch.nn.Linear))
    frozen = {"x": generator.standard_normal((ROWS, 7)).astype(np.float32),
              "y": draw_targets(generator, case.targets, ROWS, outputs)}
    frozen |= {f"initial/{name}": value for name, value in initial.items()}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)  # of the optimizers' own scalars
        net.train().load_state_dict({name: torch.tensor(value) for name, value in initial.items()})
        frozen |= {f"{str(dtype).removeprefix('torch.')}/{name}": value
                   for name, value in _train(torch, net.to(dtype), module, case, frozen, dtype)}
    torch.set_default_dtype(torch.float32)
    return frozen


def _train(torch, net, module, case, data, dtype):
    loss_of = getattr(module, case.loss)(**case.loss_settings)
    optimizer = getattr(torch.optim, case.optimizer, Lion)(net.parameters(), **case.settings)
    x, y = torch.tensor(data["x"], dtype=dtype), torch.tensor(data["y"])
    y = y if case.targets == "labels" else y.to(dtype)
    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        loss = loss_of(net(x[rows]), y[rows])
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            yield from [(f"gradient/{name}", value.grad.numpy().copy()) for name, value in net.named_parameters()]
        optimizer.step()
    yield "losses", np.array(losses)
    with torch.no_grad():
        yield "prediction", net.eval()(x).numpy().copy()
    yield from [(f"final/{name}", value.numpy().copy()) for name, value in net.state_dict().items()]


def freeze_losses():
    """Prediction, target, and under each reduction value and gradient of every one of LOSSES, by place and name."""
    import torch

    frozen, generator = {}, np.random.default_rng(7)
    for place, (name, targets, settings) in enumerate(LOSSES):
        x, y = 2 * generator.standard_normal((11, 5)).astype(np.float32), draw_targets(generator, targets, 11, 5)
        if name == "BCELoss" or "log_input" in settings:
            x = generator.uniform(0, 1, x.shape).astype(np.float32)
        if name == "GaussianNLLLoss":  # means, then variances
            x = np.concatenate([x, generator.uniform(0.1, 2, x.shape).astype(np.float32)], 1)
        frozen |= {f"{place}/x": x, f"{place}/y": y}
        given = {key: torch.tensor(value, dtype=torch.float64) if isinstance(value, tuple) else value
                 for key, value in settings.items()}
        whole = y.dtype == np.int64 or targets == "several"
        target = torch.tensor(y, dtype=torch.int64 if whole else torch.float64)
        for reduction in ("mean", "sum", "batchmean")[: 2 + (name == "KLDivLoss")]:
            prediction = torch.tensor(x, dtype=torch.float64, requires_grad=True)
            operands = prediction, target
            if name == "GaussianNLLLoss":
                means, variances = prediction.chunk(2, 1)
                operands = means, target, variances
            loss = getattr(torch.nn, name)(**given, reduction=reduction)(*operands)
            loss.backward()
            prefix = f"{place}/{reduction}"
            frozen |= {f"{prefix}/loss": loss.item(), f"{prefix}/gradient": prediction.grad.numpy()}
    return frozen


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        np.savez_compressed(FOLDER / f"{name}.npz", **freeze(case, seed))
    np.savez_compressed(FOLDER / "activations.npz", **freeze_activations())
    np.savez_compressed(FOLDER / "schedules.npz", **freeze_schedules())
    np.savez_compressed(FOLDER / "losses.npz", **freeze_losses())
