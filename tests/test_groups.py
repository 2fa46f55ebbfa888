"""Large batches of small nets, taken in groups of rows: what comes out, for whom it is done, and from when on."""

import ctypes

import numpy as np
import pytest
from tolerances import close

import hotloop as hl
from hotloop import groups
from hotloop.kernels import walk
from hotloop.kernels._context import BATCH, REST, START, WORKER
from hotloop.kernels._jit import HEADER
from hotloop.kernels.groups import GROUPS, MOVING
from hotloop.kernels.groups import groups as kernel

CALLBACK = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)
ROWS = 203


@pytest.fixture
def always(monkeypatch, either_way):
    """Take every batch in groups, up to 8 rows of them at a time."""
    for name in ("_WORTH", "_GRADIENTS", "_LEAST", "_OPERATIONS", "_LEAST_VECTORS"):
        monkeypatch.setattr(groups, name, 0)
    monkeypatch.setattr(groups, "_ROWS_BYTES", 1)
    monkeypatch.setattr(groups, "_NEAREST_BYTES", 1)
    monkeypatch.setattr(groups, "_TURN", 8)


def plain():
    return hl.Sequential(hl.Dense(5, 20), hl.Tanh(), hl.Dense(20, 3), seed=0), "classes", {}


def normed():
    layers = [hl.Dense(5, 40), hl.LayerNorm(40), hl.PReLU(), hl.Dense(40, 18, bias=False), hl.GLU(), hl.Dense(9, 3)]
    return hl.Sequential(*layers, seed=0), "numbers", {}


def weighted():
    net, kind, _ = plain()
    return net, kind, {"loss": hl.CrossEntropyLoss(weight=[0.5, 2.0, 1.0], ignore_index=1), "clip_value": 0.01}


def branched():
    g = hl.Graph(seed=0)
    x = g.input("x", (None, 5))
    h = hl.Tanh()(hl.Dense(5, 16)(x))
    h = h + hl.Tanh()(hl.Dense(16, 16)(h))
    return hl.Network(x, {"a": hl.Dense(16, 3)(h), "b": hl.Dense(16, 2)(h)}), "both", {}


def trained(make, backend, dtype, threads, batch=ROWS, weights=False):
    """Losses and parameters after some steps, the last of each epoch of few rows."""
    net, kind, options = make()
    generator = np.random.default_rng(1)
    X, classes = generator.standard_normal((ROWS, 5)), generator.integers(0, 3, ROWS)
    numbers = generator.standard_normal((ROWS, 3))
    y = {"classes": classes, "numbers": numbers, "both": {"a": classes, "b": numbers[:, :2]}}[kind]
    loss = options.pop("loss", {"classes": hl.CrossEntropyLoss(), "numbers": hl.MSELoss(), "both": {
        "a": hl.CrossEntropyLoss(), "b": hl.MSELoss()}}[kind])
    trainer = hl.Trainer(net, loss, hl.Adam(lr=1e-2), batch_size=batch, backend=backend, dtype=dtype, threads=threads,
                         **options)
    sample = generator.uniform(0, 2, ROWS) if weights else None
    losses = trainer.fit(X, y, epochs=1 if batch == 1 else 4, sample_weight=sample).loss
    return trainer, losses, net.state_dict(), (X, y)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("batch", [ROWS, 100, 1])
@pytest.mark.parametrize("make", [plain, normed, weighted, branched])
def test_training_is_the_reference_s_and_the_same_for_any_number_of_threads(always, dtype, make, batch, weights):
    trainer, losses, state, data = trained(make, "cpu", dtype, 1, batch, weights)
    assert f"gradients[{GROUPS}]" in str(trainer.program(*data))
    _, expected, reference, _ = trained(make, "numpy", dtype, None, batch, weights)
    steps = 4 * -(-ROWS // batch)
    close(losses, expected, dtype, "training", steps * batch)
    for name, value in state.items():
        close(value, reference[name], dtype, "training", steps * batch, scale=1)
    for threads in (2, 3, GROUPS + 1):
        _, others, other, _ = trained(make, "cpu", dtype, threads, batch, weights)
        assert others == losses and all(other[name].tobytes() == state[name].tobytes() for name in state)


def test_steps_and_epochs_leave_the_same_bits(always, dtype):
    _, _, _, (X, y) = trained(plain, "cpu", dtype, 2)
    net, _, _ = plain()
    other = hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(lr=1e-2), dtype=dtype, shuffle=False, threads=1)
    twin, _, _ = plain()
    epochs = hl.Trainer(twin, hl.CrossEntropyLoss(), hl.Adam(lr=1e-2), batch_size=ROWS, dtype=dtype, shuffle=False)
    losses = [other.step(X, y) for _ in range(5)]
    assert epochs.fit(X, y, epochs=5).loss == pytest.approx(losses, rel=1e-12)
    assert all(net.state_dict()[name].tobytes() == value.tobytes() for name, value in twin.state_dict().items())
    y[3] = 7
    with pytest.raises(ValueError, match="7"):
        other.step(X, y)


@pytest.mark.parametrize("loss", [hl.CrossEntropyLoss, hl.MSELoss])
def test_groups_of_several_parts_of_several_blocks(monkeypatch, either_way, dtype, loss):
    for name in ("_WORTH", "_GRADIENTS", "_LEAST", "_OPERATIONS", "_LEAST_VECTORS", "_NEAREST_BYTES", "_ROWS_BYTES"):
        monkeypatch.setattr(groups, name, 1)
    rows, found = GROUPS * 150 + 7, []
    generator = np.random.default_rng(2)
    x = generator.standard_normal((rows, 5))
    y = generator.integers(0, 3, rows) if loss is hl.CrossEntropyLoss else generator.standard_normal((rows, 3))
    for backend, threads in (("numpy", None), ("cpu", 1), ("cpu", 3)):
        net = plain()[0]
        trainer = hl.Trainer(net, loss(), hl.Adam(lr=1e-2), batch_size=rows, backend=backend, dtype=dtype,
                             threads=threads)
        found.append((trainer.fit(x, y, epochs=3).loss, net.state_dict()))
    assert "groups" in str(trainer.program(x, y))
    assert found[1][0] == found[2][0]
    close(found[1][0], found[0][0], dtype, "training", 3 * rows)
    for name, value in found[0][1].items():
        close(found[1][1][name], value, dtype, "training", 3 * rows, scale=1)
        assert found[1][1][name].tobytes() == found[2][1][name].tobytes()


@pytest.mark.parametrize("failing", [None, 0, 1])
def test_a_group_is_taken_in_even_parts_instruction_by_instruction(worker, failing):
    """By two instructions, of rows and of units, of a second worker; one address moves with the rows, one by groups."""
    seen, place = [], worker(batch=50)
    place.cells[[START, REST, WORKER]] = 300, 700, 1

    def note(row, context, low, high):
        number = (row - rows.ctypes.data) // rows.itemsize // rows.shape[1]
        seen.append((number, low, high, *place.cells[[BATCH, START, REST]].tolist(), *rows[2:, HEADER].tolist()))
        return -1 if failing == number - 2 and len(seen) < 3 else 0

    note = CALLBACK(note)
    rows = np.zeros((4, HEADER + 1), np.int64)
    rows[:, 0] = ctypes.cast(note, ctypes.c_void_p).value
    rows[3, 1] = 9  # units
    moving = np.zeros((2, 2, MOVING), np.int64)
    moving[1] = [[rows[2, HEADER:].ctypes.data, 5000, 10, 0], [rows[3, HEADER:].ctypes.data, 9000, 0, 100]]
    slots = np.full((GROUPS, 7), np.nan, np.float32)
    status = place.run(kernel, 1, 3, rows=rows, row_bytes=rows.strides[0], count=2, stride=2 * rows.strides[0],
                       moving=moving, moving_count=2, height=2, slots=slots, elements=7)
    assert status == (0 if failing is None else -1)
    expected = []
    for group, begin, size in ((1, 3, 2), (1, 5, 1), (2, 6, 2), (2, 8, 1)):
        state = (size, 300 + begin, 700 - begin, 5000 + 10 * begin, 9000 + 100 * group)
        expected += [(2, 0, size, *state), (3, 0, 9, *state)]
    assert seen == expected
    assert place.cells[[BATCH, START, REST]].tolist() == [50, 300, 700]
    assert np.isnan(slots[0]).all() and not slots[1:3].any() and np.isnan(slots[3:]).all()


def test_groups_are_dealt_out_evenly(always):
    trainer, _, _, data = trained(plain, "cpu", "float32", 2)
    bound = trainer._backend.bind(trainer.program(*data))
    assert bound.phases[0, [walk.KIND, walk.COUNT]].tolist() == [walk.UNITS, 1]
    assert bound.table[bound.rows.index(bound.body), walk.ROW_UNITS] == GROUPS


@pytest.mark.parametrize("make", [plain, normed, weighted])
def test_gradients_are_the_reference_s(always, dtype, make):
    found = []
    for backend in ("numpy", "cpu"):
        trainer, _, _, data = trained(make, backend, dtype, 3, batch=1000)
        trainer.net.load_state_dict(make()[0].state_dict())
        if backend == "cpu":
            program = trainer._programs[next(key for key in trainer._programs if key[0] == "train")]
            assert program.many is program.best(ROWS)
        found.append(trainer.gradients(*data))
    for name, expected in found[0].items():
        close(found[1][name], expected, dtype, "training", ROWS, scale=1)


def test_each_number_of_rows_has_one_program():
    for widths, rows in (((5, 20, 3), 4000), ((300, 300, 3), 4000)):
        layers = [layer for sizes in zip(widths, widths[1:], strict=False) for layer in (hl.Dense(*sizes), hl.ReLU())]
        trainer = hl.Trainer(hl.Sequential(*layers[:-1]), hl.MSELoss(), hl.SGD(), threads=64)
        trainer.program(np.ones((2, widths[0])), np.ones((2, widths[-1])))
        both = trainer._programs[next(key for key in trainer._programs if key[0] == "train")]
        variants = [program for program in (both.few, both, both.narrow, both.many) if program is not None]
        for count in range(1, rows):
            assert [one for one in variants if both.span(one)[0] <= count <= both.span(one)[1]] == [both.best(count)]


def test_numbers_that_are_not_finite_change_nothing(always):
    trainer, _, _, (X, y) = trained(plain, "cpu", "float32", 2)
    trainer.check_finite = False
    before = trainer.net.state_dict()
    X[5, 0] = np.nan
    with pytest.raises(hl.NonFiniteError):
        trainer.fit(X, y)
    assert all(before[name].tobytes() == value.tobytes() for name, value in trainer.net.state_dict().items())


@pytest.mark.parametrize(("layers", "options"), [
    ([hl.Dropout(0.5)], {}), ([hl.BatchNorm1d(20)], {}), ([], {"clip_norm": 1.0}), ([], {"l2": 0.1}),
    ([hl.Dense(20, 4000), hl.Dense(4000, 20)], {})], ids=["random", "whole batch", "norm", "penalty", "large"])
def test_what_is_not_taken_in_groups(always, layers, options):
    net = hl.Sequential(hl.Dense(5, 20), *layers, hl.Dense(20, 3))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(), batch_size=ROWS, **options)
    assert "groups" not in str(trainer.program(np.ones((ROWS, 5)), np.ones((ROWS, 3))))


def test_large_batches_are_taken_in_groups_in_less_memory():
    X, y = np.zeros((50_000, 4)), np.zeros((50_000, 2))

    def program(rows):
        net = hl.Sequential(hl.Dense(4, 32), hl.Tanh(), hl.Dense(32, 2))
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(), batch_size=rows)
        return trainer, trainer.program(X, y)

    assert "groups" not in str(program(100)[1])
    trainer, found = program(50_000)
    assert "groups" in str(found)
    plan = trainer._programs[next(key for key in trainer._programs if key[0] == "train")]
    assert found.place(50_000)[1] < 0.1 * plan.place(50_000)[1]
    threshold = plan.many_rows
    assert "groups" in str(program(threshold)[1]) and "groups" not in str(program(threshold - 1)[1])


def test_a_drawing_shows_what_is_done_in_a_group(always, tmp_path):
    pytest.importorskip("matplotlib")
    trainer, _, _, data = trained(plain, "cpu", "float32", 1)
    trainer.program(*data).draw(tmp_path / "program.svg")
    text = (tmp_path / "program.svg").read_text()
    assert "gather" in text and "add_groups" in text
