"""Learning-rate schedules, under torch's names and by torch's formulas: the rate of every update in closed form.

A schedule turns the optimizer's lr into the rate of an update, given a count t: of completed epochs, or, with
by="update", of the trainer's updates so far, `step`'s too. Only a plateau has a memory; so training that was stopped
anywhere goes on with the same rates. In a loop of `step` no epochs are counted: take by="update".
"""

import re
from dataclasses import dataclass

import numpy as np

from . import checks
from .settings import Settings, checked, choice, fraction, integer, milestones, number, positive, switch

SCHEDULES: dict[str, type] = {}  # name -> class: what a trainer takes and a checkpoint can name


def sqrt_scaled(lr, batch_size, new_batch_size):
    """The lr for another batch size by the square-root rule (Krizhevsky 2014): lr sqrt(new_batch_size / batch_size).

    It keeps the variance of an update; from batch 8 to 16 the lr grows by sqrt(2).
    """
    lr = checks.number("lr", lr, 0, open_low=True)
    ratio = checks.integer("new_batch_size", new_batch_size, 1) / checks.integer("batch_size", batch_size, 1)
    return float(lr * np.sqrt(ratio))


class _Schedule(Settings):
    """What the trainer asks of a schedule."""

    by: str | None  # "epoch" or "update"; None for what has no count of its own
    parts: tuple["_Schedule", ...] = ()

    def __init_subclass__(cls):
        """Enter the schedule among those that trainers take."""
        SCHEDULES[cls.__name__] = cls

    def check(self, optimizer):
        """Raise ValueError where the schedule cannot serve this optimizer."""
        for part in self.parts:
            part.check(optimizer)

    def monitored(self):
        """What the schedule must be told after an epoch, as named in its logs."""
        return {name for part in self.parts for name in part.monitored()}

    def observe(self, logs):
        """Take notice of what a completed epoch reported; told once of each name."""
        for part in self.parts:
            part.observe(logs)

    def listens(self):
        """Whether what an epoch reported changes anything."""
        return type(self).observe is not _Schedule.observe or any(part.listens() for part in self.parts)

    def settings(self, settings, momentum, epoch, updates):
        """The optimizer's settings for updates after `updates` others, an array, in epoch `epoch`, or one for each.

        `momentum` names the setting that a schedule may cycle.
        """
        return settings | {"lr": self.rates(settings["lr"], epoch, updates)}

    def rates(self, lr, epoch, updates):
        """The rates, float64, where `lr` is the optimizer's, a number or one for each update."""
        return np.asarray(self.rate(lr, updates if self.by == "update" else np.full(len(updates), epoch)), np.float64)


@dataclass
class ConstantLR(_Schedule):
    """lr * factor while t < total_iters, then lr."""

    factor: float = positive(1 / 3)
    total_iters: int = integer(5)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return lr * np.where(t < self.total_iters, self.factor, 1.0)


@dataclass
class LinearLR(_Schedule):
    """lr times a factor that goes evenly from start_factor at t = 0 to end_factor at total_iters, and stays.

    A warm-up (Goyal et al. 2017), usually by="update".
    """

    start_factor: float = positive(1 / 3)
    end_factor: float = number(1.0)
    total_iters: int = integer(5)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        way = np.minimum(t, self.total_iters) / self.total_iters
        return lr * (self.start_factor + (self.end_factor - self.start_factor) * way)


@dataclass
class StepLR(_Schedule):
    """lr * gamma^floor(t / step_size)."""

    step_size: int = integer()
    gamma: float = positive(0.1)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return lr * self.gamma ** (t // self.step_size).astype(float)


@dataclass
class MultiStepLR(_Schedule):
    """lr * gamma^n, where n milestones are reached: milestone <= t."""

    milestones: tuple[int, ...] = milestones()
    gamma: float = positive(0.1)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return lr * self.gamma ** np.searchsorted(self.milestones, t, "right").astype(float)


@dataclass
class ExponentialLR(_Schedule):
    """lr * gamma^t."""

    gamma: float = positive()
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return lr * self.gamma ** t.astype(float)


@dataclass
class InverseScalingLR(_Schedule):
    """lr / (1 + scale t)^power_t; torch has none, this is scikit-learn's "invscaling".

    scikit-learn counts the rows trained on at the end of each epoch: scale = rows, by="epoch".
    """

    power_t: float = number(0.5)
    scale: float = positive(1.0)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return lr / (1 + self.scale * t) ** self.power_t


@dataclass
class CosineAnnealingLR(_Schedule):
    """eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2 (Loshchilov and Hutter 2017); beyond T_max it rises again.

    torch reaches the same rates by recursion.
    """

    T_max: int = integer()
    eta_min: float = number(0.0)
    by: str = choice("epoch", "update")

    def rate(self, lr, t):
        """The rates at the counts t."""
        return self.eta_min + (lr - self.eta_min) * (1 + np.cos(np.pi * t / self.T_max)) / 2


@dataclass
class OneCycleLR(_Schedule):
    """One rise and fall of the rate over total_steps updates (Smith and Topin 2019); the optimizer's lr does not count.

    From max_lr / div_factor the rate rises to max_lr within pct_start of the steps and falls to its first value over
    final_div_factor; with three_phase it falls back as slowly as it rose, and from there to the end. cycle_momentum:
    the optimizer's momentum, or betas[0], goes from max_momentum to base_momentum and back meanwhile. After total_steps
    the last values hold, where torch raises an exception.
    """

    max_lr: float = positive()
    total_steps: int = integer(low=2)
    pct_start: float = fraction(0.3)
    anneal_strategy: str = choice("cos", "linear")
    cycle_momentum: bool = switch(True)
    base_momentum: float = fraction(0.85)
    max_momentum: float = fraction(0.95)
    div_factor: float = positive(25.0)
    final_div_factor: float = positive(1e4)
    three_phase: bool = switch(False)
    by: str = choice("update", "epoch")

    def check(self, optimizer):
        """Refuse an optimizer without a momentum to cycle."""
        if self.cycle_momentum and optimizer.momentum_operand is None:
            raise ValueError(f"OneCycleLR finds no momentum to cycle in {optimizer}: give it one or set "
                             "cycle_momentum=False")

    def settings(self, settings, momentum, epoch, updates):
        """Rates, and the cycled momentum."""
        found = super().settings(settings, momentum, epoch, updates)
        if self.cycle_momentum:
            count = updates if self.by == "update" else np.full(len(updates), epoch)
            found[momentum] = self._cycle(count, self.max_momentum, self.base_momentum, self.max_momentum)
        return found

    def rate(self, lr, t):
        """The rates at the counts t."""
        first = self.max_lr / self.div_factor
        return self._cycle(t, first, self.max_lr, first / self.final_div_factor)

    def _cycle(self, t, first, middle, last):
        """Values at the counts t, from `first` to `middle`, with three phases back to `first`, then to `last`."""
        rise = self.pct_start * self.total_steps
        points = [(0.0, first), (rise - 1, middle), (self.total_steps - 1.0, last)]
        if self.three_phase:
            points.insert(2, (2 * rise - 2, first))
        t = np.minimum(t, self.total_steps - 1)
        values = np.full(len(t), float(last))
        for (start, low), (end, high) in reversed(list(zip(points[:-1], points[1:], strict=True))):
            way = (t - start) / (end - start) if end > start else np.ones(len(t))
            if self.anneal_strategy == "cos":
                way = (1 - np.cos(np.pi * way)) / 2
            values = np.where((t <= end), low + (high - low) * way, values)
        return values


def _schedules(name, value):
    """The check of a field that holds schedules."""
    if not isinstance(value, list | tuple) or not value:
        raise TypeError(f"{name} must be a list of schedules, got {checks.given(value)}")
    for place, schedule in enumerate(value):
        checks.kind(f"{name}[{place}]", schedule, SCHEDULES)
    return tuple(value)


@dataclass
class SequentialLR(_Schedule):
    """One schedule after the other: each from its milestone on, where its own count begins at 0.

    schedules: one more than milestones, all by the same count; none is a plateau or a chain, or cycles the momentum.
    """

    schedules: tuple[_Schedule, ...] = checked(_schedules)
    milestones: tuple[int, ...] = milestones()

    def __post_init__(self):
        """Check what depends on both."""
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(f"{len(self.schedules)} schedules need {len(self.schedules) - 1} milestones, got "
                             f"{self.milestones}")
        if len({schedule.by for schedule in self.schedules}) > 1 or self.by is None:
            raise ValueError(f"schedules in sequence must all count epochs or all updates, got {self.schedules}: chain "
                             "them with ChainedScheduler otherwise")
        if any(getattr(schedule, "cycle_momentum", False) for schedule in self.schedules):
            raise ValueError("OneCycleLR stands in a sequence with cycle_momentum=False only")

    @property
    def parts(self):
        """The schedules."""
        return self.schedules

    @property
    def by(self):
        """What all the schedules count."""
        return self.schedules[0].by

    def rate(self, lr, t):
        """The rates at the counts t."""
        stage = np.searchsorted(self.milestones, t, "right")
        starts = (0, *self.milestones)
        return np.choose(stage, [schedule.rate(lr, np.maximum(t - start, 0))
                                 for schedule, start in zip(self.schedules, starts, strict=True)])


@dataclass
class ChainedScheduler(_Schedule):
    """Schedules at once, the rates of each being the lr of the next: factors multiply. Each has its own count."""

    schedules: tuple[_Schedule, ...] = checked(_schedules)
    by = None

    @property
    def parts(self):
        """The schedules."""
        return self.schedules

    def settings(self, settings, momentum, epoch, updates):
        """What the schedules make of the settings, one after the other."""
        for schedule in self.schedules:
            settings = schedule.settings(settings, momentum, epoch, updates)
        return settings


def _metric(name, value):
    """The check of a monitor: which of them a `fit` reports, the trainer sees."""
    if isinstance(value, str) and (value == "loss" or re.fullmatch("val_(.+_)?(loss|accuracy)", value)):
        return value
    raise ValueError(f'{name} must be "loss", "val_loss", "val_accuracy" or, for one of several outputs, '
                     f'"val_NAME_loss" or "val_NAME_accuracy"; got {value!r}')


def _best(name, value):
    return None if value is None else checks.number(name, value)


@dataclass
class ReduceLROnPlateau(_Schedule):
    """Multiply the rate by factor, down to min_lr, after more than `patience` epochs without improvement.

    monitor: "loss", that of training, or, with `validation_data` in every `fit`, "val_loss" or "val_accuracy"; for
    one of several outputs "val_NAME_loss" or "val_NAME_accuracy".
    mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps: torch's. The others are the memory, so a
    plateau belongs to one trainer; save with a validated monitor at the end of epochs, not within.
    """

    mode: str = choice("min", "max")
    factor: float = fraction(0.1)
    patience: int = integer(10, low=0)
    threshold: float = number(1e-4)
    threshold_mode: str = choice("rel", "abs")
    cooldown: int = integer(0, low=0)
    min_lr: float = number(0.0)
    eps: float = number(1e-8)
    monitor: str = checked(_metric, "loss")
    best: float | None = checked(_best, None)
    num_bad_epochs: int = integer(0, low=0)
    cooldown_counter: int = integer(0, low=0)
    reductions: int = integer(0, low=0)
    by = None

    def monitored(self):
        """The monitor."""
        return {self.monitor}

    def observe(self, logs):
        """Count epochs without improvement, as torch does."""
        if self.monitor not in logs:
            return
        value = logs[self.monitor]
        if self.best is None or self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            self.reductions, self.cooldown_counter, self.num_bad_epochs = self.reductions + 1, self.cooldown, 0

    def _improves(self, value):
        sign = 1 if self.mode == "min" else -1
        margin = sign * self.threshold
        return sign * value < sign * (self.best * (1 - margin) if self.threshold_mode == "rel" else self.best - margin)

    def rates(self, lr, epoch, updates):
        """The rates after the reductions so far; one smaller than eps is not made."""
        rates = np.full(len(updates), lr, np.float64)
        for _ in range(self.reductions):
            lower = np.maximum(rates * self.factor, self.min_lr)
            rates = np.where(rates - lower > self.eps, lower, rates)
        return rates
