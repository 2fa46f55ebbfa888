"""The use of a trained network: what it predicts, and how good that is."""

import numpy as np

from . import data
from .device_arrays import DeviceArray

PREDICT_ROWS = 256
_EVALUATE_ROWS = 8192


class Inference:
    """The part of a trainer that runs its network without changing it; the rest makes the programs."""

    def predict(self, X):
        """The network's outputs (rows, features) for X, in the trainer's dtype, as the network names them.

        For X on a CUDA device they lie there, too.
        """
        if (outputs := self._predict_in_brief(X)) is not None:
            return outputs
        arrays = self.objective.inputs(X, self.dtype, self.check_finite)
        rows = _rows(arrays)
        if rows:
            data.enough_rows("predict", rows, rows, self.net)
        outputs = list(self._forward(arrays, "predict", None)[0].values())
        self._keep_brief("predict", None, rows)
        return self.net.structured(outputs)

    def evaluate(self, X, y, sample_weight=None):
        """Loss on X and y, and accuracy where y are classes; a dict with "loss" and, then, "accuracy".

        Both weigh rows by sample_weight, (rows,), as `fit` does; class weights are for the loss alone, ignored labels
        for nothing. The class is the largest output for losses of classes (targets: labels, or the most probable class)
        and for those of yes and no, a probability above 0.5, a logit or margin above 0, each output counting alike.
        With several outputs "loss" is the weighed sum; each output has a "name_loss" and "name_accuracy" besides.
        """
        examples = self._examples("evaluate", X, y, sample_weight)
        results = {}
        for name, kind in zip(self.net.outputs, examples.form[0], strict=True):
            for metric, value in self._evaluate(name, kind, examples).items():
                results[metric if self.net.several[1] is None else f"{name}_{metric}"] = value
        if self.net.several[1] is not None:
            total = sum(weight * results[f"{name}_loss"] for name, weight in self.objective.weights.items())
            results = {"loss": total} | results
        return results

    def _evaluate(self, name, kind, examples):
        """Loss and accuracy of one output."""
        loss, slot = self.objective.losses[name], self.net.slot("y", name)
        total, right = 0.0, []
        at_once = len(examples) if self._by_batch() else _EVALUATE_ROWS
        for first in range(0, len(examples), at_once):
            part = {key: array[first : first + at_once] for key, array in examples.arrays.items()}
            outputs, losses = self._forward(part, ("evaluate", name), examples.form)
            total += losses.sum()
            if loss.has_accuracy:
                right.append(loss.right(outputs[self.net.slot("prediction", name)],
                                        examples.near[slot][first : first + at_once]))
        share = loss.share(kind, self.net.outputs[name])
        counted = len(examples) if examples.counts is None else examples.counts.sum(dtype=np.float64)
        results = {"loss": float(total / (share * counted if share else 1))}
        if right:
            weights, counted = examples.near.get("weights"), loss.counted(examples.near[slot])
            if counted is not None:
                weights = counted if weights is None else counted * weights
            results["accuracy"] = float(np.average(np.concatenate(right), weights=weights))
        return results

    def _forward(self, arrays, goal, form):
        """Outputs by name, and the losses of the batches that they were made in."""
        rows = _rows(arrays)
        there = goal == "predict" and any(isinstance(array, DeviceArray) for array in arrays.values())
        empty = DeviceArray.empty if there else np.empty
        outputs = {self.net.slot("prediction", name): empty((rows, size), self.dtype)
                   for name, size in self.net.outputs.items()}
        losses = []
        batch = max(1, rows if self._by_batch() else min(PREDICT_ROWS, rows))
        program = self._program(goal, form, batch)
        per_run = max(1, int(2e9 / (program.flops * batch)))  # batches in about _CHUNK_SECONDS
        for first in range(0, rows, per_run * batch):
            last = min(rows, first + per_run * batch)
            with self._lock:
                outcome = self._backend.run(program, arrays | outputs, steps=-(-(last - first) // batch), start=first,
                                            rows=last, batch=batch, strict=False)
            losses.append(outcome.losses)
        return outputs, np.concatenate(losses) if losses else np.zeros(0)

    def _by_batch(self):
        """Whether outputs of a row depend on the others, in use too: then all rows are one batch."""
        return self.net.least_rows()[0] > 1


def _rows(arrays):
    """Rows of the data in these arrays."""
    return len(next(iter(arrays.values())))
