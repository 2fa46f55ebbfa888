"""From rounds to what is read: medians, ratios, the fastest, and numbers as text.

A result is what `timer.measure` found of a task, and what the task was: a dictionary that goes into docs/peers.json.
"""

import json
import re

import numpy as np

from .competitor import OWN

GOALS = {"sgd": "SGD", "adam": "Adam"}
PEAKS = {"float32": ("flops", "float32 GFLOP/s"), "bandwidth": ("bytes", "GB/s")}  # what a step needs, a ceiling's name


def result(task, measured, ceilings=None):
    """The result of a task; on a device, whose ceilings are given, with bytes and the fractions of its peaks."""
    workload = task.workload
    name = workload.name if workload.name[0].isalpha() else ""
    found = {"workload": name, "shape": workload.shape, "rows": task.rows, "goal": task.goal, "flops": task.flops,
             **measured}
    if ceilings is not None:
        found["bytes"] = task.bytes
    if ceilings:
        found["of peak"] = {name: _of_peak(found, name, ceilings) for name in found["microseconds"]}
    return found


def _of_peak(result, name, ceilings):
    """The fractions of the device's peaks that a step of this one reached; billions a second are thousands a us."""
    return {peak: result[needs] / median(result, name) / 1e3 / ceilings[ceiling]
            for peak, (needs, ceiling) in PEAKS.items()}


def median(result, name):
    """Microseconds a step."""
    return float(np.median(result["microseconds"][name]))


def ratio(result, name, own=OWN):
    """How many times as long as ours it took: the median of the rounds' ratios."""
    times = result["microseconds"]
    return float(np.median(np.divide(times[name], times[own])))


def family(name):
    """A competitor's name without its number of threads."""
    return name.partition(", ")[0]


def best(result, among=None):
    """The fastest of a family, or of all peers; None where nobody took part."""
    names = [name for name in result["microseconds"]
             if (family(name) == among if among else not name.startswith(OWN))]
    return min(names, key=lambda name: median(result, name), default=None)


def net(result):
    """Name and widths."""
    return f"{result['workload']} {result['shape']}".strip()


def title(result):
    """A task in words."""
    rows = f"{result['rows']:,}"
    if result["goal"] == "predict":
        return f"{net(result)}, prediction of {rows} row{'s' * (result['rows'] > 1)}"
    return f"{net(result)}, batch {rows}, {GOALS[result['goal']]}"


def digits(value):
    """A number as it is read."""
    return f"{value:,.{0 if value >= 99.95 else 1}f}"


def times(value):
    """A ratio as it is read."""
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 1.95 else 2}f}x"


def percent(fraction):
    """A fraction as it is read."""
    return f"{fraction:.{0 if fraction >= 0.9995 else 1 if fraction >= 0.00995 else 3}%}"


def table(heads, rows):
    """A table in Markdown."""
    parts = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in parts) + "\n"


def dump(record):
    """The record as JSON, a list of numbers on one line."""
    text = json.dumps(rounded(record), indent=1)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def rounded(value):
    """The same with four digits of every number that is not whole."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
