"""Compares the cpu backend with the numpy backend, the judge: the same net on the same data, results and times."""

import contextlib
import statistics
from dataclasses import dataclass

import numpy as np

from .activations import Sigmoid, Softplus
from .layers import Dense, activations
from .losses import LOSSES
from .network import Sequential
from .optimizers import OPTIMIZERS
from .trainer import Trainer

BACKENDS = ("numpy", "cpu")
_BATCHES = 100  # in an epoch at most; more steps go over the data again
# Errors allowed, in units of the dtype's epsilon times the largest number of the array. One pass through a network
# rounds a few times. Training enlarges that where a rounding decides a direction: in a rectifier whose input is 0 but
# for rounding, and in Adam, which divides a gradient by its own size, however small.
_PASS, _TRAINED = 64, 2**17
_LAST = {"BCELoss": [Sigmoid()], "GaussianNLLLoss": [Softplus()]}  # after the net: probabilities, variances


@dataclass(frozen=True)
class Difference:
    """The largest error of one result of the cpu backend: absolute, and relative to the largest number of the array.

    A number that is not finite on either side makes both infinite.
    """

    name: str
    absolute: float
    relative: float
    tolerance: float  # of `relative`


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. losses and seconds (of a step, median) go by backend; speed is the median of ratios."""

    title: str
    steps: int
    before: list[Difference]
    after: list[Difference]
    losses: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    speed: float
    threads: int | None

    @property
    def agrees(self):
        """Whether every error is within its tolerance."""
        return all(found.relative <= found.tolerance for found in self.before + self.after)

    def __str__(self):
        """The report, a table."""
        lines = [self.title, f"{'largest error, cpu against numpy':36}{'absolute':>10}{'relative':>10}{'allowed':>10}"]
        for heading, found in (("at the start", self.before), (f"after {self.steps} steps", self.after)):
            lines += [f"{heading}:"] + [_row(difference) for difference in found]
        for name, (first, last) in self.losses.items():
            lines.append(f"loss on {name + ':':6} {first:.7f} at the start, {last:.7f} after {self.steps} steps")
        used = "as many threads as the work is worth" if self.threads is None else f"threads: {self.threads}"
        lines += [f"time of a step: numpy {_time(self.seconds['numpy'])}, cpu {_time(self.seconds['cpu'])} ({used}), "
                  f"{self.speed:.1f}x", "the backends agree" if self.agrees else "THE BACKENDS DIFFER"]
        return "\n".join(lines)


def compare(widths=(64, 128, 10), activation="ReLU", loss="CrossEntropyLoss", optimizer="Adam", lr=None, batch=64,
            steps=100, dtype="float32", threads=None, seed=0, tolerance=None, rounds=7):
    """Train a dense net of these widths on random data with both backends; return a Comparison.

    activation, loss, optimizer: names of classes. lr: by default 0.1 for SGD, 0.001 for others. threads: of the cpu
    backend. tolerance: of all relative errors; by default 64 epsilon of the dtype at the start and 2**17 epsilon after
    the steps. rounds: of the timing, in which the backends take turns; with threadpoolctl installed, a limit on threads
    is one for NumPy's BLAS, too. Raises ValueError and TypeError for arguments that the classes do not take.
    """
    trainers = {name: trainer(widths, activation, loss, optimizer, lr, batch, dtype, threads, seed, name)
                for name in BACKENDS}
    X, y = random_data(widths, LOSSES[loss], batch * min(steps, _BATCHES), dtype, seed)
    allowed = np.finfo(dtype).eps * np.array([_PASS, _TRAINED]) if tolerance is None else [tolerance] * 2

    start = {name: _state(each, X[:batch], y[:batch]) for name, each in trainers.items()}
    for each in trainers.values():
        _train(each, X, y, steps)
    end = {name: each.net.state_dict() | {"loss": _loss(each, X[:batch], y[:batch])} for name, each in trainers.items()}
    seconds = _times(trainers, X, y, rounds)

    return Comparison(
        f"{'-'.join(map(str, widths))} {activation}, {loss}, {trainers['cpu'].optimizer}, batch {batch}, {dtype}, "
        f"seed {seed}", steps, _differences(start, allowed[0]), _differences(end, allowed[1]),
        {name: (float(start[name]["loss"]), float(end[name]["loss"])) for name in BACKENDS},
        {name: statistics.median(values) for name, values in seconds.items()},
        statistics.median(a / b for a, b in zip(seconds["numpy"], seconds["cpu"], strict=True)), threads)


def trainer(widths, activation="ReLU", loss="CrossEntropyLoss", optimizer="Adam", lr=None, batch=64, dtype="float32",
            threads=None, seed=0, backend="cpu"):
    """A trainer of a dense net of these widths, its parts given by name as for `compare`."""
    if len(widths) < 2:
        raise ValueError(f"a net needs at least two widths, such as 64-10; got {widths}")
    for name, kinds in ((activation, activations()), (loss, LOSSES), (optimizer, OPTIMIZERS)):
        if name not in kinds:
            raise ValueError(f"unknown name {name!r}: choose one of {', '.join(kinds)}")
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [Dense(inputs, outputs), activations()[activation]()]
    layers[-1:] = _LAST.get(loss, [])
    rate = lr if lr is not None else 0.1 if optimizer == "SGD" else 1e-3
    return Trainer(Sequential(*layers, seed=seed), LOSSES[loss](), OPTIMIZERS[optimizer](lr=rate),
                   batch_size=batch, backend=backend, threads=threads, dtype=dtype, seed=seed)


def random_data(widths, loss, rows, dtype, seed=0):
    """Normal inputs and what a random linear map makes of them, as the loss wants it."""
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((rows, widths[0])).astype(dtype)
    outputs = loss().target_columns(widths[-1])
    y = X @ generator.standard_normal((widths[0], outputs)).astype(dtype) / widths[0] ** 0.5
    if "labels" in loss.kinds:
        return X, y.argmax(1)
    wanted = (targets.astype(dtype) for targets in (y, y > 0, np.sign(y), -1 * (y > 0)))
    return X, next(targets for targets in wanted if not loss().outside(targets)[0].any())


def _state(trainer, X, y):
    """Output, loss and gradients on one batch."""
    gradients = {f"gradient of {name}": value for name, value in trainer.gradients(X, y).items()}
    return {"output": trainer.predict(X), "loss": _loss(trainer, X, y)} | gradients


def _loss(trainer, X, y):
    return np.float64(trainer.evaluate(X, y)["loss"])


def _train(trainer, X, y, steps):
    """Exactly `steps` steps, in whole epochs and a part of one."""
    epochs, rest = divmod(steps * trainer.batch_size, len(X))
    trainer.fit(X, y, epochs=epochs)
    if rest:
        trainer.fit(X[:rest], y[:rest])


def _times(trainers, X, y, rounds):
    """Seconds of a step in each round; the backends take turns, so that a disturbance meets both."""
    seconds = {name: [] for name in trainers}
    with _blas(trainers["cpu"].threads):
        for _ in range(rounds):
            for name, each in trainers.items():
                seconds[name].append(each.fit(X, y).seconds[0] / -(-len(X) // each.batch_size))
    return seconds


def _blas(threads):
    """Where threads are limited for us, the same limit for NumPy's BLAS, as far as there is a way to set it."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(threads)


def _differences(results, tolerance):
    found = []
    for name, expected in results["numpy"].items():
        with np.errstate(all="ignore"):
            absolute = float(np.nan_to_num(np.max(abs(results["cpu"][name] - expected)), nan=np.inf, posinf=np.inf))
            scale = float(np.max(abs(expected)))
        found.append(Difference(name, absolute, absolute / scale if scale else absolute, float(tolerance)))
    return found


def _row(found):
    mark = "" if found.relative <= found.tolerance else "  <-- too large"
    return f"  {found.name:34}{found.absolute:10.1e}{found.relative:10.1e}{found.tolerance:10.1e}{mark}"


def _time(seconds):
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
