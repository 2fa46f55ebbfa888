"""One sample, a mini-batch or all samples a step: three descents of one problem, and the rate for another batch size.

python examples/stochastic_descent.py [--backend cpu|numpy]
"""

import numpy as np
from cases import run, save
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import hotloop as hl


def main():
    run(__doc__, batch_sizes, square_root_rule)


def linear_regression(backend, rate):
    return hl.Trainer(hl.Sequential(hl.Dense(10, 1)), hl.MSELoss(), hl.SGD(lr=rate), backend=backend)


def batch_sizes(backend, rate=0.02, updates=300):
    """Linear regression by steps of one sample, of 16 and of all 442, at the same rate: the loss of all samples."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for size, color in ((1, "#a0aec0"), (16, "#c05621"), (len(X), "#2b6cb0")):
        draw, trainer = np.random.default_rng(0), linear_regression(backend, rate)
        losses = []
        for _ in range(updates):
            losses.append(trainer.evaluate(X, y)["loss"])
            rows = draw.choice(len(X), size, replace=False)
            trainer.step(X[rows], y[rows])
        axes.plot(losses, color=color, linewidth=1.5, label=f"{size} sample{'s' * (size > 1)} a step")
        tail = np.array(losses[-100:])
        print(f"{size:3d} a step: loss {tail.mean():.3f} +- {tail.std():.3f} over the last 100 of {updates} updates")
    axes.set(xlabel="updates", ylabel="loss of all samples", title=f"Three descents of one problem, rate {rate:g}")
    axes.grid(alpha=0.25)
    axes.legend()
    save(figure, "batch_sizes.png")


def square_root_rule(backend, rate=0.02, draws=1000):
    """From batches of 8 to 16, sqrt(2) times the rate keeps how far an update scatters: rate * gradient."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    draw, trainer = np.random.default_rng(0), linear_regression(backend, rate)
    scaled = hl.sqrt_scaled(rate, batch_size=8, new_batch_size=16)
    print(f"{scaled:.6f} / {rate:.6f} = {scaled / rate:.6f}")
    for size, lr in ((8, rate), (16, rate), (16, scaled)):
        chosen = (draw.choice(len(X), size, replace=False) for _ in range(draws))
        steps = [lr * trainer.gradients(X[rows], y[rows])["0.weight"] for rows in chosen]
        print(f"batch {size:2d}, rate {lr:.4f}: deviation of an update {np.std(steps, axis=0).mean():.4f}")


if __name__ == "__main__":
    main()
