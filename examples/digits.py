"""Handwritten digits: train a small net, watch it learn, then time it against plain NumPy.

python examples/digits.py [--backend cpu|numpy] [--epochs 30] [--threads 1] [--seed 0] [--dtype float32|float64]
"""

import argparse
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import hotloop as hl

PICTURE = Path(__file__).parent / "output" / "digits_loss.png"


def main():
    options = parse()
    train, validation, test = load()

    trainer = make_trainer(options.backend, options)
    history = trainer.fit(*train, epochs=options.epochs, validation_data=validation,
                          callbacks=[hl.ProgressBar(options.epochs)])
    draw(history)
    race(train, options)

    print("picture: examples/output/digits_loss.png")
    print(f"test accuracy {trainer.evaluate(*test)['accuracy']:.3f}")


def load():
    """Standardised pixels (rows, 64) and labels (rows,): 1257 images to learn from, 180 to watch, 360 to test."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=360, stratify=y, random_state=0)
    X, X_val, y, y_val = train_test_split(X, y, test_size=180, stratify=y, random_state=0)
    mean, scale = X.mean(axis=0), X.std(axis=0) + 0.1  # some pixels never change
    return ((X - mean) / scale, y), ((X_val - mean) / scale, y_val), ((X_test - mean) / scale, y_test)


def make_trainer(backend, options):
    net = hl.Sequential(hl.Dense(64, 128), hl.ReLU(), hl.Dense(128, 10), seed=options.seed)
    return hl.Trainer(net, loss=hl.CrossEntropyLoss(), optimizer=hl.AdamW(lr=3e-3, weight_decay=1.0), batch_size=64,
                      backend=backend, threads=options.threads, dtype=options.dtype, seed=options.seed)


def race(train, options):
    """Train twice more from the same start, epoch by epoch in turns; compare the times and the weights."""
    ours, reference = make_trainer(options.backend, options), make_trainer("numpy", options)
    steps = -(-len(train[0]) // ours.batch_size)
    times = []
    with threadpool_limits(options.threads):  # NumPy's BLAS gets as many threads as we do
        for _ in range(options.epochs):
            times.append([trainer.fit(*train).seconds[0] / steps * 1e6 for trainer in (ours, reference)])
    weights = reference.net.state_dict()
    error = max(np.abs(value - weights[name]).max() for name, value in ours.net.state_dict().items())
    us, them = (median(column) for column in zip(*times, strict=True))
    print(f"threads: {options.threads} for {options.backend}, {options.threads} for numpy")
    print(f"largest difference between the weights of the two: {error:.1e}")
    print(f"speed: {median(b / a for a, b in times):.1f}x the numpy backend ({us:.0f} us against {them:.0f} us a step)")


def draw(history):
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(history.loss) + 1)
    for name, losses, color in (("training", history.loss, "#2b6cb0"), ("validation", history.val_loss, "#c05621")):
        axes.plot(epochs, losses, color=color, linewidth=2, marker="o", markersize=3)
        axes.annotate(f"{name}  {losses[-1]:.3f}", (epochs[-1], losses[-1]), xytext=(8, 0), textcoords="offset points",
                      color=color, va="center", annotation_clip=False)
    axes.set(xlabel="epoch", ylabel="mean cross-entropy", yscale="log", xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("64-128-10 net on scikit-learn's digits", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


def parse():
    parser = argparse.ArgumentParser(description="Train on scikit-learn's digits and compare with plain NumPy.")
    parser.add_argument("--backend", choices=("cpu", "numpy"), default="cpu", help="what trains")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="one is best for a net as small as this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args()
    if options.epochs < 1 or options.threads < 1:
        parser.error("--epochs and --threads must be at least 1")
    return options


if __name__ == "__main__":
    main()
