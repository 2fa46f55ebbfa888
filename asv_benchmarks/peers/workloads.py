"""What is trained and predicted: nets, batches, data and first weights, the same for everyone who takes part."""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice

import numpy as np

RATES = {"sgd": 0.01, "adam": 1e-3}
STEPS = 10  # whose losses are compared before anything is timed
EPOCH_FLOPS, EPOCH_BATCHES = 1e10, (4, 1000)  # an epoch is about a tenth of a second's work


@dataclass(frozen=True)
class Workload:
    """A dense net and the rows of its batch: ReLU and cross-entropy, or for regression tanh and the mean square."""

    name: str
    widths: tuple[int, ...]
    batch: int
    regression: bool = False  # on one full batch

    @property
    def layers(self):
        """Inputs and outputs of each layer."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def shape(self):
        """The widths as they are written."""
        return "-".join(map(str, self.widths))


WORKLOADS = {workload.name: workload for workload in (
    Workload("tiny", (2, 16, 16, 2), 32),
    Workload("small", (64, 128, 10), 64),
    Workload("mnist", (784, 256, 128, 10), 128),
    Workload("mid", (784, 512, 512, 10), 256),
    Workload("large", (1024, 2048, 2048, 1000), 256),
    Workload("simplechains", (4, 32, 16, 4), 10_000, regression=True),
)}


def workload(text):
    """The workload of a name, or of widths and batch, from 1 on, such as 30-40-5@17."""
    if text in WORKLOADS:
        return WORKLOADS[text]
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)+@[1-9]\d*", text):
        raise ValueError(f"unknown workload {text!r}: give one of {', '.join(WORKLOADS)}, or widths and batch, "
                         "from 1 on, such as 30-40-5@17")
    widths, batch = text.split("@")
    return Workload(text, tuple(map(int, widths.split("-"))), int(batch))


@dataclass(frozen=True)
class Task:
    """One thing to time: training a workload with an optimizer, or predicting some rows.

    goal: "sgd", "adam" or "predict". rows: of a batch. batches: of an epoch.
    """

    workload: Workload
    goal: str
    rows: int
    batches: int = 1

    @classmethod
    def training(cls, workload, optimizer):
        """Training with batches enough for an epoch that takes a tenth of a second."""
        least, most = EPOCH_BATCHES
        batches = max(least, min(most, int(EPOCH_FLOPS / cls(workload, optimizer, workload.batch).flops)))
        return cls(workload, optimizer, workload.batch, 1 if workload.regression else batches)

    @property
    def flops(self):
        """Floating-point operations of the matrix products of a step: forward, and two products a layer backward."""
        forward = [2 * self.rows * inputs * outputs for inputs, outputs in self.workload.layers]
        return sum(forward) if self.goal == "predict" else 3 * sum(forward) - forward[0]

    @property
    def bytes(self):
        """Bytes that a training step moves to and from memory if each array is written once and read once.

        These are features and targets, which are only read; parameters, their gradients, and with Adam two moments; and
        what each layer puts out. Who keeps some of it in caches or registers moves less.
        """
        widths, parameters = self.workload.widths, sum(inputs * outputs + outputs for inputs, outputs
                                                       in self.workload.layers)
        arrays = 4 if self.goal == "adam" else 2  # as large as the parameters
        numbers = self.rows * (widths[0] + 2 * sum(widths[1:])) + 2 * arrays * parameters
        return 4 * numbers + self.rows * (4 * widths[-1] if self.workload.regression else 8)

    def __str__(self):
        """What it is, in words."""
        work = f"{self.workload.name} {self.workload.shape}" if self.workload.name[0].isalpha() else self.workload.shape
        return f"{work}, {f'{self.rows} rows' if self.goal == 'predict' else f'batch {self.rows}'}, {self.goal}"


@cache
def weights(workload):
    """First weights (outputs, inputs) and biases (outputs,) of each layer, float32."""
    generator, layers = np.random.default_rng(1), []
    for inputs, outputs in workload.layers:
        weight = generator.standard_normal((outputs, inputs), np.float32)
        weight /= np.float32(inputs**0.5)  # in place: memory is measured beside it
        layers.append((weight, generator.uniform(-0.1, 0.1, outputs).astype(np.float32)))
    return layers


@cache
def data(task):
    """Features (batches, rows, inputs), and labels (batches, rows) or for regression targets as wide as the net."""
    generator, widths = np.random.default_rng(0), task.workload.widths
    X = generator.standard_normal((task.batches, task.rows, widths[0]), np.float32)
    if task.workload.regression:
        return X, np.tanh(X @ generator.standard_normal((widths[0], widths[-1]), np.float32))
    return X, generator.integers(0, widths[-1], (task.batches, task.rows))


def first_batches(task):
    """Pairs of features and targets for the steps that are compared, different ones unless one batch is everything."""
    batches = data(replace(task, batches=task.batches if task.workload.regression else STEPS))
    return list(islice(cycle(zip(*batches, strict=True)), STEPS))
