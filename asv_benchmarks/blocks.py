"""Time the building blocks by themselves: activations, optimizers, calls and descents of small graphs.

    python asv_benchmarks/blocks.py [activations] [optimizers] [graphs] [--rounds 9]

Activations run on 65,536 float32 numbers that stay in cache, beside NumPy's and torch's functions where they have one:
ns an element, forward and backward, one thread. Optimizers update 10 million float32 parameters, beside kernels that do
next to nothing to as many arrays, the time to stream the state through memory once: on one thread and on one for each
core. Rounds are interleaved (A B A B ...); what is printed are medians, ratios as the median of the rounds' ratios.
"""

import argparse
import statistics
import time
import timeit
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import hotloop as hl
from hotloop.kernels import OPS, _context, _jit
from hotloop.kernels._cores import cores
from hotloop.kernels._primitives import SIZE, reals
from hotloop.kernels._target import host
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands

ELEMENTS, PARAMETERS, CORES = 2**16, 10_000_000, cores()


@_jit.kernel
def stream_two(a, b, context, low, high):
    """Read two arrays, write one."""
    count = high - low
    x, y = reals(a + low * SIZE, count), reals(b + low * SIZE, count)
    for i in range(count):
        x[i] = x[i] + y[i]
    return 0


@_jit.kernel
def stream_three(a, b, c, context, low, high):
    """Read three arrays, write two."""
    count = high - low
    x, y, z = reals(a + low * SIZE, count), reals(b + low * SIZE, count), reals(c + low * SIZE, count)
    for i in range(count):
        z[i] = z[i] + y[i]
        x[i] = x[i] + z[i]
    return 0


@_jit.kernel
def stream_four(a, b, c, d, context, low, high):
    """Read four arrays, write three."""
    count = high - low
    x, y = reals(a + low * SIZE, count), reals(b + low * SIZE, count)
    z, u = reals(c + low * SIZE, count), reals(d + low * SIZE, count)
    for i in range(count):
        z[i] = z[i] + y[i]
        u[i] = u[i] + y[i]
        x[i] = x[i] + z[i] + u[i]
    return 0


@_jit.kernel
def stream_five(a, b, c, d, e, context, low, high):
    """Read five arrays, write four."""
    count = high - low
    x, y = reals(a + low * SIZE, count), reals(b + low * SIZE, count)
    z, u, v = reals(c + low * SIZE, count), reals(d + low * SIZE, count), reals(e + low * SIZE, count)
    for i in range(count):
        z[i] = z[i] + y[i]
        u[i] = u[i] + y[i]
        v[i] = v[i] + y[i]
        x[i] = x[i] + z[i] + u[i] + v[i]
    return 0


STREAMS = {2: stream_two, 3: stream_three, 4: stream_four, 5: stream_five}  # by the number of arrays


class Call:
    """A kernel on arrays and numbers by the names of its operands; `run` times one call in seconds."""

    def __init__(self, kernel, low, high, context=(), **operands):
        names = _jit.operands(kernel)
        self.cells, self.context = np.zeros(_jit.HEADER + len(names), np.int64), np.zeros(_context.CONTEXT, np.int64)
        self.scratch, self.zeros = np.zeros(2**20, np.uint8), np.zeros(64, np.float32)
        self.context[_context.ZEROS] = self.zeros.ctypes.data
        self.context[_context.SCRATCH] = self.scratch.ctypes.data
        self.context[_context.UPDATE] = 2
        for cell, value in context:
            self.context[cell] = value.ctypes.data
        for cell, name in enumerate(names, _jit.HEADER):
            value = operands.get(name, 0)
            if isinstance(value, np.ndarray):
                value = value.ctypes.data
            self.cells[cell] = np.float64(value).view(np.int64) if isinstance(value, float) else int(value)
        self.kept, self.low, self.high = operands, low, high
        self.call = _jit.caller(kernel, np.float32)

    def run(self):
        """Seconds of a call."""
        row, context = self.cells.ctypes.data, self.context.ctypes.data
        started = time.perf_counter()
        assert self.call(row, context, self.low, self.high) >= 0
        return time.perf_counter() - started


def divided(make, size):
    """One call `make(low, high)` for all, and one for each core at once: two functions that give seconds."""
    ends = [size * core // CORES for core in range(CORES + 1)]
    pool = ThreadPoolExecutor(CORES)
    parts = [make(low, high).run for low, high in zip(ends[:-1], ends[1:], strict=True)]

    def run():
        started = time.perf_counter()
        for future in [pool.submit(part) for part in parts]:
            future.result()
        return time.perf_counter() - started

    return make(0, size).run, run


def placed(values, number):
    """A copy that begins elsewhere in a page of memory than others: loads and stores of one place there wait."""
    memory = np.empty(values.size + 1024, values.dtype)
    copy = memory[number * 112 : number * 112 + values.size]
    copy[:] = values
    return copy


def interleaved(functions, rounds, repeat):
    """For each function that gives seconds, its least of `repeat` calls, round after round."""
    found = [[] for _ in functions]
    for _ in range(rounds):
        for seconds, function in zip(found, functions, strict=True):
            seconds.append(min(function() for _ in range(repeat)))
    return found


def peers():
    """Activations of torch and NumPy by name: functions of the input and, of torch, their derivative."""
    numpy = {"tanh": np.tanh, "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt,
             "expm1": np.expm1, "log1p": np.log1p}
    try:
        import torch
    except ImportError:
        return {}, numpy
    torch.set_num_threads(1)
    F = torch.nn.functional
    names = ("relu", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "softplus", "softsign", "hardtanh",
             "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "logsigmoid", "gelu")
    found = {name.replace("logsigmoid", "log_sigmoid"): getattr(F, name) for name in names}
    found |= {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "erf": torch.erf, "exp": torch.exp, "log": torch.log,
              "sin": torch.sin, "cos": torch.cos, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
              "expm1": torch.expm1, "log1p": torch.log1p, "sqrt": torch.sqrt}

    def timed(function, x):
        x = torch.from_numpy(x)

        def run():
            started = time.perf_counter()
            with torch.no_grad():
                function(x)
            return time.perf_counter() - started

        return run

    return {name: lambda x, function=function: timed(function, x) for name, function in found.items()}, numpy


def timed_numpy(function, x):
    """A function that times NumPy's on x."""
    out = placed(x, 1)

    def run():
        started = time.perf_counter()
        function(x, out=out)
        return time.perf_counter() - started

    return run


def activations(rounds):
    """A row for each elementwise op of one operand."""
    torch, numpy = peers()
    panel = host().bindings(np.dtype(np.float32))["PANEL"]
    rng = np.random.default_rng(0)
    print(f"{'op':16} {'ns':>6} {'back':>6} {'torch':>6} {'numpy':>6}   of the quicker peer")
    for name, op in OPS.items():
        if op.arity != 1 or op.cpu is None or name.endswith("_backward"):
            continue
        x = rng.uniform(0.1, 3, ELEMENTS).astype(np.float32) if name in ("log", "sqrt") else rng.standard_normal(
            ELEMENTS).astype(np.float32)
        operands = scalar_operands(name, op.cases[0]) if name in ACTIVATIONS else {}
        flat = {"x_panel": ELEMENTS, "y_panel": ELEMENTS, "y_panels": 1, "dy_panel": ELEMENTS, "dx_panels": 1,
                "saved_panel": ELEMENTS, "dx_panel": ELEMENTS}
        calls = [Call(op.cpu, 0, ELEMENTS // panel, x=x, y=placed(x, 1), **flat, **operands).run]
        backward = OPS.get(f"{name}_backward")
        if backward is not None and backward.cpu is not None:
            calls.append(Call(backward.cpu, 0, ELEMENTS // panel, dy=placed(x, 2), saved=x, dx=placed(x, 3), **flat,
                              **operands).run)
        own = len(calls)
        others = [table[name] for table in (torch, numpy) if name in table]
        calls += [torch[name](x)] if name in torch else []
        calls += [timed_numpy(numpy[name], x)] if name in numpy else []
        seconds = interleaved(calls, rounds, 20)
        ns = [statistics.median(found) / ELEMENTS * 1e9 for found in seconds]
        ratio = (statistics.median(min(peer) / mine for mine, *peer in zip(seconds[0], *seconds[own:], strict=True))
                 if others else None)
        text = {"torch": ns[own] if name in torch else None, "numpy": ns[-1] if name in numpy else None}
        print(f"{name:16} {ns[0]:6.3f} {ns[1] if own > 1 else float('nan'):6.3f} "
              + " ".join(f"{value:6.3f}" if value else f"{'':6}" for value in text.values())
              + (f"   {ratio:.2f}x" if ratio else ""))


def optimizers(rounds):
    """A row for each optimizer, against the stream of as many arrays."""
    rng = np.random.default_rng(0)
    cases = [hl.SGD(1e-6), hl.SGD(1e-6, momentum=0.9), hl.SGD(1e-6, momentum=0.9, nesterov=True), hl.Adagrad(1e-6),
             hl.Adadelta(1e-6), hl.RMSprop(1e-6), hl.RMSprop(1e-6, momentum=0.9),
             hl.RMSprop(1e-6, momentum=0.9, centered=True), hl.Adam(1e-6), hl.Adam(1e-6, amsgrad=True), hl.AdamW(1e-6),
             hl.Adamax(1e-6), hl.NAdam(1e-6), hl.RAdam(1e-6), hl.ASGD(1e-6), hl.Rprop(1e-6), hl.Lion(1e-6)]
    arrays = [placed(rng.uniform(0.1, 1, PARAMETERS).astype(np.float32), number) for number in range(5)]
    streams = {count: divided(lambda low, high, kernel=kernel: Call(kernel, low, high, **dict(zip(
        _jit.operands(kernel), arrays, strict=False))), PARAMETERS) for count, kernel in STREAMS.items()}
    columns = "".join(f" {'ns':>6} {'stream':>6} ratio" for _ in range(2))
    print(f"{'':44} one thread           {CORES} threads\n{'optimizer':44}{columns}")
    for optimizer in cases:
        op, states = OPS[optimizer.op], optimizer.states()
        held = dict(zip(states, arrays[2:], strict=False))
        settings = {name: float(np.ravel(value)[-1]) if isinstance(value, np.ndarray) else value
                    for name, value in optimizer.settings(np.array([2])).items()}
        calls = divided(lambda low, high, op=op, held=held, settings=settings: Call(
            op.cpu, low, high, context=[(_context.GRADIENT, arrays[1])], w=arrays[0], **held, **settings), PARAMETERS)
        found = interleaved([*calls, *streams[2 + len(states)]], rounds, 2)
        for array in arrays:
            array[:] = rng.uniform(0.1, 1, PARAMETERS)
        line = f"{str(optimizer)[:44]:44}"
        for mine, stream in zip(found[:2], found[2:], strict=True):
            ratio = statistics.median(a / b for a, b in zip(mine, stream, strict=True))
            line += (f" {statistics.median(mine) / PARAMETERS * 1e9:6.3f} "
                     f"{statistics.median(stream) / PARAMETERS * 1e9:6.3f} {ratio:5.2f}")
        print(line)


def graphs(rounds):
    """Calls and descents of the first scalar case."""
    graph = hl.Graph()
    w, b = graph.parameter("w", 3.0), graph.parameter("b", 4.0)
    z = (2 * w + 3 * b) * (2 * b + 1)
    for name, program in (("value and two gradients", graph.compile(z, wrt=[w, b])), ("value", graph.compile(z))):
        program()
        number = 20_000
        print(f"a call, {name:24} {min(timeit.repeat(program, number=number, repeat=rounds)) / number * 1e6:.2f} us")
    loss = graph.compile((w - 1) ** 2 * (b - 2) ** 2 + w * w + b * b)
    loss.minimize(hl.SGD(lr=1e-9), 10)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        loss.minimize(hl.SGD(lr=1e-9), 100_000)
        seconds.append((time.perf_counter() - started) / 100_000)
    nodes = len(loss._descents["engine"].live)
    print(f"a step of minimize, {nodes} nodes      {min(seconds) * 1e9:.0f} ns, "
          f"{min(seconds) / nodes * 1e9:.0f} a node")


def main():
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"activations": activations, "optimizers": optimizers, "graphs": graphs}
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(parts)}: all, if none is named")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement, from 1 on: 9")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds takes a number from 1 on")
    if not set(options.parts) <= set(parts):
        parser.error(f"the parts are {', '.join(parts)}")
    for name, part in parts.items():
        if name in options.parts or not options.parts:
            part(options.rounds)


if __name__ == "__main__":
    main()
