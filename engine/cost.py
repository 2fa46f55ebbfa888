"""What a step of a program costs: arithmetic, memory, barriers; and the number of workers that it deserves.

A step of w workers takes about

    rows / w + units / min(w, number of units) + barriers * BARRIER log2(w) + shared (1 - 1 / w) / TRANSFER

seconds. `rows` and `units` are the work of the two kinds of phases on one worker: operations of the products, whole
vectors of them, at a rate of LANE a lane, START steps more than their depth for each tile, or the time that the matrix
takes to be READ, if that is longer; ELEMENT for each number written, UPDATE for each that an optimizer reads and
writes, a CALL for each instruction. `shared` are
the bytes that one worker writes and the others read in the next phase: parameters, and what stands for the batch's
rows in the gradients of parameters. The figures are of one machine (docs/performance.md); what is decided by them is
how long a step takes, never what comes out.
"""

from math import log2

from hotloop.kernels._cores import cores

from .program import Block, Buffer

LANE = 9.7e9  # operations a second of one lane: four fifths of two multiply-adds a cycle at 3 GHz
START = 10
READ = 20e9  # bytes a second
ELEMENT = 0.25e-9
UPDATE = 0.15e-9
CALL = 40e-9
BARRIER = 1.3e-6
TRANSFER = 10e9  # bytes a second from one core's cache to another's


def workers(program, rows, most):
    """The number of workers, at most `most` and the cores, with which a step is expected to take least."""
    parts = work(program, rows)
    return min(range(1, min(most, cores()) + 1), key=lambda count: seconds(*parts, count))


def seconds(rows, units, pieces, barriers, shared, count):
    """Time of a step of `count` workers, whose work is what `work` returns."""
    alone = rows / count + units / max(1, min(count, pieces))
    return alone + barriers * BARRIER * log2(count) + shared * (1 - 1 / count) / TRANSFER


def work(program, rows):
    """Seconds of the rows and of the units phases on one worker, units, barriers, bytes that workers share."""
    layout, sums, pieces, shared, barriers = program.layout, {"rows": 0.0, "units": 0.0}, 0, 0, set()
    for instruction in program.instructions:
        phase = "units" if instruction.phase == "units" else "rows"
        if instruction.phase in sums:
            barriers.add((instruction.stage, instruction.phase))
        for part in (instruction, *instruction.chained()):
            sums[phase] += CALL + _product(part, layout, rows)
            sums[phase] += _elements(part, layout, rows) * ELEMENT * 8 / layout.lanes
        if phase == "units":
            pieces += instruction.units
            shared += _bytes(instruction, layout, rows)
            sums[phase] += _parameters(instruction, layout) * (1 + program.states) * UPDATE * 8 / layout.lanes
    return sums["rows"], sums["units"], pieces, len(barriers), shared


def _product(part, layout, rows):
    """Seconds that the product with a matrix takes."""
    block = part.operands.get("w")
    if not isinstance(block, Block) or not block.inputs:
        return 0
    depth = {"dense": block.inputs, "dense_input_gradient": block.outputs}.get(part.op, rows)
    operations = 2 * rows * block.inputs * layout.width(block.outputs) * (1 + START / max(depth, 1))
    size = layout.block(block.inputs, block.outputs) * layout.dtype.itemsize
    return max(operations / (LANE * layout.lanes), size / READ)


def _elements(part, layout, rows):
    """Numbers that an instruction writes."""
    total = 0
    for name in part.writes:
        value = part.operands[name]
        if isinstance(value, Buffer) and not value.flat:
            total += (rows if value.rows is None else value.rows) * layout.width(value.cols)
    return total


def _parameters(instruction, layout):
    """Numbers of the parameters whose gradient an instruction makes."""
    block = instruction.operands.get("w")
    return layout.block(block.inputs, block.outputs) if isinstance(block, Block) else 0


def _bytes(instruction, layout, rows):
    """What other workers made and this instruction reads, and the parameters that it makes for them."""
    total = 0
    for value in instruction.operands.values():
        if isinstance(value, Buffer) and not value.flat:
            total += (rows if value.rows is None else value.rows) * layout.width(value.cols)
        elif isinstance(value, Block):
            total += layout.block(value.inputs, value.outputs)
    return total * layout.dtype.itemsize
