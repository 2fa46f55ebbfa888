"""The training loop: checks what it is given, then hands whole stretches of steps to a backend."""

import os
import threading
import time
import weakref

import numpy as np

from hotloop.kernels import _cuda

from . import checks, data
from .brief_calls import BriefCalls
from .build import build
from .callbacks import check, notify
from .epochs import Epochs
from .errors import NonFiniteError
from .history import History
from .inference import Inference
from .interrupts import deferred_interrupts
from .lbfgs import LBFGS
from .network import Network
from .objective import Objective
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES
from .state import Holder

BACKENDS = ("numpy", "cpu", "cuda")


_alive = weakref.WeakSet()  # trainers


def _in_child():
    """In a forked child no thread goes on that held a trainer, and what ran has left its barriers half way."""
    for trainer in _alive:
        trainer._lock = threading.RLock()
        if trainer._backend is not None:
            trainer._backend.unbind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Trainer(Holder, Epochs, Inference, BriefCalls):
    """Trains a network.

    net: a Sequential or another Network, whose parameters this trainer takes over. loss, optimizer: of this package;
    for several outputs a loss for each, in a list or mapping as the network names them. loss_weights: positive factors
    of these losses, alike; their sum is minimised. batch_size: rows of a training step. backend: "cpu" (compiled
    kernels) or "numpy" (the reference). threads: the cpu backend takes as many worker threads as a step is worth, at
    most so many, None for all that are free; results do not depend on it. dtype: "float32" or "float64". seed: of the
    shuffling. shuffle: a new order every epoch, where it has several batches. check_finite: refuse data with NaN or
    infinity.

    schedule: of the learning rate, None for a constant one. l1, l2: the loss that is minimised, and that `fit`, `step`
    and `gradients` report, has l1 sum |w| + l2 / 2 sum w^2 added, over the weight matrices, with penalize_bias over
    biases and all other vectors too; `evaluate` leaves it out. So l2 does what a weight_decay that is added to the
    gradient does, which knows no difference between weights and biases and does not show in the loss; AdamW's,
    decoupled, does another thing.
    clip_value: largest size of a gradient's element, clip_norm: of the whole gradient's norm, as torch's
    clip_grad_value_ and clip_grad_norm_, penalties included; with both, values are clipped first.

    Raises TypeError and ValueError for arguments outside these. Attributes to read: `epoch` (completed), `updates`
    (steps made), `lr` (learning rate of the next update), `optimizer` (its settings may be changed between or in
    callbacks; a schedule starts from its lr).
    """

    def __init__(self, net, loss, optimizer, batch_size=32, backend="cpu", threads=None, dtype="float32", seed=0,
                 shuffle=True, check_finite=True, schedule=None, l1=0.0, l2=0.0, penalize_bias=False, clip_value=None,
                 clip_norm=None, loss_weights=None):
        if not isinstance(net, Network):
            raise TypeError(f"net must be a Network or Sequential, got {checks.given(net)}")
        checks.kind("optimizer", optimizer, OPTIMIZERS | {"LBFGS": LBFGS})
        if isinstance(optimizer, LBFGS) and any(option is not None for option in (schedule, clip_value, clip_norm)):
            raise ValueError("LBFGS searches for its step: leave out schedule, clip_value and clip_norm")
        if schedule is not None:
            checks.kind("schedule", schedule, SCHEDULES)
            schedule.check(optimizer)
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        if backend == "cuda":
            _cuda.require()
        self.net, self.loss, self.optimizer, self.schedule = net, loss, optimizer, schedule
        self.loss_weights = loss_weights
        self.objective = Objective(net, loss, loss_weights, backend == "cuda")
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.threads = None if threads is None else checks.integer("threads", threads, 1, 1024)
        self.seed = checks.integer("seed", seed, 0)
        self.backend, self.dtype = backend, checks.real_dtype(dtype)
        self.shuffle, self.check_finite = checks.switch("shuffle", shuffle), checks.switch("check_finite", check_finite)
        self.l1, self.l2 = checks.number("l1", l1, 0), checks.number("l2", l2, 0)
        self.penalize_bias = checks.switch("penalize_bias", penalize_bias)
        self.clip_value, self.clip_norm = (limit if limit is None else checks.number(name, limit, 0, open_low=True)
                                           for name, limit in (("clip_value", clip_value), ("clip_norm", clip_norm)))
        self.epoch, self.updates = 0, 0
        self._position, self._rows, self._loss_sum = 0, 0, 0.0  # of an epoch that was left unfinished
        self._stopped, self._programs, self._step_seconds, self._trial = False, {}, None, False
        self._briefs, self._small = {}, {}  # see BriefCalls; `_small`: ranges, most rows by form
        self._states = optimizer.states()
        self._backend, self._lock = None, threading.RLock()  # what runs shares memory with whatever else this runs
        _alive.add(self)

    def __repr__(self):
        """The call that makes this trainer, and where training stands."""
        settings = ("loss", "optimizer", "batch_size", "backend", "threads", "seed", "shuffle", "check_finite",
                    "schedule", "l1", "l2", "penalize_bias", "clip_value", "clip_norm", "loss_weights")
        return (f"Trainer({self.net!r}, {', '.join(f'{name}={getattr(self, name)!r}' for name in settings)}, "
                f"dtype='{self.dtype}')  # epoch {self.epoch}, {self.updates} updates")

    def __getstate__(self):
        """Copies and pickles hold parameters and states, and go on from here bit for bit."""
        state = None if self._backend is None else self.state_dict()
        return vars(self) | {"_backend": None, "_lock": None, "_programs": {}, "_step_seconds": None,
                             "_trial": False, "_briefs": {}}, state

    def __setstate__(self, saved):
        """Take over what `__getstate__` gave."""
        attributes, state = saved
        vars(self).update(attributes, _lock=threading.RLock())
        _alive.add(self)
        if state is not None:
            self.load_state_dict(state)

    # training

    def fit(self, X, y, epochs=1, validation_data=None, callbacks=(), sample_weight=None):
        """Train for `epochs` epochs on X (rows, in_features) and y; return a History.

        X and y come as the network names its inputs and outputs: alone, or in a list or mapping of arrays.
        y: integer labels (rows,) for losses of classes, or probabilities (rows, classes) for CrossEntropyLoss, else
        targets (rows, out_features), or (rows,) where out_features is 1. validation_data: (Xv, yv), evaluated after
        each epoch. sample_weight: (rows,), not negative; each batch's "mean" is sum s_i l_i / sum s_i, as in
        scikit-learn (class weights multiply s_i, as in torch), and an epoch's loss is that mean over all its rows.
        An epoch that an interruption left unfinished is finished first, if the data has as many rows as before.
        Raises ValueError and TypeError for data that do not fit, before anything was changed; NonFiniteError where
        the loss or an update is not finite; KeyboardInterrupt soon after Ctrl-C, between two steps.
        """
        epochs = checks.integer("epochs", epochs, 0)
        whole = isinstance(self.optimizer, LBFGS)
        examples = self._examples("fit", X, y, sample_weight, None if whole else self.batch_size, training=True)
        if validation_data is not None:
            self._check_validation(validation_data)
        self._check_monitored(validation_data is not None)
        callbacks = check(callbacks)
        program = None if whole else self._program("train", examples.form, min(self.batch_size, len(examples)))
        if len(examples) != self._rows:
            self._position, self._loss_sum = 0, 0.0
        self._rows, self._stopped = len(examples), False
        listened = callbacks or validation_data is not None or (self.schedule and self.schedule.listens())
        finished = (self._whole_epochs(examples, callbacks, epochs) if whole
                    else self._epochs(program, examples, callbacks, epochs, 1 if listened else epochs))
        history = History()
        for logs in finished:
            if validation_data is not None:
                found = {f"val_{name}": value for name, value in self.evaluate(*validation_data).items()}
                self._observe(found)
                logs |= found
            history.add(logs)
            notify(callbacks, "on_epoch_end", self, logs)
            if self._stopped:
                break
        return history

    def _check_validation(self, pair):
        """Refuse validation data that `evaluate` would refuse after an epoch."""
        if not hasattr(pair, "__len__"):
            raise TypeError(f"validation_data must be a pair (X, y), got {pair!r}")
        if len(pair) != 2:
            raise ValueError(f"validation_data must be a pair (X, y), got {len(pair)} parts")
        self._examples("validation_data", *pair)

    def _check_monitored(self, validated):
        """Refuse a schedule that waits for what `fit` will not report."""
        reported = ["loss", *(f"val_{metric}" for metric in self.objective.metrics() if validated)]
        missing = (self.schedule.monitored() if self.schedule else set()) - set(reported)
        if missing:
            raise ValueError(f"the schedule monitors {', '.join(missing)}, but this fit reports {', '.join(reported)}: "
                             "give validation_data, or the schedule another monitor")

    def step(self, xb, yb, sample_weight=None):
        """Make one update on a batch (any number of rows); return the batch's loss before the update.

        Arguments, and what is raised, are those of `fit`.
        """
        if sample_weight is None and (loss := self._step_in_brief(xb, yb)) is not None:
            return loss
        examples = self._examples("step", xb, yb, sample_weight, training=True)
        if isinstance(self.optimizer, LBFGS):
            return self._minimize(examples)[0]
        rows = len(examples)
        program = self._program("train", examples.form, rows)
        self._backend.bind(program)
        with deferred_interrupts():
            loss = float(self._run(program, examples.arrays, 1, 0, rows, rows)[0])
        self._keep_brief("train", examples.form, rows)
        return loss

    def gradients(self, xb, yb, sample_weight=None):
        """The gradient of the loss on a batch by parameter name, in torch's shapes; nothing is updated.

        It is what `step` would hand to the optimizer, of the network in training.
        """
        examples = self._examples("gradients", xb, yb, sample_weight, training=True)
        return self._loss_and_gradients(self._program("gradient", examples.form, len(examples)), examples)[1]

    def _loss_and_gradients(self, program, examples):
        with self._lock:
            return self._once(program, examples), {name: self._backend.read(program, "gradient", name)
                                                   for name in self.net.shapes}

    def _once(self, program, examples):
        """The loss that `program` finds on all rows, as the next update would."""
        rows = len(examples)
        with self._lock:
            outcome = self._backend.run(program, examples.arrays, steps=1, start=0, rows=rows, batch=rows,
                                        update=self.updates + 1, strict=False)
        return float(outcome.losses[0])

    def _minimize(self, examples):
        """Let L-BFGS run on all rows; return the losses before and after. Statistics follow once, at the end."""
        program = self._program("gradient", examples.form, len(examples))
        before, after, iterations = self.optimizer.minimize(
            self.net, lambda: self._loss_and_gradients(program, examples))
        if self.net.statistics:
            self._once(self._program("train", examples.form, len(examples)), examples)
        self.updates += iterations
        return before, after

    def stop(self):
        """Ask `fit` to return; for callbacks. An unfinished epoch is finished by the next `fit`."""
        self._stopped = True

    def _run(self, program, arrays, steps, start, rows, batch, epochs=None):
        """The losses of `steps` updates, which lie in the epochs `epochs`, one for each, or all in the current one."""
        if self.optimizer.states() != self._states:
            raise ValueError(f"the optimizer keeps {self.optimizer.states()} now, but the trainer was made for "
                             f"{self._states}: make a new Trainer")
        with self._lock:
            program.settings |= self._settings(steps, epochs)
            started = time.perf_counter()
            outcome = self._backend.run(program, arrays, steps=steps, start=start, rows=rows, batch=batch,
                                        update=self.updates + 1)
            seconds = (time.perf_counter() - started) / steps
            self.updates += outcome.done
        self._trial = outcome.trial
        self._step_seconds = seconds if self._step_seconds is None else min(seconds, 2 * self._step_seconds)
        if outcome.stopped and epochs is not None:
            self.epoch = int(epochs[outcome.done - (outcome.stopped == "update")])
        if outcome.stopped:
            raise self._not_finite(outcome.stopped, float(outcome.losses[-1]))
        return outcome.losses

    def _not_finite(self, stopped, loss):
        """The error for a run that ended early, in words."""
        number = self.updates + (stopped == "loss")
        what = f"the loss is {loss}" if stopped == "loss" else f"an update is not finite (loss {loss:g})"
        return NonFiniteError(f"step {number}: {what}; the network keeps its last finite parameters. Try a smaller "
                              f"learning rate than {self.lr:g}, or scale the data"
                              + ("" if self.check_finite else ", or look for NaN in it")
                              + "".join(f". {need}" for need in self.objective.needs()), number, loss)

    @property
    def lr(self):
        """The learning rate of the next update."""
        return _last(self._settings(1)["lr"])

    def _settings(self, steps, epochs=None):
        """The optimizer's numbers for the next `steps` updates; `epochs` as for `_run`."""
        updates = np.arange(self.updates, self.updates + steps)
        settings = self.optimizer.settings(updates + 1)
        if self.schedule is None:
            return settings
        return self.schedule.settings(settings, self.optimizer.momentum_operand,
                                      self.epoch if epochs is None else epochs, updates)

    def device_state(self):
        """The network's parameters by name, in torch's shapes, as new arrays on the device of the cuda backend.

        Others read them there by `__cuda_array_interface__` (see `DeviceArray`); `net.state_dict()` gives NumPy arrays.
        Raises ValueError for other backends.
        """
        if self.backend != "cuda":
            raise ValueError(f"backend {self.backend!r} keeps nothing on a device: use net.state_dict()")
        with self._lock:
            program = self._program("predict", None, 1)
            return {name: self._backend.parameter(program, name) for name in self.net.shapes}

    # programs

    def program(self, X, y, sample_weight=None):
        """The training program for batches of such data: print it to see what runs."""
        goal = "gradient" if isinstance(self.optimizer, LBFGS) else "train"
        return self._program(goal, self._examples("program", X, y, sample_weight).form, self.batch_size)

    def _examples(self, method, X, y, sample_weight=None, batch_size=None, training=False):
        """Checked data for a method, which runs all rows at once or in batches."""
        of = " of validation_data" if method == "validation_data" else ""
        examples = self.objective.examples(X, y, sample_weight, self.dtype, self.check_finite, of)
        data.enough_rows(method, len(examples), batch_size or len(examples), self.net, training)
        return examples

    def _program(self, goal, form, rows):
        """The program for a goal and a form of targets, ready to run on batches of `rows`."""
        with self._lock:
            if self._backend is None:
                self._make_backend()
            if (goal, form) not in self._programs:
                self._programs[goal, form] = build(self, goal, form)
            program = self._programs[goal, form].best(rows)
            self._backend.prepare(program, rows)
            if self.net.owner is not self:
                self.net.take(self)
            return program

    def _make_backend(self):
        if self.backend == "numpy":
            from .numpy_backend import NumpyBackend

            self._backend = NumpyBackend(self.dtype)
        elif self.backend == "cuda":
            from .cuda_backend import CudaBackend

            self._backend = CudaBackend(self.dtype)
        else:
            from .cpu_backend import CpuBackend

            self._backend = CpuBackend(self.dtype, self.threads)
            self._briefs = self._backend.briefs
        program = self._programs["predict", None] = build(self, "predict", None)
        self._backend.prepare(program, 1)


def _last(setting):
    """A setting's number in the last of the steps that it was made for."""
    return float(np.ravel(setting)[-1])
