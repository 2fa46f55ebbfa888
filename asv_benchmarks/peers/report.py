"""What is told of the rounds on the screen and in the README."""

import textwrap

from .competitor import OWN
from .figures import GOALS, best, digits, family, median, net, ratio, table, times, title

TORCH = "torch eager"


def screen(result):
    """A task's rounds as lines for the screen."""
    worst = max(error for error in result["errors"].values() if error is not None)
    lines = [f"{title(result)}; all within {worst:.0e} of the float64 reference",
             f"{'':32}{'us':>12}{'GFLOP/s':>10}{'to hotloop':>12}"]
    for name in result["microseconds"]:
        middle = median(result, name)
        lines.append(f"{name:32}{digits(middle):>12}{result['flops'] / middle / 1e3:10.1f}"
                     f"{times(ratio(result, name)):>12}")
    return "\n".join(lines) + "\n"


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
