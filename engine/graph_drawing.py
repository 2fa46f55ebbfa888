"""Draws a general graph from top to bottom: a box a node, an arrow from each operand to the nodes that it goes into.

Rows and orders are those of layered drawing (Sugiyama, Tagawa and Toda, "Methods for visual understanding of
hierarchical system structures", 1981): a node stands below its operands, and an arrow that passes a row has a lane in
it, which takes part in the row's order like a box and which all readers of the value share. Scalar constants stand in
the formulas that read them.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .canvas import BACKWARD, FORWARD, LINE, PLAIN, RESULT, Canvas

_MARGIN, _HEADING, _ACROSS, _DOWN = 0.3, 0.5, 0.25, 0.5  # inches: around everything; of the legend; between spots, rows
_LETTER, _PADDING = 0.073, 0.2  # inches that text takes, and around it
_SWEEPS = 40
_SHOWN = 3  # elements of the largest value that is written out


@dataclass(eq=False)
class _Spot:
    """A place in a row: of a box with lines of text or, without any, of a lane."""

    row: int
    color: str
    lines: list[str] = field(default_factory=list)
    joined: list["_Spot"] = field(default_factory=list)  # in the rows above and below, once for each arrow
    x: float = 0.0  # of the middle

    @property
    def width(self):
        """Inches that the text takes."""
        return max(map(len, self.lines)) * _LETTER + _PADDING if self.lines else 0.0

    @property
    def height(self):
        """Inches that the text takes."""
        return len(self.lines) * LINE + _PADDING if self.lines else 0.0


def draw(live, forward, results, values, path):
    """Write a picture of the nodes `live`, which stand in order, to `path`, a .svg, .png or .pdf.

    forward: those of the forward pass. results, values: what nodes are and hold, by node, where it is to be said.
    Raises ImportError without matplotlib, ValueError for a format that it does not know.
    """
    nodes = [node for node in live if node.op != "constant" or node.shape or node in results]
    boxes = {node: _Spot(row, PLAIN if not node.inputs else FORWARD if node in forward else BACKWARD,
                         _lines(node, results, values)) for node, row in _rows(nodes, forward).items()}
    arrows, lanes = _routes(boxes)
    rows = _arrange([*boxes.values(), *lanes])
    heights = [max(spot.height for spot in row) for row in rows]
    tops = _MARGIN + _HEADING + np.cumsum([0.0, *(height + _DOWN for height in heights)])
    left, right = (side(spot.x + sign * spot.width / 2 for row in rows for spot in row) for side, sign in
                   ((min, -1), (max, 1)))
    canvas = Canvas(right - left + 2 * _MARGIN, tops[-1] - _DOWN + _MARGIN)
    canvas.text(_MARGIN, _MARGIN / 2, "forward pass", FORWARD)
    if len(forward) < len(live):
        canvas.text(_MARGIN, _MARGIN / 2 + LINE, "backward pass", BACKWARD)
    for way in arrows:
        canvas.arrow([(x + _MARGIN - left, y) for x, y in _curve(way, tops, heights)], way[0].color)
    for spot in boxes.values():
        canvas.box(spot.x - spot.width / 2 + _MARGIN - left, tops[spot.row], spot.width, spot.height, spot.color,
                   spot.lines)
    canvas.save(path)


def _lines(node, results, values):
    """What stands in a node's box."""
    lines, value = [repr(node) if node.shape else node.name, node.definition], values.get(node)
    if value is not None and np.size(value) <= _SHOWN:
        lines.append("= " + ", ".join(f"{number:.6g}" for number in np.ravel(value)))
    return lines + ([f"{RESULT} {results[node]}"] if node in results else [])


def _rows(nodes, forward):
    """The row of each node: below its operands, of the backward pass below all of the forward pass."""
    row = {}
    for part in ([node for node in nodes if node in forward], [node for node in nodes if node not in forward]):
        first = 1 + max(row.values(), default=-1)
        for node in part:
            row[node] = max([first, *(1 + row[operand] for operand in node.inputs if operand in row)])
    for node in nodes:  # what is made of nothing stands above the first that reads it
        readers = [row[reader] for reader in nodes if node in reader.inputs]
        if readers and not node.inputs:
            row[node] = min(readers) - 1
    return row


def _routes(boxes):
    """The arrows, each the spots that it passes from operand to node, and the lanes among these."""
    arrows, lanes = [], {}
    for node, end in boxes.items():
        for start in dict.fromkeys(boxes[operand] for operand in node.inputs if operand in boxes):
            passed = [lanes.setdefault((start, row), _Spot(row, start.color)) for row in range(start.row + 1, end.row)]
            arrows.append([start, *passed, end])
            for one, other in pairwise(arrows[-1]):
                one.joined.append(other)
                other.joined.append(one)
    return arrows, lanes.values()


def _arrange(spots):
    """The spots of each row from left to right, each near the mean of what it is joined to."""
    rows = [[] for _ in range(1 + max(spot.row for spot in spots))]
    for spot in spots:
        rows[spot.row].append(spot)
    for row in rows:
        _place(row, range(len(row)))
    for sweep in range(_SWEEPS):
        for row in rows[:: -1 if sweep % 2 else 1]:
            _place(row, [np.mean([other.x for other in spot.joined] or [spot.x]) for spot in row])
    return rows


def _place(row, wanted):
    """Order the spots of a row by the places wanted, and put them there as nearly as their widths allow.

    The sum of squared distances is the least: spots that would overlap join a block around their mean.
    """
    order = sorted(range(len(row)), key=wanted.__getitem__)
    row[:], wanted = [row[place] for place in order], [wanted[place] for place in order]
    offsets = np.cumsum([0.0, *((one.width + other.width) / 2 + _ACROSS for one, other in pairwise(row))])
    blocks = []  # (mean, number)
    for mean in wanted - offsets:
        number = 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, number = (before * count + mean * number) / (count + number), count + number
        blocks.append((mean, number))
    places = np.repeat([mean for mean, _ in blocks], [number for _, number in blocks]) + offsets
    for spot, place in zip(row, places.tolist(), strict=True):
        spot.x = place


def _curve(way, tops, heights):
    """The points of an arrow: straight through the rows, bent between them."""
    points = [(way[0].x, tops[way[0].row] + way[0].height)]
    for one, other in pairwise(way):
        leave, enter = tops[one.row] + heights[one.row], tops[other.row]
        middle = (leave + enter) / 2
        points += [points[-1], (one.x, leave), (one.x, leave)]
        points += [(one.x, middle), (other.x, middle), (other.x, enter)]
    return points
