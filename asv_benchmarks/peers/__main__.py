"""Time hotloop beside its peers on the CPU: training steps, predictions, the start of a process, memory.

    python -m asv_benchmarks.peers [train] [predict] [start] [memory] [--only tiny,30-40-5@17] [--write]
    python -m asv_benchmarks.peers --quick      # a minute or two: SGD on three nets, three rounds
    python -m asv_benchmarks.peers --device     # training on a CUDA device, beside what it can do at most

Results are checked before anything is timed. Everyone has a process of its own, which sleeps while another one is
timed; rounds go in turns; what is printed are medians, and as the ratio to hotloop the median of the rounds' ratios.
Who is not installed is named and left out. docs/peers.md says the rest.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from .competitor import competitors, cores, on_device
from .facts import device, facts
from .figures import dump, result
from .page import conditions, memory_table, start_table
from .reference import WrongResultError
from .report import device_table, screen
from .workloads import WORKLOADS, Task, workload

PARTS = ("train", "predict", "start", "memory")
ROWS = (1, 32, 1024)  # of a prediction
QUICK = {"parts": PARTS[:1], "only": "tiny,small,mnist", "optimizer": "sgd", "rounds": 3}
FULL = {"parts": PARTS, "only": ",".join(WORKLOADS), "optimizer": "sgd,adam", "rounds": 7}


def command_line(arguments):
    """The options, names resolved."""
    parser = argparse.ArgumentParser("python -m asv_benchmarks.peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}: all, if none is named")
    parser.add_argument("--only", help="nets by name, or widths and batch such as 30-40-5@17, with commas between")
    parser.add_argument("--optimizer", help="sgd,adam")
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, cores()}))), help="numbers to try: 1,2")
    parser.add_argument("--rounds", type=int,
                        help=f"of a fifth of a second each: {FULL['rounds']}, with --quick {QUICK['rounds']}")
    parser.add_argument("--all", nargs="?", const=FULL["only"], default="", metavar="NETS",
                        help="torch.compile, too, for all nets or those named")
    parser.add_argument("--quick", action="store_true", help="few rounds of three nets' training")
    parser.add_argument("--device", action="store_true", help="training on a CUDA device, which is for no document")
    parser.add_argument("--write", action="store_true", help="write README, docs/peers.md, peers.json and speed.png")
    parser.add_argument("--json", metavar="FILE", help="write all rounds to a file")
    parser.add_argument("--read", metavar="FILE", help="time nothing, take the rounds from such a file")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) in (None, "", []):
            setattr(options, name, value)
    try:
        options.nets, options.compiled = ([workload(name) for name in names.split(",") if name]
                                          for names in (options.only, options.all))
        options.threads = sorted({int(count) for count in options.threads.split(",")})
    except ValueError as error:
        parser.error(str(error))
    if not set(options.parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    if options.quick and options.write:
        parser.error("--quick is not for --write: so few rounds do not go into the documents")
    if options.device and options.write:
        parser.error("--device is not for --write: the documents are those of the CPU; take --json")
    if options.device:
        options.parts = PARTS[:1]
    options.optimizers = options.optimizer.split(",")
    if not set(options.optimizers) <= {"sgd", "adam"} or options.threads[0] < 1 or options.rounds < 1:
        parser.error("--optimizer takes sgd and adam, --threads and --rounds numbers from 1 on")
    return options


def tasks(options):
    """What to time, in order."""
    found = [Task.training(net, optimizer) for optimizer in options.optimizers for net in options.nets
             if "train" in options.parts and not (net.regression and optimizer == "sgd")]
    return found + [Task(net, "predict", rows) for rows in ROWS for net in options.nets if "predict" in options.parts]


def measure(options, command):
    """The record of everything that the options ask for."""
    from . import memory, startup, timer

    record = {"facts": facts(command, options.rounds), "absent": [], "results": []}
    if options.device:
        _require_device()
        record["facts"] |= device()
        record["ceilings"] = _ceilings()
        print(_device(record), flush=True)
    for task in tasks(options):
        entered = on_device(task.goal) if options.device else competitors(
            task.goal, options.threads, task.workload in options.compiled)
        absent = {f"{one.name} (needs {', '.join(one.missing)})": None for one in entered if one.missing}
        record["absent"] = list(dict.fromkeys([*record["absent"], *absent]))
        measured = timer.measure(task, [one for one in entered if not one.missing], options.rounds)
        record["results"].append(result(task, measured, record.get("ceilings")))
        print(screen(record["results"][-1]), flush=True)
        _keep(options, record)  # whatever ends the rest
    if "start" in options.parts:
        record["start"] = startup.measure(options.rounds, options.threads)
        print(start_table(record["start"]))
    if "memory" in options.parts:
        record["memory"] = memory.measure()
        print(memory_table(record["memory"]))
    if options.device:
        print(device_table(record["results"]))
    for name in record["absent"]:
        print(f"not installed: {name}")
    return record


def _require_device():
    """Raise SystemExit where hotloop can use no device."""
    from hotloop.kernels import _cuda

    try:
        _cuda.require()
    except _cuda.DeviceError as error:
        raise SystemExit(f"not measured: {error}") from None


def _ceilings():
    """What the CUDA device can do at most, if torch can say."""
    try:
        from .torch_cuda_peer import ceilings
    except ImportError:
        return {}
    return ceilings()


def _device(record):
    """Device, driver, versions and what the device can do at most, a line each."""
    found = {f"{name} at most" if isinstance(value, float) else name:
             f"{value:,.0f}" if isinstance(value, float) else value for name, value in record["ceilings"].items()}
    return conditions(record["facts"] | (found or {"peaks": "not measured, as torch is not installed"}), [])


def _keep(options, record):
    """Write the rounds to the file that the options name."""
    if options.json:
        Path(options.json).write_text(dump(record), "utf-8")


def main():
    """Time and tell, or tell again."""
    options = command_line(sys.argv[1:])
    if options.write:
        from .documents import write  # before the rounds: it needs matplotlib
    if options.read:
        record = json.loads(Path(options.read).read_text("utf-8"))
        told = [*map(screen, record["results"])]
        if "ceilings" in record:
            told = [_device(record), *told, device_table(record["results"])]
        print("\n".join(told))
    else:
        try:
            record = measure(options, f"python -m asv_benchmarks.peers {shlex.join(sys.argv[1:])}".strip())
        except WrongResultError as error:
            raise SystemExit(f"wrong results, so nothing more is timed: {error}") from None
    _keep(options, record)
    if options.write:
        write(record)


if __name__ == "__main__":
    main()
