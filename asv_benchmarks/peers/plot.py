"""docs/speed.png: the time of a step against its arithmetic, a line for each competitor."""

import numpy as np
from matplotlib.figure import Figure

from .competitor import OWN
from .figures import best, family, median

COLORS = {"scikit-learn": "#b7791f", "NumPy": "#718096", "torch eager": "#c05621", "torch compile": "#97266d",
          "JAX jit": "#9f7aea", "JAX scan": "#553c9a", "hotloop step": "#63b3ed", OWN: "#2b6cb0"}
GAP = 0.055  # between labels, of the axis's height


def plot(record, path, goal="sgd"):
    """Draw training by SGD, everyone with its best number of threads; ours is its own choice."""
    results = sorted((result for result in record["results"] if result["goal"] == goal), key=lambda one: one["flops"])
    if not results:
        return
    sizes = [result["flops"] for result in results]
    names = {family(name) for result in results for name in result["microseconds"]}
    lines = {name: [_fastest(result, name) for result in results] for name in COLORS if name in names}
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for name, line in lines.items():
        axes.plot(sizes, line, color=COLORS[name], marker="o", markersize=7 if name == OWN else 4.5,
                  linewidth=3.2 if name == OWN else 1.6, zorder=3 if name == OWN else 2)
    axes.set(xscale="log", yscale="log", xlim=(sizes[0] / 18, sizes[-1] * 4),
             xlabel="floating-point operations a training step", ylabel="microseconds a training step")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 3)
    _label(axes, sizes[0], {name: line[0] for name, line in lines.items() if np.isfinite(line[0])})
    for name, line in lines.items():
        if not np.isfinite(line[0]):  # timed on some nets alone
            first = np.isfinite(line).argmax()
            axes.annotate(name, (sizes[first], line[first]), xytext=(-7, 0), textcoords="offset points", va="center",
                          ha="right", color=COLORS[name], fontsize=9)
    for place, result in enumerate(results):  # neighbours on different heights
        height = 5 + 20 * (place % 2)
        axes.annotate(f"{result['workload']}\n{result['shape']}", (result["flops"], 0), xytext=(0, height), ha="center",
                      xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7, color="#4a5568")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _fastest(result, name):
    fastest = OWN if name == OWN else best(result, name)
    return np.nan if fastest is None else median(result, fastest)


def _label(axes, x, values):
    """Names to the left of the first points, moved apart where they would meet."""
    low, high = np.log10(axes.get_ylim())
    height = -np.inf
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        place = (np.log10(value) - low) / (high - low)
        height = max(place, height + GAP)
        axes.annotate(name, (x, value), xytext=(-14, height), textcoords=("offset points", "axes fraction"),
                      color=COLORS[name], ha="right", va="center", fontweight="bold" if name == OWN else "normal",
                      fontsize=9)
