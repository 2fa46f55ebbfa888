"""Time a training step beside its peers: hotloop, the numpy backend, torch eager, JAX scan.

    python asv_benchmarks/steps.py [--only tiny,small] [--optimizer sgd|adam] [--rounds 7] [--json FILE] [--plot FILE]
    python asv_benchmarks/steps.py --start      # process start to first finished step, warm and cold cache
    python asv_benchmarks/steps.py --memory     # peak memory of a run, allocations of a step

Every competitor runs in a process of its own that sleeps while another is timed; rounds are interleaved (A B C A B
C ...), and what is printed are medians over rounds, in microseconds a step, with the ratio of each peer to hotloop
as the median of the rounds' ratios. Before anything is timed, ten losses of hotloop are compared with those of the
numpy backend in float64. torch and JAX take part where they are installed. hotloop shuffles and gathers its batches
from a data set; the peers are handed one ready batch.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

WORKLOADS = {  # layer widths, batch
    "tiny": ((2, 16, 16, 2), 32),
    "small": ((64, 128, 10), 64),
    "mnist": ((784, 256, 128, 10), 128),
    "mid": ((784, 512, 512, 10), 256),
    "large": ((1024, 2048, 2048, 1000), 256),
}
COMPETITORS = {  # name: (module that must be there, threads)
    "hotloop": ("hotloop", None),
    "hotloop, 1 thread": ("hotloop", 1),
    "numpy backend": ("hotloop", None),
    "torch, 1 thread": ("torch", 1),
    "torch, 2 threads": ("torch", 2),
    "jax scan": ("jax", None),
}
ROUND_SECONDS = 0.25


def flops(widths, batch):
    """Floating-point operations of the matrix products of a training step."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return sum(2 * batch * a * b * (3 if i else 2) for i, (a, b) in enumerate(pairs))


def epoch_steps(widths, batch):
    """Steps of an epoch: about a fifth of a second's work, at most 1000."""
    return max(4, min(1000, int(2e10 / flops(widths, batch))))


def data(widths, batch, steps):
    """Standard normal features and random labels."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((batch * steps, widths[0])).astype(np.float32)
    return X, rng.integers(0, widths[-1], len(X))


def trainer(widths, batch, optimizer, **options):
    """A trainer on the workload."""
    import hotloop as hl

    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [hl.Dense(inputs, outputs), hl.ReLU()]
    chosen = hl.SGD(lr=0.01) if optimizer == "sgd" else hl.Adam(lr=1e-3)
    return hl.Trainer(hl.Sequential(*layers[:-1]), hl.CrossEntropyLoss(), chosen, batch_size=batch, **options)


def hotloop_steps(widths, batch, optimizer, **options):
    """A function that trains an epoch, and its number of steps."""
    steps = epoch_steps(widths, batch)
    X, y = data(widths, batch, steps)
    net = trainer(widths, batch, optimizer, **options)
    return lambda: net.fit(X, y), steps


def torch_steps(widths, batch, optimizer, threads):
    """A function that makes one eager step."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    net, criterion = nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()
    update = (torch.optim.SGD(net.parameters(), lr=0.01) if optimizer == "sgd"
              else torch.optim.Adam(net.parameters(), lr=1e-3, fused=True))
    X, y = map(torch.from_numpy, data(widths, batch, 1))

    def step():
        update.zero_grad()
        criterion(net(X), y).backward()
        update.step()

    return step, 1


def jax_steps(widths, batch, optimizer):
    """A function that scans over an epoch, and its number of steps."""
    import jax
    import jax.numpy as jnp

    def loss(parameters, x, y):
        for i, (w, b) in enumerate(parameters):
            x = x @ w + b
            x = jax.nn.relu(x) if i < len(parameters) - 1 else x
        return jnp.mean(jax.nn.logsumexp(x, 1) - jnp.take_along_axis(x, y[:, None], 1)[:, 0])

    def step(state, batch_data):
        parameters, mean, square, count = state
        value, slope = jax.value_and_grad(loss)(parameters, *batch_data)
        if optimizer == "sgd":
            return (jax.tree.map(lambda w, g: w - 0.01 * g, parameters, slope), mean, square, count), value
        count = count + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, slope)
        rate, spread = 1e-3 / (1 - 0.9**count), 1 - 0.999**count
        moved = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v / spread) + 1e-8), parameters, mean, square)
        return (moved, mean, square, count), value

    steps = epoch_steps(widths, batch)
    X, y = data(widths, batch, steps)
    X, y = jnp.asarray(X).reshape(steps, batch, -1), jnp.asarray(y).reshape(steps, batch)
    rng = np.random.default_rng(1)
    parameters = [(jnp.asarray(rng.standard_normal((a, b)) / a**0.5, jnp.float32), jnp.zeros(b))
                  for a, b in zip(widths[:-1], widths[1:], strict=True)]
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = [(parameters, zeros, zeros, 0.0)]
    epoch = jax.jit(lambda state, X, y: jax.lax.scan(step, state, (X, y)))

    def run():
        state[0], _ = jax.block_until_ready(epoch(state[0], X, y))

    return run, steps


def worker(name, workload, optimizer):
    """A competitor's process: for every line on standard input, time a round and print microseconds a step."""
    module, threads = COMPETITORS[name]
    widths, batch = WORKLOADS[workload]
    if module == "torch":
        run, steps = torch_steps(widths, batch, optimizer, threads)
    elif module == "jax":
        run, steps = jax_steps(widths, batch, optimizer)
    else:
        backend = "numpy" if name == "numpy backend" else "cpu"
        run, steps = hotloop_steps(widths, batch, optimizer, backend=backend, threads=threads)
    for _ in range(3):
        run()
    started = time.perf_counter()
    run()
    repeat = max(1, int(ROUND_SECONDS / (time.perf_counter() - started)))
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(repeat):
            run()
        print((time.perf_counter() - started) / repeat / steps * 1e6, flush=True)


def check(workload, optimizer):
    """Compare ten losses with the numpy backend in float64; return the largest relative difference.

    NumPy in float32 says how far rounding carries: Adam divides a gradient by its own size, however small.
    """
    widths, batch = WORKLOADS[workload]
    X, y = data(widths, batch, 10)
    losses = []
    for options in ({"backend": "cpu"}, {"backend": "numpy"}, {"backend": "numpy", "dtype": "float64"}):
        net = trainer(widths, batch, optimizer, **options)
        losses.append([net.step(X[i : i + batch], y[i : i + batch]) for i in range(0, len(X), batch)])
    error, rounding = (np.max(np.abs(np.subtract(losses[i], losses[2])) / np.abs(losses[2])) for i in (0, 1))
    if not error < max(1e-5, 3 * rounding):
        raise SystemExit(f"{workload}: losses differ from the reference by {error:.1e}; nothing was timed")
    return error


def measure(workload, optimizer, rounds):
    """Microseconds a step, a list over rounds for each competitor."""
    processes = {}
    for name, (module, threads) in COMPETITORS.items():
        if importlib.util.find_spec(module) is None:
            continue
        environment = dict(os.environ)
        if threads is not None:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        process = subprocess.Popen([sys.executable, __file__, "--worker", name, workload, optimizer], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name} failed on {workload}")
        processes[name] = process
    times = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    return times


def steps(options):
    """Print the table of step times; return it as data."""
    table = {}
    for workload in options.only.split(",") if options.only else WORKLOADS:
        widths, batch = WORKLOADS[workload]
        error = check(workload, options.optimizer)
        times = measure(workload, options.optimizer, options.rounds)
        print(f"\n{workload} {'-'.join(map(str, widths))}, batch {batch}, {options.optimizer}; "
              f"losses within {error:.0e} of the float64 reference")
        print(f"{'':22}{'us a step':>12}{'GFLOP/s':>10}{'against hotloop':>18}")
        for name, found in times.items():
            middle, ratio = np.median(found), np.median(np.divide(found, times["hotloop"]))
            print(f"{name:22}{middle:12.1f}{flops(widths, batch) / middle / 1e3:10.1f}{ratio:17.2f}x")
        table[workload] = {"optimizer": options.optimizer, "batch": batch, "widths": widths, "microseconds": times}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(table, file, indent=1)
    if options.plot:
        plot(table, options.plot)


def plot(table, path):
    """Draw microseconds a step against the arithmetic of a step, a line for each competitor's better thread count."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    sizes = [flops(entry["widths"], entry["batch"]) for entry in table.values()]
    lines = {"numpy": "#718096", "torch": "#c05621", "jax": "#6b46c1", "hotloop": "#2b6cb0"}
    for family, color in lines.items():
        best = [min((np.median(found) for name, found in entry["microseconds"].items() if name.startswith(family)),
                    default=np.nan) for entry in table.values()]
        label = {"numpy": "NumPy", "torch": "torch eager", "jax": "JAX scan"}.get(family, family)
        axes.plot(sizes, best, color=color, marker="o", linewidth=3 if family == "hotloop" else 1.8)
        lift = {"numpy": 7, "torch": -7}.get(family, 0)  # these two meet at the smallest net
        axes.annotate(label, (sizes[0], best[0]), xytext=(-8, lift), textcoords="offset points", color=color,
                      ha="right", va="center", fontweight="bold" if family == "hotloop" else "normal")
    for (name, entry), size in zip(table.items(), sizes, strict=True):
        text = "-".join(map(str, entry["widths"]))
        axes.annotate(f"{name}\n{text}", (size, 0), xycoords=("data", "axes fraction"), xytext=(0, 5),
                      textcoords="offset points", ha="center", fontsize=7, color="#4a5568")
    axes.set(xscale="log", yscale="log", xlim=(sizes[0] / 8, sizes[-1] * 4), xlabel="floating-point operations a step")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 3)
    axes.set_ylabel("microseconds a training step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


FIRST_STEP = """
import sys, time
sys.path.insert(0, {folder!r})
from steps import WORKLOADS, data, trainer
widths, batch = WORKLOADS["small"]
trainer(widths, batch, "sgd").step(*data(widths, batch, 1))
"""


def start(options):
    """Print seconds from the start of a process to the end of the small net's first step, and of `import torch`."""
    first = FIRST_STEP.format(folder=os.path.dirname(os.path.abspath(__file__)))

    def seconds(code, **environment):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | environment)
        return time.perf_counter() - started

    cold, warm, imports = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(seconds(first, HOTLOOP_CACHE_DIR=folder))
            warm.append(seconds(first, HOTLOOP_CACHE_DIR=folder))
        if importlib.util.find_spec("torch"):
            imports.append(seconds("import torch"))
    for name, found in (("cold cache", cold), ("warm cache", warm), ("import torch alone", imports)):
        if found:
            print(f"{name:22}{np.median(found):8.2f} s")


def memory(options):
    """Print the memory that a training run takes beside what it must hold, and what a thousand steps allocate."""
    import resource
    import tracemalloc

    for workload in ("small", "large"):
        widths, batch = WORKLOADS[workload]
        X, y = data(widths, batch, 8)
        warm = trainer((2, 16, 10), 8, "adam")
        warm.fit(np.zeros((64, 2), np.float32), np.zeros(64, int))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        net = trainer(widths, batch, "adam")
        net.fit(X, y, epochs=2)
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        parameters = sum(int(np.prod(shape)) for shape in net.net.shapes.values())
        rows = widths[0] + 2 * sum(widths[1:])  # activations, and gradients of all but the input
        must = 4 * (3 * parameters + batch * rows)
        tracemalloc.start()
        net.fit(X, y, epochs=1)
        first = tracemalloc.get_traced_memory()[0]
        net.fit(X, y, epochs=100)
        grown = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
        print(f"{workload:8} peak {taken / 1e6:8.1f} MB more than the interpreter and the data; parameters, states, "
              f"activations and their gradients {must / 1e6:8.1f} MB; {grown} bytes more after 800 steps")


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "adam"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default="", help="write all rounds to a file")
    parser.add_argument("--plot", default="", help="draw the table into a picture; needs matplotlib")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
    elif options.start:
        start(options)
    elif options.memory:
        memory(options)
    else:
        steps(options)


if __name__ == "__main__":
    main()
