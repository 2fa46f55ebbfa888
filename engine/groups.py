"""Makes of a program that trains a small net one for large batches: see `hotloop.kernels.groups`."""

from dataclasses import replace

from hotloop.kernels import _jit
from hotloop.kernels.groups import GROUPS, PIECE, add_groups, groups

from .by_feature import operations
from .program import PHASES, Buffer, Instruction, Sums

_ROWS_BYTES = 2**18  # of the activations of the rows that are taken at once: they are to stay in the second-level cache
_NEAREST_BYTES = 2**16  # the same by feature, where sums over rows read them at the rate of the first-level cache
_WORTH = 2**19  # bytes of a batch's activations that do not stay there
_GRADIENTS = 1.5  # so many times the bytes of all groups' gradients must the activations have, too
_NEAR_GRADIENT = 2**18  # bytes of a gradient that stays in the second-level cache beside them
_MANY = 1024  # rows whose bytes are counted: whole blocks
_TURN = 64  # rows that are taken at once are a multiple of it
_LEAST = 16  # rows of a group
_LEAST_VECTORS = 2  # vectors of rows of a group, by feature
_OPERATIONS = 5e4  # vector operations of a batch that are worth several workers and groups: about 15 us
FOUND = "rows", "row_bytes", "stride", "moving", "moving_count"  # operands of the body that follow from its memory


def in_groups(program):
    """The same in groups of rows, and from how many rows on it is worth it; None and 0 where it cannot be done."""
    by_phase = {phase: [instruction for instruction in program.instructions if instruction.phase == phase]
                for phase in PHASES}
    gradients, size = by_phase["units"], program.elements * program.layout.dtype.itemsize
    if not gradients or size > _NEAR_GRADIENT or not all(map(_by_rows, program.instructions)):
        return None, 0
    shared = [instruction.operands["loss"] for instruction in by_phase["each"]]
    near = tuple(buffer for buffer in program.buffers if buffer not in shared)
    row_bytes = sum(buffer.nbytes(2 * _MANY) - buffer.nbytes(_MANY) for buffer in near) // _MANY
    slots, most = Slots(size), _NEAREST_BYTES if program.grain > 1 else _ROWS_BYTES
    # An instruction without units takes rows: what the plan noted for those that could be dealt out goes.
    inner = [*(replace(instruction, units=0) for instruction in by_phase["rows"]), *map(_partial, gradients)]
    body = Instruction("groups", groups, "units", dict.fromkeys(FOUND) | {
        "count": len(inner), "height": max(_TURN, most // row_bytes // _TURN * _TURN), "slots": slots,
        "elements": program.elements}, ("slots",), (), GROUPS, inner=tuple(inner), near=near)
    instructions = [*by_phase["before"], body, *(replace(instruction, stage=1) for instruction in by_phase["each"]),
                    *(_sum(instruction, slots, program) for instruction in gradients)]
    made = replace(program, instructions=instructions, scratch=max(program.scratch, PIECE), grain=1,
                   buffers=[*shared, slots])
    if program.grain > 1:
        return made, int(max(_OPERATIONS / operations(program), GROUPS * _LEAST_VECTORS) * program.layout.lanes)
    return made, max(int(max(_WORTH, _GRADIENTS * slots.nbytes(0)) / row_bytes), GROUPS * _LEAST)


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
    one_term = instruction.operands.get("onto", instruction) is None
    return not instruction.stage and (one_term or instruction.phase != "units")


def _partial(gradient):
    """The instruction that adds a part of a gradient to its group's."""
    return replace(gradient, operands=gradient.operands | {"gradient": None, "onto": None, "chain": None}, writes=(),
                   nodes=())


def _sum(gradient, slots, program):
    """The instruction that adds the groups' gradients up and does with their sum what `gradient` did with its own."""
    block = gradient.operands["w"]
    size = program.layout.block(block.inputs, block.outputs)
    operands = {name: gradient.operands[name] for name in ("w", "gradient", "chain")}
    return Instruction("add_groups", add_groups, "units", operands | {
        "slots": slots, "elements": program.elements, "size": size}, gradient.writes, gradient.nodes,
        -(-size // PIECE), stage=1)
