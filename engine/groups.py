"""Makes of a program that trains a small net one for large batches: see `hotloop.kernels.groups`."""

from dataclasses import replace

from hotloop.kernels import _jit
from hotloop.kernels.groups import GROUPS, PIECE, add_groups, groups

from .program import Buffer, External, Instruction, Sums

_ROWS_BYTES = 2**18  # of the activations of the rows that are taken at once: they are to stay in the second-level cache
_WORTH = 2**19  # bytes of a batch's activations that do not stay there
_GRADIENTS = 1.5  # so many times the bytes of all groups' gradients must the activations have, too
_NEAR_GRADIENT = 2**18  # bytes of a gradient that stays in the second-level cache beside them
_TURN = 64  # rows that are taken at once are a multiple of it
_LEAST = 16  # rows of a group


def in_groups(program):
    """The same in groups of rows, and from how many rows on it is worth it; None where it cannot be done."""
    inner, others, gradients = [], [], []
    for instruction in program.instructions:
        if instruction.stage or not _by_rows(instruction):
            return None, 0
        if instruction.phase == "rows":
            inner.append(replace(instruction, units=0))  # which tells what takes rows
        elif instruction.phase == "units":
            gradients.append(instruction)
        else:
            others.append(instruction)
    size = program.elements * program.layout.dtype.itemsize
    if not gradients or not inner or size > _NEAR_GRADIENT:
        return None, 0
    inner += [_partial(instruction) for instruction in gradients]
    shared = {value for instruction in others for value in instruction.operands.values() if isinstance(value, Buffer)}
    near = [buffer for buffer in program.buffers if buffer not in shared]
    row_bytes = sum(buffer.nbytes(_TURN) for buffer in near) // _TURN
    height = max(_TURN, _ROWS_BYTES // row_bytes // _TURN * _TURN)
    slots = Slots(size)
    body = Instruction("groups", groups, "units", {
        "rows": None, "stride": None, "count": len(inner), "moving": None, "moving_count": None, "height": height,
        "slots": slots, "elements": program.elements}, ("slots",), (), GROUPS, inner=tuple(inner), near=tuple(near))
    instructions = [instruction for instruction in others if instruction.phase == "before"]
    instructions += [body, *(replace(instruction, stage=1) for instruction in others if instruction.phase == "each")]
    for instruction in gradients:
        block = instruction.operands["w"]
        numbers = program.layout.block(block.inputs, block.outputs)
        operands = {name: instruction.operands[name] for name in ("w", "gradient", "chain")}
        instructions.append(Instruction("add_groups", add_groups, "units", operands | {
            "slots": slots, "elements": program.elements, "size": numbers}, instruction.writes, instruction.nodes,
            -(-numbers // PIECE), stage=1))
    made = replace(program, instructions=instructions, scratch=max(program.scratch, PIECE),
                   buffers=[buffer for buffer in program.buffers if buffer in shared] + [slots], few=None, few_rows=0)
    worth = max(_WORTH, _GRADIENTS * slots.nbytes(0))
    return made, max(int(worth / row_bytes), GROUPS * _LEAST)


class Slots(Sums):
    """A gradient for each group."""

    def __init__(self, size):
        super().__init__("gradients", GROUPS)
        self.size = size

    def nbytes(self, capacity):
        """Bytes, for any number of rows."""
        return GROUPS * self.size


def _by_rows(instruction):
    """Whether an instruction goes on rows that begin anywhere, or adds such rows up into a gradient of one term."""
    for part in (instruction, *instruction.chained()):
        if "key" in _jit.operands(part.kernel):  # random numbers go by the row's place in the batch
            return False
        if any(isinstance(value, Sums) or (isinstance(value, Buffer) and value.rows is not None)
               for value in part.operands.values()):
            return False
    if instruction.phase == "units":
        return "onto" in instruction.operands and instruction.operands["onto"] is None
    return not any(isinstance(value, External) and name == "target" for name, value in instruction.operands.items())


def _partial(instruction):
    """The instruction that adds a part of a gradient to its group's."""
    return replace(instruction, operands=instruction.operands | {"gradient": None, "onto": None, "chain": None},
                   writes=(), nodes=())
