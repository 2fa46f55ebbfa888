"""Networks: names, initial values, and parameters that go in and out."""

import math

import numpy as np
import pytest

import hotloop as hl


def small(**options):
    return hl.Sequential(hl.Dense(4, 3), hl.ReLU(), hl.Dense(3, 1, bias=False), hl.Dense(1, 2), **options)


NAMES = {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (1, 3), "3.weight": (2, 1), "3.bias": (2,)}


@pytest.fixture(params=["no trainer", "numpy", "cpu"])
def net(request):
    """A network by itself, and one that a trainer holds."""
    made = small()
    if request.param != "no trainer":
        trainer = hl.Trainer(made, hl.MSELoss(), hl.Adam(), backend=request.param, dtype="float64")
        trainer.predict(np.zeros((1, 4)))
    return made


def same(one, other):
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_names_and_shapes_are_torchs(net):
    state = net.state_dict()
    assert {name: value.shape for name, value in state.items()} == NAMES == net.shapes
    assert list(state) == list(NAMES) and {value.dtype.name for value in state.values()} == {"float64"}


def test_state_dict_goes_round(net):
    other = small(seed=5)
    other.load_state_dict(net.state_dict())
    same(other.state_dict(), net.state_dict())


def test_state_dict_holds_copies(net):
    before, state = net.state_dict(), net.state_dict()
    for value in state.values():
        value[...] = 7
    same(net.state_dict(), before)
    net.load_state_dict(state)
    for value in state.values():
        value[...] = 8
    assert all((value == 7).all() for value in net.state_dict().values())


def test_state_dict_stays_while_training_goes_on():
    trainer = hl.Trainer(net := small(), hl.MSELoss(), hl.SGD(lr=0.1), dtype="float64")
    x, y = np.ones((5, 4)), np.ones((5, 2))
    trainer.step(x, y)
    state, gradients = net.state_dict(), trainer.gradients(x, y)
    kept = [value.copy() for value in (*state.values(), *gradients.values())]
    trainer.step(x, y)
    trainer.gradients(x[:2], y[:2])
    for value, old in zip((*state.values(), *gradients.values()), kept, strict=True):
        assert np.array_equal(value, old)


@pytest.mark.parametrize("change", [
    np.float32, np.asfortranarray, np.ndarray.tolist, lambda value: value.astype(">i4")])
def test_anything_numpy_reads_is_taken(net, change):
    given = {name: change(value * 100) for name, value in small(seed=3).state_dict().items()}
    net.load_state_dict(given)
    same(net.state_dict(), {name: np.asarray(value, np.float64) for name, value in given.items()})


BAD_STATES = {
    "missing": (lambda s: s.pop("0.bias"), KeyError, "0.bias"),
    "unknown": (lambda s: s.update({"1.weight": np.zeros(3)}), KeyError, "1.weight"),
    "shape": (lambda s: s.update({"3.weight": np.zeros((1, 2))}), ValueError, r"3\.weight.*\(2, 1\).*\(1, 2\)"),
    "NaN": (lambda s: s.update({"3.bias": [0, np.nan]}), ValueError, "3.bias.*finite"),
    "infinity": (lambda s: s.update({"3.bias": [0, -np.inf]}), ValueError, "3.bias.*finite"),
    "complex": (lambda s: s.update({"3.bias": np.zeros(2, complex)}), TypeError, "3.bias.*complex"),
    "text": (lambda s: s.update({"3.bias": ["a", "b"]}), TypeError, "3.bias"),
    "None": (lambda s: s.update({"3.bias": None}), TypeError, "3.bias"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_changes_nothing(net, case):
    change, kind, words = BAD_STATES[case]
    before, state = net.state_dict(), small(seed=9).state_dict()
    change(state)
    with pytest.raises(kind, match=words):
        net.load_state_dict(state)
    same(net.state_dict(), before)


def test_numbers_beyond_the_trainers_dtype_are_refused():
    trainer = hl.Trainer(net := small(), hl.MSELoss(), hl.Adam(), dtype="float32")
    trainer.predict(np.zeros((1, 4)))
    before, state = net.state_dict(), small(seed=9).state_dict()
    state["3.bias"][1] = 1e300
    with pytest.raises(ValueError, match=r"3\.bias.*finite"):
        net.load_state_dict(state)
    same(net.state_dict(), before)


def test_printing_gives_the_call():
    layers = hl.Dense(4, 3, init="he_normal"), hl.LeakyReLU(0.2), hl.GELU("tanh"), hl.Dense(3, 1, bias=False)
    text = repr(hl.Sequential(*layers, seed=7))
    names = {name: getattr(hl, name) for name in ("Sequential", "Dense", "LeakyReLU", "GELU")}
    assert repr(eval(text, names)) == text
    assert all(word in text for word in ("he_normal", "0.2", "tanh", "False", "seed=7"))


# initial values

LIMITS = {"torch": lambda i, o: 1 / math.sqrt(i), "he_uniform": lambda i, o: math.sqrt(6 / i),
          "glorot_uniform": lambda i, o: math.sqrt(6 / (i + o))}
DEVIATIONS = {"he_normal": lambda i, o: math.sqrt(2 / i), "glorot_normal": lambda i, o: math.sqrt(2 / (i + o))}
DEVIATIONS |= {name: lambda i, o, limit=limit: limit(i, o) / math.sqrt(3) for name, limit in LIMITS.items()}


@pytest.mark.parametrize("shape", [(300, 200), (50, 1000), (2000, 30)])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_initial_weights(name, shape):
    """Moments within five standard errors, ranges kept and filled."""
    inputs, outputs = shape
    state = hl.Sequential(hl.Dense(inputs, outputs, init=name), seed=11).state_dict()
    weights, deviation, count = state["0.weight"], DEVIATIONS[name](inputs, outputs), inputs * outputs
    assert abs(weights.mean()) < 5 * deviation / math.sqrt(count)
    assert abs(weights.std() / deviation - 1) < 5 / math.sqrt(count)
    fourth = ((weights / deviation) ** 4).mean()
    if name in LIMITS:
        limit = LIMITS[name](inputs, outputs)
        assert limit * 0.999 < abs(weights).max() <= limit and abs(fourth - 1.8) < 0.05
    else:
        assert abs(fourth - 3) < 0.2
    if name == "torch":
        limit = LIMITS["torch"](inputs, outputs)
        assert limit * 0.5 < abs(state["0.bias"]).max() <= limit
    else:
        assert not state["0.bias"].any()


def test_seeds():
    first, again, other = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    same(first, again)
    assert all(not np.array_equal(first[name], other[name]) for name in first)


def test_a_layer_keeps_its_values_beside_others():
    """A layer's values depend on the seed, its place and itself alone; equal layers in two places differ."""
    short = hl.Sequential(hl.Dense(5, 5), hl.Dense(5, 5), seed=3).state_dict()
    long = hl.Sequential(hl.Dense(5, 5), hl.Dense(5, 5), hl.Tanh(), hl.Dense(5, 2), seed=3).state_dict()
    assert all(np.array_equal(short[name], long[name]) for name in short)
    assert not np.array_equal(short["0.weight"], short["1.weight"])


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values_do_not_depend_on_the_trainer(backend, dtype):
    expected = small(seed=4).state_dict()
    trainer = hl.Trainer(net := small(seed=4), hl.MSELoss(), hl.SGD(), backend=backend, dtype=dtype)
    trainer.predict(np.zeros((1, 4)))
    same(net.state_dict(), {name: value.astype(dtype) for name, value in expected.items()})


