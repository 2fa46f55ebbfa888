"""Fashion-MNIST: 70,000 pictures of clothes, a 784-256-128-10 net, and, if wanted, PyTorch beside it.

python examples/fashion_mnist.py [--data FOLDER] [--backend cpu|numpy] [--epochs 10] [--threads N] [--against-torch]
"""

import argparse
import gzip
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

import hotloop as hl

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
ABSENT = """Fashion-MNIST is not in {folder}: {error}
On Debian and Ubuntu: apt install dataset-fashion-mnist
Elsewhere: get the four files *-ubyte.gz of https://github.com/zalandoresearch/fashion-mnist and pass --data FOLDER"""
WIDTHS, BATCH, RATE = (784, 256, 128, 10), 128, 1e-3
HELD_OUT = 12  # every 12th training image is kept for validation


def main():
    options = parse()
    try:
        (X, y), test = load(options.data)
    except FileNotFoundError as error:
        print(ABSENT.format(folder=options.data, error=error), file=sys.stderr)
        return 2
    watched = np.arange(len(X)) % HELD_OUT == 0
    train, validation = (X[~watched], y[~watched]), (X[watched], y[watched])

    trainer = make_trainer(options)
    trainer.fit(*train, epochs=options.epochs, validation_data=validation, callbacks=[Report(options.epochs)])
    if options.against_torch:
        race(options, *train)
    print(f"test accuracy {trainer.evaluate(*test)['accuracy']:.3f}")
    return 0


def make_trainer(options):
    layers = [layer for sizes in pairwise(WIDTHS) for layer in (hl.Dense(*sizes), hl.ReLU())]
    return hl.Trainer(hl.Sequential(*layers[:-1], seed=options.seed), loss=hl.CrossEntropyLoss(),
                      optimizer=hl.Adam(lr=RATE), batch_size=BATCH, backend=options.backend, threads=options.threads,
                      dtype=options.dtype, seed=options.seed)


class Report:
    """A callback: prints a line an epoch, and lets the learning rate fall to a tenth in the course of the training."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_end(self, trainer, logs):
        trainer.optimizer.lr = RATE * 0.1 ** ((logs["epoch"] + 1) / self.epochs)
        print(f"epoch {logs['epoch'] + 1:2d}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}  "
              f"val_accuracy {logs['val_accuracy']:.4f}  {logs['seconds']:.2f} s", flush=True)


# data


def load(folder):
    """Training and test data: standardised pixels (rows, 784), float32, and labels (rows,)."""
    parts = []
    for name in ("train", "t10k"):
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels) or images.shape[1:] != (28, 28):
            raise ValueError(f"{folder}: {name} has images {images.shape} and labels {labels.shape}")
        parts.append((images.reshape(len(images), -1).astype(np.float32) / 255, labels))
    mean, scale = parts[0][0].mean(), parts[0][0].std()
    return [((X - mean) / scale, y) for X, y in parts]


def read_idx(path, dimensions):
    """The bytes of a gzipped IDX file as an array: a magic number, the sizes as big-endian int32, the data."""
    with gzip.open(path) as file:
        content = file.read()
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):  # 8: unsigned bytes
        raise ValueError(f"{path} is no IDX file of bytes in {dimensions} dimensions: it begins {content[:4].hex()}")
    shape = tuple(int.from_bytes(content[4 * i : 4 * i + 4]) for i in range(1, dimensions + 1))
    if len(content) - start != np.prod(shape, dtype=object):
        raise ValueError(f"{path} should hold {shape} bytes, but has {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# PyTorch


def race(options, X, y, rounds=3):
    """Time an epoch of the same training here and in torch eager with 1 and 2 threads, in turns."""
    import torch

    torch.manual_seed(options.seed)
    layers = [layer for sizes in pairwise(WIDTHS) for layer in (torch.nn.Linear(*sizes), torch.nn.ReLU())]
    net = torch.nn.Sequential(*layers[:-1]).to(getattr(torch, options.dtype))
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    tensors = torch.from_numpy(X.astype(options.dtype)), torch.from_numpy(y.astype(np.int64))

    def torch_epoch(threads):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for rows in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(tensors[0][rows]), tensors[1][rows]).backward()
            optimizer.step()
        return time.perf_counter() - started

    trainer = make_trainer(options)
    times = {"hotloop": [], 1: [], 2: []}
    for _ in range(rounds):
        times["hotloop"].append(trainer.fit(X, y).seconds[0])
        for threads in (1, 2):
            times[threads].append(torch_epoch(threads))
    ours, one, two = (median(column) for column in times.values())
    print(f"an epoch: hotloop {ours:.2f} s (threads: {options.threads or 'automatic'}), torch {one:.2f} s (1 thread) "
          f"and {two:.2f} s (2 threads): {min(one, two) / ours:.1f}x torch's best")


def parse():
    parser = argparse.ArgumentParser(description="Train on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four IDX files")
    parser.add_argument("--backend", choices=("cpu", "numpy"), default="cpu", help="what trains")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, help="by default as many as the work is worth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--against-torch", action="store_true", help="time an epoch in PyTorch, too")
    options = parser.parse_args()
    if options.against_torch and find_spec("torch") is None:
        parser.error("--against-torch needs PyTorch: pip install torch")
    return options


if __name__ == "__main__":
    sys.exit(main())
