"""hotloop as its users call it: epochs by `fit`, which shuffles the rows and gathers the batches, or step by step."""

import hotloop as hl
from hotloop.device_arrays import DeviceArray
from hotloop.kernels import _cuda

from .competitor import Prediction, Steps
from .workloads import RATES, data, first_batches, weights


def trainer(task, threads, shuffle=True, backend="cpu"):
    """A trainer with the first weights; one full batch needs no shuffle."""
    workload, layers = task.workload, []
    for inputs, outputs in workload.layers:
        layers += [hl.Dense(inputs, outputs), hl.Tanh() if workload.regression else hl.ReLU()]
    net = hl.Sequential(*layers[:-1])
    net.load_state_dict({f"{2 * place}.{name}": array for place, layer in enumerate(weights(workload))
                         for name, array in zip(("weight", "bias"), layer, strict=True)})
    loss = hl.MSELoss() if workload.regression else hl.CrossEntropyLoss()
    optimizer = hl.Adam(lr=RATES["adam"]) if task.goal == "adam" else hl.SGD(lr=RATES["sgd"])
    return hl.Trainer(net, loss, optimizer, batch_size=task.rows, backend=backend, threads=threads,
                      shuffle=shuffle and not workload.regression)


class Fit:
    """Whole epochs."""

    compared, shuffle, backend = True, True, "cpu"

    def __init__(self, task, threads):
        self.task, self.trainer = task, trainer(task, threads, self.shuffle, self.backend)
        self.X, self.y = (self.ready(array.reshape(-1, *array.shape[2:])) for array in data(task))

    def ready(self, array):
        """An array as `fit` is given it."""
        return array

    def results(self):
        """The losses of the first steps: epochs of one batch."""
        return [self.trainer.fit(self.ready(x), self.ready(y)).loss[0] for x, y in first_batches(self.task)]

    def run(self, count):
        """Train `count` epochs."""
        self.trainer.fit(self.X, self.y, epochs=count)


class Ordered(Fit):
    """Whole epochs of the batches as they lie, which the others are given."""

    shuffle = False


class OnDevice(Fit):
    """Whole epochs on a CUDA device, where data and parameters stay."""

    backend = "cuda"

    def ready(self, array):
        """An array on the device, where the others' data lie too: no `fit` has to copy it there."""
        memory = _cuda.Memory.of(array)
        return DeviceArray(memory.address, array.shape, array.dtype, memory)


class OrderedOnDevice(OnDevice):
    """Whole epochs there of the batches as they lie."""

    shuffle = False


class Step(Steps):
    """A loop of one's own."""

    def __init__(self, task, threads):
        super().__init__(task)
        self.step = trainer(task, threads).step


class Predict(Prediction):
    """Outputs for an array."""

    def __init__(self, task, threads):
        x, net = data(task)[0][0], trainer(task, threads)
        self.call = lambda: net.predict(x)
