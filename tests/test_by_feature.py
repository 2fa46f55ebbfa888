"""Programs by feature: their kernels, what comes out of them, for whom they are made, and from how many rows on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_losses import TARGETS, X, head
from tolerances import close

import hotloop as hl
from hotloop import build, by_feature, cost, cpu_backend, layers
from hotloop.kernels import data, dense
from hotloop.kernels._context import REST, START
from hotloop.kernels._target import host
from hotloop.losses import LOSSES

ACTIVATIONS = [kind for name, kind in sorted(layers.activations().items())]
AS_THEY_LIE = "GaussianNLLLoss", "MultiLabelMarginLoss", "NLLLoss"  # losses that look at rows by panels


def vector(dtype):
    """Numbers of a vector, and of a row of a panel."""
    bound = host().bindings(dtype)
    return bound["LANES"], bound["PANEL"]


class Blocks:
    """A matrix by feature, and NaN in the room behind it."""

    def __init__(self, rows, cols, dtype):
        lanes, self.panel = vector(dtype)
        self.rows, self.cols, self.filled = rows, cols, -(-rows // lanes) * lanes
        self.blocks = -(-rows // self.panel)
        self.size = self.blocks * cols * self.panel
        self.memory = np.full(self.size + self.panel**2, np.nan, dtype)

    @classmethod
    def of(cls, values, dtype, mode="edge"):
        """What fills up the last vector is the last row again, or zero; a vector without rows is left as it is."""
        made = cls(*values.shape, dtype)
        filled = np.pad(values, ((0, made.filled - made.rows), (0, 0)), mode)
        for row, numbers in enumerate(filled):
            made.view()[row // made.panel, :, row % made.panel] = numbers
        return made

    def view(self):
        """Block, feature, row of the block."""
        return self.memory[: self.size].reshape(self.blocks, self.cols, self.panel)

    @property
    def all(self):
        """All rows that whole vectors hold."""
        return self.view().transpose(0, 2, 1).reshape(-1, self.cols)[: self.filled]

    @property
    def values(self):
        """The matrix, beyond whose features nothing was written."""
        assert np.isnan(self.memory[self.size :]).all()
        return self.all[: self.rows]


@pytest.mark.parametrize("cols", [1, 3, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_are_gathered(worker, dtype, rows, cols, shuffled):
    generator = np.random.default_rng(0)
    source = generator.standard_normal((200, cols)).astype(dtype)
    order = generator.permutation(200) if shuffled else None
    place, y = worker(dtype), Blocks(rows, cols, dtype)
    place.cells[[START, REST]] = 7, 193
    place.run(data.gather.by_feature, 0, rows, source=source, source_cols=cols, order=order, y=y.memory)
    expected = source[7 : 7 + rows] if order is None else source[order[7 : 7 + rows]]
    np.testing.assert_array_equal(y.values, expected)
    np.testing.assert_array_equal(y.all[rows:], np.repeat(expected[-1:], y.filled - rows, 0))


@pytest.mark.parametrize("finish", [0, 1])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 17), (5, 33), (40, 8), (19, 70)])
@pytest.mark.parametrize("rows", [1, 9, 32, 50])
def test_products(worker, dtype, rows, inputs, outputs, finish):
    """Both ways through the weights."""
    generator, panel = np.random.default_rng(1), vector(dtype)[1]
    x, w, b = (generator.standard_normal(shape).astype(dtype)
               for shape in ((rows, inputs), (outputs, inputs), outputs))
    panels = -(-outputs // panel)
    arena = np.zeros((panels, inputs + 1, panel), dtype)
    for o in range(outputs):
        arena[o // panel, :inputs, o % panel], arena[o // panel, inputs, o % panel] = w[o], b[o]
    given, made = Blocks.of(x, dtype), Blocks(rows, outputs, dtype)
    worker(dtype).run(dense.dense_forward.by_feature, 0, rows, x=given.memory, x_cols=inputs, w=arena, y=made.memory,
                      y_cols=outputs, finish=finish, chain=0)
    exact = x.astype(np.float64) @ w.T.astype(np.float64) + b
    close(made.values, np.maximum(exact, 0) if finish else exact, dtype, "product", inputs + 1,
          abs(x) @ abs(w).T + abs(b))
    gate, slope = Blocks.of(x, dtype), Blocks(rows, inputs, dtype)
    worker(dtype).run(dense.dense_input_gradient.by_feature, 0, rows, dy=made.memory, dy_cols=outputs, w=arena,
                      dx=slope.memory, dx_cols=inputs, finish=2 * finish, mask=gate.memory, chain=0)
    exact = made.values.astype(np.float64) @ w
    close(slope.values, np.where(x > 0, exact, 0) if finish else exact, dtype, "product", outputs,
          abs(made.values) @ abs(w))


@given(rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 70), batch=st.integers(1, 300),
       kind=st.sampled_from(["float32", "float64"]))
def test_gradients_of_parameters(worker, rows, inputs, outputs, batch, kind):
    """Rows of the batch as lanes or as steps, whichever is quicker; every shape of the tile."""
    dtype, panel, generator = np.dtype(kind), vector(kind)[1], np.random.default_rng(rows)
    x, dy = (generator.standard_normal((batch, cols)).astype(dtype) for cols in (inputs, outputs))
    given, up = Blocks.of(x, dtype), Blocks.of(dy, dtype, "constant")
    gradient = np.full((-(-outputs // panel), inputs + 1, panel), np.nan, dtype)
    place = worker(dtype, batch=batch, scratch=6 * panel**2)
    units = -(-inputs // panel) * len(gradient)
    place.run(dense.dense_parameter_gradient.by_feature, 0, units, by_panel=0, x=given.memory, x_cols=inputs,
              dy=up.memory, dy_cols=outputs, w_first=0, bias=1, gradient=gradient, onto=0, chain=0, dy_width=0,
              dy_panel=0, x_panel=0, w=0)
    whole = np.concatenate([gradient[o // panel, :, o % panel][None] for o in range(outputs)])
    terms = np.hstack([x, np.ones((batch, 1))])
    close(whole, dy.astype(np.float64).T @ terms, dtype, "product", batch, abs(dy).T @ abs(terms))
    assert not gradient.transpose(0, 2, 1).reshape(-1, inputs + 1)[outputs:].any()


def of_training(trainer):
    """The program of a trainer's steps, with the others that do the same."""
    return trainer._programs[next(key for key in trainer._programs if key[0] == "train")]


def trained(backend, dtype, net, loss, x, y, batch, **options):
    trainer = hl.Trainer(net(), loss, hl.Adam(lr=0.01), batch_size=batch, backend=backend, dtype=dtype)
    losses = trainer.fit(x, y, epochs=2, **options).loss
    return trainer, losses, trainer.net.state_dict()


def same_as_reference(dtype, net, loss, x, y, batch=23, by_feature=True, **options):
    """Train by both backends."""
    trainer, losses, state = trained("cpu", dtype, net, loss, x, y, batch, **options)
    assert (of_training(trainer).narrow is not None) is by_feature
    _, expected, reference = trained("numpy", dtype, net, loss, x, y, batch, **options)
    steps = 2 * -(-len(x) // batch)
    close(losses, expected, dtype, "training", steps * batch)
    for name, value in state.items():
        close(value, reference[name], dtype, "training", steps * batch, scale=1)


@pytest.mark.parametrize(("name", "reduction"), [
    (name, reduction) for name in LOSSES if name != "ZeroOneLoss" for reduction in LOSSES[name].reductions])
def test_losses(always_by_feature, dtype, name, reduction):
    def net():
        return hl.Sequential(hl.Dense(4, 6), hl.Tanh(), *head(LOSSES[name]()), seed=3)

    same_as_reference(dtype, net, LOSSES[name](reduction), X, TARGETS[name], batch=9,
                      by_feature=name not in AS_THEY_LIE, sample_weight=np.arange(len(X)) % 3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=[kind.__name__ for kind in ACTIVATIONS])
def test_activations(always_by_feature, dtype, activation):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((50, 3)), generator.standard_normal((50, 2))

    def net():
        return hl.Sequential(hl.Dense(3, 18), activation(), hl.Dense(18, 2), seed=1)

    elementwise = activation.__name__ not in ("LogSoftmax", "RReLU", "Softmax", "Softmin")
    same_as_reference(dtype, net, hl.MSELoss(), x, y, by_feature=elementwise)


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 17, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("widths", [(1, 1), (3, 1, 2), (5, 16, 4), (17, 33, 9), (70, 2, 70)])
def test_sizes(always_by_feature, dtype, widths, batch):
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((100, widths[0])), generator.standard_normal((100, widths[-1]))

    def net():
        parts = [part for pair in zip(widths, widths[1:], strict=False) for part in (hl.Dense(*pair), hl.ReLU())]
        return hl.Sequential(*parts[:-1], seed=3)

    same_as_reference(dtype, net, hl.MSELoss(), x, y, batch)


def test_options(always_by_feature, dtype):
    """What stands between gradient and update, and layers without a bias or used twice."""
    generator = np.random.default_rng(4)
    x, y = generator.standard_normal((60, 5)), generator.integers(0, 3, 60)
    made = []
    for backend in ("numpy", "cpu"):
        shared = hl.Dense(6, 6, bias=False)
        net = hl.Sequential(hl.Dense(5, 6), hl.Tanh(), shared, hl.Tanh(), hl.Dense(6, 3), seed=0)
        trainer = hl.Trainer(net, hl.CrossEntropyLoss(label_smoothing=0.1, weight=[1, 2, 0.5]), hl.AdamW(), l1=0.01,
                             l2=0.1, clip_norm=0.5, clip_value=0.1, batch_size=21, backend=backend, dtype=dtype)
        losses = trainer.fit(x, y, epochs=3, sample_weight=np.arange(60) % 4).loss
        made.append((losses, net.state_dict(), trainer.gradients(x, y)))
    assert of_training(trainer).narrow
    close(made[1][0], made[0][0], dtype, "training", 180)
    for found, expected in zip(made[1][1:], made[0][1:], strict=True):
        for name in expected:
            close(found[name], expected[name], dtype, "training", 180, scale=1)


def test_numbers_that_are_not_finite_are_noticed(always_by_feature):
    net = hl.Sequential(hl.Dense(3, 4), hl.ReLU(), hl.Dense(4, 2), seed=0)
    trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(), batch_size=40, check_finite=False)
    x = np.ones((40, 3))
    trainer.step(x, np.zeros(40, int))
    before, x[39, 2] = net.state_dict(), np.nan
    with pytest.raises(hl.NonFiniteError):
        trainer.fit(x, np.zeros(40, int))
    assert all(before[name].tobytes() == value.tobytes() for name, value in net.state_dict().items())
    with pytest.raises(hl.NonFiniteError):
        trainer.step(np.full((40, 3), np.inf, np.float32), np.zeros(40, int))
    assert all(before[name].tobytes() == value.tobytes() for name, value in net.state_dict().items())


def program(*parts, rows=64, loss=None, dtype="float32"):
    """The program that such a net is trained with, and all of them."""
    net = hl.Sequential(*parts)
    trainer = hl.Trainer(net, loss or hl.MSELoss(), hl.SGD(), batch_size=rows, dtype=dtype)
    first, last = parts[0].in_features, [part for part in parts if isinstance(part, layers.Dense)][-1].out_features
    found = trainer.program(np.ones((rows, first)), np.ones((rows, last)))
    return found, of_training(trainer)


def test_narrow_nets_are_trained_by_feature():
    lanes = vector("float32")[0]
    parts = hl.Dense(1, 2), hl.Tanh(), hl.Dense(2, 2), hl.Tanh(), hl.Dense(2, 1)
    narrow, every = program(*parts, rows=lanes)
    assert narrow.grain > 1 and narrow is every.narrow and every.narrow_rows <= lanes
    many, every = program(*parts, rows=every.many_rows)
    assert every.many_rows > lanes and many is every.many
    for parts in ([hl.Dense(64, 64), hl.ReLU(), hl.Dense(64, 64)], [hl.Dense(1000, 5)],
                  [hl.Dense(128, 256), hl.ReLU(), hl.Dense(256, 128)]):
        wide, every = program(*parts)
        assert wide.grain == 1 and every.narrow is None


@pytest.mark.parametrize("part", [hl.Dropout(0.5), hl.BatchNorm1d(4), hl.LayerNorm(4), hl.PReLU(), hl.Softmax()],
                         ids=lambda part: type(part).__name__)
def test_what_has_no_kernel_by_feature(always_by_feature, part):
    assert program(hl.Dense(3, 4), part, hl.Dense(4, 2))[1].narrow is None


@pytest.mark.parametrize("outputs", [1, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_predictions(always_by_feature, dtype, outputs, threads):
    made = []
    for backend in ("numpy", "cpu"):
        net = hl.Sequential(hl.Dense(3, 6), hl.Tanh(), hl.Dense(6, outputs), seed=1)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(), backend=backend, threads=threads, dtype=dtype)
        x = np.random.default_rng(0).standard_normal((1000, 3))
        made.append([trainer.predict(x[:rows]) for rows in (1, 33, 257, 1000, 33)])
    assert trainer._programs["predict", None].narrow
    for expected, found in zip(*made, strict=True):
        close(found, expected, dtype, "product", 6, scale=1)


def test_rows_are_dealt_out_in_whole_blocks(always_by_feature, dtype):
    """To any number of workers, with the same bits."""
    generator, found = np.random.default_rng(0), []
    x, y = generator.standard_normal((200, 5)), generator.integers(0, 3, 200)
    for threads in (1, 2, 3, 5):
        net = hl.Sequential(hl.Dense(5, 9), hl.Tanh(), hl.Dense(9, 3), seed=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hotloop.cost.workers", lambda program, rows, most, lending: most)
            trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(), batch_size=150, threads=threads, dtype=dtype)
            losses, program = trainer.fit(x, y, epochs=3).loss, trainer.program(x, y)
            assert trainer._backend.bind(program).workers == min(threads, -(-150 // program.grain))
            found.append((losses, trainer.predict(x).tobytes(), *(v.tobytes() for v in net.state_dict().values())))
    assert found == [found[0]] * 4


@pytest.mark.parametrize("tile", [6, 14, 24])
def test_blocks_of_rows_that_a_worker_takes_are_whole(always_by_feature, monkeypatch, dtype, tile):
    """Whatever the height of a tile, and however few rows are to stay in the cache."""
    monkeypatch.setattr(cpu_backend, "_SECOND_LEVEL", 1000)
    given = host().bindings(dtype)

    def shallow(dtype):
        return cpu_backend.Layout(np.dtype(dtype), given["LANES"], given["PANEL"], tile)

    monkeypatch.setattr(build, "layout", shallow)
    generator = np.random.default_rng(5)
    x, y = generator.standard_normal((300, 3)), generator.standard_normal((300, 2))

    def net():
        return hl.Sequential(hl.Dense(3, 5), hl.Tanh(), hl.Dense(5, 2), seed=0)

    trainer = hl.Trainer(net(), hl.MSELoss(), hl.SGD(), batch_size=300, dtype=dtype)
    program = trainer.program(x, y)
    bound = trainer._backend.bind(program)
    assert program.grain > 1 and bound.block % program.grain == 0 and bound.block < 300
    same_as_reference(dtype, net, hl.MSELoss(), x, y, 300)


@pytest.mark.parametrize("activation", [hl.Tanh, hl.ReLU, hl.Identity])
def test_an_activation_at_the_end_is_counted_once(always_by_feature, activation):
    _, every = program(hl.Dense(3, 5), hl.Tanh(), hl.Dense(5, 2), activation())
    assert by_feature.operations(every) == by_feature.operations(every.narrow)
    assert str(every.narrow).count(f"{activation.__name__.lower()}_backward") == str(every).count(
        f"{activation.__name__.lower()}_backward")


def test_the_model_of_a_step_counts_no_padding(always_by_feature):
    """Of columns; by feature, rows fill up vectors."""
    _, every = program(hl.Dense(1, 1), hl.Tanh(), hl.Dense(1, 1))
    lanes = vector("float32")[0]
    panels, narrow = (cost.seconds(cost.work(made, 100 * lanes), 1) for made in (every, every.narrow))
    assert narrow < panels / 2
    one, whole = ((step.rows, step.units) for step in (cost.work(every.narrow, rows) for rows in (1, lanes)))
    assert one == whole


def test_programs_change_with_the_rows_of_a_call(monkeypatch, dtype):
    monkeypatch.setattr("hotloop.build.narrow_rows", lambda program: 5)
    generator, made = np.random.default_rng(6), []
    x, y = generator.standard_normal((300, 3)), generator.standard_normal((300, 2))
    for backend in ("numpy", "cpu"):
        net = hl.Sequential(hl.Dense(3, 6), hl.Tanh(), hl.Dense(6, 2), seed=1)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=0.01), backend=backend, dtype=dtype)
        made.append([(trainer.step(x[:rows], y[:rows]), trainer.predict(x[:rows])) for rows in (4, 5, 4, 300, 33, 1)])
    for expected, found in zip(*made, strict=True):
        for one, other in zip(expected, found, strict=True):
            close(other, one, dtype, "training", 350, scale=1)


def test_an_epoch_in_one_batch_has_no_order():
    """Which would change nothing but the order of sums."""
    def losses(batch, shuffle):
        net = hl.Sequential(hl.Dense(3, 4), hl.ReLU(), hl.Dense(4, 2), seed=0)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.1), batch_size=batch, shuffle=shuffle)
        generator = np.random.default_rng(0)
        return trainer.fit(generator.standard_normal((50, 3)), generator.standard_normal((50, 2)), epochs=3).loss

    assert losses(50, True) == losses(50, False) == losses(99, True)
    assert losses(49, True) != losses(49, False)
