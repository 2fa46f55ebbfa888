"""What is told of the rounds on the screen and in the README."""

import textwrap

from .competitor import OWN, TF32
from .figures import GOALS, PEAKS, best, digits, family, median, net, percent, ratio, table, times, title

TORCH = "torch eager"
ON_DEVICE = (TORCH, "torch graphs")  # with TF32 off, and so named without threads on a device alone
WIDE = 4096  # layers from here on take nearly all their time in products, which in torch are cuBLAS's
CUBLAS = "cuBLAS float32"
DEVICE = f"""
Medians, in brackets the median ratio to hotloop of the same rounds: above 1 hotloop is faster. Everything is float32;
{TF32}, in which products round their factors to 10 bits, is off but where it is named. "{CUBLAS}" is the faster one of
{" and ".join(ON_DEVICE)}, for nets whose layers have {WIDE:,} columns or more.

Peaks are what torch reaches on the device: in a product of 8,192 rows and columns with {TF32} off, and in a copy of a
gibibyte. Bandwidth is told of a step that writes and reads each array once. A step may be above 100% of the one with
{TF32}, and of the other where arrays stay in caches.
"""


def screen(result):
    """A task's rounds as lines for the screen."""
    errors = {name: error for name, error in result["errors"].items() if error is not None}
    rough = [error for name, error in errors.items() if name.endswith(TF32)]
    worst = max(error for name, error in errors.items() if not name.endswith(TF32))
    peaks = result.get("of peak")
    lines = [f"{title(result)}; all within {worst:.0e} of the float64 reference"
             + (f", with {TF32} within {max(rough):.0e}" if rough else ""),
             f"{'':32}{'us':>12}{'GFLOP/s':>10}{'to hotloop':>12}"
             + "".join(f"{f'of {peak}':>14}" for peak in PEAKS if peaks)]
    for name in result["microseconds"]:
        middle = median(result, name)
        lines.append(f"{name:32}{digits(middle):>12}{result['flops'] / middle / 1e3:10.1f}"
                     f"{times(ratio(result, name)):>12}"
                     + "".join(f"{percent(peaks[name][peak]):>14}" for peak in PEAKS if peaks))
    for own in (name for name in result["microseconds"] if name.startswith(OWN) and yardsticks(result)):
        told = ", ".join(f"{times(ratio(result, name, own))} as fast as {what}"
                         for what, name in yardsticks(result).items())
        lines.append(f"{own} is {told}")
    return "\n".join(lines) + "\n"


def yardsticks(result):
    """Whom hotloop is held against on a device, by name: torch's two ways, for wide nets the faster one as cuBLAS."""
    found = {name: name for name in ON_DEVICE if name in result["microseconds"]}
    if found and min(map(int, result["shape"].split("-"))) >= WIDE:
        found[CUBLAS] = min(found, key=lambda name: median(result, name))
    return found


def device_table(results):
    """Training on a device, a row for each task: times, ratios to hotloop's, and which fractions of peak it reached."""
    return table(["us a training step", OWN, "in order", *ON_DEVICE, CUBLAS, f"torch {TF32}", "JAX",
                  *(f"of {peak}" for peak in PEAKS)], map(_on_device, results)) + DEVICE


def _on_device(result):
    """A task's row; what took no part is left empty, of TF32 and JAX the fastest is shown."""
    held, found = yardsticks(result), result["microseconds"]
    names = [f"{OWN} in order", *(held.get(what) for what in (*ON_DEVICE, CUBLAS))]
    for kind in (lambda name: name.endswith(TF32), lambda name: name.startswith("JAX")):
        names.append(min(filter(kind, found), key=lambda name: median(result, name), default=None))
    cells = [f"{digits(median(result, name))} ({times(ratio(result, name))})" if name in found else ""
             for name in names]
    peaks = result.get("of peak", {}).get(OWN, {})
    return [title(result), digits(median(result, OWN)), *cells,
            *(percent(peaks[peak]) if peaks else "" for peak in PEAKS)]


def summary(record):
    """The README's tables: training, then prediction, beside the best peer."""
    training = [result for result in record["results"] if result["goal"] in GOALS]
    predicted = {}
    for result in record["results"]:
        if result["goal"] == "predict":
            predicted.setdefault(net(result), []).append(result)
    parts = []
    if training:
        heads = ["us a training step", "", OWN, "best peer", "ratio", TORCH, "ratio"]
        parts.append(table(heads, map(_training, training)))
    if predicted:
        rows = " / ".join(f"{result['rows']:,}" for result in next(iter(predicted.values())))
        heads = [f"us to predict {rows} rows", OWN, "best peer", "ratio"]
        parts.append(table(heads, (_prediction(*named) for named in predicted.items())))
    return "\n".join(parts)


def _training(result):
    cells = [f"{net(result)}, batch {result['rows']:,}", GOALS[result["goal"]], digits(median(result, OWN))]
    peer, torch = best(result), best(result, TORCH)
    cells += [f"{digits(median(result, peer))} {family(peer)}", times(ratio(result, peer))] if peer else ["", ""]
    return cells + ([digits(median(result, torch)), times(ratio(result, torch))] if torch else ["", ""])


def _prediction(name, results):
    """A row for a net, the numbers of rows side by side."""
    peers = [best(result) for result in results]
    names = dict.fromkeys(family(peer) for peer in peers)
    fastest = " / ".join(digits(median(result, peer)) for result, peer in zip(results, peers, strict=True))
    return [name, " / ".join(digits(median(result, OWN)) for result in results), f"{fastest} {', '.join(names)}",
            " / ".join(times(ratio(result, peer)) for result, peer in zip(results, peers, strict=True))]


def caption(record):
    """The README's line below the picture."""
    found = [result for result in record["results"] if result["goal"] == "sgd"]
    among = TORCH if all(best(result, TORCH) for result in found) else None
    parts = ", ".join(f"{times(ratio(result, best(result, among)))} for {result['shape']}" for result in found)
    text = (f"*Training step on {record['facts']['cores']} cores, float32, SGD, times as fast as "
            f"{among or 'the best peer'}: {parts}. All peers, conditions and command: [docs/peers.md](docs/peers.md).*")
    return "\n".join(textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)) + "\n"
