"""The training loop: checks what it is given, then hands whole stretches of steps to a backend."""

import math
import time
from collections.abc import Mapping

import numpy as np

from hotloop.kernels import OPS

from . import autodiff, checks, data
from .callbacks import check, notify
from .errors import NonFiniteError
from .history import History
from .interrupts import deferred_interrupts
from .losses import LOSSES
from .network import Sequential
from .optimizers import OPTIMIZERS
from .plan import plan

BACKENDS = ("numpy", "cpu")
_CHUNK_SECONDS = 0.05  # how long compiled code keeps the interpreter waiting
_PREDICT_ROWS = 256
_EVALUATE_ROWS = 8192


class Trainer:
    """Trains a network.

    net: a Sequential, whose parameters this trainer takes over. loss, optimizer: of this package. batch_size: rows
    of a training step. backend: "cpu" (compiled kernels) or "numpy" (the reference). threads: worker threads of the
    cpu backend, None for as many as the work is worth; results do not depend on it. dtype: "float32" or "float64".
    seed: of the shuffling. shuffle: a new order every epoch. check_finite: refuse data with NaN or infinity.

    Raises TypeError and ValueError for arguments outside these. Attributes to read: `epoch` (completed), `updates`
    (steps made), `optimizer` (its settings may be changed between or in callbacks).
    """

    def __init__(self, net, loss, optimizer, batch_size=32, backend="cpu", threads=None, dtype="float32", seed=0,
                 shuffle=True, check_finite=True):
        checks.kind("net", net, {"Sequential": Sequential})
        checks.kind("loss", loss, LOSSES)
        checks.kind("optimizer", optimizer, OPTIMIZERS)
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        for kind in loss.kinds:  # refuses class weights that do not fit the outputs
            loss.apply(*net.graph(), kind)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.threads = None if threads is None else checks.integer("threads", threads, 1, 1024)
        self.seed = checks.integer("seed", seed, 0)
        self.backend, self.dtype = backend, checks.real_dtype(dtype)
        self.shuffle, self.check_finite = checks.switch("shuffle", shuffle), checks.switch("check_finite", check_finite)
        self.epoch, self.updates = 0, 0
        self._position, self._rows, self._loss_sum = 0, 0, 0.0  # of an epoch that was left unfinished
        self._stopped, self._programs, self._step_seconds = False, {}, None
        self._states = self.optimizer.states()
        self._backend = None

    def __repr__(self):
        """The call that makes this trainer, and where training stands."""
        settings = ("loss", "optimizer", "batch_size", "backend", "threads", "seed", "shuffle", "check_finite")
        return (f"Trainer({self.net!r}, {', '.join(f'{name}={getattr(self, name)!r}' for name in settings)}, "
                f"dtype='{self.dtype}')  # epoch {self.epoch}, {self.updates} updates")

    def __getstate__(self):
        """Copies and pickles hold parameters and states, and go on from here bit for bit."""
        state = None if self._backend is None else self.state_dict()
        return vars(self) | {"_backend": None, "_programs": {}, "_step_seconds": None}, state

    def __setstate__(self, saved):
        """Take over what `__getstate__` gave."""
        attributes, state = saved
        vars(self).update(attributes)
        if state is not None:
            self.load_state_dict(state)

    # training

    def fit(self, X, y, epochs=1, validation_data=None, callbacks=(), sample_weight=None):
        """Train for `epochs` epochs on X (rows, in_features) and y; return a History.

        y: integer labels (rows,) for losses of classes, or probabilities (rows, classes) for CrossEntropyLoss, else
        targets (rows, out_features), or (rows,) where out_features is 1. validation_data: (Xv, yv), evaluated after
        each epoch. sample_weight: (rows,), not negative; each batch's "mean" is sum s_i l_i / sum s_i, as in
        scikit-learn (class weights multiply s_i, as in torch), and an epoch's loss is that mean over all its rows.
        An epoch that an interruption left unfinished is finished first, if the data has as many rows as before.
        Raises ValueError and TypeError for data that do not fit, before anything was changed; NonFiniteError where
        the loss or an update is not finite; KeyboardInterrupt soon after Ctrl-C, between two steps.
        """
        epochs = checks.integer("epochs", epochs, 0)
        examples = self._examples("fit", X, y, sample_weight, self.batch_size, training=True)
        if validation_data is not None:
            self._check_validation(validation_data)
        callbacks = check(callbacks)
        program = self._program("train", examples.form, min(self.batch_size, len(examples)))
        if len(examples) != self._rows:
            self._position, self._loss_sum = 0, 0.0
        self._rows, self._stopped = len(examples), False
        history = History()
        for _ in range(epochs):
            started = time.perf_counter()
            self._epoch(program, examples, callbacks)
            if self._position:  # stopped on the way
                break
            logs = {"epoch": self.epoch - 1, "loss": self._finished, "seconds": time.perf_counter() - started}
            history.loss.append(logs["loss"])
            history.seconds.append(logs["seconds"])
            if validation_data is not None:
                for name, value in self.evaluate(*validation_data).items():
                    logs[f"val_{name}"] = value
                    getattr(history, f"val_{name}").append(value)
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

    def _epoch(self, program, examples, callbacks):
        """Train what is left of the current epoch."""
        rows = len(examples)
        batch = min(self.batch_size, rows)
        batches = -(-rows // batch)
        order, counts = None, examples.counts
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(rows).astype(np.int64)
            counts = counts[order]
        if self.loss.reduction == "sum":
            counted = np.ones(batches)
        else:
            counted = np.add.reduceat(counts, np.arange(0, rows, batch))  # what each batch counts for
        arrays = examples.arrays | {"order": order}
        epoch = self.epoch
        while self._position < batches:
            self._backend.bind(program)  # compiles what is missing, which an interrupt may stop
            with deferred_interrupts():
                steps = min(self._chunk(), batches - self._position)
                first = self._position
                try:
                    losses = self._run(program, arrays, steps, first * batch, rows, batch)
                except NonFiniteError:
                    self._position, self._loss_sum = 0, 0.0  # the next fit starts this epoch anew
                    raise
                losses = losses * counted[first : first + steps]
                self._loss_sum = float(np.cumsum([self._loss_sum, *losses])[-1])  # one by one: chunks leave no trace
                self._position += steps
                trained = float(counted[: self._position].sum()) or 1.0
                logs = {"epoch": epoch, "batch": self._position, "batches": batches, "loss": self._loss_sum / trained}
                if self._position == batches:
                    self._finished = logs["loss"]
                    self.epoch, self._position, self._loss_sum = epoch + 1, 0, 0.0
            notify(callbacks, "on_batch_chunk", self, logs)
            if self._stopped or self._position == 0:
                return

    def step(self, xb, yb, sample_weight=None):
        """Make one update on a batch (any number of rows); return the batch's loss before the update.

        Arguments, and what is raised, are those of `fit`.
        """
        examples = self._examples("step", xb, yb, sample_weight, training=True)
        rows = len(examples)
        program = self._program("train", examples.form, rows)
        self._backend.bind(program)
        with deferred_interrupts():
            return float(self._run(program, examples.arrays, 1, 0, rows, rows)[0])

    def gradients(self, xb, yb, sample_weight=None):
        """The gradient of the loss on a batch by parameter name, in torch's shapes; nothing is updated.

        It is what `step` would hand to the optimizer, of the network in training.
        """
        examples = self._examples("gradients", xb, yb, sample_weight, training=True)
        rows = len(examples)
        program = self._program("gradient", examples.form, rows)
        self._backend.run(program, examples.arrays, steps=1, start=0, rows=rows, batch=rows, update=self.updates + 1,
                          strict=False)
        return {name: self._backend.read(program, "gradient", name) for name in self.net.shapes}

    def stop(self):
        """Ask `fit` to return; for callbacks. An unfinished epoch is finished by the next `fit`."""
        self._stopped = True

    def _run(self, program, arrays, steps, start, rows, batch):
        if self.optimizer.states() != self._states:
            raise ValueError(f"the optimizer keeps {self.optimizer.states()} now, but the trainer was made for "
                             f"{self._states}: make a new Trainer")
        program.settings.update(self.optimizer.settings())
        started = time.perf_counter()
        outcome = self._backend.run(program, arrays, steps=steps, start=start, rows=rows, batch=batch,
                                    update=self.updates + 1)
        seconds = (time.perf_counter() - started) / steps
        self._step_seconds = seconds if self._step_seconds is None else min(seconds, 2 * self._step_seconds)
        self.updates += outcome.done
        if outcome.stopped:
            number = self.updates + (outcome.stopped == "loss")
            loss = float(outcome.losses[-1])
            what = f"the loss is {loss}" if outcome.stopped == "loss" else f"an update is not finite (loss {loss:g})"
            raise NonFiniteError(f"step {number}: {what}; the network keeps its last finite parameters. Try a smaller "
                                 f"learning rate than {self.optimizer.lr:g}, or scale the data"
                                 + ("" if self.check_finite else ", or look for NaN in it"), number, loss)
        return outcome.losses

    def _chunk(self):
        """Steps that take about _CHUNK_SECONDS."""
        return max(1, int(_CHUNK_SECONDS / self._step_seconds)) if self._step_seconds else 1

    # use

    def predict(self, X):
        """The network's outputs (rows, out_features) for X (rows, in_features), in the trainer's dtype."""
        X = data.features(X, self.net.in_features, self.dtype, self.check_finite)
        if len(X):
            data.enough_rows("predict", X, len(X), self.net)
        return self._forward({"x": X}, "predict", None)[0]

    def evaluate(self, X, y, sample_weight=None):
        """Loss on X and y, and accuracy where y are classes; a dict with "loss" and, then, "accuracy".

        Both weigh rows by sample_weight, (rows,), as `fit` does; class weights are for the loss alone, ignored labels
        for nothing. The class is the largest output for losses of classes (targets: labels, or the most probable class)
        and for those of yes and no, a probability above 0.5, a logit or margin above 0, each output counting alike.
        """
        examples = self._examples("evaluate", X, y, sample_weight)
        total, right = 0.0, []
        at_once = len(examples) if self._by_batch() else _EVALUATE_ROWS
        for first in range(0, len(examples), at_once):
            part = {name: array[first : first + at_once] for name, array in examples.arrays.items()}
            outputs, losses = self._forward(part, "evaluate", examples.form)
            total += losses.sum()
            right.append(self.loss.right(outputs, part["y"]))
        share = self.loss.share(examples.form[0], self.net.out_features)
        results = {"loss": float(total / (share * examples.counts.sum() if share else 1))}
        if right[0] is not None:
            weights = self.loss.counted(examples.arrays["y"]) * examples.arrays.get("weights", 1.0)
            results["accuracy"] = float(np.average(np.concatenate(right), weights=weights))
        return results

    def _forward(self, arrays, goal, form):
        """Outputs, and the losses of the batches that they were made in."""
        rows = len(arrays["x"])
        outputs, losses = np.empty((rows, self.net.out_features), self.dtype), []
        batch = max(1, rows if self._by_batch() else min(_PREDICT_ROWS, rows))
        program = self._program(goal, form, batch)
        per_run = max(1, int(2e9 / (program.flops * batch)))  # batches in about _CHUNK_SECONDS
        for first in range(0, rows, per_run * batch):
            last = min(rows, first + per_run * batch)
            outcome = self._backend.run(program, arrays | {"prediction": outputs}, steps=-(-(last - first) // batch),
                                        start=first, rows=last, batch=batch, strict=False)
            losses.append(outcome.losses)
        return outputs, np.concatenate(losses) if losses else np.zeros(0)

    def _by_batch(self):
        """Whether outputs of a row depend on the others, in use too: then all rows are one batch."""
        return self.net.least_rows()[0] > 1

    # parameters and states

    def state_dict(self):
        """Copies of the parameters and statistics, named as in the network, and of the optimizer's states.

        A state of parameter "0.weight" is called "optimizer.exp_avg.0.weight", with torch's name for the state.
        """
        program = self._program("predict", None, 1)
        state = self.net.state_dict()
        for i, kept in enumerate(self._states):
            state |= {f"optimizer.{kept}.{name}": self._backend.read(program, f"state {i}", name)
                      for name in self.net.shapes}
        return state

    def load_state_dict(self, state):
        """Take over what `state_dict` gave; the errors are those of `Sequential.load_state_dict`."""
        names = {f"optimizer.{kept}.{name}": (f"state {i}", name)
                 for i, kept in enumerate(self._states) for name in self.net.shapes}
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict must map names to arrays, got {state!r}")
        missing = names.keys() - state.keys()
        if missing:
            raise KeyError(f"state_dict misses {sorted(missing)}: for the parameters alone there is "
                           "trainer.net.load_state_dict")
        states = {key: np.asarray(state[key]) for key in names}
        for key, (_, name) in names.items():
            if states[key].shape != self.net.shapes[name] or states[key].dtype.kind != "f":
                raise ValueError(f"{key} must hold floats of shape {self.net.shapes[name]}, got {states[key].dtype} "
                                 f"of shape {states[key].shape}")
            if not np.isfinite(states[key]).all():
                raise ValueError(f"{key} holds values that are not finite")
        program = self._program("predict", None, 1)
        self.net.load_state_dict({key: value for key, value in state.items() if key not in names})
        for key, (region, name) in names.items():
            self._backend.write(program, region, name, states[key])

    def progress(self):
        """Where training stands, in plain numbers; with `state_dict`, all that `resume` needs to go on bit for bit."""
        return {"epoch": self.epoch, "updates": self.updates, "position": self._position, "rows": self._rows,
                "loss_sum": self._loss_sum}

    def resume(self, progress):
        """Go on from what `progress` gave. Raises TypeError and ValueError for numbers that cannot be a progress."""
        epoch, updates, position, rows = (checks.integer(name, progress[name], 0)
                                          for name in ("epoch", "updates", "position", "rows"))
        if max(epoch, updates, rows) >= 2**53:
            raise ValueError(f"epoch, updates and rows must be less than 2**53, got {epoch}, {updates}, {rows}")
        if position and position >= -(-rows // min(self.batch_size, max(rows, 1))):
            raise ValueError(f"position {position} lies outside an epoch of {rows} rows, {self.batch_size} a batch")
        loss_sum = progress["loss_sum"]
        if isinstance(loss_sum, bool) or not isinstance(loss_sum, int | float) or not math.isfinite(loss_sum):
            raise ValueError(f"loss_sum must be a finite number, got {loss_sum!r}")
        self.epoch, self.updates, self._position, self._rows = epoch, updates, position, rows
        self._loss_sum = float(loss_sum)

    def read_parameter(self, name):
        """A copy of one parameter or statistic; for the network."""
        return self._backend.read(self._programs["predict", None], "parameters", name)

    def write_parameter(self, name, rows, first=0):
        """Overwrite rows of one parameter or statistic, from row `first`; for the network."""
        self._backend.write(self._programs["predict", None], "parameters", name, rows, first)

    # programs

    def program(self, X, y, sample_weight=None):
        """The training program for such data: print it to see what runs."""
        return self._program("train", self._examples("program", X, y, sample_weight).form, 1)

    def _examples(self, method, X, y, sample_weight=None, batch_size=None, training=False):
        """Checked data for a method, which runs all rows at once or in batches."""
        of = " of validation_data" if method == "validation_data" else ""
        X = data.features(X, self.net.in_features, self.dtype, self.check_finite, f"X{of}")
        y, kind = data.targets(y, len(X), self.loss, self.net.out_features, self.dtype, self.check_finite, f"y{of}")
        data.enough_rows(method, X, batch_size or len(X), self.net, training)
        return data.examples(X, y, kind, self.loss, sample_weight, of)

    def _program(self, goal, form, rows):
        """The program for a goal and a form of targets, ready to run on batches of `rows`."""
        if self._backend is None:
            self._make_backend()
        if (goal, form) not in self._programs:
            self._programs[goal, form] = self._plan(goal, form)
        program = self._programs[goal, form]
        self._backend.prepare(program, rows)
        if self.net.owner is not self:
            self.net.take(self)
        return program

    def _make_backend(self):
        if self.backend == "numpy":
            from .numpy_backend import NumpyBackend

            self._backend = NumpyBackend(self.dtype)
        else:
            from .cpu_backend import CpuBackend

            self._backend = CpuBackend(self.dtype, self.threads)
        program = self._programs["predict", None] = self._plan("predict", None)
        self._backend.prepare(program, 1)

    def _plan(self, goal, form):
        graph, prediction = self.net.graph(training=goal in ("train", "gradient"))
        options = {"states": len(self._states), "layout": self._layout(), "settings": {"key": self._key()}}
        if goal == "predict":
            return plan(graph, prediction=prediction, **options)
        if goal == "evaluate":  # sums, since batches of different weights are joined
            loss = self.loss.apply(graph, prediction, *form, reduction="sum")
            return plan(graph, loss=loss, prediction=prediction, **options)
        loss = self.loss.apply(graph, prediction, *form)
        parameters = [node for node in graph.nodes if node.op == "parameter"]
        gradients = dict(zip(parameters, autodiff.differentiate(graph, loss, parameters), strict=True))
        if goal == "gradient":
            return plan(graph, loss=loss, gradients=gradients, keep_gradient=True, **options)
        updates = [node for node in graph.nodes if node.inputs and OPS[node.op].phase == "update"]
        for parameter, gradient in gradients.items():
            states = [graph.parameter(f"{parameter.name}.{name}", shape=parameter.shape) for name in self._states]
            updates.append(graph.apply(self.optimizer.op, parameter, gradient, *states,
                                       name=f"{parameter.name}.update"))
        options["settings"] |= self.optimizer.settings()
        return plan(graph, loss=loss, gradients=gradients, updates=updates, **options)

    def _key(self):
        """The seed as the int64 that a step's random numbers start from."""
        return int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64).view(np.int64)[0])

    def _layout(self):
        from .cpu_backend import layout

        return layout(self.dtype)
