"""scikit-learn's multilayer perceptron, an epoch a call of `partial_fit`, which shuffles and gathers as ours does."""

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from .workloads import RATES, data, first_batches, weights

EPOCHS = 3  # over which the loss must fall where the first weights are its own


class Training:
    """Whole epochs; the moments of Adam and the one logit of two classes keep it from taking first weights."""

    def __init__(self, task, threads):
        self.task, workload = task, task.workload
        self.X, self.y = (array.reshape(-1, *array.shape[2:]) for array in data(task))
        self.compared = task.goal == "sgd" and workload.widths[-1] > 2
        self.classes = {} if workload.regression else {"classes": np.arange(workload.widths[-1])}
        self.net = (MLPRegressor if workload.regression else MLPClassifier)(
            hidden_layer_sizes=workload.widths[1:-1], activation="tanh" if workload.regression else "relu",
            solver=task.goal, learning_rate_init=RATES[task.goal], batch_size=task.rows, alpha=0, momentum=0,
            random_state=0)

    def results(self):
        """The losses of the first steps, or of a few epochs."""
        if not self.compared:
            return [self.fit(self.X, self.y) for _ in range(EPOCHS)]
        batches = first_batches(self.task)
        self.fit(*batches[0])  # makes the arrays
        for place, (weight, bias) in enumerate(weights(self.task.workload)):
            self.net.coefs_[place][:], self.net.intercepts_[place][:] = weight.T, bias
        return [self.fit(x, y) for x, y in batches]

    def fit(self, X, y):
        """The mean loss of an epoch."""
        return self.net.partial_fit(X, y, **self.classes).loss_

    def run(self, count):
        """Train `count` epochs."""
        for _ in range(count):
            self.fit(self.X, self.y)
