"""Draws a program: a box an instruction, grouped by phase, an arrow for each buffer that one hands to another.

The forward pass runs from left to right along the top, the backward pass back below it, and the gradient of each
layer's parameters stands under the layer.
"""

from dataclasses import dataclass

from .canvas import BACKWARD, FORWARD, PLAIN, RESULT, Canvas
from .program import Block, Buffer, External, Instruction, Sums

_PHASES = {"before": "before: every worker for itself",
           "rows": "rows: each worker runs all of this on its slice of the batch",
           "each": "each: every worker for itself",
           "units": "units: pieces of parameters or columns,\ndealt out to the workers"}
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 2.15, 0.85, 2.75, 1.3  # inches: of a box; between the corners of neighbours
_MARGIN, _HEADING = 0.3, 0.4
_BANDS = {"before": "#f7fafc", "rows": "#edf2f7", "each": "#f7fafc", "units": "#fdf3e7"}
_FINISH = {1: "relu", 2: "where positive"}


@dataclass(eq=False)
class _Box:
    """An instruction's place in the grid, what stands in it, and the boxes it reads from, with their arrows' colors."""

    instruction: Instruction
    sources: dict["_Box", str]
    lines: list[str]
    backward: bool
    column: int = 0
    track: int = 0

    @property
    def band(self):
        """Stage and phase, which have a band of the picture."""
        return self.instruction.stage, self.instruction.phase


def draw(program, path):
    """Write a picture of `program` to `path`; the suffix tells the format: .svg, .png or .pdf.

    Raises ImportError without matplotlib, ValueError for a format that it does not know.
    """
    boxes = _boxes(program)
    _arrange(boxes)
    left, right = min(box.column for box in boxes), max(box.column for box in boxes)
    bands, bottom = _bands(boxes)
    width = (right - left) * _ACROSS + _WIDTH + 4 * _MARGIN
    canvas, places = Canvas(width, bottom + _MARGIN), {}
    for band, top, height in bands:
        canvas.rectangle(_MARGIN, top, width - 2 * _MARGIN, height, _BANDS[band[1]])
        canvas.text(2 * _MARGIN, top + 0.12, _PHASES[band[1]])
        for box in boxes:
            if box.band == band:
                places[box] = ((box.column - left) * _ACROSS + 2 * _MARGIN, top + _HEADING + box.track * _DOWN)
    for box in boxes:
        for source, color in box.sources.items():
            canvas.arrow(_ends(places[source], places[box]), color)
        canvas.box(*places[box], _WIDTH, _HEIGHT, _color(box), box.lines)
    canvas.save(path)


# what the picture shows


def _boxes(program):
    """A box an instruction, in order, each knowing the boxes whose buffers it reads."""
    boxes, writer, after_loss = [], {}, False
    for instruction in program.listed():
        parts = [instruction, *instruction.chained()]
        writes, reads = {}, {}  # buffer -> operand
        for part in parts:
            for name, value in part.operands.items():
                if isinstance(value, Buffer | Sums):
                    (writes if name in part.writes else reads)[value] = name
        sources = dict(writer[buffer] for buffer in reads if buffer in writer)
        box = _Box(instruction, sources, _lines(parts, writes), after_loss)
        boxes.append(box)
        writer |= {buffer: (box, BACKWARD if name == "dx" else FORWARD) for buffer, name in writes.items()}
        after_loss = after_loss or "loss" in instruction.writes
    return boxes


def _lines(parts, writes):
    """Title, operands and results of a box."""
    first = parts[0]
    finish = _FINISH.get(first.operands.get("finish"))
    title = [first.op, *([finish] if finish else []), *(part.op for part in parts[1:])]
    title = [" | ".join(title)] if len(" | ".join(title)) < 27 else [title[0], "| " + " | ".join(title[1:])]
    blocks = [repr(value) for value in first.operands.values() if isinstance(value, Block)]
    outside = [repr(value) for value in first.operands.values() if isinstance(value, External)]
    lines = title + blocks + ([" ".join(outside)] if outside else [])
    if first.phase == "units":
        return [*lines, f"{first.units} units"]
    return lines + [f"{RESULT} {buffer!r}" for buffer in writes]


# where it shows it


def _arrange(boxes):
    """Give every box a column, and a track in its phase that no other box of the column has."""
    forward = {}  # block -> column
    for box in boxes:
        box.column = 1 + max((source.column for source in box.sources), default=-1)
        block = box.instruction.operands.get("w")
        if box.backward and block in forward:
            box.column = forward[block]
        elif box.backward and box.sources:
            box.column = min(source.column for source in box.sources)
        elif isinstance(block, Block) and box.instruction.phase == "rows":
            forward[block] = box.column
        if box.instruction.phase == "each":
            box.column = max((source.column for source in box.sources), default=0)
    for box in boxes:  # data that enter late stand to the right of their reader
        readers = [other.column for other in boxes if box in other.sources]
        if not box.sources and readers and min(readers) > 1:
            box.column = min(readers) + 1
        if box.instruction.op == "penalty":
            box.column = forward.get(box.instruction.operands["w"], box.column)
    taken = set()
    for box in boxes:
        box.track = int(box.backward and box.instruction.phase == "rows")
        while (box.band, box.column, box.track) in taken:
            box.track += 1
        taken.add((box.band, box.column, box.track))


def _bands(boxes):
    """(band, top, height) of each stage and phase, and where the last one ends."""
    bands, top = [], _MARGIN
    for band in dict.fromkeys(box.band for box in boxes):
        height = _HEADING + max(box.track for box in boxes if box.band == band) * _DOWN + _HEIGHT + 0.25
        bands.append((band, top, height))
        top += height + 0.25
    return bands, top - 0.25


def _color(box):
    plain = box.instruction.op in ("store", "total_weight", "total_loss", "penalty")
    return PLAIN if plain else BACKWARD if box.backward else FORWARD


def _ends(start, end):
    """Ends of an arrow between boxes: level along a track, else from edges that face each other, through the gaps."""
    (x0, y0), (x1, y1) = start, end
    side, near, far = (x1 > x0) - (x1 < x0), 0.05, 0.2  # of the corners; so that a long arrow passes the box between
    if y0 == y1:
        return (x0 + (side > 0) * _WIDTH, y0 + _HEIGHT / 2), (x1 + (side < 0) * _WIDTH, y1 + _HEIGHT / 2)
    down = y1 > y0
    leave = {0: _WIDTH / 2, 1: _WIDTH - near, -1: near}[side]
    enter = {0: _WIDTH / 2, 1: far, -1: _WIDTH - far}[side]
    return (x0 + leave, y0 + down * _HEIGHT), (x1 + enter, y1 + (not down) * _HEIGHT)
