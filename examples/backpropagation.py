"""Backpropagation: every number of a 2-2-2 net, the four equations as arrays, gradients that vanish in deep nets.

python examples/backpropagation.py [--backend cpu|numpy]
"""

import numpy as np
from cases import run, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import hotloop as hl

DATA = {"x": [[0.1, 0.2]], "y": [[0.01, 0.99]]}
PARAMETERS = {"hidden.weight": [[0.1, 0.2], [0.3, 0.4]], "hidden.bias": [0.55, 0.56],
              "output.weight": [[0.5, 0.6], [0.7, 0.8]], "output.bias": [0.66, 0.67]}


def main():
    run(__doc__, numbers, four_equations, vanishing_gradients)


class SmallNet:
    """A 2-2-2 net of sigmoids and its cost C = 1/2 sum (a - y)^2, as a graph whose every node can be asked for.

    z and a hold the layers' nodes before and after the sigmoid, W and b those of weights and biases.
    """

    def __init__(self, backend):
        self.graph, self.backend = hl.Graph(), backend
        x, y = (self.graph.input(name, (None, 2)) for name in DATA)
        self.z, self.a, self.W, self.b = [], [x], [], []
        for layer in ("hidden", "output"):
            self.z.append(hl.Dense(2, 2)(self.a[-1], name=layer))
            self.a.append(hl.Sigmoid()(self.z[-1]))
            self.W.append(self.graph[f"{layer}.weight"])
            self.b.append(self.graph[f"{layer}.bias"])
        self.cost = 0.5 * hl.sum((self.a[-1] - y) ** 2)

    def gradients(self, node, wrt):
        """The gradient of a scalar node with respect to others, in their order."""
        return list(self.values(node, wrt=wrt)[1].values())

    def values(self, outputs, **options):
        """What a program of these outputs makes of the data and parameters."""
        program = self.graph.compile(outputs, backend=self.backend, **options)
        for name in program.parameters:
            program[name] = PARAMETERS[name]
        return program(**{name: DATA[name] for name in program.inputs})


def numbers(backend):
    """A step through the 2-2-2 net, to the last digit on the numpy backend, which judges the compiled one."""
    found = {name: trace(SmallNet(name)) for name in ("numpy", backend)}
    for name, array in found["numpy"].items():
        print(f"{name:13}", *array.ravel().tolist())
    error = max(np.abs(array / found[backend][name] - 1).max() for name, array in found["numpy"].items())
    print(f"largest relative difference on the {backend} backend: {error:.1e}")


def trace(net):
    """What the tutorial prints of a step: sums and outputs forward, then the deltas dC/dz and weight gradients."""
    hidden, sums, output = net.values([net.a[1], net.z[1], net.a[2]])
    hidden_delta, output_delta, dw1, dw5 = net.gradients(net.cost, wrt=net.z + net.W)
    return {"hidden out": hidden, "output in": sums, "output": output, "output deltas": output_delta,
            "hidden deltas": hidden_delta, "dw5": dw5[0, :1], "dw1": dw1[0, :1]}


def four_equations(backend):
    """The four equations for delta = dC/dz, layer by layer: the engine's array = what the equation makes of others."""
    net = SmallNet(backend)
    a, W = net.values(net.a), net.values(net.W)
    delta, dW, db = (net.gradients(net.cost, wrt=nodes) for nodes in (net.z, net.W, net.b))
    (dC_da,) = net.gradients(net.cost, wrt=net.a[-1:])
    slope = [net.gradients(hl.sum(out), wrt=[z])[0] for out, z in zip(net.a[1:], net.z, strict=True)]
    show("output: delta = dC/da * slope", delta[1], dC_da * slope[1])
    show("hidden: delta = (delta above @ W above) * slope", delta[0], (delta[1] @ W[1]) * slope[0])
    for layer, name in enumerate(("hidden", "output")):
        show(f"{name}: dC/db = delta", db[layer], delta[layer][0])
        show(f"{name}: dC/dW = delta' @ a below", dW[layer], delta[layer].T @ a[layer])


def show(equation, array, made):
    np.testing.assert_allclose(made, array, rtol=1e-13)
    print(equation, array, made, sep="\n")


def vanishing_gradients(backend, depth=12):
    """Gradient of each weight matrix of a deep net before training: a sigmoid shrinks it by layer, ReLU keeps it."""
    X, y = load_digits(return_X_y=True)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for activation, color in ((hl.Sigmoid, "#2b6cb0"), (hl.ReLU, "#c05621")):
        layers = [layer for width in (64, *[32] * (depth - 2))
                  for layer in (hl.Dense(width, 32, init="he_normal"), activation())]
        net = hl.Sequential(*layers, hl.Dense(32, 10, init="he_normal"))
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(), backend=backend, dtype="float64")
        norms = [np.linalg.norm(gradient) for name, gradient in trainer.gradients(X / 16, y).items()
                 if name.endswith("weight")]
        axes.plot(range(1, depth + 1), norms, "o-", color=color, label=activation.__name__)
        print(f"{activation.__name__}: gradient norm {norms[0]:.1e} in the first layer, {norms[-1]:.1e} in the last")
    axes.set(xlabel="layer, from the input", ylabel="norm of the weights' gradient", yscale="log",
             title=f"Gradients in a net of {depth} layers")
    axes.grid(alpha=0.25)
    axes.legend()
    save(figure, "vanishing_gradients.png")


if __name__ == "__main__":
    main()
