"""torch: eager training, torch.compile, prediction in inference mode.

SGD runs as torch chooses, since its three forms took the same time; Adam is the fused one, the fastest.
"""

from functools import partial

import torch
from torch import nn
from torch.func import functional_call, grad_and_value

from .competitor import Prediction, Steps
from .workloads import RATES, data, weights


def network(workload, threads):
    """The net with the first weights."""
    torch.set_num_threads(threads)
    layers = []
    for weight, bias in weights(workload):
        layer = nn.Linear(*weight.shape[::-1])
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        layers += [layer, nn.Tanh() if workload.regression else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Eager(Steps):
    """A loop of steps."""

    def __init__(self, task, threads):
        super().__init__(task)
        self.net = network(task.workload, threads)
        self.criterion = nn.MSELoss() if task.workload.regression else nn.CrossEntropyLoss()
        self.optimizer = (torch.optim.SGD(self.net.parameters(), lr=RATES["sgd"]) if task.goal == "sgd"
                          else torch.optim.Adam(self.net.parameters(), lr=RATES["adam"], fused=True))

    def ready(self, x, y):
        """A batch of tensors."""
        return torch.from_numpy(x), torch.from_numpy(y)

    def forward(self, x, y):
        """The loss."""
        return self.criterion(self.net(x), y)

    def step(self, x, y):
        """One update."""
        self.optimizer.zero_grad()
        loss = self.forward(x, y)
        loss.backward()
        self.optimizer.step()
        return loss

    def loss(self, result):
        """The number in a tensor."""
        return result.item()


class Compiled(Eager):
    """The whole step as one compiled function; with nothing but the two passes compiled it took longer than eager."""

    def __init__(self, task, threads):
        super().__init__(task, threads)
        self.parameters = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        self.states = [{name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
                       for _ in range(2)]
        self.count = torch.zeros(())
        self.slopes = grad_and_value(lambda parameters, x, y: self.criterion(
            functional_call(self.net, parameters, (x,)), y))
        self.update = self.sgd if task.goal == "sgd" else self.adam
        self.step = torch.no_grad()(torch.compile(self.whole, mode="max-autotune-no-cudagraphs"))

    def whole(self, x, y):
        """One update."""
        gradient, loss = self.slopes(self.parameters, x, y)
        self.update(gradient)
        return loss

    def sgd(self, gradient):
        """Move every parameter."""
        for name, parameter in self.parameters.items():
            parameter.sub_(RATES["sgd"] * gradient[name])

    def adam(self, gradient):
        """Move moments and parameters."""
        self.count.add_(1)
        rate, spread = RATES["adam"] / (1 - 0.9**self.count), 1 - 0.999**self.count
        for name, parameter in self.parameters.items():
            mean, square = (state[name] for state in self.states)
            mean.mul_(0.9).add_(0.1 * gradient[name])
            square.mul_(0.999).add_(0.001 * gradient[name] ** 2)
            parameter.sub_(rate * mean / ((square / spread).sqrt() + 1e-8))


class Predict(Prediction):
    """Outputs for a tensor; inference mode is entered once."""

    def __init__(self, task, threads):
        self.call = partial(network(task.workload, threads), torch.from_numpy(data(task)[0][0]))

    @torch.inference_mode()
    def results(self):
        """The outputs as an array."""
        return self.call().numpy()

    @torch.inference_mode()
    def run(self, count):
        """Predict `count` times."""
        super().run(count)
