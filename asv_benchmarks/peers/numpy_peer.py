"""The NumPy that one would write for speed: no arrays made on the way, one update for all parameters at once."""

import numpy as np

from .competitor import Prediction, Steps
from .workloads import RATES, data, weights


class Training(Steps):
    """Parameters and gradient are two flat arrays, layers are views of them."""

    def __init__(self, task, threads):
        super().__init__(task)
        workload, first = task.workload, weights(task.workload)
        self.regression, self.rows = workload.regression, np.arange(task.rows)
        self.parameters = np.concatenate([array.ravel() for weight, bias in first for array in (weight.T, bias)])
        self.gradient, self.scratch = np.empty_like(self.parameters), np.empty_like(self.parameters)
        self.layers, self.slopes = (_views(array, workload) for array in (self.parameters, self.gradient))
        self.values, self.deltas = ([np.empty((task.rows, outputs), np.float32) for _, outputs in workload.layers]
                                    for _ in range(2))
        self.update = self.sgd if task.goal == "sgd" else self.adam
        self.mean, self.square, self.count = np.zeros_like(self.parameters), np.zeros_like(self.parameters), 0

    def step(self, x, y):
        """One update; returns what the loss is made of."""
        values, last = [x, *self.values], len(self.layers)
        for layer, (weight, bias) in enumerate(self.layers):
            value = np.matmul(values[layer], weight, out=values[layer + 1])
            value += bias
            if layer + 1 < last:
                _activate(self.regression, value)
        delta, result = self.mean_square(value, y) if self.regression else self.cross_entropy(value, y)
        for layer in reversed(range(last)):
            weight_slope, bias_slope = self.slopes[layer]
            np.matmul(values[layer].T, delta, out=weight_slope)
            np.add.reduce(delta, 0, out=bias_slope)
            if layer:
                delta = np.matmul(delta, self.layers[layer][0].T, out=self.deltas[layer - 1])
                delta *= 1 - values[layer] ** 2 if self.regression else values[layer] > 0
        self.update()
        return result

    def cross_entropy(self, z, labels):
        """The slope, in place, and the probabilities of the labels."""
        z -= np.maximum.reduce(z, 1, keepdims=True)
        np.exp(z, out=z)
        z /= np.add.reduce(z, 1, keepdims=True)
        told = z[self.rows, labels]
        z[self.rows, labels] = told - 1
        z *= 1 / len(z)
        return z, told

    def mean_square(self, z, targets):
        """The slope, and the differences."""
        z -= targets
        return np.multiply(z, 2 / z.size, out=self.deltas[-1]), z

    def loss(self, result):
        """The mean."""
        return np.mean(result**2 if self.regression else -np.log(result))

    def sgd(self):
        """One update by SGD."""
        self.gradient *= RATES["sgd"]
        self.parameters -= self.gradient

    def adam(self):
        """One update by Adam."""
        self.count += 1
        mean, square, scratch = self.mean, self.square, self.scratch
        mean *= 0.9
        mean += np.multiply(self.gradient, 0.1, out=scratch)
        square *= 0.999
        np.multiply(self.gradient, self.gradient, out=scratch)
        scratch *= 0.001
        square += scratch
        np.sqrt(square, out=scratch)
        scratch *= (1 - 0.999**self.count) ** -0.5
        scratch += 1e-8
        np.divide(mean, scratch, out=scratch)
        scratch *= RATES["adam"] / (1 - 0.9**self.count)
        self.parameters -= scratch


class Predict(Prediction):
    """Outputs for an array; what is between is kept in the same arrays."""

    def __init__(self, task, threads):
        x, regression = data(task)[0][0], task.workload.regression
        *hidden, last = [(np.ascontiguousarray(weight.T), bias, np.empty((task.rows, len(bias)), np.float32))
                         for weight, bias in weights(task.workload)]

        def call():
            value = x
            for weight, bias, values in hidden:
                value = np.matmul(value, weight, out=values)
                value += bias
                _activate(regression, value)
            value = value @ last[0]
            value += last[1]
            return value

        self.call = call


def _activate(regression, value):
    if regression:
        np.tanh(value, out=value)
    else:
        np.maximum(value, 0, out=value)


def _views(flat, workload):
    """Weight (inputs, outputs) and bias of each layer in a flat array."""
    layers, start = [], 0
    for inputs, outputs in workload.layers:
        middle = start + inputs * outputs
        layers.append((flat[start:middle].reshape(inputs, outputs), flat[middle : middle + outputs]))
        start = middle + outputs
    return layers
