"""Optimizers: each update kernel against its reference, and what its formula promises."""

import functools

import numpy as np
import pytest
from machine import backends
from tolerances import close

import hotloop as hl
from hotloop.kernels import OPS

pytestmark = pytest.mark.usefixtures("either_way")

STILL = {"lr": 0.1, "weight_decay": 0.0}
MOMENTS = STILL | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
DEFAULTS = {
    "sgd": STILL | {"momentum": 0.9, "dampening": 0.0, "nesterov": 0},
    "asgd": STILL | {"slowing": 2.0, "mu": 0.25, "lambd": 0.01},
    "rprop": {"lr": 0.1, "etaminus": 0.5, "etaplus": 1.2, "step_size_min": 0.06, "step_size_max": 0.13},
    "adagrad": STILL | {"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "adadelta": STILL | {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "rmsprop": STILL | {"alpha": 0.5, "eps": 1e-3, "momentum": 0.9, "centered": 1},
    "adam": MOMENTS | {"decoupled_weight_decay": 0, "amsgrad": 0},
    "adamax": MOMENTS,
    "nadam": MOMENTS | {"beta2": 0.9, "decoupled_weight_decay": 0, "mu": 0.7, "mu_next": 0.8, "mu_product": 0.6},
    "radam": MOMENTS | {"beta2": 0.9, "decoupled_weight_decay": 0},
    "lion": STILL | {"beta1": 0.9, "beta2": 0.99},
}
DECAY = {"weight_decay": 0.1}
UPDATES = {
    "sgd": [{"momentum": 0.0}, {"momentum": 0.0} | DECAY, {}, {"dampening": 0.3}, DECAY, {"nesterov": 1},
            {"nesterov": 1} | DECAY],
    "asgd": [{}, DECAY, {"mu": 1.0}],
    "rprop": [{}],
    "adagrad": [{}, DECAY, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1}],
    "adadelta": [{}, DECAY, {"rho": 0.5, "eps": 0.1}],
    "rmsprop": [{}, DECAY, {"centered": 0}, {"momentum": 0.0}, {"centered": 0, "momentum": 0.0}],
    "adam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}, {"beta1": 0.5, "eps": 0.1},
             {"beta1": 0.0, "beta2": 0.9}, {"amsgrad": 1}],
    "adamax": [{}, DECAY, {"beta1": 0.5, "beta2": 0.9, "eps": 0.1}],
    "nadam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}],
    "radam": [{}, DECAY, DECAY | {"decoupled_weight_decay": 1}, {"beta2": 0.8, "eps": 0.1}],
    "lion": [{}, DECAY],
}
ABSENT = {"momentum_buffer": "momentum", "grad_avg": "centered", "max_exp_avg_sq": "amsgrad"}  # state: what needs it


updates = pytest.mark.parametrize(("name", "settings"), [(name, case) for name in UPDATES for case in UPDATES[name]],
                                  ids=str)


def states_of(op, settings, w, value):
    """Arrays for the states that an optimizer of these settings has, None for the others."""
    return {state: np.full_like(w, value) if settings.get(ABSENT.get(state, "lr"), 1) else None for state in op.states}


@updates
@pytest.mark.parametrize("size", [1, 31, 33, 50, 64, 5000])
def test_updates(name, settings, size, dtype, worker):
    """Several updates of elements [low, high), each from the state that the one before it left."""
    op, settings = OPS[name], DEFAULTS[name] | settings
    generator = np.random.default_rng(size)
    low, high = 5, 5 + size
    w = generator.standard_normal(size + 9).astype(dtype)
    states = states_of(op, settings, w, np.nan if name in ("sgd", "rprop", "adagrad") else 0)
    for update in (1, 2, 3, 1000):
        g = generator.standard_normal(size + 9).astype(dtype)
        held = [w, *(state for state in states.values() if state is not None)]
        around = [np.delete(array, np.s_[low:high]).tobytes() for array in (*held, g)]
        given = g.tobytes()
        exact = [array[low:high].astype(np.float64) for array in (w, g, *held[1:])]
        expected = op.reference(settings, update, *exact)
        assert worker(dtype, update=update, gradient=g).run(op.cpu, low, high, w=w, **states, **settings) == 0
        for array, value in zip(held, expected, strict=True):
            close(array[low:high], value, dtype, op.tolerance)
        assert [np.delete(array, np.s_[low:high]).tobytes() for array in (*held, g)] == around
        assert g.tobytes() == given


@updates
def test_an_update_that_is_not_finite_is_not_made(name, settings, dtype, worker):
    """Nor is a state left that is not."""
    op, settings, w = OPS[name], DEFAULTS[name] | settings, np.ones(50, dtype)
    states = states_of(op, settings, w, 0)
    held = [state for state in states.values() if state is not None]
    g = np.full(50, 0.5, dtype)
    g[[3, 17, 40]] = np.inf, np.finfo(dtype).max, np.nan
    with np.errstate(all="ignore"):
        wrong = ~np.isfinite(op.reference(settings, 1, w, g, *held)).all(0)
    assert worker(dtype, gradient=g).run(op.cpu, 0, 50, w=w, **states, **settings) == 1
    np.testing.assert_array_equal(w == 1, wrong)
    assert np.isfinite(held).all()


def at_rest(backend, dtype, optimizer):
    """A trainer and data of gradient zero, with weights that are not."""
    net = hl.Sequential(hl.Dense(3, 2))
    trainer = hl.Trainer(net, hl.MSELoss(), optimizer, backend=backend, dtype=dtype, batch_size=4)
    weight = np.random.default_rng(0).standard_normal((2, 3)).astype(dtype)
    net.load_state_dict({"0.weight": weight, "0.bias": np.zeros(2)})
    return trainer, weight, np.zeros((4, 3)), np.zeros((4, 2))


@backends
@pytest.mark.parametrize("optimizer", [
    hl.SGD(), hl.SGD(momentum=0.9), hl.SGD(momentum=0.9, nesterov=True), hl.ASGD(lambd=0), hl.Rprop(), hl.Adagrad(),
    hl.Adadelta(), hl.RMSprop(), hl.RMSprop(momentum=0.9, centered=True, eps=0), hl.Adam(),
    hl.Adam(amsgrad=True, eps=0), hl.AdamW(weight_decay=0), hl.Adamax(), hl.Adamax(eps=0), hl.NAdam(), hl.NAdam(eps=0),
    hl.RAdam(), hl.RAdam(eps=0), hl.Lion()], ids=repr)
def test_no_gradient_moves_nothing(optimizer, backend, dtype):
    trainer, weight, x, y = at_rest(backend, dtype, optimizer)
    trainer.fit(x, y, epochs=100)
    assert trainer.net.state_dict()["0.weight"].tobytes() == weight.tobytes()


def test_every_optimizer_is_known_to_rest():
    rested = test_no_gradient_moves_nothing.pytestmark
    assert {type(value) for mark in rested if mark.args[0] == "optimizer" for value in mark.args[1]} == set(
        hl.optimizers.OPTIMIZERS.values())


@backends
@pytest.mark.parametrize("kind", [hl.AdamW, hl.Lion, *[functools.partial(kind, decoupled_weight_decay=True)
                                                       for kind in (hl.NAdam, hl.RAdam)]], ids=repr)
def test_decoupled_decay_is_exact(kind, backend, dtype):
    trainer, weight, x, y = at_rest(backend, dtype, kind(lr=0.01, weight_decay=0.1))
    trainer.step(x, y)
    expected = weight * dtype.type(1 - 0.01 * 0.1)
    assert trainer.net.state_dict()["0.weight"].tobytes() == expected.tobytes()


@backends
def test_adam_adds_eps_outside_the_bias_correction(backend, dtype):
    """A first gradient as large as eps moves by lr / 2; inside the correction it would be 0.03 lr."""
    net = hl.Sequential(hl.Dense(1, 1))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam(lr=1, eps=1e-8), backend=backend, dtype=dtype)
    net.load_state_dict({"0.weight": np.zeros((1, 1)), "0.bias": np.zeros(1)})
    trainer.step([[0.0]], [[-0.5e-8]])
    close(net.state_dict()["0.bias"], [-0.5], dtype, "elementwise")
