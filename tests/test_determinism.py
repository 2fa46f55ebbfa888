"""The same bits: for every number of threads, every run, every process, however the work was cut."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import hotloop as hl
from hotloop import build

pytestmark = pytest.mark.usefixtures("either_way")

ROWS, BATCH = 101, 13  # the last batch has 10 rows
OPTIMIZERS = {"sgd": lambda: hl.SGD(lr=0.05, momentum=0.9, weight_decay=0.01), "adam": lambda: hl.Adam(lr=0.01)}


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return request.param


def data(rows=ROWS, inputs=7, classes=5):
    generator = np.random.default_rng(0)
    return generator.standard_normal((rows, inputs)), generator.integers(0, classes, rows)


def make(optimizer="adam", dtype="float32", sizes=(7, 33, 17, 5), batch_size=BATCH, **options):
    layers = [hl.Dense(*sizes[:2])]
    for inputs, outputs in zip(sizes[1:-1], sizes[2:], strict=True):
        layers += [hl.GELU() if inputs % 2 else hl.ReLU(), hl.Dense(inputs, outputs)]
    return hl.Trainer(hl.Sequential(*layers, seed=3), hl.CrossEntropyLoss(), OPTIMIZERS[optimizer](), dtype=dtype,
                      batch_size=batch_size, **options)


def digest(trainer, *numbers):
    """A digest of everything that training made, and of `numbers`."""
    total = hashlib.sha256()
    for name, value in trainer.state_dict().items():
        total.update(name.encode() + value.tobytes())
    for value in numbers:
        total.update(np.asarray(value).tobytes())
    return total.hexdigest()


def fitted(*args, epochs=3, **options):
    trainer = make(*args, **options)
    x, y = data()
    history = trainer.fit(x, y, epochs=epochs, validation_data=(x, y))
    return digest(trainer, history.loss, history.val_loss, history.val_accuracy, trainer.predict(x))


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_threads(optimizer, dtype, threads):
    assert fitted(optimizer, dtype, threads=threads) == fitted(optimizer, dtype, threads=1)


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (3, 3), (97, 97), (130, 64)])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (3, 1, 9, 2), (65, 130, 33, 3)], ids=str)
def test_threads_at_odd_sizes(dtype, sizes, rows, batch):
    x, y = data(rows, sizes[0], sizes[-1])
    digests = set()
    for threads in (1, 2, 3, 4, 8, None):
        trainer = make(dtype=dtype, sizes=sizes, batch_size=batch, threads=threads)
        digests.add(digest(trainer, *trainer.gradients(x, y).values(), trainer.fit(x, y, epochs=2).loss))
    assert len(digests) == 1


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_in_evaluation(dtype, threads):
    """Many short steps without an update between them, so that a worker may run ahead of another."""
    x, y = data(8192)
    alone, team = (make(dtype=dtype, sizes=(7, 2, 5), threads=count) for count in (1, threads))
    expected, outputs = alone.evaluate(x, y), alone.predict(x)
    for _ in range(100):
        assert team.evaluate(x, y) == expected
        assert np.array_equal(team.predict(x), outputs)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_the_same_twice(optimizer, dtype, backend):
    assert fitted(optimizer, dtype, backend=backend) == fitted(optimizer, dtype, backend=backend)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_seeds_differ(backend):
    assert fitted(backend=backend, seed=1) != fitted(backend=backend, seed=2)


def test_the_same_in_processes_with_different_hashes(dtype):
    rows = build.narrow_rows(None)
    script = ("import test_determinism as t; from hotloop import build\n"
              f"build.narrow_rows = lambda program: {rows}; print(t.fitted('adam', {dtype.name!r}))")
    digests = {fitted("adam", dtype)}
    for seed in ("0", "1", "12345"):
        paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        digests.add(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True,
                                   timeout=120, env=environment).stdout.strip())
    assert len(digests) == 1


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_chunks_of_any_length(optimizer, dtype, backend, monkeypatch):
    digests = set()
    for seconds in (0, 1e-4, 1e3):
        monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", seconds)
        digests.add(fitted(optimizer, dtype, backend=backend))
    assert len(digests) == 1


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_epochs_one_by_one(optimizer, dtype, backend):
    x, y = data()
    one, other = (make(optimizer, dtype, backend=backend) for _ in range(2))
    losses = [loss for _ in range(3) for loss in other.fit(x, y).loss]
    assert digest(one, one.fit(x, y, epochs=3).loss) == digest(other, losses)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("threads", [1, 3])
def test_steps_over_the_same_batches(optimizer, dtype, backend, threads):
    x, y = data()
    one, other = (make(optimizer, dtype, backend=backend, threads=threads, shuffle=False) for _ in range(2))
    one.fit(x, y, epochs=2)
    for first in [*range(0, ROWS, BATCH)] * 2:
        other.step(x[first:first + BATCH], y[first:first + BATCH])
    assert digest(one) == digest(other)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_order_is_a_permutation_that_changes(backend):
    """With lr so small that nothing moves, the losses of single rows tell which row came when."""
    x, y = data(20)
    trainer = make("sgd", "float64", batch_size=1, backend=backend)
    trainer.optimizer.lr = 1e-300
    own = [trainer.evaluate(x[i:i + 1], y[i:i + 1])["loss"] for i in range(20)]

    class Watch:
        def __init__(self):
            self.orders, self.seen = [], 0.0

        def on_batch_chunk(self, trainer, logs):
            total = logs["loss"] * logs["batch"]
            loss, self.seen = total - self.seen, total if logs["batch"] < logs["batches"] else 0.0
            if logs["batch"] == 1:
                self.orders.append([])
            self.orders[-1].append(int(np.argmin(np.abs(np.subtract(own, loss)))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
        trainer.fit(x, y, epochs=3, callbacks=[watch := Watch()])
    assert [sorted(order) for order in watch.orders] == [list(range(20))] * 3
    assert len({tuple(order) for order in watch.orders}) == 3
