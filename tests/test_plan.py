"""Plans: what is fused, how it prints, and that no value is overwritten while something still reads it."""

import itertools
import re

import hypothesis
import numpy as np
import pytest
from freeze_torch import draw_targets
from hypothesis import strategies as st
from tolerances import close

import hotloop as hl

IDENTITY, RELU, LEAKY, SIGMOID, TANH, GELU, GELU_TANH, SOFTMAX = ACTIVATIONS = [
    hl.Identity(), hl.ReLU(), hl.LeakyReLU(0.3), hl.Sigmoid(), hl.Tanh(), hl.GELU(), hl.GELU("tanh"), hl.Softmax()]
MAKERS = [hl.PReLU, lambda width: hl.PReLU(),  # layers by width, new at each place
          lambda width: hl.Dropout(0.3), lambda width: hl.RReLU(),
          lambda width: hl.LayerNorm(width, 0.1), lambda width: hl.RMSNorm(width, 0.1),
          lambda width: hl.BatchNorm1d(width, 0.1, affine=width > 2)]
LOSSES = {"mse": (hl.MSELoss, "numbers"), "l1": (hl.L1Loss, "numbers"), "bce": (hl.BCEWithLogitsLoss, "bits"),
          "labels": (hl.CrossEntropyLoss, "labels"), "probabilities": (hl.CrossEntropyLoss, "probabilities")}


def make(layers, loss="mse", reduction="mean", optimizer=None, **options):
    return hl.Trainer(hl.Sequential(*layers), LOSSES[loss][0](reduction), optimizer or hl.SGD(lr=0.1), **options)


def layers_of(*kinds):
    """Layers from widths and activations: (3, TANH, 5) is Tanh and then Dense(3, 5)."""
    widths = [kind for kind in kinds if isinstance(kind, int)]
    layers, place = [], 0
    for kind in kinds:
        if not isinstance(kind, int):
            layers.append(kind)
        elif (place := place + 1) > 1:
            layers.append(hl.Dense(*widths[place - 2:place], bias=place % 3 != 0))
    return layers


def data(trainer, loss, rows=11):
    generator = np.random.default_rng(0)
    return (generator.standard_normal((rows, trainer.net.in_features)),
            draw_targets(generator, LOSSES[loss][1], rows, trainer.net.out_features))


def programs(trainer, x, y):
    """Every program that a trainer makes, by what it is for."""
    trainer.fit(x, y)
    trainer.predict(x)
    trainer.evaluate(x, y)
    trainer.gradients(x, y)
    return {goal: program for (goal, _), program in trainer._programs.items()}


# fusion


def steps(program):
    """The ops of a program as it prints: phase -> one text an instruction, without operands."""
    found, phase = {}, None
    for line in str(program).splitlines()[1:]:
        if not line.startswith(" "):
            phase = line.removesuffix(":")
            found[phase] = []
        else:
            op, fused = re.fullmatch(r"(?:.* <- )?(\w+)\(.*\)(.*)", line.strip()).groups()
            found[phase].append(op + fused)
    return found


def test_a_classifier_is_fused():
    trainer = make(layers_of(6, 9, RELU, 8, GELU, 3), "labels", optimizer=hl.Adam())
    found = programs(trainer, *data(trainer, "labels"))
    each, unit = ["total_loss"], "dense_parameter_gradient"
    forward = ["gather", "dense | relu", "dense | gelu", "dense"]
    backward = [*forward, "gather_labels", "cross_entropy", "dense_input_gradient | gelu_backward",
                "dense_input_gradient | where positive"]
    assert steps(found["train"]) == {"rows": backward, "each": each, "units": [f"{unit} | adam"] * 3}
    assert steps(found["gradient"]) == {"rows": backward, "each": each, "units": [unit] * 3}
    assert steps(found["predict"]) == {"rows": [*forward, "store"]}
    evaluation = [*forward, "gather_labels", "cross_entropy", "store"]
    assert steps(found["evaluate", "0"]) == {"rows": evaluation, "each": each}


def test_what_cannot_be_fused_stands_alone():
    trainer = make(layers_of(6, TANH, 9, TANH, LEAKY, 2, SOFTMAX))
    assert steps(trainer.program(*data(trainer, "mse"))) == {
        "rows": ["gather", "tanh", "dense | tanh", "leaky_relu", "dense", "softmax", "gather", "mse_loss",
                 "softmax_backward", "dense_input_gradient | leaky_relu_backward", "tanh_backward"],
        "each": ["total_loss"], "units": ["dense_parameter_gradient | sgd"] * 2}


@pytest.mark.parametrize("kinds", [(6, 9, RELU, 8, GELU, 3), (6, TANH, 9, TANH, LEAKY, 2, SOFTMAX)], ids=str)
def test_a_reader_can_follow_every_value(kinds):
    """One line an instruction: what it makes <- what it reads, with shapes; nothing is read before it was made."""
    trainer = make(layers_of(*kinds))
    found = programs(trainer, *data(trainer, "mse"))
    for program in found.values():
        lines, made = str(program).splitlines(), set()
        instructions = [line.strip() for line in lines if line.startswith("  ")]
        assert len(instructions) == len(program.instructions)
        for line, instruction in zip(instructions, program.instructions, strict=True):
            made_now, _, read = line.rpartition(" <- ")
            assert re.match(rf"{instruction.op}\(", read), line
            assert set(re.findall(r"[\w.]+\[B[^]]*\]", read)) <= made, line
            made |= set(re.findall(r"[\w.]+\[B[^]]*\]", made_now))


def test_a_line_tells_results_from_operands():
    trainer = make(layers_of(6, 2, SOFTMAX))
    head, *lines = [line.strip() for line in str(trainer.program(*data(trainer, "mse"))).splitlines()]
    assert re.fullmatch(r"float32, arena: parameters of \d+ numbers with padding, 5 buffers", head)
    assert "mse_loss_backward[B, 2] <- softmax_backward(mse_loss_backward[B, 2], dense_0[B, 2])" in lines
    assert "total_loss(loss[B], share=2)" in lines


def test_batch_norm_adds_phases():
    """Moments between the rows before and after them, sums on the way back; what lasts changes at the end."""
    layers = [hl.Dense(6, 9), hl.BatchNorm1d(9), RELU, hl.Dense(9, 2)]
    trainer = make(layers)
    found = programs(trainer, *data(trainer, "mse"))
    phases = {goal: [(phase, [instruction.op for instruction in part]) for (_, phase), part in itertools.groupby(
        program.instructions, lambda instruction: (instruction.stage, instruction.phase))]
        for goal, program in found.items()}
    last = ["track_moments", "dense_parameter_gradient", "affine_weight_gradient", "affine_bias_gradient",
            "dense_parameter_gradient"]
    assert phases["train"] == [
        ("rows", ["gather", "dense", "gather"]), ("units", ["batch_moments"]),
        ("rows", ["batch_norm", "affine", "relu", "dense", "mse_loss", "dense_input_gradient", "affine"]),
        ("each", ["total_loss"]), ("units", ["batch_norm_sums"]), ("rows", ["batch_norm_backward"]), ("units", last)]
    assert phases["predict"] == [("rows", ["gather", "dense", "standardize", "affine", "relu", "dense", "store"])]
    assert [phase for phase, _ in phases["gradient"]] == [phase for phase, _ in phases["train"]]
    text = str(found["train"])
    assert [line for line in text.splitlines() if line.endswith(":")] == [f"{phase}:" for phase, _ in phases["train"]]
    assert "moments_1[2, 9] <- batch_moments(dense_0[B, 9])" in text


# memory


@st.composite
def nets(draw):
    """Dense layers of odd widths with up to two other layers at every place."""
    widths = draw(st.lists(st.sampled_from([1, 2, 5, 8, 9, 17]), min_size=2, max_size=4))
    kinds = []
    for width in widths:
        chosen = draw(st.lists(st.sampled_from([*ACTIVATIONS, *MAKERS]), max_size=2))
        kinds += [width, *(kind(width) if kind in MAKERS else kind for kind in chosen)]
    return layers_of(*kinds)


@hypothesis.given(nets(), st.sampled_from(list(LOSSES)), st.sampled_from([1, 2, 13, 64, 65]),
                  st.sampled_from(["float32", "float64"]))
@hypothesis.settings(max_examples=40)
def test_buffers_do_not_overlap(layers, loss, capacity, dtype):
    hypothesis.assume(loss != "probabilities" or layers_end(layers) > 1)
    trainer = make(layers, loss, dtype=dtype)
    for program in programs(trainer, *data(trainer, loss)).values():
        places, size = program.place(capacity)
        spans = sorted((first, first + buffer.nbytes(capacity)) for buffer, first in places.items())
        assert all(end <= first for (_, end), (first, _) in zip(spans[:-1], spans[1:], strict=True))
        assert spans[-1][1] <= size and all(first % 64 == 0 for first, _ in spans)
        assert set(places) == set(program.buffers)


def layers_end(layers):
    return [layer for layer in layers if isinstance(layer, hl.Dense)][-1].out_features


@hypothesis.given(nets())
@hypothesis.settings(max_examples=15)
def test_programs_of_a_trainer_place_parameters_alike(layers):
    trainer = make(layers, optimizer=hl.Adam())
    found = programs(trainer, *data(trainer, "mse")).values()
    layouts = {tuple((block.matrix, block.vector, block.first) for block in program.blocks) for program in found}
    assert len(layouts) == 1 and len({(program.elements, program.states) for program in found}) == 1
    (blocks,) = layouts
    ends = [block.first + program.layout.block(block.inputs, block.outputs)
            for program in found for block in program.blocks][:len(blocks)]
    starts = [first for *_, first in blocks[1:]] + [next(iter(found)).elements]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))


UNUSUAL = {
    "activation first": (5, TANH, 9, RELU, 3),
    "two activations in a row": (5, 9, TANH, SIGMOID, 8, GELU, TANH, 3),
    "the same activation twice": (5, 9, RELU, RELU, 8, GELU, GELU, 3),
    "softmax among others": (5, SOFTMAX, 9, TANH, SOFTMAX, 8, SOFTMAX, RELU, 3),
    "identities": (5, IDENTITY, 9, IDENTITY, IDENTITY, 8, TANH, IDENTITY, 3),
    "one layer": (5, 3),
    "width one": (1, 1, TANH, 1, RELU, 2),
    "no activation": (5, 9, 8, 3),
}


@pytest.mark.parametrize("last", [None, *ACTIVATIONS], ids=repr)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kinds", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_nets_equal_numpy(kinds, loss, last):
    compare(layers_of(*kinds) + [last] * (last is not None), loss, "mean")


@hypothesis.given(nets(), st.sampled_from(list(LOSSES)), st.sampled_from(["mean", "sum"]))
@hypothesis.settings(max_examples=150)
def test_random_nets_equal_numpy(layers, loss, reduction):
    hypothesis.assume(loss != "probabilities" or layers_end(layers) > 1)
    compare(layers, loss, reduction)


def compare(layers, loss, reduction):
    one, other = (make(layers, loss, reduction, hl.SGD(lr=1e-3), backend=backend, dtype="float64", batch_size=4)
                  for backend in ("cpu", "numpy"))
    x, y = data(one, loss)

    def same(actual, expected):
        close(actual, expected, "float64", "training", len(x), scale=max(1, np.max(np.abs(expected))))

    same(one.predict(x), other.predict(x))
    same(one.evaluate(x, y)["loss"], other.evaluate(x, y)["loss"])
    gradients = other.gradients(x, y)
    for name, gradient in one.gradients(x, y).items():
        same(gradient, gradients[name])
    same(one.fit(x, y, epochs=2).loss, other.fit(x, y, epochs=2).loss)
    state = other.state_dict()
    for name, value in one.state_dict().items():
        same(value, state[name])
