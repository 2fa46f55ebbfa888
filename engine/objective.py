"""What a network is trained for: a loss for each of its outputs, and what they ask of data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hotloop.kernels.losses import NOTHING

from . import checks, data
from .device_arrays import lies_there, wrapped
from .losses import LOSSES


@dataclass(frozen=True)
class Examples:
    """Checked data.

    arrays: what programs read, by name. near: of these the targets and sample weights, in the computer's memory. form:
    the kind of each output's targets, whether there are sample weights, and whether there are labels to ignore. counts:
    what each row counts for in a mean, None for 1.
    """

    arrays: dict[str, Any]
    near: dict[str, np.ndarray]
    form: tuple[tuple[str, ...], bool, bool]
    counts: np.ndarray | None
    rows: int

    def __len__(self):
        """The number of rows."""
        return self.rows


class Objective:
    """The losses of a network's outputs, each by its factor; they are added up.

    loss: a loss of this package, or one for each output, in a list or mapping as the network names them. weights:
    numbers alike, 1 if left out. on_device: whether data may lie on a CUDA device.
    """

    def __init__(self, net, loss, weights=None, on_device=False):
        self.net, self.on_device = net, on_device
        names = net.several[1]
        if names is None:
            checks.kind("loss", loss, LOSSES)
            self.losses = {"0": loss}
        else:
            self.losses = _matched("loss", loss, net.outputs, names)
            for name, one in self.losses.items():
                checks.kind(f"the loss of output {name}", one, LOSSES)
        self.weights = dict.fromkeys(self.losses, 1.0)
        if weights is not None:
            if names is None:
                raise ValueError("loss_weights are for the losses of several outputs, but the network has one output: "
                                 "leave them out")
            given = _matched("loss_weights", weights, net.outputs, names)
            self.weights = {name: checks.number(f"the weight of loss {name}", weight, 0, open_low=True)
                            for name, weight in given.items()}
        reductions = {one.reduction == "sum" for one in self.losses.values()}
        if len(reductions) > 1:
            raise ValueError(f"losses that are added up must all be means or all be sums, got {loss!r}")
        self.sums = reductions.pop()
        for kinds in zip(*(one.kinds * 2 for one in self.losses.values()), strict=False):
            self.apply(*net.graph(), (kinds, False, True))  # refuses what does not fit the outputs

    def apply(self, graph, outputs, form, reduction=None, only=None):
        """Append targets, sample weights and the loss to `graph`; or the loss of the output `only`, not weighed."""
        kinds, weighted, ignoring = form
        sample, total = graph.weights("weights") if weighted else None, None
        for place, (name, loss) in enumerate(self.losses.items()):
            if only in (None, name):
                if not ignoring and getattr(loss, "ignore_index", None) is not None:
                    loss = replace(loss, ignore_index=NOTHING)  # then rows need not be counted
                term = loss.apply(graph, outputs[place], kinds[place], sample, reduction, self.net.slot("y", name))
                if only is None and self.weights[name] != 1.0:
                    term = term * self.weights[name]
                total = term if total is None else total + term
        return total

    def inputs(self, X, dtype, check_finite, name="X"):
        """The checked inputs by the names that programs know them by."""
        arrays = {}
        for key, part, label in _parts(name, X, self.net.inputs, self.net.several[0]):
            there = self._there(part, label)
            check = data.features if there is None else data.features_there
            arrays[key] = check(part if there is None else there, self.net.inputs[key], dtype, check_finite, label)
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError(f"the parts of {name} must have as many rows as each other, got "
                             f"{', '.join(f'{len(array)} in {key!r}' for key, array in arrays.items())}")
        return {self.net.slot("x", key): array for key, array in arrays.items()}

    def _there(self, part, label):
        """The DeviceArray that a part of the data is, or None for one in the computer's memory."""
        if not lies_there(part):
            return None
        if not self.on_device:
            raise TypeError(f"{label} lies on a CUDA device, where backend='cuda' alone can read it: copy it to the "
                            "computer's memory, or take that backend")
        return wrapped(part, label)

    def examples(self, X, y, sample_weight, dtype, check_finite, of=""):
        """Checked data for training or evaluation; ValueError where no row counts."""
        arrays, near = self.inputs(X, dtype, check_finite, f"X{of}"), {}
        rows, kinds, counts, ignoring = len(next(iter(arrays.values()))), [], None, False
        for key, part, label in _parts(f"y{of}", y, self.net.outputs, self.net.several[1]):
            loss, slot, there = self.losses[key], self.net.slot("y", key), self._there(part, label)
            part = part if there is None else np.asarray(there)  # targets are checked, and counted, in our own memory
            near[slot], kind = data.targets(part, rows, loss, self.net.outputs[key], dtype, check_finite, label)
            arrays[slot] = _as_given(there, near[slot])
            kinds.append(kind)
            counted = loss.counted(near[slot])
            own, ignoring = loss.weights(near[slot], counted), ignoring or counted is not None
            if len(self.losses) > 1 and own is not None:
                raise ValueError(f"with several outputs all rows count alike, but the loss of output {key} weighs or "
                                 "ignores classes: use sample_weight, or a custom loss")
            counts = own
        if sample_weight is not None:
            there = self._there(sample_weight, "sample_weight")
            given = sample_weight if there is None else np.asarray(there)
            near["weights"] = weights = data.sample_weights(given, rows, dtype)
            counts = weights if counts is None else counts * weights
            arrays["weights"] = _as_given(there, weights)
        if rows and counts is not None and not counts.any():
            raise ValueError(f"at least one row must count, but every one of the {rows} rows of y{of} has an ignored "
                             "label or the weight 0: leave such data out")
        return Examples(arrays, near, (tuple(kinds), sample_weight is not None, ignoring), counts, rows)

    def ranges(self, form, dtype, check_finite):
        """For each array of data of this form, or of inputs alone (None), its name, columns and range, in order.

        An array whose numbers are all in the range (least, largest) passes every check, any does if that is None;
        labels have 0 columns. None for data of which more has to be known, or which come in several parts.
        """
        if self.net.several != (None, None) or (form is not None and any(form[1:])):
            return None
        finite = float(np.finfo(dtype).max) if check_finite else math.inf
        (columns,), (outputs,) = self.net.inputs.values(), self.net.outputs.values()
        ranges = [("x", columns, (-finite, finite))]
        if form is not None:
            (kind,), (loss,) = form[0], self.losses.values()
            sure = loss.surely(kind, outputs)
            if sure is None:
                return None
            if kind == "labels":
                ranges.append(("y", 0, sure))
            else:
                ranges.append(("y", loss.target_columns(outputs), (max(sure[0], -finite), min(sure[1], finite))))
        return [(name, columns, None if span == (-math.inf, math.inf) else span) for name, columns, span in ranges]

    def needs(self):
        """What the losses need of outputs, in words."""
        return sorted({loss.needs for loss in self.losses.values() if loss.needs})

    def metrics(self):
        """What `Trainer.evaluate` finds: "loss", then "accuracy", or both for each of several outputs."""
        if self.net.several[1] is None:
            return ["loss", *["accuracy"] * self.losses["0"].has_accuracy]
        return ["loss", *(f"{name}_{metric}" for name, loss in self.losses.items()
                          for metric in ("loss", *["accuracy"] * loss.has_accuracy))]


def _as_given(there, checked):
    """What is on the device, if programs read it as it is; else its copy, as it was checked and converted."""
    same = there is not None and (there.dtype, there.shape) == (checked.dtype, checked.shape)
    return there if same else checked


def _matched(what, given, outputs, names):
    """What the caller gave for each output, by its name."""
    wanted = f"a mapping of {', '.join(outputs)}"
    wanted = wanted if isinstance(names, list) else f"a list of {names}, or {wanted}"
    if isinstance(names, list) or isinstance(given, Mapping):
        fits = isinstance(given, Mapping) and given.keys() == outputs.keys()
        found = given
    else:
        fits = isinstance(given, list | tuple) and len(given) == names
        found = dict(zip(outputs, given, strict=True)) if fits else None
    if not fits:
        kind = "a mapping of " + ", ".join(map(str, given)) if isinstance(given, Mapping) else (
            f"a list of {len(given)}" if isinstance(given, list | tuple) else f"one {type(given).__name__}")
        raise ValueError(f"{what} must be {wanted}, as the network names them; got {kind}")
    return {name: found[name] for name in outputs}


def _parts(what, given, sizes, names):
    """For each input or output its name, what was given for it, and how messages call that."""
    if names is None:
        return [(name, given, what) for name in sizes]
    return [(name, part, f"{what}[{name!r}]") for name, part in _matched(what, given, sizes, names).items()]
