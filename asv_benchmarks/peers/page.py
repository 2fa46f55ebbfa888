"""docs/peers.md, made whole from a record."""

from statistics import median as middle

from .competitor import OWN
from .figures import digits, median, net, ratio, table, times
from .startup import EMPTY, NETS

HEAD = """# Beside its peers on the CPU

`make peers` writes this page, the tables and the picture of the [README](../README.md), and all rounds into
[peers.json](peers.json). Times are microseconds, medians of {rounds} rounds; in brackets the median ratio to hotloop of
the same rounds: above 1 hotloop is faster. The fastest of a column is bold.

## How it was timed

- float32. Nets in front are of ReLU and cross-entropy; simplechains is of tanh and the mean square, on one batch of
  10,000 rows. SGD at a rate of 0.01, Adam at 0.001.
- Everyone starts from the same weights and takes the same batches. Before anything is timed, ten losses, or the
  outputs, of each are compared with float64 NumPy that shares no code with hotloop: relative errors of 1e-5 are
  allowed, with Adam three times what rounding to float32 makes, if that is more. Where scikit-learn takes no first
  weights, its loss must fall.
- Each competitor runs in a process of its own; rounds of a fifth of a second go in turns. Pools of threads spin for up
  to a tenth of a second after their work, so a round starts when no thread of another process runs. Of a core, sleeping
  processes took {asleep:.1%} at most.
- Where threads are named they were set for everything in the process; "hotloop" alone chooses for itself. JAX on one
  thread has one core.
- "hotloop" is `Trainer.fit`, which shuffles the rows of an epoch and gathers its batches; "hotloop in order" does not
  shuffle (a single batch is never shuffled), "hotloop step" is a loop of `Trainer.step`. scikit-learn is an epoch of
  `partial_fit`, which shuffles and gathers, too. All others are given ready batches, torch and JAX in their own arrays.
- Each has the settings that proved fastest: torch's fused Adam, and SGD as torch chooses; in torch.compile the whole
  step, gradients and update; in JAX a state that is given away, and no waiting between steps; NumPy without arrays made
  on the way, all parameters updated at once. "ONNX Runtime bound" reads and writes arrays that were bound beforehand.
"""

START = f"""
Medians. The interpreter is part of each; net, optimizer and data are part of a step. "{EMPTY}" has no
compiled kernels on disk.
"""
MEMORY = """
The peak is what a run takes above interpreter, libraries and data; parameters, their two moments and activations must
be held. What steps leave counts Python's objects.
"""


def page(record):
    """The whole page."""
    results, facts = record["results"], record["facts"]
    asleep = max((result["asleep"] for result in results), default=0.0)
    parts = [HEAD.format(rounds=facts["rounds"], asleep=asleep), "## Conditions\n", conditions(facts, record["absent"])]
    for goal, heading in (("sgd", "Training with SGD, a step"), ("adam", "Training with Adam, a step")):
        found = [result for result in results if result["goal"] == goal]
        if found:
            parts += [f"## {heading}\n", competitors(found, [f"{net(each)}, {each['rows']:,}" for each in found])]
    for rows in dict.fromkeys(result["rows"] for result in results if result["goal"] == "predict"):
        found = [result for result in results if (result["goal"], result["rows"]) == ("predict", rows)]
        parts += [f"## Prediction of {rows:,} row{'s' * (rows > 1)}\n", competitors(found, map(net, found))]
    if record.get("start"):
        parts += ["## Start of a process\n", start_table(record["start"])]
    if record.get("memory"):
        parts += ["## Memory\n", memory_table(record["memory"])]
    return "\n".join(parts)


def conditions(facts, absent):
    """Machine, versions and command, a line each, and who is missing."""
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += [f"- not installed, so not timed: {', '.join(absent)}"] if absent else []
    return "\n".join(lines) + "\n"


def competitors(results, heads):
    """A row for each competitor, a column for each result, and the largest errors."""
    names = dict.fromkeys(name for result in results for name in result["microseconds"])
    rows = [[name, *(_cell(result, name) for result in results)] for name in names]
    errors = [max(error for error in result["errors"].values() if error is not None) for result in results]
    return table(["", *heads], [*rows, ["largest error", *(f"{error:.0e}" for error in errors)]])


def _cell(result, name):
    if name not in result["microseconds"]:
        return ""
    fastest = min(result["microseconds"], key=lambda other: median(result, other))
    cell = digits(median(result, name)) + ("" if name == OWN else f" ({times(ratio(result, name))})")
    return f"**{cell}**" if name == fastest else cell


def start_table(found):
    """Seconds from the start of a process, and what a second net adds."""
    rows = []
    for name, runs in found.items():
        first, *second = [middle(stamps) for stamps in zip(*runs, strict=True)]
        what = name if name.startswith(("python", "import")) else f"{name}: first step of {NETS[0]}"
        rows.append([what, f"{first:.2f}", f"{second[0] - first:+.2f}" if second else ""])
    heads = ["a new process, until the end of", "seconds", f"first step of {NETS[1]} afterwards"]
    return table(heads, rows) + START


def memory_table(found):
    """Peaks beside what must be held, in megabytes."""
    rows = [[name, f"{each['peak'] / 1e6:.0f}", f"{each['must'] / 1e6:.0f}", times(each["peak"] / each["must"]),
             f"{each['grown']:,}"] for name, each in found.items()]
    heads = ["large with Adam", "peak, MB", "must hold, MB", "ratio", "bytes that 800 steps of small leave"]
    return table(heads, rows) + MEMORY
