"""How many workers a step gets."""

import conftest
import numpy as np
import pytest

import hotloop as hl
from hotloop import cost, cpu_backend, team


def program(*widths, optimizer=None):
    layers = [layer for sizes in zip(widths, widths[1:], strict=False) for layer in (hl.Dense(*sizes), hl.ReLU())]
    trainer = hl.Trainer(hl.Sequential(*layers[:-1]), hl.MSELoss(), optimizer or hl.SGD(lr=0.1))
    return trainer.program(np.zeros((1, widths[0]), np.float32), np.zeros((1, widths[-1]), np.float32))


@pytest.fixture
def machine(monkeypatch):
    """Make the machine one of so many cores."""
    return lambda count: monkeypatch.setattr(cost, "cores", lambda: count)


def test_a_small_step_gets_one_worker_a_large_one_all(machine):
    machine(64)
    assert cost.workers(program(2, 16, 2), 32, 64) == 1
    assert cost.workers(program(1024, 2048, 2048, 1000), 256, 64) == 64


def test_no_more_workers_than_cores_or_than_asked_for(machine):
    machine(2)
    assert cost.workers(program(784, 256, 10), 128, 64) == 2
    machine(64)
    assert cost.workers(program(784, 256, 10), 128, 3) == 3


@pytest.mark.parametrize("widths", [(2, 16, 2), (64, 128, 10), (784, 256, 128, 10)])
@pytest.mark.parametrize("rows", [1, 32, 1000])
def test_the_choice_is_the_best_of_all_counts_and_grows_with_the_limit(widths, rows, machine):
    machine(64)
    made = program(*widths)
    parts = cost.work(made, rows)
    chosen = [cost.workers(made, rows, most) for most in range(1, 65)]
    assert chosen == sorted(chosen)
    times = [cost.seconds(parts, count) for count in chosen]
    assert times == sorted(times, reverse=True)
    assert times[-1] == min(cost.seconds(parts, count) for count in range(1, 65))


def test_blocks_of_rows_are_not_cut(always_by_feature):
    """More workers than blocks have nothing to do; by feature a block is a panel of rows."""
    trainer = hl.Trainer(hl.Sequential(hl.Dense(4, 40), hl.Tanh(), hl.Dense(40, 4)), hl.MSELoss(), hl.SGD())
    made = trainer._program("predict", None, 5000)
    for blocks in (1, 3):
        step = cost.work(made, blocks * made.grain)
        assert (step.blocks, step.units, step.most) == (blocks, (), blocks) and made.grain > 1
        assert cost.seconds(step._replace(barriers=0), 8) == cost.seconds(step._replace(barriers=0), blocks)


def by_columns(*widths, **options):
    """The programs of a training step by rows and by columns."""
    layers = [layer for sizes in zip(widths, widths[1:], strict=False) for layer in (hl.Dense(*sizes), hl.ReLU())]
    trainer = hl.Trainer(hl.Sequential(*layers[:-1]), hl.CrossEntropyLoss(), hl.SGD(lr=0.1), **options)
    trainer.program(np.zeros((1, widths[0]), np.float32), np.zeros(1, np.int64))
    program = next(made for key, made in trainer._programs.items() if key[0] == "train")
    return program, program.few


@pytest.mark.parametrize("options", [{}, {"l2": 0.01}, {"clip_norm": 1.0}])
def test_parameters_are_shared_but_for_columns_of_ones_own(options, machine):
    """A penalty reads them as their gradient does; what no cache keeps is counted nowhere."""
    machine(2)
    itemsize, (rows, columns) = 4, (by_columns(784, 256, 128, 10, **options))
    first, second, last = (rows.layout.block(*sizes) for sizes in ((784, 256), (256, 128), (128, 10)))
    saved = cost.work(rows, 8).shared - cost.work(columns, 8).shared
    inputs = sum(8 * rows.layout.width(cols) for cols in (784, 256, 128))
    assert cost.work(rows, 8).shared >= itemsize * (first + second + last + inputs)
    assert saved == itemsize * (first + second / 2)
    large = cost.work(by_columns(1024, 2048, 4)[0], 8).shared - cost.work(by_columns(1024, 2048, 4)[1], 8).shared
    assert large == 0


def test_a_batch_spills_where_products_follow_each_other():
    rows, columns = by_columns(784, 256, 128, 10)
    assert [cost.work(columns, count).spilled > 0 for count in (128, 1024)] == [False, True]
    assert cost.work(rows, 1024).spilled == 0
    step = cost.work(columns, 1024)
    assert cost.seconds(step, 2) - cost.seconds(step._replace(spilled=0), 2) == pytest.approx(step.spilled / cost.SPILL)


def test_pieces_of_a_stage_are_dealt_out_whole():
    step = cost.Work(0.0, ((1.0, 4), (1.0, 100)), 1, 0, 0.0, 0.0, 0.0)
    assert [cost.seconds(step, count) for count in (1, 2, 3, 4, 100)] == pytest.approx(
        [2, 1, 0.5 + 0.34, 0.25 + 0.25, 0.25 + 0.01])


def test_work_grows_with_rows_widths_and_states():
    little, wide, heavy = (cost.work(made, 64) for made in (
        program(20, 30, 4), program(20, 60, 4), program(20, 30, 4, optimizer=hl.Adam())))
    assert cost.work(program(20, 30, 4), 128).rows > little.rows < wide.rows
    assert wide.units > little.units < heavy.units
    assert wide.shared > little.shared > 0


def test_a_run_takes_what_is_worth_of_what_is_free(machine, monkeypatch):
    monkeypatch.setattr(cpu_backend._Bound, "pace", conftest.PACE)
    machine(4)
    monkeypatch.setattr(team, "cores", lambda: 4)
    taken = []
    run = team.Team.run
    monkeypatch.setattr(team.Team, "run", lambda self, workers: (taken.append(workers), run(self, workers))[1])
    for hidden, rows, threads in ((512, 256, None), (512, 256, 2), (1, 4, None), (1, 4, 4)):
        net = hl.Sequential(hl.Dense(20, hidden), hl.ReLU(), hl.Dense(hidden, 10))
        X = np.random.default_rng(0).standard_normal((rows, 20)).astype(np.float32)
        hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.01), batch_size=rows, threads=threads).fit(X, X[:, :10])
    assert taken == [4, 2, 1, 1]


def test_the_model_is_held_against_the_clock(capsys):
    """The command behind the table of docs/performance.md, which looks into the backend."""
    from asv_benchmarks import scaling

    pace = cpu_backend._Bound.pace
    scaling.main(["--nets", "3-4-2@8,2-8-8-2@2000", "--rounds", "2"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.count("|") for row in rows] == [head.count("|")] * 2 and "2-8-8-2, 2000" in rows[1]
    assert cpu_backend._Bound.pace is pace
