"""Threads, processes, signals and memory: training beside other work, and leaving everything as it was."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

import hotloop as hl
from hotloop import build

pytestmark = pytest.mark.usefixtures("by_panels")

ROWS = 150
METHODS = [method for method in ("fork", "spawn", "forkserver") if method in multiprocessing.get_all_start_methods()]


def data(seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((ROWS, 9)), generator.integers(0, 4, ROWS)


def make(seed=0, **options):
    net = hl.Sequential(hl.Dense(9, 17), hl.Tanh(), hl.Dense(17, 4), seed=seed)
    return hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(lr=0.01), **{"batch_size": 16, "seed": seed} | options)


def train(seed, epochs=5, **options):
    """Parameters and losses of a run, as bytes."""
    trainer = make(seed, **options)
    losses = trainer.fit(*data(seed), epochs=epochs).loss
    return b"".join([np.array(losses).tobytes(), *(value.tobytes() for value in trainer.state_dict().values())])


def python(script, *arguments, timeout=100):
    """The JSON that a script prints, run in a process of its own with this file as module `t`."""
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    code = ("import test_threads as t\nt.build.narrow_rows = lambda program: 0\n"
            f"t.{script}({', '.join(map(repr, arguments))})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout,
                          env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


# threads


@pytest.mark.parametrize("threads", [1, 2, None])
def test_eight_threads_train_eight_models(threads):
    expected = [train(seed, epochs=20, threads=1) for seed in range(8)]
    results = [None] * 8
    start = threading.Barrier(8)

    def work(seed):
        start.wait()
        results[seed] = train(seed, epochs=20, threads=threads)

    workers = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert results == expected


def test_more_threads_than_cores():
    assert train(0, threads=24) == train(0, threads=1)


def test_more_threads_than_rows():
    trainer, alone = make(threads=24), make(threads=1)
    x, y = data()
    assert [trainer.step(x[:3], y[:3]) for _ in range(5)] == [alone.step(x[:3], y[:3]) for _ in range(5)]


# processes


def child(results, threads):
    build.narrow_rows = lambda program: 0  # as in the parent
    results.send(train(1, threads=threads))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_children_train_after_their_parent(method, threads):
    train(0, threads=threads)
    context = multiprocessing.get_context(method)
    received, results = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(results, threads), daemon=True)
    process.start()
    try:
        assert received.poll(60), "the child neither finished nor failed"
        assert received.recv() == train(1, threads=threads)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()


@pytest.mark.skipif("fork" not in METHODS, reason="the system has no fork")
def test_a_child_of_a_training_parent():
    """The fork comes while another thread trains, perhaps inside a lock."""
    assert python("fork_while_training") == {"children": [0] * 20}


def fork_while_training():
    train(1, threads=2)
    threading.Thread(target=lambda: make(threads=2).fit(*data(), epochs=10**9), daemon=True).start()
    statuses = []
    for _ in range(20):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            train(1, threads=2)
            os._exit(0)
        statuses.append(os.waitpid(pid, 0)[1])
    print(json.dumps({"children": statuses}), flush=True)
    os._exit(0)


@pytest.mark.skipif("fork" not in METHODS, reason="the system has no fork")
def test_a_child_goes_on_with_a_trainer_that_ran():
    """The fork comes while another thread is in a run of it: the child may predict and train with what is there."""
    assert python("fork_in_a_run") == {"children": [0] * 10}


def fork_in_a_run():
    trainer, (x, y) = make(threads=2), data()
    trainer.fit(x, y)
    trainer.predict(x)
    threading.Thread(target=lambda: trainer.fit(x, y, epochs=10**9), daemon=True).start()
    statuses = []
    for _ in range(10):
        time.sleep(0.02)
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            finite = np.isfinite(trainer.predict(x)).all() and np.isfinite(trainer.step(x, y))
            os._exit(0 if finite and trainer.fit(x, y).loss else 1)
        statuses.append(os.waitpid(pid, 0)[1])
    print(json.dumps({"children": statuses}), flush=True)
    os._exit(0)


@pytest.mark.skipif("fork" not in METHODS, reason="the system has no fork")
def test_a_child_of_a_compiling_parent(tmp_path):
    """The fork comes while another thread compiles, and so holds the compiler's locks."""
    assert python("fork_while_compiling", str(tmp_path)) == {"child": 0}


def fork_while_compiling(folder):
    from hotloop.kernels import _jit

    os.environ["HOTLOOP_CACHE_DIR"] = folder
    x, _ = data()
    threading.Thread(target=lambda: make().predict(x), daemon=True).start()
    while not _jit.compiled:
        time.sleep(0.01)
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        make().predict(x)
        os._exit(0)
    print(json.dumps({"child": os.waitpid(pid, 0)[1]}), flush=True)
    os._exit(0)


# state of the interpreter


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_global_changes(backend, fails):
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    random, errors, environment = np.random.get_state(), np.geterr(), dict(os.environ)  # noqa: NPY002
    options, hooks = np.get_printoptions(), (sys.excepthook, threading.excepthook, sys.getswitchinterval())
    trainer = make(backend=backend, threads=2, check_finite=False)
    x, y = data()
    if fails:
        x[70] = np.nan
        with pytest.raises(hl.NonFiniteError):
            trainer.fit(x, y)
    else:
        trainer.fit(x, y, epochs=2, validation_data=(x, y))
        trainer.predict(x)
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}
    for before, after in zip(random, np.random.get_state(), strict=True):  # noqa: NPY002
        assert np.array_equal(before, after)
    assert (errors, environment, options) == (np.geterr(), dict(os.environ), np.get_printoptions())
    assert hooks == (sys.excepthook, threading.excepthook, sys.getswitchinterval())


# interruption


def interrupt(backend, threads, attempts, seconds):
    """Send SIGINT into `attempts` endless calls of fit, then repeat as many updates without interruption."""
    import random

    import hotloop.epochs

    hotloop.epochs._CHUNK_SECONDS = seconds
    x, y = data()
    trainer, twin = make(backend=backend, threads=threads), make(backend=backend, threads=threads)
    trainer.fit(x, y)
    updates_an_epoch = trainer.updates
    random.seed(0)
    for _ in range(attempts):
        try:
            threading.Timer(random.uniform(0, 0.02), os.kill, (os.getpid(), signal.SIGINT)).start()
            trainer.fit(x, y, epochs=10**9)
            raise AssertionError(f"fit came back by itself in epoch {trainer.epoch}")
        except KeyboardInterrupt:
            pass
        finite = all(np.isfinite(value).all() for value in trainer.state_dict().values())
        if not finite:
            break

    class Stop:
        def on_batch_chunk(self, twin, logs):
            if twin.updates == trainer.updates:
                twin.stop()

    twin.fit(x, y, epochs=trainer.updates // updates_an_epoch)
    hotloop.epochs._CHUNK_SECONDS = 0
    if twin.updates < trainer.updates:
        twin.fit(x, y, epochs=2, callbacks=[Stop()])
    state, expected = trainer.state_dict(), twin.state_dict()
    same = all(np.array_equal(state[name], expected[name]) for name in state)
    trainer.fit(x, y), twin.fit(x, y)
    state, expected = trainer.state_dict(), twin.state_dict()
    print(json.dumps({"finite": finite, "same": same, "epochs": trainer.epoch == twin.epoch,
                      "goes on": all(np.array_equal(state[name], expected[name]) for name in state)}))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
@pytest.mark.parametrize("seconds", [0, 0.005])
@pytest.mark.parametrize(("backend", "threads"), [("cpu", 1), ("cpu", 3), ("numpy", 1)])
def test_interrupts_leave_completed_steps(backend, threads, seconds):
    assert python("interrupt", backend, threads, 60, seconds) == {
        "finite": True, "same": True, "epochs": True, "goes on": True}


def interrupt_steps(attempts):
    """Send SIGINT into `attempts` endless rows of steps, then repeat as many steps without interruption."""
    import random

    x, y = (array[:16] for array in data())
    x = x.astype(np.float32)
    trainer, twin = make(), make()
    trainer.step(x, y)
    random.seed(0)
    for _ in range(attempts):
        try:
            threading.Timer(random.uniform(0, 0.002), os.kill, (os.getpid(), signal.SIGINT)).start()
            while True:
                trainer.step(x, y)
        except KeyboardInterrupt:
            pass
    for _ in range(trainer.updates):
        twin.step(x, y)
    state, expected = trainer.state_dict(), twin.state_dict()
    print(json.dumps({"some": trainer.updates > attempts,
                      "same": all(np.array_equal(state[name], expected[name]) for name in state)}))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
def test_interrupts_count_the_steps_that_were_made():
    assert python("interrupt_steps", 300) == {"some": True, "same": True}


# memory


def growth(work, rounds=3):
    """Bytes that each round of `work` leaves behind, after a first one: the least, since caches grow for a while."""
    left = []
    tracemalloc.start()
    try:
        for _ in range(1 + rounds):
            before = tracemalloc.get_traced_memory()[0]
            work()
            gc.collect()
            left.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    return min(left[1:])


@pytest.mark.parametrize(("backend", "threads", "epochs"), [("numpy", None, 1), ("cpu", 1, 250), ("cpu", 2, 10)])
def test_memory_is_flat_over_steps(backend, threads, epochs):
    trainer, (x, y) = make(backend=backend, threads=threads, batch_size=1), data()

    def work():
        trainer.fit(x, y, epochs=epochs)
        for first in range(60):
            trainer.step(x[first % 7:], y[first % 7:])
            trainer.predict(x[first % 7:])
            trainer.evaluate(x, y)
            trainer.gradients(x[first % 7:], y[first % 7:])

    assert growth(work, rounds=8) < 8_000


def many_models(count):
    """The peak of the process's memory, in MB, after each fifth of `count` models of ever new sizes."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    x, y = data()
    peaks = []
    for number in range(count):
        net = hl.Sequential(hl.Dense(9, 17 + number % 50), hl.Tanh(), hl.Dense(17 + number % 50, 4))
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(lr=0.1), threads=2, batch_size=16)
        trainer.fit(x, y, validation_data=(x, y))
        if (number + 1) % (count // 5) == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    print(json.dumps({"peaks": peaks, "workers": threading.active_count() - 1}))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak memory this way")
def test_memory_is_flat_over_models():
    result = python("many_models", 300)
    assert result["peaks"][-1] - result["peaks"][0] < 3, result
    assert result["workers"] < 10


def exhausted():
    """Train on after a batch for which there was no memory."""
    from hotloop import cpu_backend

    x, y = np.tile(data()[0], (500, 1)), np.tile(data()[1], 500)
    trainer, twin = make(dtype="float64"), make(dtype="float64")
    losses = [trainer.step(x[:5], y[:5])]
    zeros, cpu_backend.aligned_zeros = cpu_backend.aligned_zeros, None
    refused = 0
    for method in (trainer.step, trainer.gradients, trainer.evaluate):
        try:
            method(x, y)
        except TypeError:  # what stands for a MemoryError
            refused += 1
    cpu_backend.aligned_zeros = zeros
    losses += [trainer.step(x, y), trainer.evaluate(x, y)["loss"], float(trainer.gradients(x, y)["2.bias"][0])]
    expected = [twin.step(x[:5], y[:5]), twin.step(x, y), twin.evaluate(x, y)["loss"],
                float(twin.gradients(x, y)["2.bias"][0])]
    print(json.dumps({"refused": refused, "same": losses == expected}))


def test_training_goes_on_after_memory_was_short():
    assert python("exhausted") == {"refused": 3, "same": True}


def test_a_trainer_is_freed_with_its_memory():
    def work():
        for seed in range(12):
            train(seed, epochs=1)

    assert growth(work, rounds=8) < 8_000
