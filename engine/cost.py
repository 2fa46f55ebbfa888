"""What a step of a program costs: arithmetic, memory, barriers; and the number of workers that it deserves.

A step of w workers takes about

    max(rows / even(w, blocks), read) + sum of units / even(w, pieces) + barriers * BARRIER log2(w)
        + shared (1 - 1 / w) / TRANSFER + spilled / SPILL

seconds, where even(w, n) = n / ceil(n / w) is how many times as fast w workers do n equal pieces. `rows`, which come in
so many blocks, and `units`, for each stage in so many pieces, are the work of the two kinds of phases on one worker:
operations of the products, whole vectors of them (of columns, or by feature of rows), at a rate of LANE a lane, START
steps more than their depth for each tile, or the time that the matrix takes to be READ, if that is longer; ELEMENT for
each number written, UPDATE for each that an optimizer reads and writes, a CALL for each instruction. `read` is what
each worker takes to read the matrices of the rows phases, all of them however few its rows. `shared` are the bytes that
one worker writes and the others read: what stands for the batch's rows in units phases, and parameters that are not
read by those alone who change them, unless no cache holds them that long. `spilled` are the bytes of a batch, where
columns are dealt out, that do not stay in a second-level cache from one product to the next; rows go through all
products block by block. The figures are of few machines (docs/performance.md); what is decided by them is how long a
step takes, never what comes out.
"""

from math import log2
from typing import NamedTuple

from hotloop.kernels._cores import cores
from hotloop.kernels._primitives import WIDE_ROWS

from .program import Block, Buffer

LANE = 10.5e9  # operations a second of one lane: 0.86 of two multiply-adds a cycle at 3.05 GHz
START = 4
READ = 20e9  # bytes a second
READ_SHARE, READ_WIDE = 40e9, 50e9  # the same of columns alone, and in tiles of several panels
READ_FAR = 25e9  # at most, where all matrices are more than a second-level cache holds
ELEMENT = 0.25e-9
UPDATE = 0.15e-9
CALL = 40e-9
BARRIER = 1.3e-6
LEND = 30e-6  # for helpers to come to a run of one step, and for Python to see to them; 12 on a quiet machine
TRANSFER = 8e9  # bytes a second from one core's cache to another's: 4 to 20, by machine
SPILL = 10e9  # bytes a second
_SECOND_LEVEL = 2e6  # bytes of a cache
_SURE = 0.999  # of the other's time, down to which another program is better: more than rounding makes
_HELD = 4e6  # bytes of parameters, half of which are still in a cache in the next step


def workers(program, rows, most, lending=0.0):
    """The number of workers, at most `most` and the cores, with which a step is expected to take least.

    lending: seconds of it that helpers cost, however many.
    """
    step = work(program, rows)
    return min(range(1, min(most, cores()) + 1), key=lambda count: seconds(step, count) + lending * (count > 1))


def few_rows(program, few, most):
    """Rows of the largest batch, of 1, 2, 4, ..., up to which `few`, which does the same, is expected to take less."""
    rows = 0
    for candidate in (2**power for power in range(9)):
        best, other = (min(seconds(work(made, candidate), count) for count in range(1, min(most, cores()) + 1))
                       for made in (program, few))
        if other >= _SURE * best:
            break
        rows = candidate
    return rows


class Work(NamedTuple):
    """What a step asks for, by the names of the formula above; `units` are pairs of seconds and pieces."""

    rows: float  # seconds of one worker, as are those of `units`, and `read`
    units: tuple[tuple[float, int], ...]
    blocks: int
    barriers: int
    shared: float  # bytes, as are `spilled`
    spilled: float
    read: float

    @property
    def most(self):
        """Workers that have anything to do."""
        return max(1, self.blocks, *(pieces for _, pieces in self.units))


def seconds(step, count):
    """Time of the `Work` of a step with `count` workers."""
    units = sum(alone / _even(count, pieces) for alone, pieces in step.units)
    return (max(step.rows / _even(count, step.blocks), step.read) + units + step.barriers * BARRIER * log2(count)
            + step.shared * (1 - 1 / count) / TRANSFER + step.spilled / SPILL)


def _even(count, pieces):
    """How many times as fast so many workers do equal pieces."""
    return pieces / -(-pieces // count) if pieces else 1


def work(program, rows):
    """The `Work` of a step of a program on so many rows."""
    layout, alone, stages, barriers = program.layout, 0.0, {}, set()
    read = 0.0
    for instruction in program.instructions:
        in_units, took = instruction.phase == "units", 0.0
        if instruction.phase in ("rows", "units"):
            barriers.add((instruction.stage, instruction.phase))
        for part in [part for one in (instruction, *instruction.inner) for part in (one, *one.chained())]:
            operations, reading = _product(part, in_units, program, rows)
            took += CALL + max(operations, reading) + _elements(part, layout, rows) * ELEMENT * 8 / layout.lanes
            read += 0 if in_units else reading
        if in_units:
            took += _parameters(instruction, layout) * (1 + program.states) * UPDATE * 8 / layout.lanes
            before, pieces = stages.get(instruction.stage, (0.0, 0))
            stages[instruction.stage] = before + took, pieces + instruction.units
        else:
            alone += took
    spilled = 0
    if any(map(_by_columns, program.instructions)):
        spilled = max(0, sum(buffer.nbytes(rows) for buffer in program.buffers) - _SECOND_LEVEL)
    return Work(alone, tuple(stages.values()), -(-rows // program.grain), len(barriers), _shared(program, rows),
                spilled, read)


def _product(part, in_units, program, rows):
    """Seconds that the operations of the product with a matrix take, and reading the matrix."""
    block, layout = part.operands.get("w"), program.layout
    if not isinstance(block, Block) or not block.inputs:
        return 0, 0
    depth = {"dense": block.inputs, "dense_input_gradient": block.outputs}.get(part.op, rows)
    columns = layout.width(block.outputs)
    if any(isinstance(value, Buffer) and value.by_feature for value in part.operands.values()):
        rows, columns = layout.width(rows), block.outputs
    operations = 2 * rows * block.inputs * columns * (1 + START / max(depth, 1))
    size = layout.block(block.inputs, block.outputs) * layout.dtype.itemsize
    rate = READ if not in_units else READ_WIDE if rows <= WIDE_ROWS else READ_SHARE
    if program.elements * layout.dtype.itemsize > _SECOND_LEVEL:
        rate = min(rate, READ_FAR)
    return operations / (LANE * layout.lanes), size / rate


def _elements(part, layout, rows):
    """Numbers that an instruction writes."""
    total = 0
    for name in part.writes:
        value = part.operands[name]
        if isinstance(value, Buffer) and not value.flat:
            total += _numbers(value, layout, rows)
    return total


def _numbers(buffer, layout, rows):
    """Numbers of a buffer with what fills up vectors: of columns, or by feature of rows."""
    if buffer.by_feature:
        return layout.width(rows) * buffer.cols
    return (rows if buffer.rows is None else buffer.rows) * layout.width(buffer.cols)


def _parameters(instruction, layout):
    """Numbers of the parameters whose gradient an instruction makes."""
    block = instruction.operands.get("w")
    makes = isinstance(block, Block) and "gradient" in instruction.operands
    return layout.block(block.inputs, block.outputs) if makes else 0


def _by_columns(instruction):
    """Whether an instruction is a product whose columns are dealt out."""
    return instruction.phase == "units" and instruction.op in ("dense", "dense_input_gradient")


def _shared(program, rows):
    """Bytes that some workers write in a step and others read."""
    layout, parts = program.layout, program.listed()
    units = [instruction for instruction in program.instructions if instruction.phase == "units"]
    read = {value for instruction in units for value in instruction.operands.values() if isinstance(value, Buffer)}
    numbers = sum(_numbers(buffer, layout, rows) for buffer in read if not buffer.flat)
    for block in {instruction.operands["w"] for instruction in units if _parameters(instruction, layout)}:
        size = layout.block(block.inputs, block.outputs)
        if size * layout.dtype.itemsize <= _HELD:
            numbers += size * max((_foreign(part) for part in parts if part.operands.get("w") is block), default=0)
    return numbers * layout.dtype.itemsize


def _foreign(part):
    """What part of the parameters that other workers change a worker reads for an instruction: half of two."""
    if part.op == "dense_input_gradient" and _by_columns(part):
        return 0.5
    return float(part.op in ("dense", "dense_input_gradient") and not _by_columns(part))
