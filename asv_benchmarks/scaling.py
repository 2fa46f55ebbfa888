"""Hold the model of a step's time (engine/cost.py) against the clock, and ask it about other machines and nets.

    python asv_benchmarks/scaling.py [--nets 64-128-10@64,784-256-10@128] [--optimizer sgd|adam] [--rounds 9]

A net is its widths and the batch: ReLU between the layers, cross-entropy. For each net: microseconds a step of compiled
code with one worker and with two, the quarter of the rounds (neighbours on the machine only ever add to them), what the
model says, and their ratio; then what it says of 64 cores, and of a net ten times as wide.
"""

import argparse
import time
from types import SimpleNamespace

import numpy as np

import hotloop as hl
from hotloop import cost, cpu_backend

NETS = ("2-16-16-2@32,2-16-16-2@256,4-32-16-4@1024,16-32-10@64,64-128-10@16,64-128-10@64,256-256-10@32,784-32-10@64,"
        "784-128-10@32,784-256-128-10@128,784-512-512-10@256,1024-2048-2048-1000@256")
ROUND_SECONDS = 0.05


def trainer(widths, batch, optimizer, threads=None):
    """A trainer of the net; its learning rate is too small to change anything."""
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [hl.Dense(inputs, outputs), hl.ReLU()]
    chosen = hl.SGD(lr=1e-7) if optimizer == "sgd" else hl.Adam(lr=1e-7)
    return hl.Trainer(hl.Sequential(*layers[:-1]), hl.CrossEntropyLoss(), chosen, batch_size=batch, threads=threads)


def measured(widths, batch, optimizer, workers, rounds):
    """Seconds of a step with so many workers, the lower quartile of the rounds."""
    rng = np.random.default_rng(0)
    rows = batch * max(1, min(64, int(1e7 / batch / widths[0])))
    X, y = rng.standard_normal((rows, widths[0])).astype(np.float32), rng.integers(0, widths[-1], rows)
    net = trainer(widths, batch, optimizer, workers)
    fixed = SimpleNamespace(count=workers, trying=False, tell=lambda *run: None)
    chosen, cpu_backend._Bound.pace = cpu_backend._Bound.pace, lambda self, *load: fixed
    try:
        net.fit(X, y)
        found = []
        for _ in range(rounds):
            epochs = max(1, int(ROUND_SECONDS / (found[-1] * rows / batch))) if found else 1
            started = time.perf_counter()
            net.fit(X, y, epochs=epochs)
            found.append((time.perf_counter() - started) / epochs / (rows / batch))
        return float(np.quantile(found[1:], 0.25))
    finally:
        cpu_backend._Bound.pace = chosen


def predicted(widths, batch, optimizer, most, fixed=False):
    """Workers, at most so many or, `fixed`, just so many, and seconds of a step with them, as the model has it."""
    X, y = np.zeros((1, widths[0]), np.float32), np.zeros(1, int)
    step = cost.work(trainer(widths, batch, optimizer, most).program(X, y).best(batch), batch)
    return min((cost.seconds(step, count), count) for count in range(most if fixed else 1, most + 1))[::-1]


def main(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=NETS, help="widths and batch such as 64-128-10@64, with commas between")
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "adam"])
    parser.add_argument("--rounds", type=int, default=9, help="of a twentieth of a second, from 2 on: 9")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds takes a number from 2 on: the first round only says how long one is")
    print("| net, batch | 1 worker | model | ratio | 2 workers | model | ratio | of 64 | model | ten times as wide |")
    print("|" + "---|" * 10)
    for name in options.nets.split(","):
        widths, batch = name.split("@")
        widths, batch = tuple(map(int, widths.split("-"))), int(batch)
        many, least = predicted(widths, batch, options.optimizer, 64)
        cells = []
        for workers in (1, 2):
            took = measured(widths, batch, options.optimizer, workers, options.rounds)
            model = predicted(widths, batch, options.optimizer, workers, fixed=True)[1]
            cells += [f"{took * 1e6:,.1f}", f"{model * 1e6:,.1f}", f"{model / took:.2f}"]
        hidden = (widths[0], *(10 * width for width in widths[1:-1]), widths[-1])
        wide = predicted(hidden, batch, options.optimizer, 2, fixed=True)[1]
        print(f"| {name.replace('@', ', ')} | {' | '.join(cells)} | {many} | {least * 1e6:,.1f} | {wide * 1e6:,.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
