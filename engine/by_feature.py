"""Makes of a program the same by feature, and says for which nets and batches that pays.

See `hotloop.kernels.dense_by_feature`. What pays is decided by the net, the batch's rows and the processor's vectors
alone, so results do not depend on threads. Both programs are counted in operations of a whole vector.
"""

from dataclasses import replace

from hotloop.kernels.activations import ACTIVATIONS
from hotloop.kernels.data import SINGLE
from hotloop.kernels.dense_by_feature import each_by_feature

from .program import Buffer, Instruction

_GAIN = 1.12  # so many times the operations must the other program have for it where rows are many
_OURS, _THEIRS = 1250, 1570  # operations for each dense layer, however few the rows: instructions, and what begins anew
_ACTIVATION = 14  # for a vector of an activation, or of its slope, that is no part of a product
_GATHERED = 11  # for each panel of a row of inputs and targets, in the other program
_SWAPPED = 2  # for each of the LANES log2 LANES shuffles that transpose a square of them, by feature
_DOT = 3  # operations of a row's dot product beside those of its vectors


def by_feature(program):
    """The same program by feature, or None where an instruction has no such kernel."""
    buffers = {buffer: buffer if buffer.flat else replace(buffer, by_feature=True)
               for buffer in program.buffers if isinstance(buffer, Buffer)}
    made = [_instruction(instruction, buffers) for instruction in program.instructions]
    if None in made:
        return None
    scratch = max(program.scratch, program.layout.panel**2)
    return replace(program, instructions=made, scratch=scratch, grain=program.layout.panel,
                   buffers=[buffers.get(buffer, buffer) for buffer in program.buffers])


def narrow_rows(program):
    """From how many rows on a batch is expected to take less by feature; 0 where it never does."""
    lanes, layers = program.layout.lanes, sum(part.op == "dense" for part in _parts(program))
    ours, theirs = operations(program), sum(_operations_by_panels(part, program.layout) for part in _parts(program))
    if _GAIN * ours >= theirs * lanes:
        return 0
    return next(rows for rows in range(1, lanes + 1) if ours + _OURS * layers < theirs * rows + _THEIRS * layers)


def operations(program):
    """Operations of LANES rows by feature."""
    return sum(_operations(part, program.layout) for part in _parts(program))


def _parts(program):
    return [part for instruction in program.instructions for part in (instruction, *instruction.chained())]


def _operations(part, layout):
    """Operations of an instruction for LANES rows, in vectors of rows."""
    if part.op == "gather":
        columns = part.operands["y"].cols
        squares = 0 if columns <= SINGLE else -(-columns // layout.lanes)
        return squares * _SWAPPED * layout.lanes * (layout.lanes.bit_length() - 1)
    if _separate(part):
        return _ACTIVATION * part.operands[part.writes[0]].cols
    if "dense" in part.op:
        return part.operands["w"].inputs * part.operands["w"].outputs
    return 0


def _operations_by_panels(part, layout):
    """Operations of an instruction for one row, in vectors of columns."""
    if part.op == "gather":
        return _GATHERED * part.operands["y"].panels
    if _separate(part):
        return _ACTIVATION * part.operands[part.writes[0]].panels * layout.panel / layout.lanes
    if "dense" not in part.op:
        return 0
    block = part.operands["w"]
    outwards, inwards = (_product(deep, wide, layout.lanes) for deep, wide in
                         ((block.inputs, block.outputs), (block.outputs, block.inputs)))
    return {"dense": outwards, "dense_input_gradient": inwards}.get(part.op, min(outwards, inwards))


def _separate(part):
    """Whether an instruction is an activation, or the slope of one, that is no part of a product."""
    return part.op.removesuffix("_backward") in ACTIVATIONS


def _product(depth, columns, lanes):
    """Operations of one row of a product; the last few columns may go as dot products (`hotloop.kernels.gemm`)."""
    rest = columns % lanes
    return depth * (columns // lanes) + min(depth, rest * (depth / lanes + _DOT))


def _instruction(instruction, buffers):
    """An instruction on `buffers`, the dictionary of those by feature, or None where it has no such kernel."""
    kernel = instruction.kernel
    given = [value for value in instruction.operands.values() if isinstance(value, Buffer) and not value.flat]
    if any(buffer.rows is not None for buffer in given):
        return None
    if given and _separate(instruction):  # an activation that follows no product
        chain = _moved(instruction, buffers)
        operands = {"y": chain.operands[chain.writes[0]], "chain": chain}
        return replace(instruction, op="each", kernel=each_by_feature, operands=operands, writes=(), nodes=())
    if given and not hasattr(kernel, "by_feature"):
        return None
    return replace(_moved(instruction, buffers), kernel=kernel.by_feature if given else kernel)


def _moved(instruction, buffers):
    """An instruction on other buffers, with those that it runs: elementwise ones, or updates."""
    operands = {name: buffers.get(value, value) if isinstance(value, Buffer) else
                _moved(value, buffers) if isinstance(value, Instruction) else value
                for name, value in instruction.operands.items()}
    return replace(instruction, operands=operands)
