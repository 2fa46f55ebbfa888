"""The training loop in ten lines, why depth needs activations, and loss curves to read.

python examples/training_loop.py [--backend cpu|numpy]
"""

import numpy as np
from cases import run, save
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale

import hotloop as hl


def main():
    run(__doc__, loop, linear_depth, loss_curves)


def loop(backend, rate=0.02):
    """Draw a batch; output = relu(dot(input, W) + b), its loss, the gradient; W -= rate * gradient: `step` does it."""
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X), y / y.mean()
    net = hl.Sequential(hl.Dense(10, 1), hl.ReLU())
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=rate), backend=backend, dtype="float64")
    draw = np.random.default_rng(0)
    for step in range(301):
        rows = draw.choice(len(X), 32, replace=False)
        loss = trainer.step(X[rows], y[rows])
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss:.4f}")

    before, gradients = net.state_dict(), trainer.gradients(X, y)
    W, b = before.values()
    print(f"output - relu(dot(input, W) + b): {largest(trainer.predict(X) - np.maximum(X @ W.T + b, 0))}")
    trainer.step(X, y)
    for name, value in net.state_dict().items():
        print(f"what a step did to {name}, + rate * gradient: {largest(value - before[name] + rate * gradients[name])}")


def linear_depth(backend):
    """Without activations, three layers are one: whose bias they make of 0, whose weights of the unit vectors."""
    X = load_digits().data / 16

    def predict(net, inputs):
        return hl.Trainer(net, hl.MSELoss(), hl.SGD(), backend=backend, dtype="float64").predict(inputs)

    for activation in (hl.Identity, hl.ReLU):
        deep = hl.Sequential(hl.Dense(64, 32), activation(), hl.Dense(32, 32), activation(), hl.Dense(32, 10))
        bias, weight = predict(deep, np.zeros((1, 64))), predict(deep, np.eye(64))
        single = hl.Sequential(hl.Dense(64, 10))
        single.load_state_dict({"0.weight": (weight - bias).T, "0.bias": bias[0]})
        print(f"{activation.__name__}: three layers - one layer: {largest(predict(deep, X) - predict(single, X))}")


def largest(differences):
    return f"at most {np.abs(differences).max():.0e}"


def loss_curves(backend, epochs=40):
    """Five curves of one net: good, underfitting (the rate is too small), oscillating, jumping, diverging."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    panels = figure.subplots(1, 5, sharex=True, sharey=True)
    for axes, (name, rate, momentum, batch) in zip(panels, (
            ("good", 0.02, 0.0, 16), ("underfitting", 2e-6, 0.0, 16), ("oscillating", 0.03, 0.98, len(X)),
            ("jumping", 0.1, 0.0, 2), ("diverging", 0.3, 0.98, len(X))), strict=True):
        net = hl.Sequential(hl.Dense(10, 32), hl.ReLU(), hl.Dense(32, 1))
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=rate, momentum=momentum), batch_size=batch, backend=backend)
        losses = Losses()
        try:
            trainer.fit(X, y, epochs, callbacks=[losses])
            end = f"{losses[-1]:.3f} at the end"
        except hl.NonFiniteError as error:
            end = str(error)
        print(f"{name}: {losses[0]:.3f} at first, {end}")
        axes.plot(range(1, len(losses) + 1), losses, color="#2b6cb0")
        axes.set(title=name, xlabel=f"epoch\nrate {rate:g}, momentum {momentum:g}\n{batch} rows a step")
        axes.grid(alpha=0.25)
    panels[0].set(ylabel="training loss", ylim=(0.3, 1.6))
    save(figure, "loss_curves.png")


class Losses(list):
    """A callback that keeps the loss of each epoch, those before an error too."""

    def on_epoch_end(self, trainer, logs):
        self.append(logs["loss"])


if __name__ == "__main__":
    main()
