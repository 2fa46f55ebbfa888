"""Few rows: products whose columns are dealt out to the workers, and when they are."""

from itertools import pairwise

import numpy as np
import pytest
import test_networks
from hypothesis import given
from hypothesis import strategies as st
from test_gemm import Panels

import hotloop as hl
from hotloop import build, cost, plan, team
from hotloop.kernels._target import host
from hotloop.kernels.columns import dense_columns
from hotloop.kernels.dense import dense_forward, dense_parameter_gradient
from hotloop.kernels.gemm import PLAIN, POSITIVE


@pytest.fixture
def deal_columns(monkeypatch):
    """Deal out the columns of every product, up to so many rows."""
    def choose(rows):
        monkeypatch.setattr(plan, "_SHARED", 1)
        monkeypatch.setattr(build, "shared", lambda *block: True)
        monkeypatch.setattr(cost, "few_rows", lambda *programs: rows)

    return choose


@pytest.mark.parametrize("finish", [PLAIN, POSITIVE])
@pytest.mark.parametrize("columns", [1, 16, 33, 64, 75, 130])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
def test_columns_are_those_of_the_whole_product(worker, dtype, rows, columns, finish):
    """To the bit, however the panels are cut."""
    generator, depth, panel = np.random.default_rng(0), 37, host().bindings(dtype)["PANEL"]
    panels = -(-columns // panel)
    x, w = (Panels(generator.standard_normal(shape).astype(dtype), dtype)
            for shape in ((rows, depth), (depth + 1, panels * panel)))
    operands = {"x": x.memory, "x_panel": x.distance, "x_cols": depth, "w": w.memory, "finish": finish, "chain": 0,
                "y_cols": columns}

    def product(kernel, *parts):
        y, place = Panels.empty(rows, columns, dtype), worker(dtype, batch=rows)
        for low, high in parts:
            assert place.run(kernel, low, high, y=y.memory, y_panel=y.distance, **operands) == 0
        return y.values.tobytes()

    whole = product(dense_forward, (0, rows))
    for cut in range(panels + 1):
        assert product(dense_columns, (cut, panels), (0, cut)) == whole


@given(inputs=st.integers(1, 300), outputs=st.integers(1, 130), batch=st.sampled_from([3, 900]), cuts=st.sets(
    st.integers(1, 60), max_size=4), bias=st.booleans(), kind=st.sampled_from(["float32", "float64"]))
def test_gradients_panel_by_panel_are_those_row_by_row(worker, inputs, outputs, batch, cuts, bias, kind):
    """To the bit, wherever the units are cut; each unit once. Where rows are many, few strips are taken at once."""
    dtype, generator = np.dtype(kind), np.random.default_rng(inputs)
    panel = host().bindings(dtype)["PANEL"]
    x, dy = (Panels(generator.standard_normal((batch, cols)).astype(dtype), dtype) for cols in (inputs, outputs))
    panels, strips = -(-outputs // panel), -(-inputs // panel)
    operands = {"x": x.memory, "x_panel": x.distance, "x_cols": inputs, "dy": dy.memory, "dy_panel": dy.distance,
                "dy_cols": outputs, "dy_width": panels * panel, "w": 0, "w_first": 0, "bias": bias, "chain": 0}

    def gradient(by_panel, *edges):
        found, place = np.zeros((panels, inputs + 1, panel), dtype), worker(dtype, batch=batch, scratch=8 * panel**2)
        for low, high in pairwise(edges):
            made = np.zeros_like(found)
            assert place.run(dense_parameter_gradient, low, high, by_panel=by_panel, gradient=made, onto=made,
                             **operands) == 0
            assert not (found.astype(bool) & made.astype(bool)).any()
            found += made
        return found.tobytes()

    units = panels * strips
    assert gradient(1, *sorted({0, *(cut for cut in cuts if cut < units), units})) == gradient(0, 0, units)


@test_networks.nets
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_net_by_columns(make, dtype, threads, deal_columns):
    """Training and use of it leave the bits that they leave by rows."""
    def run():
        return test_networks.trained(test_networks.trainer_of(
            test_networks.network(make), hl.Adam(), dtype=dtype, threads=threads, l2=0.01, clip_norm=1.0))

    expected = run()
    deal_columns(2**20)
    test_networks.assert_same(run(), expected)


@pytest.mark.parametrize("activation", [hl.Identity, hl.ReLU, hl.Tanh, hl.Mish, hl.Hardswish, hl.LeakyReLU])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_around_the_threshold(activation, threads, dtype, deal_columns):
    """Steps and predictions of up to 5 rows go by columns here, in brief and not; their bits are those by rows."""
    def run(rows):
        deal_columns(rows)
        net = hl.Sequential(hl.Dense(70, 90), activation(), hl.Dense(90, 33), activation(), hl.Dense(33, 1), seed=1)
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.01), dtype=dtype, threads=threads)
        generator, found = np.random.default_rng(2), []
        for size in (5, 6, 5, 6, 1, 1, 2, 2, 4, 9):
            x, y = generator.standard_normal((size, 70)), generator.standard_normal((size, 1))
            one_by_one = [trainer.predict(x[i : i + 1])[0] for i in range(size)]
            assert trainer.predict(x).tobytes() == np.array(one_by_one).tobytes()
            found += [trainer.step(x, y), trainer.predict(x).tobytes()]
        return found, [value.tobytes() for value in trainer.state_dict().values()], trainer._briefs

    *found, briefs = run(5)
    *expected, alone = run(0)
    assert found == expected
    assert [sorted((brief.least, brief.most) for brief in briefs[goal].values()) for goal in ("train", "predict")] == [
        [(1, 5), (6, 256)]] * 2
    assert all(len(made) == 1 for made in alone.values())


def test_wrong_numbers_are_refused_and_change_nothing(deal_columns):
    deal_columns(8)
    trainer = hl.Trainer(hl.Sequential(hl.Dense(40, 90), hl.Dense(90, 30)), hl.CrossEntropyLoss(), hl.SGD(), threads=2)
    x, y = np.ones((4, 40), np.float32), np.zeros(4, np.int64)
    trainer.step(x, y), trainer.predict(x)
    before = trainer.state_dict()
    x[3, 39] = np.nan
    for call in (lambda: trainer.step(x, y), lambda: trainer.predict(x)):
        with pytest.raises(ValueError, match="nan in row 3, column 39"):
            call()
    x[:], y[2] = 1, 30
    with pytest.raises(ValueError, match="label 30 in row 2"):
        trainer.step(x, y)
    test_networks.assert_same(trainer.state_dict(), before)


def trainer_of(*widths):
    layers = [layer for sizes in zip(widths, widths[1:], strict=False) for layer in (hl.Dense(*sizes), hl.ReLU())]
    return hl.Trainer(hl.Sequential(*layers[:-1]), hl.MSELoss(), hl.SGD(lr=0.1))


def test_few_rows_of_wide_nets_go_by_columns(monkeypatch):
    monkeypatch.setattr(cost, "cores", lambda: 2)
    monkeypatch.setattr(build, "cores", lambda: 2)
    wide, narrow = trainer_of(784, 512, 512, 10), trainer_of(20, 16, 2)
    assert narrow._program("predict", None, 1).few is None
    few, many = (wide._program("predict", None, rows) for rows in (1, 1000))
    assert few is many.few and 1 <= many.few_rows < 1000
    assert [instruction.phase for instruction in few.instructions] == ["rows", "units", "units", "rows", "rows"]
    assert {instruction.phase for instruction in many.instructions} == {"rows"}
    assert cost.workers(few, 1, 2) == 2
    assert cost.seconds(cost.work(few, 1), 2) < cost.seconds(cost.work(many, 1), 1)


def test_training_goes_by_columns_where_parameters_outweigh_activations(monkeypatch):
    """Who changes some columns multiplies by them in the next step."""
    monkeypatch.setattr(cost, "cores", lambda: 2)
    monkeypatch.setattr(build, "cores", lambda: 2)
    found = {}
    for widths in ((784, 256, 128, 10), (64, 64, 10)):
        trainer = trainer_of(*widths)
        trainer.step(np.zeros((2, widths[0])), np.zeros((2, widths[-1])))
        program = next(made for key, made in trainer._programs.items() if key[0] == "train")
        found[widths] = [program.best(rows) is program.few for rows in (1, 128)]
        for made, by_panel in ((program, 0), (program.few, 1)):
            if made is not None:
                products = [part for part in made.listed() if part.op == "dense_parameter_gradient"]
                assert products and {part.operands["by_panel"] for part in products} == {by_panel}
    assert found == {(784, 256, 128, 10): [True, True], (64, 64, 10): [False, False]}


@pytest.mark.parametrize(("threads", "count"), [(None, 2), (1, 1), (2, 2)])
def test_one_row_of_a_wide_net_is_worth_several_workers(monkeypatch, threads, count):
    monkeypatch.setattr(cost, "cores", lambda: 2)
    monkeypatch.setattr(build, "cores", lambda: 2)
    monkeypatch.setattr(team, "spare", lambda: 2)
    trainer = trainer_of(1024, 2048, 2048, 1000)
    trainer.predict(np.zeros((1, 1024)))
    (brief,) = trainer._briefs["predict"].values()
    assert brief.bound.pace(threads, 1).count == count


def test_many_workers_take_columns_of_more_rows():
    program = trainer_of(1024, 2048, 2048, 1000)._program("predict", None, 1000)
    found = []
    for count in (2, 16, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cost, "cores", lambda count=count: count)
            found.append(cost.few_rows(program, program.few, 64))
    assert found == sorted(found) and found[-1] > found[0]
