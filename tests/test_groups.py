"""Large batches of small nets, taken in groups of rows: what comes out, for whom it is done, and from when on."""

import numpy as np
import pytest
from tolerances import close

import hotloop as hl
from hotloop import groups
from hotloop.kernels.groups import GROUPS

ROWS = 203


@pytest.fixture
def always(monkeypatch):
    """Take every batch in groups, up to 8 rows of them at a time."""
    for name in ("_WORTH", "_GRADIENTS", "_LEAST"):
        monkeypatch.setattr(groups, name, 0)
    monkeypatch.setattr(groups, "_ROWS_BYTES", 1)
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
        variants = [program for program in (both.few, both, both.many) if program is not None]
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
