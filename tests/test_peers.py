"""The comparison with peers: results before times, rounds in turns, and what is written; NumPy stands for the peers."""

import json
import multiprocessing
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from asv_benchmarks.peers import __main__ as command
from asv_benchmarks.peers import facts, figures, reference, report, timer
from asv_benchmarks.peers.competitor import OWN, TF32_ERROR, Competitor, competitors, on_device
from asv_benchmarks.peers.workloads import WORKLOADS, Task, Workload, data, workload
from hotloop.device_arrays import DeviceArray
from hotloop.kernels import _cuda

ROOT = Path(__file__).parents[1]
NET = workload("5-8-7-3@6")
TASKS = [Task(NET, "sgd", 6, 4), Task(NET, "adam", 6, 4), Task(NET, "predict", 9),
         Task(Workload("numbers", (3, 8, 7, 2), 20, regression=True), "adam", 20)]


CEILINGS = {"CUDA of torch": "13.0", "float32 GFLOP/s": 60_000.0, "TF32 GFLOP/s": 400_000.0, "GB/s": 4_000.0}
ON_DEVICE = {"hotloop": [100.0, 110.0, 120.0], "hotloop in order": [50.0, 55.0, 60.0],
             "torch eager": [200.0, 220.0, 240.0], "torch graphs": [150.0, 165.0, 180.0],
             "torch eager TF32": [80.0, 88.0, 96.0], "torch graphs TF32": [40.0, 44.0, 48.0],
             "JAX jit": [300.0, 330.0, 360.0], "JAX scan": [250.0, 275.0, 300.0]}


def result(task=TASKS[0], ceilings=None, **times):
    """A result of made-up rounds; names have _ for what stands between name and threads."""
    times = {name.replace("_", ", "): found for name, found in times.items()}
    errors = {name: 1e-3 if "TF32" in name else 1e-7 for name in times}
    return figures.result(task, {"errors": errors, "microseconds": times, "asleep": 0.001}, ceilings)


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


@pytest.fixture
def device():
    """A device, or Numba's simulator."""
    try:
        _cuda.require()
    except _cuda.DeviceError as error:
        pytest.skip(str(error))


def test_on_a_device_the_data_lie_there_before_rounds_begin(device, monkeypatch):
    name, task = "hotloop_peer.OnDevice", TASKS[0]
    made = Competitor(name, name, None, ())(task)
    assert reference.check(task, name, made.results()) <= reference.TOLERANCE
    given = [array.reshape(-1, *array.shape[2:]) for array in data(task)]
    for there, array in zip((made.X, made.y), given, strict=True):
        assert isinstance(there, DeviceArray)
        np.testing.assert_array_equal(np.asarray(there), array)
    written, write = [], _cuda.Memory.write
    monkeypatch.setattr(_cuda.Memory, "write", lambda memory, array, *rest, **named: (
        written.append(array), write(memory, array, *rest, **named))[1])
    made.run(2)
    assert not any(np.array_equal(array, part) for array in written for part in given)


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


def test_tf32_may_be_off_by_what_its_rounding_makes():
    exact, allowed = reference.expected(TASKS[0])
    by_name = {one.name: one for one in on_device("sgd")}
    for name in ("torch eager TF32", "torch graphs TF32"):
        tolerance = by_name.pop(name).tolerance
        assert allowed < reference.check(TASKS[0], name, exact * (1 + TF32_ERROR / 2), True, tolerance) < TF32_ERROR
        with pytest.raises(reference.WrongResultError, match="off the float64 reference"):
            reference.check(TASKS[0], name, exact * (1 + 2 * TF32_ERROR), True, tolerance)
    assert [*by_name] == ["hotloop", "hotloop in order", "torch eager", "torch graphs", "JAX jit", "JAX scan"]
    assert not any(one.tolerance for one in [*by_name.values(), *competitors("sgd", [1, 2])])


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


def test_bytes_of_a_step():
    parameters = (5 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 3
    outputs = 6 * (8 + 7 + 3)
    assert Task(NET, "sgd", 6).bytes == 4 * (6 * 5 + 4 * parameters + 2 * outputs) + 8 * 6
    assert Task(NET, "adam", 6).bytes == 4 * (6 * 5 + 8 * parameters + 2 * outputs) + 8 * 6
    numbers = TASKS[3]
    assert numbers.bytes == 4 * (20 * (3 + 2) + 8 * (4 * 8 + 9 * 7 + 8 * 2) + 2 * 20 * (8 + 7 + 2))


def test_fractions_of_the_devices_peaks():
    task = Task(workload("4096-4096@4096"), "sgd", 4096, 4)
    found = result(task, CEILINGS, **ON_DEVICE)
    assert found["bytes"] == task.bytes
    assert found["of peak"].keys() == ON_DEVICE.keys()
    for name, rounds in ON_DEVICE.items():
        seconds = rounds[1] * 1e-6
        assert found["of peak"][name] == pytest.approx({"float32": task.flops / seconds / 60e12,
                                                        "bandwidth": task.bytes / seconds / 4e12})
    assert "of peak" not in result(task, {}, **ON_DEVICE)
    assert "bytes" not in result(task, **ON_DEVICE)
    assert [*map(figures.percent, (1.2345, 0.98765, 0.01, 0.00012))] == ["123%", "98.8%", "1.0%", "0.012%"]


def test_the_screen_tells_of_peaks_and_of_what_hotloop_is_held_against():
    lines = report.screen(result(Task(workload("4096-4096@4096"), "sgd", 4096), CEILINGS, **ON_DEVICE)).splitlines()
    assert lines[0].endswith("all within 1e-07 of the float64 reference, with TF32 within 1e-03")
    assert lines[1].split() == ["us", "GFLOP/s", "to", "hotloop", "of", "float32", "of", "bandwidth"]
    rows = {line[:32].strip(): line[32:].split() for line in lines[2:10]}
    assert [*rows] == [*ON_DEVICE]
    assert len({len(line) for line in lines[1:10]}) == 1
    assert rows["torch graphs TF32"][0] == "44.0"
    assert rows["torch graphs TF32"][2] == "0.40x"
    assert lines[10:] == [
        "hotloop is 2.0x as fast as torch eager, 1.50x as fast as torch graphs, 1.50x as fast as cuBLAS float32",
        "hotloop in order is 4.0x as fast as torch eager, 3.0x as fast as torch graphs, "
        "3.0x as fast as cuBLAS float32"]
    assert "cuBLAS" not in report.screen(result(TASKS[0], CEILINGS, **ON_DEVICE))
    alone = report.screen(result(TASKS[0], {}, hotloop=[1.0, 2.0], JAX_jit=[3.0, 4.0]))
    assert "as fast as" not in alone
    assert "of float32" not in alone


def test_the_table_of_a_device_has_every_ratio():
    wide = result(Task(workload("4096-4096@4096"), "adam", 4096), CEILINGS, **ON_DEVICE)
    alone = result(TASKS[0], {}, hotloop=[1.0, 3.0])
    _, _, first, second = report.device_table([wide, alone]).splitlines()[:4]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:8] == ["4096-4096, batch 4,096, Adam", "110", "55.0 (0.50x)", "220 (2.0x)", "165 (1.50x)",
                         "165 (1.50x)", "44.0 (0.40x)", "275 (2.5x)"]
    assert cells[8:] == [figures.percent(value) for value in wide["of peak"]["hotloop"].values()]
    assert second == "| 5-8-7-3, batch 6, SGD | 2.0 |  |  |  |  |  |  |  |  |"


def test_a_device_is_named_by_numba_cuda_and_nvidia_smi(monkeypatch):
    cuda = SimpleNamespace(
        get_current_device=lambda: SimpleNamespace(name="NVIDIA H200", compute_capability=(9, 0),
                                                   MULTIPROCESSOR_COUNT=132),
        current_context=lambda: SimpleNamespace(get_memory_info=lambda: (2**36, 140 * 2**30)),
        driver=SimpleNamespace(driver=SimpleNamespace(get_version=lambda: (13, 0))),
        runtime=SimpleNamespace(get_version=lambda: (12, 9)))
    monkeypatch.setattr(_cuda, "SIMULATED", False)
    monkeypatch.setattr(_cuda, "target", lambda: cuda)
    monkeypatch.setattr(facts, "driver", lambda: "580.65.06")
    assert facts.device() == {
        "device": "NVIDIA H200", "compute capability": "9.0", "multiprocessors": 132, "device memory": "140.0 GiB",
        "driver": "580.65.06", "CUDA of the driver": "13.0", "CUDA of the compiler": "12.9"}
    monkeypatch.setattr(_cuda, "SIMULATED", True)
    assert facts.device() == {"device": "Numba's simulator"}


@pytest.mark.parametrize(("path", "answer", "expected"), [
    (None, None, "unknown: nvidia-smi is not there"), ("there", "580.65.06\n580.65.06\n", "580.65.06"),
    ("there", "", "unknown: nvidia-smi lists no device"), ("there", OSError("not here"), "unknown: not here"),
    ("there", subprocess.CalledProcessError(9, "nvidia-smi"), "unknown: Command 'nvidia-smi' returned")])
def test_the_driver_is_named_where_nvidia_smi_knows_it(path, answer, expected, monkeypatch):
    def run(*arguments, **options):
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(facts.shutil, "which", lambda name: path)
    monkeypatch.setattr(facts.subprocess, "run", run)
    assert facts.driver().startswith(expected)


def test_jax_leaves_memory_of_the_device_to_others():
    for one in on_device("sgd"):
        assert one.environment == ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if "jax" in one.packages else {})


@pytest.mark.parametrize("ceilings", [CEILINGS, {}], ids=["with torch", "without torch"])
def test_a_run_on_a_device_is_told_kept_and_told_again(ceilings, monkeypatch, capsys, tmp_path):
    rounds = {name: times for name, times in ON_DEVICE.items() if ceilings or "torch" not in name}
    monkeypatch.setattr(command, "_require_device", lambda: None)
    monkeypatch.setattr(command, "_ceilings", lambda: ceilings)
    monkeypatch.setattr(command, "device", lambda: {"device": "NVIDIA H200", "driver": "580.65.06"})
    monkeypatch.setattr(timer, "measure", lambda *arguments: {
        "errors": dict.fromkeys(rounds, 1e-7), "microseconds": rounds, "asleep": 0.0})
    file = tmp_path / "peers.json"
    asked = ["--device", "--only", "tiny,4096-4096@4096"]
    monkeypatch.setattr(command.sys, "argv", ["peers", *asked, "--json", str(file)])
    command.main()
    told = capsys.readouterr().out
    peaks = "float32 GFLOP/s at most: 60,000" if ceilings else "peaks: not measured, as torch is not installed"
    for line in ("- device: NVIDIA H200", "- driver: 580.65.06", f"- {peaks}",
                 "| 4096-4096, batch 4,096, Adam | 110 | 55.0 (0.50x) |"):
        assert line in told
    kept = json.loads(file.read_text("utf-8"))
    assert kept["facts"]["device"] == "NVIDIA H200"
    assert [one["bytes"] for one in kept["results"]] == [
        task.bytes for task in command.tasks(command.command_line(asked))]
    assert all(("of peak" in one) == bool(ceilings) for one in kept["results"])
    monkeypatch.setattr(command.sys, "argv", ["peers", "--read", str(file)])
    command.main()
    again = capsys.readouterr().out
    for line in told.splitlines():  # but for the last digit of a percentage, of which the file has four
        assert line[:64] in again or line.startswith("not installed")
