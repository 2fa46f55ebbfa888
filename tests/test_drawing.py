"""Pictures of programs: everything is on them, nothing lies on anything else."""

import html
import re
import sys
from itertools import combinations

import numpy as np
import pytest

import hotloop as hl
from hotloop import drawing, graph_drawing
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


def expression(backend="cpu", differentiated=True):
    """The program of a graph with an input, a matrix and a scalar, and of its gradient."""
    graph = hl.Graph()
    x, w, b = graph.input("x", (None, 2)), graph.parameter("w", [[1.0], [2.0]]), graph.parameter("b", 0.5)
    return graph.compile(hl.mean(hl.tanh(x @ w + b) ** 2), wrt=[w, b] if differentiated else (), backend=backend)


def texts(path):
    return [html.unescape(text) for text in re.findall(r">([^<]+)</text>", path.read_text("utf-8"))]


@pytest.mark.parametrize("backend", ["cpu", "numpy", "cuda"])
def test_draws_every_node_with_its_value(tmp_path, backend):
    program, x = expression(backend), np.ones((3, 2))
    program["b"] = 0.25
    program.draw(tmp_path / "shapes.svg")
    program.draw(tmp_path / "values.svg", x=x)
    shapes, values = texts(tmp_path / "shapes.svg"), texts(tmp_path / "values.svg")
    nodes = [line.split("  <- ")[0].split(" = ") for line in str(program).splitlines()]
    assert {"backward pass", "\N{RIGHTWARDS ARROW} output", "\N{RIGHTWARDS ARROW} gradient of w"} <= set(shapes)
    for name, definition in nodes:
        if definition != "constant":
            assert name.removesuffix("[]") in shapes and definition in shapes
    value, gradients = program(x=x)
    assert {f"= {value:.6g}", f"= {gradients['b']:.6g}", "= 0.25", "= 1, 2"} <= set(values)
    assert not any(text.startswith("= ") for text in shapes)
    with pytest.raises(ValueError, match="missing are \\['x'\\], unknown \\['y'\\]"):
        program.draw(tmp_path / "refused.svg", y=x)


def test_a_graph_without_gradient_has_no_backward_pass(tmp_path):
    expression(differentiated=False).draw(tmp_path / "graph.svg")
    assert "forward pass" in texts(tmp_path / "graph.svg") and "backward pass" not in texts(tmp_path / "graph.svg")


def test_nothing_lies_on_anything_else(monkeypatch):
    """Boxes are apart, and no arrow passes through one."""
    boxes, arrows = [], []

    class Page:
        def __init__(self, width, height):
            self.size = width, height

        def text(self, *_):
            pass

        def box(self, x, y, width, height, *_):
            assert min(x, y, self.size[0] - x - width, self.size[1] - y - height) > 0
            boxes.append((x, y, x + width, y + height))

        def arrow(self, points, _):
            arrows.append(np.array(points))

        def save(self, _):
            pass

    monkeypatch.setattr(graph_drawing, "Canvas", Page)
    graph = hl.Graph()
    x, y, z = (graph.parameter(name, 2.0) for name in "xyz")
    program = graph.compile(x**2 + 3 * x * y + y**2 + z**3 + hl.sin(x * y) / hl.exp(z), wrt=[x, y, z], backend="numpy")
    program.draw("unused")
    formulas = [node for node in program._engine.live if node.op != "constant"]
    assert len(boxes) == len(formulas) and len(arrows) >= len(formulas) - 1
    for (left, top, right, bottom), other in combinations(boxes, 2):
        assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top
    t = np.linspace(0, 1, 50)[:, None]
    weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    for points in arrows:
        for first in range(0, len(points) - 1, 3):
            x, y = sum(weight * point for weight, point in zip(weights, points[first : first + 4], strict=True)).T
            for left, top, right, bottom in boxes:
                assert not ((left + 1e-9 < x) & (x < right - 1e-9) & (top + 1e-9 < y) & (y < bottom - 1e-9)).any()


@pytest.mark.parametrize("make", [lambda: programs(NETS["small"])["train"], expression], ids=["net", "graph"])
def test_formats(tmp_path, make):
    program = make()
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        program.draw(tmp_path / f"program.{suffix}")
        assert (tmp_path / f"program.{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match="doc"):
        program.draw(tmp_path / "program.doc")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for program in (programs(NETS["small"])["train"], expression()):
        with pytest.raises(ImportError, match="pip install matplotlib"):
            program.draw(tmp_path / "program.svg")
