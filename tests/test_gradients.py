"""What becomes of a gradient before the update: penalties and clipping."""

import re

import numpy as np
import pytest
from tolerances import close

import hotloop as hl
from hotloop.kernels import OPS, _jit
from hotloop.kernels.clipping import norm_blocks
from hotloop.optimizers import OPTIMIZERS

ROWS = 22
PENALTIES = [{"l1": 0.3}, {"l2": 0.7}, {"l1": 0.3, "l2": 0.7}, {"l1": 0.3, "l2": 0.7, "penalize_bias": True}]
CLIPS = [{"clip_value": 0.02}, {"clip_norm": 0.1}, {"clip_value": 0.02, "clip_norm": 0.1}, {"clip_norm": 1e6}]


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


def make(backend="cpu", optimizer=None, bias=True, sizes=(6, 37, 3), **options):
    inner = [part for pair in zip(sizes[:-2], sizes[1:-1], strict=True)
             for part in (hl.Dense(*pair, bias=bias), hl.Tanh())]
    net = hl.Sequential(*inner, hl.Dense(*sizes[-2:]), seed=1)
    return hl.Trainer(net, hl.MSELoss(), optimizer or hl.SGD(lr=0.1),
                      **{"batch_size": 8, "backend": backend, "dtype": "float64"} | options)


def data(inputs=6, outputs=3):
    generator = np.random.default_rng(2)
    return generator.standard_normal((ROWS, inputs)), generator.standard_normal((ROWS, outputs))


def penalty(parameters, l1=0.0, l2=0.0, penalize_bias=False):
    return sum(l1 * abs(value).sum() + l2 / 2 * (value**2).sum() for name, value in parameters.items()
               if penalize_bias or name.endswith("weight"))


def changed(gradients, parameters, l1=0.0, l2=0.0, penalize_bias=False, clip_value=None, clip_norm=None):
    """The gradient that an optimizer is given, in NumPy."""
    gradients = {name: g + (l1 * np.sign(parameters[name]) + l2 * parameters[name])
                 * (penalize_bias or name.endswith("weight")) for name, g in gradients.items()}
    if clip_value:
        gradients = {name: np.clip(g, -clip_value, clip_value) for name, g in gradients.items()}
    if clip_norm:
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        gradients = {name: g * min(1, clip_norm / (norm + 1e-6)) for name, g in gradients.items()}
    return gradients


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [*PENALTIES, *CLIPS, *[a | b for a in PENALTIES[2:] for b in CLIPS[:3]]], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_is_that_of_the_changed_gradient(backend, options, bias, dtype):
    trainer, plain, (x, y) = make(backend, bias=bias, dtype=dtype, **options), make(bias=bias), data()
    parameters = plain.net.state_dict()
    gradients = changed(plain.gradients(x, y), parameters, **options)
    amounts = {name: value for name, value in options.items() if not name.startswith("clip")}
    expected_loss = plain.evaluate(x, y)["loss"] + penalty(parameters, **amounts)
    for name, value in changed(plain.gradients(x, y), parameters, **amounts).items():
        close(trainer.gradients(x, y)[name], value, dtype, "training", ROWS, abs(value).max())
    close(trainer.evaluate(x, y)["loss"], plain.evaluate(x, y)["loss"], dtype, "training", ROWS)
    close(trainer.step(x, y), expected_loss, dtype, "training", ROWS)
    for name, value in trainer.net.state_dict().items():
        close(value, parameters[name] - 0.1 * gradients[name], dtype, "training", ROWS, abs(parameters[name]).max())


@pytest.mark.parametrize("options", [PENALTIES[3], CLIPS[0], CLIPS[1], PENALTIES[3] | CLIPS[2]], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing(options, dtype, threads):
    """Of a network with more than one block of its gradient's norm."""
    x, y = data()
    trainers = [make(optimizer=hl.Adam(amsgrad=True), sizes=(6, 70, 50, 3), dtype=dtype, threads=count, **options)
                for count in (1, threads)]
    for trainer in trainers:
        trainer.fit(x, y, epochs=3)
    assert norm_blocks(trainers[0].program(x, y).elements) > 2
    for name, value in trainers[0].state_dict().items():
        assert value.tobytes() == trainers[1].state_dict()[name].tobytes()


@pytest.mark.parametrize("options", [PENALTIES[3], CLIPS[2], PENALTIES[3] | CLIPS[2]], ids=repr)
def test_backends_agree(options):
    one, other = (make(backend, hl.RMSprop(momentum=0.9, eps=1e-3), sizes=(6, 70, 50, 3), **options)
                  for backend in ("cpu", "numpy"))
    losses = other.fit(*data(), epochs=2).loss
    close(one.fit(*data(), epochs=2).loss, losses, "float64", "training", 2 * ROWS)
    for name, value in other.state_dict().items():
        close(one.state_dict()[name], value, "float64", "training", 2 * ROWS, abs(value).max())


def test_the_penalty_and_its_slope_are_one(backend):
    trainer, (x, y) = make(backend, l1=0.3, l2=0.7, penalize_bias=True), data()
    gradients, point = trainer.gradients(x, y), trainer.net.state_dict()
    trainer.optimizer.lr = 1e-300  # a step then tells the loss alone
    for name, value in point.items():
        for place in (0, value.size // 2, value.size - 1):
            losses = []
            for sign in (1, -1):
                moved = {key: array.copy() for key, array in point.items()}
                moved[name].flat[place] += sign * 1e-6
                trainer.net.load_state_dict(moved)
                losses.append(trainer.step(x, y))
            assert gradients[name].flat[place] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_l2_is_a_weight_decay_of_everything(backend):
    """Of one that is added to the gradient, when biases are penalised."""
    one, other, (x, y) = (make(backend, l2=0.3, penalize_bias=True), make(backend, hl.SGD(lr=0.1, weight_decay=0.3)),
                          data())
    one.fit(x, y), other.fit(x, y)
    for name, value in other.state_dict().items():
        close(one.state_dict()[name], value, "float64", "training", ROWS, abs(value).max())


def test_l1_does_not_move_a_zero(backend):
    trainer, (x, y) = make(backend, l1=0.5), data()
    trainer.net.load_state_dict({name: 0 * value for name, value in trainer.net.state_dict().items()})
    assert not trainer.gradients(0 * x, 0 * y)["0.weight"].any()


def test_clipping_torch_by_hand(backend):
    """A gradient of norm 5: torch's factor is 1 / (5 + 1e-6)."""
    net = hl.Sequential(hl.Dense(2, 1, bias=False))
    net.load_state_dict({"0.weight": [[0.0, 0.0]]})
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=1), clip_norm=1, backend=backend, dtype="float64")
    trainer.step([[3.0, 4.0]], [[0.5]])
    np.testing.assert_allclose(net.state_dict()["0.weight"], [[3 / (5 + 1e-6), 4 / (5 + 1e-6)]], rtol=1e-15)


def test_clipping_leaves_shorter_gradients_alone(backend):
    found = []
    for clip_norm in (None, 5.1):
        net = hl.Sequential(hl.Dense(2, 1, bias=False))
        net.load_state_dict({"0.weight": [[0.0, 0.0]]})
        trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=1), clip_norm=clip_norm, backend=backend, dtype="float64")
        trainer.step([[3.0, 4.0]], [[0.5]])
        found.append(net.state_dict()["0.weight"])
    assert np.array_equal(*found)


@pytest.mark.parametrize("clip", [{"clip_norm": 1.0}, {"clip_value": 1.0}], ids=repr)
def test_a_gradient_that_is_not_finite(backend, clip):
    """By value an infinite slope is clipped, as in torch; a norm says nothing about it."""
    net = hl.Sequential(hl.Dense(1, 1, bias=False))
    net.load_state_dict({"0.weight": [[1e-14]]})
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=1e-3), backend=backend, dtype="float32", **clip)
    if "clip_value" in clip:
        trainer.step([[1e30]], [[0.0]])
        assert net.state_dict()["0.weight"] == pytest.approx(-1e-3)
    else:
        with pytest.raises(hl.NonFiniteError, match="step 1"):
            trainer.step([[1e30]], [[0.0]])
        assert net.state_dict()["0.weight"] == np.float32(1e-14)


def test_goes_on_from_a_checkpoint(backend, tmp_path):
    options = PENALTIES[3] | CLIPS[2]
    whole, half = (make(backend, hl.Adam(), **options) for _ in range(2))
    losses = whole.fit(*data(), epochs=4).loss
    first = half.fit(*data(), epochs=2).loss
    hl.save(half, tmp_path / "half")
    again = hl.load(tmp_path / "half")
    assert first + again.fit(*data(), epochs=2).loss == losses
    for name, value in whole.state_dict().items():
        assert value.tobytes() == again.state_dict()[name].tobytes()


def phases(program):
    """Stage, phase and ops of each phase, in order."""
    found = {}
    for instruction in program.instructions:
        found.setdefault((instruction.stage, instruction.phase), set()).add(instruction.op)
    return [(*phase, ops) for phase, ops in found.items()]


def test_sums_over_parameters_add_stages():
    trainer = make()
    assert [phase[:2] for phase in phases(trainer.program(*data()))] == [(0, "rows"), (0, "each"), (0, "units")]
    assert not trainer.program(*data()).keeps_gradient
    program = make(clip_norm=1.0, clip_value=1.0, l1=0.1).program(*data())
    assert phases(program)[1:] == [
        (0, "units", {"penalty"}), (1, "each", {"total_loss"}), (1, "units", {"dense_parameter_gradient"}),
        (2, "units", {"gradient_norm"}), (3, "units", {"clip_norm"})]
    assert " | penalty_gradient | clip_value\n" in str(program)
    assert re.search(r"penalties\[\d+\] <- penalty\(0\.weight", str(program))  # as many as there are panels


def test_clipping_another_network_compiles_nothing():
    make(**PENALTIES[3], **CLIPS[2]).fit(*data())
    compiled = len(_jit.compiled)
    make(sizes=(6, 9, 11, 3), **PENALTIES[2], clip_value=3.0, clip_norm=2.0).fit(*data())
    assert len(_jit.compiled) == compiled


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"l1": -1}, ValueError, "l1 must be .*at least 0"), ({"l2": np.nan}, ValueError, "l2 must be finite"),
    ({"l2": "0"}, TypeError, "l2 must be a number"), ({"penalize_bias": 1}, TypeError, "penalize_bias must be True"),
    ({"clip_value": 0}, ValueError, "clip_value must be .*more than 0"),
    ({"clip_norm": -1}, ValueError, "clip_norm must be .*more than 0"),
    ({"clip_norm": np.inf}, ValueError, "clip_norm must be finite"),
], ids=repr)
def test_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        make(**options)


@pytest.mark.parametrize("name", ["penalty_gradient", "clip_value"])
@pytest.mark.parametrize("size", [1, 31, 64, 5000])
def test_kernels_on_part_of_a_gradient(name, size, dtype, worker):
    """Of elements in one panel; others stay as they are."""
    op, generator = OPS[name], np.random.default_rng(size)
    w, g = (generator.standard_normal(size + 9).astype(dtype) for _ in range(2))
    low, high, before = 5, 5 + size, g.copy()
    case = op.cases[-1]
    arguments = {"w": w, "first": 0, "rows": 10**6, "penalized": 10**6, "limit": case.get("clip_value"), "chain": 0}
    assert worker(dtype, gradient=g).run(op.cpu, low, high, **arguments | case) == 0
    exact = [array[low:high].astype(np.float64) for array in (before, w)]
    close(g[low:high], op.reference(case, *exact[: 1 + (name == "penalty_gradient")]), dtype, op.tolerance)
    assert np.delete(g, np.s_[low:high]).tobytes() == np.delete(before, np.s_[low:high]).tobytes()


def mixed(backend="cpu", optimizer=None, **options):
    """Matrices, vectors, one number, running statistics, random numbers and pooling."""
    net = hl.Sequential(
        hl.BatchNorm1d(6), hl.Dense(6, 34), hl.PReLU(34), hl.GLU(), hl.Dense(17, 20, bias=False), hl.BatchNorm1d(20),
        hl.PReLU(), hl.Dropout(0.2), hl.LayerNorm(20), hl.Dense(20, 12), hl.Maxout(4), seed=1)
    return hl.Trainer(net, hl.MSELoss(), optimizer, **{"backend": backend, "batch_size": 8, "dtype": "float64"}
                      | options)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", [PENALTIES[3] | CLIPS[2], PENALTIES[2] | CLIPS[0], CLIPS[1], {}], ids=repr)
def test_all_kinds_of_parameters(kind, options):
    """Backends agree, threads change nothing, and no update touches a statistic."""
    decay = {"weight_decay": 0.1} if "weight_decay" in kind.__dataclass_fields__ else {}
    trainers = [mixed(backend, kind(**decay), threads=threads, schedule=hl.StepLR(2, by="update"), **options)
                for backend, threads in (("cpu", 1), ("cpu", 3), ("numpy", None))]
    losses = [trainer.fit(*data(), epochs=3).loss for trainer in trainers]
    one, other, expected = [trainer.state_dict() for trainer in trainers]
    assert losses[0] == losses[1] and all(value.tobytes() == other[name].tobytes() for name, value in one.items())
    close(losses[0], losses[2], "float64", "training", 3 * ROWS)
    for name, value in expected.items():
        close(one[name], value, "float64", "training", 30 * ROWS, max(abs(value).max(), 1e-3))


def test_clipping_the_norm_of_vectors(backend):
    """The norm is that of matrices and vectors together; running statistics follow as without clipping."""
    x, y = data()
    plain, clipped = (mixed(backend, hl.SGD(lr=1.0, weight_decay=0.5 * (limit > 1)), clip_norm=limit)
                      for limit in (0.01, 1e9))
    gradients, before = plain.gradients(x, y), plain.net.state_dict()
    plain.step(x, y), clipped.step(x, y)
    norm = np.sqrt(sum((value**2).sum() for value in gradients.values()))
    for name, value in gradients.items():
        expected = before[name] - value * 0.01 / (norm + 1e-6)
        close(plain.net.state_dict()[name], expected, "float64", "training", ROWS, 1)
    for name in plain.net.statistics:
        assert plain.net.state_dict()[name].tobytes() == clipped.net.state_dict()[name].tobytes()
