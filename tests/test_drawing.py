"""Pictures of programs: everything is on them, nothing lies on anything else."""

import re
import sys

import numpy as np
import pytest

import hotloop as hl
from hotloop import drawing
from hotloop.program import Block

pytest.importorskip("matplotlib")

NETS = {
    "small": (hl.Dense(64, 128), hl.ReLU(), hl.Dense(128, 10)),
    "deep": (hl.Dense(64, 32), hl.Tanh(), hl.Dense(32, 16), hl.Softmax(), hl.Dense(16, 8), hl.GELU(), hl.ReLU(),
             hl.Dense(8, 10), hl.Sigmoid()),
    "single": (hl.Dense(64, 10),),
    "stages": (hl.Dense(64, 32), hl.BatchNorm1d(32), hl.PReLU(), hl.Dropout(), hl.Dense(32, 20), hl.GLU()),
}


def programs(layers):
    """The training, evaluation and prediction programs of a net."""
    trainer = hl.Trainer(hl.Sequential(*layers), hl.CrossEntropyLoss(), hl.Adam())
    X, y = np.zeros((2, 64)), np.zeros(2, int)
    trainer.program(X, y), trainer.evaluate(X, y), trainer.gradients(X, y)
    return {goal: program for (goal, _), program in trainer._programs.items()}


@pytest.mark.parametrize("net", NETS)
def test_draws_every_instruction(tmp_path, net):
    for goal, program in programs(NETS[net]).items():
        path = tmp_path / f"{goal}.svg"
        program.draw(path)
        text = path.read_text()
        titles = re.findall(r">([a-z_]+)(?: \|[^<]*)?</text>", text)
        assert sorted(titles) == sorted(instruction.op for instruction in program.instructions)
        operands = [value for instruction in program.instructions for value in instruction.operands.values()]
        for block in {value for value in operands if isinstance(value, Block)}:
            assert f"{block!r}</text>" in text
        for phase in {instruction.phase for instruction in program.instructions}:
            assert f">{phase}: " in text


@pytest.mark.parametrize("net", NETS)
def test_boxes_have_places_of_their_own(net):
    for program in programs(NETS[net]).values():
        boxes = drawing._boxes(program)
        drawing._arrange(boxes)
        assert len({(box.band, box.column, box.track) for box in boxes}) == len(boxes)
        assert all(box.sources for box in boxes if not box.instruction.op.startswith(("gather", "total_weight")))


def test_follows_the_buffers():
    """What a gradient reads: the layer's input and the slope of its output, though buffers are used again."""
    boxes = drawing._boxes(programs(NETS["small"])["train"])
    made = [(box.instruction.op, [source.instruction.op for source in box.sources]) for box in boxes]
    assert made == [
        ("gather", []), ("dense", ["gather"]), ("dense", ["dense"]), ("gather_labels", []),
        ("cross_entropy", ["dense", "gather_labels"]), ("dense_input_gradient", ["cross_entropy", "dense"]),
        ("total_loss", ["cross_entropy"]), ("dense_parameter_gradient", ["dense", "cross_entropy"]),
        ("dense_parameter_gradient", ["gather", "dense_input_gradient"]),
    ]


def test_formats(tmp_path):
    program = programs(NETS["small"])["train"]
    program.draw(tmp_path / "program.png")
    assert (tmp_path / "program.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="doc"):
        program.draw(tmp_path / "program.doc")


def test_without_matplotlib(tmp_path, monkeypatch):
    program = programs(NETS["small"])["train"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        program.draw(tmp_path / "program.svg")
