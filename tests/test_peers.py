"""The comparison with peers: results before times, rounds in turns, and what is written; NumPy stands for the peers."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from asv_benchmarks.peers import __main__ as command
from asv_benchmarks.peers import figures, reference, report, timer
from asv_benchmarks.peers.competitor import OWN, Competitor, competitors
from asv_benchmarks.peers.workloads import WORKLOADS, Task, Workload, workload

ROOT = Path(__file__).parents[1]
NET = workload("5-8-7-3@6")
TASKS = [Task(NET, "sgd", 6, 4), Task(NET, "adam", 6, 4), Task(NET, "predict", 9),
         Task(Workload("numbers", (3, 8, 7, 2), 20, regression=True), "adam", 20)]


def result(task=TASKS[0], **times):
    """A result of made-up rounds; names have _ for what stands between name and threads."""
    times = {name.replace("_", ", "): found for name, found in times.items()}
    return figures.result(task, {"errors": dict.fromkeys(times, 1e-7), "microseconds": times, "asleep": 0.001})


def record():
    """Training and prediction of `tiny`, start and memory."""
    tiny = WORKLOADS["tiny"]
    rounds = {"hotloop": [4.0, 5.0, 8.0], "JAX_1 thread": [16.0, 20.0, 24.0], "JAX_2 threads": [17.0, 18.0, 40.0],
              "torch eager_1 thread": [500.0, 600.0, 1400.0]}
    return {"facts": {"cores": 2, "rounds": 3}, "absent": ["scikit-learn (needs sklearn)"],
            "results": [result(Task(tiny, "sgd", 32, 1000), **rounds), result(Task(tiny, "predict", 1), **rounds)],
            "start": {"import numpy": [[0.2], [0.3], [0.2]], "hotloop, empty cache": [[5.0, 5.1]] * 3},
            "memory": {"hotloop": {"peak": 110e6, "must": 100e6, "grown": 5000}}}


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_numpy_and_hotloop_find_what_the_reference_finds(task):
    names = (["numpy_peer.Predict", "hotloop_peer.Predict"] if task.goal == "predict"
             else ["numpy_peer.Training", "hotloop_peer.Fit", "hotloop_peer.Ordered", "hotloop_peer.Step"])
    for name in names:
        made = Competitor(name, name, 1, ())(task)
        assert reference.check(task, name, made.results(), made.compared) <= reference.TOLERANCE
        made.run(2)


def test_wrong_results_are_refused():
    exact, allowed = reference.expected(TASKS[0])
    assert reference.check(TASKS[0], "peer", exact * (1 + allowed / 2)) == pytest.approx(allowed / 2)
    for wrong in (exact * (1 + 2 * allowed), exact * np.nan, exact[:-1]):
        with pytest.raises(reference.WrongResultError, match=r"peer, 5-8-7-3, batch 6, sgd"):
            reference.check(TASKS[0], "peer", wrong)
    assert reference.check(TASKS[0], "peer", [2.0, 1.0], compared=False) is None
    with pytest.raises(reference.WrongResultError, match="does not fall"):
        reference.check(TASKS[0], "peer", [1.0, np.nan], compared=False)


@pytest.mark.parametrize("task", [Task(workload("4-1-1@1"), goal, 1) for goal in ("sgd", "adam")], ids=str)
def test_an_error_is_absolute_where_zero_is_exact(task):
    exact, allowed = reference.expected(task)
    assert not exact.any()
    assert np.isfinite(allowed)
    assert reference.check(task, "peer", exact) == 0
    assert reference.check(task, "peer", exact + allowed / 2) == pytest.approx(allowed / 2)
    for wrong in (exact + 2 * allowed, exact * np.nan):
        with pytest.raises(reference.WrongResultError, match="off the float64 reference"):
            reference.check(task, "peer", wrong)


def test_a_process_ends_silently_when_nobody_listens():
    for requests in ([], ["results"]):
        ours, theirs = multiprocessing.Pipe()
        for request in requests:
            ours.send(request)
        ours.close()
        timer.serve(theirs, Competitor("NumPy", "numpy_peer.Training", 1, ()), TASKS[0])


def test_processes_are_checked_and_timed_in_turns(monkeypatch):
    monkeypatch.setattr(timer, "ROUND_SECONDS", 0.01)
    entered = [Competitor(OWN, "hotloop_peer.Fit", None, (OWN,)), Competitor("NumPy", "numpy_peer.Training", 1, ())]
    measured = timer.measure(TASKS[0], entered, rounds=2)
    assert list(measured["microseconds"]) == ["hotloop", "NumPy, 1 thread"]
    assert [*map(len, measured["microseconds"].values())] == [2, 2]
    assert min(map(min, measured["microseconds"].values())) > 0
    assert max(measured["errors"].values()) <= reference.TOLERANCE


def test_a_process_that_fails_ends_the_run(capfd):
    with pytest.raises(SystemExit, match="nobody, 1 thread failed"):
        timer.measure(TASKS[0], [Competitor("nobody", "numpy_peer.Nobody", 1, ())], rounds=1)
    assert "has no attribute 'Nobody'" in capfd.readouterr().err


def test_rounds_go_in_turns_and_sleepers_are_watched():
    asked = []

    class Entrant:
        def __init__(self, name):
            self.name = name

        def ask(self, request):
            asked.append(self.name + request[0])
            return len(asked)

        def seconds(self):
            return 0.0

    times, asleep = timer.interleave([Entrant("a"), Entrant("b")], 2)
    assert (asked, times, asleep) == (["ar", "br", "ar", "br"], {"a": [1, 3], "b": [2, 4]}, 0.0)


def test_ratios_are_medians_of_the_rounds_ratios():
    found = record()["results"][0]
    assert figures.ratio(found, "JAX, 1 thread") == 4.0
    assert figures.best(found) == "JAX, 2 threads"
    assert figures.best(found, "torch eager") == "torch eager, 1 thread"
    assert figures.best(found, "NumPy") is None
    assert (figures.times(1.046), figures.times(3.14159), figures.times(125.4)) == ("1.05x", "3.1x", "125x")
    assert (figures.digits(3.84), figures.digits(104842.3)) == ("3.8", "104,842")


def test_the_readme_shows_the_best_peer_and_torch():
    assert "| tiny 2-16-16-2, batch 32 | SGD | 5.0 | 18.0 JAX | 4.2x | 600 | 125x |" in report.summary(record())
    assert "| tiny 2-16-16-2 | 5.0 | 18.0 JAX | 4.2x |" in report.summary(record())
    assert "times as fast as torch eager: 125x for 2-16-16-2" in report.caption(record()).replace("\n", " ")


def test_without_torch_the_caption_tells_of_the_best_peer():
    found = record()
    for each in found["results"]:
        del each["microseconds"]["torch eager, 1 thread"]
    assert "as the best peer: 4.2x for 2-16-16-2" in report.caption(found).replace("\n", " ")
    assert "| 4.2x |  |  |" in report.summary(found)


def test_documents_are_written_and_can_be_written_again(tmp_path):
    pytest.importorskip("matplotlib")
    from asv_benchmarks.peers.documents import put, write

    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    write(record(), tmp_path)
    readme, page = (tmp_path / "README.md").read_text("utf-8"), (tmp_path / "docs" / "peers.md").read_text("utf-8")
    assert report.summary(record()) in readme
    assert report.caption(record()) in readme
    for line in ("- not installed, so not timed: scikit-learn (needs sklearn)", "| largest error | 1e-07 |",
                 "| hotloop | **5.0** |", "| 18.0 (4.2x) |",
                 "| hotloop, empty cache: first step of small | 5.00 | +0.10 |"):
        assert line in page
    assert (tmp_path / "docs" / "speed.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads((tmp_path / "docs" / "peers.json").read_text("utf-8"))
    write(again, tmp_path)
    assert (tmp_path / "README.md").read_text("utf-8") == readme
    with pytest.raises(ValueError, match="no place"):
        put(readme, "elsewhere", "")


def test_the_command_line_names_what_is_timed():
    quick = command.tasks(command.command_line(["--quick", "--only", "tiny,30-40-5@17"]))
    assert [str(task) for task in quick] == ["tiny 2-16-16-2, batch 32, sgd", "30-40-5, batch 17, sgd"]
    everything = command.tasks(command.command_line([]))
    assert len(everything) == 11 + 18
    assert len({*everything}) == len(everything)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "huge"], "unknown workload 'huge'"), (["--only", "4-0-1@3"], "unknown workload '4-0-1@3'"),
    (["--only", "4-3-1@0"], "unknown workload '4-3-1@0'"), (["--all", "1-2@x"], "unknown workload '1-2@x'"),
    (["--optimizer", "lion"], "--optimizer takes"), (["--threads", "0"], "numbers from 1 on"),
    (["--rounds", "0"], "numbers from 1 on"), (["--quick", "--rounds", "0"], "numbers from 1 on"),
    (["--quick", "--write"], "--quick is not for --write"), (["learn"], "the parts are train, predict, start, memory")])
def test_the_command_line_refuses(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.command_line(arguments)
    assert message in capsys.readouterr().err


def test_the_help_names_the_parts(capsys):
    with pytest.raises(SystemExit):
        command.command_line(["--help"])
    assert "train, predict, start, memory: all, if none is named" in capsys.readouterr().out


def test_who_is_not_installed_is_known():
    assert Competitor("ghost", "ghost_peer.Training", 1, ("numpy", "no_such_package")).missing == ["no_such_package"]
    for goal in ("sgd", "predict"):
        names = [str(one) for one in competitors(goal, [1, 2], compiled=True)]
        assert len(set(names)) == len(names)
        assert names[0] == OWN


def test_operations_of_a_step():
    assert Task(NET, "predict", 6).flops == 2 * 6 * (5 * 8 + 8 * 7 + 7 * 3)
    assert Task(NET, "sgd", 6).flops == 2 * 6 * (2 * 5 * 8 + 3 * 8 * 7 + 3 * 7 * 3)
