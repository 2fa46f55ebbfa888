"""A program: what a plan made of a graph, as data. Backends execute it; people read it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotloop.kernels._panels import group_size

from .graph import Node

PHASES = ("before", "rows", "each", "units")  # of a stage, in order: see `hotloop.kernels.walk`


@dataclass(frozen=True)
class Layout:
    """How buffers lie in memory for one dtype and register tile: see `hotloop.kernels.dense`.

    For `cuda` kernels are those of devices, and every buffer is by feature (see `hotloop.kernels.dense_by_feature`).
    """

    dtype: np.dtype
    lanes: int
    panel: int
    tile: int
    cuda: bool = False

    def panels(self, columns):
        """Panels that hold so many columns."""
        return -(-columns // self.panel)

    def width(self, columns):
        """Columns as kernels process them: whole vectors."""
        return -(-columns // self.lanes) * self.lanes

    def scratch(self, columns):
        """Numbers of scratch for a kernel that works along rows: five groups at most (`hotloop.kernels._panels`)."""
        return 5 * group_size(columns, self.lanes, self.dtype.itemsize)

    def block(self, inputs, outputs):
        """Elements that a matrix and a vector take, without inputs a vector: whole panels of inputs + 1 rows."""
        return self.panels(outputs) * (inputs + 1) * self.panel

    def units(self, inputs, outputs):
        """Units of a parameter gradient."""
        return self.panels(outputs) * self.panels(max(inputs, 1))


@dataclass(eq=False)
class Buffer:
    """One value a batch row: `cols` numbers of each row, in panels; or, `flat`, one number or int64 label.

    With `rows` it holds so many rows, whatever the batch: what was made of a whole batch. `by_feature` is another order
    of the numbers: see `hotloop.kernels.dense_by_feature`.
    """

    name: str
    cols: int
    layout: Layout
    flat: bool = False
    itemsize: int = 0
    rows: int | None = None
    by_feature: bool = False

    @property
    def panels(self):
        """Number of panels; by feature, rows of PANEL numbers are those of one panel."""
        if self.by_feature:
            return 1
        return self.layout.panels(self.cols)

    @property
    def width(self):
        """Columns as kernels process them: whole vectors."""
        return self.layout.width(self.cols)

    def panel(self, capacity):
        """Distance of panels, in numbers: whole rows. A line more than needed puts neighbours into other sets."""
        if self.rows is not None:
            return self.rows * self.layout.panel
        return capacity * self.layout.panel + max(self.layout.panel, 64 // self.layout.dtype.itemsize)

    def nbytes(self, capacity):
        """Bytes for `capacity` rows."""
        if self.by_feature:  # what transposed squares and tiles reach beyond the last feature is room, too
            blocks, panel = -(-capacity // self.layout.panel), self.layout.panel
            return (blocks * self.cols + panel) * panel * self.layout.dtype.itemsize
        if self.flat:
            return capacity * (self.itemsize or self.layout.dtype.itemsize)
        return self.panels * self.panel(capacity) * self.layout.dtype.itemsize

    def __repr__(self):
        """The buffer as `name[B, cols]`."""
        rows = "B" if self.rows is None else self.rows
        return f"{self.name}[{rows}, {self.cols}]" if not self.flat else f"{self.name}[B]"


@dataclass(eq=False)
class Sums:
    """`count` float64 sums over parameters, or over their gradient, that one phase leaves for another."""

    name: str
    count: int

    def nbytes(self, capacity):
        """Bytes, for any number of rows."""
        return 8 * self.count

    def __repr__(self):
        """The sums as `name[count]`."""
        return f"{self.name}[{self.count}]"


@dataclass(eq=False)
class Block:
    """What lies together among the parameters: weight and bias of a dense layer, or another vector; parts by name.

    `matrix`, (outputs, inputs), takes `inputs` rows of each panel, transposed, and `vector`, (outputs,), the last row.
    A vector of another layer, or a statistic, is a block without a matrix: its panels of one row are one run. A block
    that `counts` holds one int64. `first` is the place of the first element among all parameters.
    """

    matrix: str | None
    vector: str | None
    first: int
    inputs: int
    outputs: int
    counts: bool = False

    @property
    def cols(self):
        """Columns, as of a buffer."""
        return self.outputs

    def shapes(self):
        """Names and shapes of what lies here."""
        vector = () if self.counts else (self.outputs,)
        shapes = {self.matrix: (self.outputs, self.inputs), self.vector: vector}
        return {name: shape for name, shape in shapes.items() if name is not None}

    def __repr__(self):
        """The block as `weight[out, in], bias[out]`."""
        return ", ".join(f"{name}{list(shape)}" for name, shape in self.shapes().items())


@dataclass(frozen=True)
class External:
    """An array that the caller binds for a run: data, order, results."""

    name: str

    def __repr__(self):
        """The array's name in angle brackets."""
        return f"<{self.name}>"


@dataclass(eq=False)
class Instruction:
    """One call of a kernel.

    `operands` gives each of the kernel's operands a buffer, a block, a region of the parameters ("state 0"), an
    external array, a number, a tuple of numbers, an array as it stands, another instruction to run on the same rows, or
    None for nothing; those named in `writes` are written. `nodes` are the graph nodes that it computes, in order. A
    program runs stage by stage, and each stage phase by phase. `inner` are instructions that this one runs, on buffers
    `near` that every worker has of its own (`groups`).
    """

    op: str
    kernel: Callable[..., int]
    phase: str  # of PHASES, or chained: run by another instruction
    operands: dict[str, Any]
    writes: tuple[str, ...]
    nodes: tuple[Node, ...]
    units: int = 0
    cost: int = 1
    stage: int = 0
    inner: tuple["Instruction", ...] = ()
    near: tuple[Buffer, ...] = ()

    def chained(self):
        """The instructions that run on the same rows or units, in order."""
        chain = self.operands.get("chain")
        return [] if chain is None else [chain, *chain.chained()]

    def place(self):
        """When it runs, by stage and phase."""
        return self.stage, PHASES.index(self.phase)

    def reads_parameters(self):
        """Whether a block of parameters is among the operands."""
        return any(isinstance(value, Block) for value in self.operands.values())

    def __str__(self):
        """One line: results <- op(operands), then what runs on the same rows."""
        chained, made = self.chained(), [self.operands[name] for name in self.writes]
        for part in chained:
            made += [value for name, value in part.operands.items()
                     if name in part.writes and isinstance(value, Buffer) and value not in made]
        read = dict.fromkeys(repr(value) for name, value in self.operands.items()
                             if name not in self.writes and isinstance(value, Buffer | Sums | Block | External))
        settings = [f"{name}={value:g}" for name, value in self.operands.items()
                    if isinstance(value, float) and value and (name, value) != ("scale", 1)]
        settings += [f"{name}[{len(value)}]" for name, value in self.operands.items()
                     if isinstance(value, tuple | np.ndarray)]
        finish = {1: " | relu", 2: " | where positive"}.get(self.operands.get("finish"), "")
        after = "".join(f" | {part.op}" for part in chained)
        results = f"{', '.join(map(repr, made))} <- " if made else ""
        return f"{results}{self.op}({', '.join([*read, *settings])}){finish}{after}"


@dataclass(eq=False)
class Program:
    """Instructions over buffers placed in one arena, computing the nodes `loss`, `predictions` and `gradients`.

    The arena has two parts. The first lasts: all parameters, the optimizer's states and, if kept, the gradient, each of
    `elements` numbers and laid out alike. The second is worked on: the buffers, each for `capacity` rows, a step's
    number of rows at most; it grows when a larger batch comes. Workers' slices of a batch begin at multiples of `grain`
    rows. `settings` are the optimizer's numbers, read anew at every run, whose steps may each have their own: an array.
    `scratch` counts the numbers of a worker's own memory, `flops` those of one batch row. `few` is a program that does
    the same for batches of up to `few_rows` rows, `narrow` one for batches from `narrow_rows` rows on, and `many` one
    from `many_rows` rows on.
    """

    layout: Layout
    loss: Node | None
    predictions: dict[str, Node]  # by the arrays that they are stored in
    gradients: dict[Node, Node]
    instructions: list[Instruction]
    blocks: list[Block]
    buffers: list[Buffer | Sums]
    elements: int
    states: int
    keeps_gradient: bool
    settings: dict[str, float | np.ndarray] = field(default_factory=dict)
    scratch: int = 0
    flops: int = 0
    grain: int = 1
    few: "Program | None" = None
    few_rows: int = 0
    narrow: "Program | None" = None
    narrow_rows: int = 0
    many: "Program | None" = None
    many_rows: int = 0

    def best(self, rows):
        """This program, `few`, `narrow` or `many`, whichever is for so many rows."""
        if self.many is not None and rows >= self.many_rows:
            return self.many
        if self.narrow is not None and rows >= self.narrow_rows:
            return self.narrow
        return self.few if 0 < rows <= self.few_rows else self

    def span(self, program):
        """The least and the most rows, one or more, for which this one of the four is best."""
        if program is self.many:
            return self.many_rows, sys.maxsize
        below = sys.maxsize if self.many is None else self.many_rows - 1
        if program is self.narrow:
            return self.narrow_rows, below
        below = below if self.narrow is None else min(below, self.narrow_rows - 1)
        return (1, min(self.few_rows, below)) if program is self.few else (self.few_rows + 1, below)

    def listed(self):
        """The instructions, each with those that it runs before it."""
        return [part for instruction in self.instructions for part in (*instruction.inner, instruction)]

    def fixed_bytes(self):
        """Bytes of the arena's first part, with what transposed squares of the last rows reach beyond them."""
        regions, beyond = 1 + self.states + self.keeps_gradient, self.layout.lanes * self.layout.panel
        return _aligned((regions * self.elements + beyond) * self.layout.dtype.itemsize)

    def place(self, capacity):
        """Byte offset of each buffer in the arena's second part for `capacity` rows, and that part's size."""
        offset, places = 0, {}
        for buffer in self.buffers:
            places[buffer] = offset
            offset = _aligned(offset + buffer.nbytes(capacity))
        return places, offset

    def __str__(self):
        """What the arena holds, then one line an instruction, grouped by phase; B is the number of rows."""
        kept = [f"{count} {what}{'s' * (count > 1)}" for count, what in
                ((self.states, "optimizer state"), (int(self.keeps_gradient), "gradient")) if count]
        lines, phase = [f"{self.layout.dtype}, arena: {' + '.join(['parameters', *kept])} of {self.elements:,} numbers "
                        f"with padding, {len(self.buffers)} buffers"], None
        for instruction in self.instructions:
            if (instruction.stage, instruction.phase) != phase:
                phase = instruction.stage, instruction.phase
                lines.append(f"{instruction.phase}:")
            lines.append(f"  {instruction}")
            lines += [f"    {part}" for part in instruction.inner]
        return "\n".join(lines)

    def draw(self, path):
        """Write a picture of the program to `path`: .svg, .png or .pdf. Needs matplotlib, else raises ImportError."""
        from .drawing import draw

        draw(self, path)


def _aligned(size):
    return -(-size // 64) * 64
