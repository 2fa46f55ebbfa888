"""Small calls made in brief: the bits, the refusals and the changes of the general path, for a fraction of its time."""

import copy
import pickle

import numpy as np
import pytest

import hotloop as hl

pytestmark = pytest.mark.usefixtures("either_way")

INPUTS, OUTPUTS = 5, 4
RNG = np.random.default_rng(0)
LABELS, NUMBERS = RNG.integers(0, OUTPUTS, 300), RNG.standard_normal((300, OUTPUTS))
SHARES = RNG.dirichlet(np.ones(OUTPUTS), 300)
LOSSES = {
    "labels": (hl.CrossEntropyLoss(), LABELS), "shares": (hl.CrossEntropyLoss(), SHARES),
    "smoothed": (hl.CrossEntropyLoss(label_smoothing=0.1, weight=(1, 2, 3, 4)), LABELS),
    "ignored": (hl.CrossEntropyLoss(ignore_index=2), LABELS), "no weight": (hl.NLLLoss(weight=(1, 0, 1, 1)), LABELS),
    "margin": (hl.MultiMarginLoss(), LABELS), "numbers": (hl.MSELoss(), NUMBERS), "sum": (hl.MSELoss("sum"), NUMBERS),
    "bits": (hl.BCEWithLogitsLoss(), (NUMBERS > 0).astype(float)), "signs": (hl.HingeLoss(), np.sign(NUMBERS)),
    "variances": (hl.GaussianNLLLoss(eps=0.1), NUMBERS[:, : OUTPUTS // 2])}
SCHEDULES = {
    "none": None, "cosine": hl.CosineAnnealingLR(T_max=30, by="update"), "epochs": hl.ExponentialLR(gamma=0.5),
    "cycle": hl.OneCycleLR(max_lr=0.05, total_steps=80),
    "plateau": hl.ChainedScheduler([hl.ReduceLROnPlateau(patience=0, threshold=10.0),
                                    hl.LinearLR(total_iters=9, by="update")])}
OPTIMIZERS = {name: kind for name, kind in vars(hl).items()
              if isinstance(kind, type) and hasattr(kind, "op") and hasattr(kind, "states") and name != "LBFGS"}


def make(loss="labels", dtype="float32", layers=(), optimizer=None, **options):
    net = hl.Sequential(hl.Dense(INPUTS, 17), hl.Tanh(), *layers, hl.Dense(17, OUTPUTS), seed=3)
    return hl.Trainer(net, LOSSES[loss][0], optimizer or hl.Adam(lr=0.01), batch_size=16, dtype=dtype, **options)


def data(loss="labels", rows=32, dtype="float32"):
    y = LOSSES[loss][1][:rows]
    return (np.random.default_rng(1).standard_normal((rows, INPUTS)).astype(dtype),
            y.copy() if y.dtype == np.int64 else y.astype(dtype))


def everything(trainer):
    return [value.tobytes() for value in trainer.state_dict().values()]


def agree(generally, function):
    assert function() == generally(function)


# the same bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_steps_and_predictions_are_the_same(generally, loss, dtype):
    def run():
        trainer, losses = make(loss, dtype), []
        for rows in (32, 32, 7, 1, 250, 32, 300):
            x, y = data(loss, rows, dtype)
            losses += [trainer.step(x, y), trainer.predict(x).tobytes()]
        return losses, everything(trainer), trainer.updates

    agree(generally, run)


@pytest.mark.parametrize("layers", [(hl.Dropout(0.3),), (hl.BatchNorm1d(17),), (hl.LayerNorm(17), hl.RReLU())])
def test_layers_with_chance_and_statistics(generally, layers):
    def run():
        trainer = make(layers=copy.deepcopy(layers))
        losses = [trainer.step(*data(rows=rows)) for rows in (32, 32, 5, 32)]
        return losses, everything(trainer), trainer.predict(data()[0]).tobytes()

    agree(generally, run)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(generally, name):
    def run():
        trainer = make(optimizer=OPTIMIZERS[name]())
        losses = [trainer.step(*data()) for _ in range(70)]
        trainer.optimizer.lr /= 10
        return losses, [trainer.step(*data()) for _ in range(3)], everything(trainer)

    agree(generally, run)


@pytest.mark.parametrize("optimizer", ["NAdam", "SGD"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_among_epochs(generally, schedule, optimizer):
    def run():
        momentum = {"momentum": 0.9} if optimizer == "SGD" else {}
        schedule_of_run = copy.deepcopy(SCHEDULES[schedule])
        if schedule == "cycle" and optimizer == "NAdam":
            schedule_of_run.cycle_momentum = False
        trainer = make(optimizer=OPTIMIZERS[optimizer](**momentum), schedule=schedule_of_run)
        found = []
        for _ in range(3):
            found += [(trainer.step(*data()), trainer.lr) for _ in range(30)]
            trainer.fit(*data(rows=60), epochs=2)
        return found, everything(trainer)

    agree(generally, run)


def test_options_of_a_trainer(generally):
    def run(**options):
        trainer = make("numbers", **options)
        losses = [trainer.step(*data("numbers")) for _ in range(4)]
        return losses, everything(trainer)

    for options in ({"l1": 0.1, "l2": 0.1}, {"clip_value": 0.01}, {"clip_norm": 0.1}, {"threads": 3}, {"seed": 7}):
        agree(generally, lambda options=options: run(**options))


def test_several_in_turn(generally):
    """Other calls share the memory of those in brief, and may move it."""

    def run():
        trainer, found = make("labels"), []
        for rows in (32, 2000, 32, 5000, 32):
            x, y = np.tile(data()[0], (rows // 32 + 1, 1)), np.tile(data()[1], rows // 32 + 1)
            found += [trainer.step(*data()), trainer.step(x, y), trainer.predict(x).tobytes(),
                      trainer.gradients(x, y)["2.bias"].tobytes(), trainer.evaluate(x, y), trainer.fit(x, y).loss,
                      trainer.step(*data(), sample_weight=np.arange(32)), trainer.predict(data()[0]).tobytes()]
        return found, everything(trainer)

    agree(generally, run)


def test_copies_and_networks_that_move(generally):
    def run():
        one = make()
        found = [one.step(*data()) for _ in range(3)]
        two, three = pickle.loads(pickle.dumps(one)), copy.deepcopy(one)
        found += [trainer.step(*data()) for trainer in (one, two, three, one, two, three)]
        other = hl.Trainer(one.net, hl.CrossEntropyLoss(), hl.SGD(lr=0.1))
        found += [trainer.step(*data()) for trainer in (other, other, one, one, other)]
        return found, everything(one), other.predict(data()[0]).tobytes()

    agree(generally, run)


# what changes between calls


@pytest.mark.parametrize("change", ["lr", "betas", "weight_decay", "optimizer", "net", "load"])
def test_what_changes_between_steps_takes_effect(generally, change):
    def run():
        trainer = make()
        state = trainer.state_dict()
        losses = [trainer.step(*data()) for _ in range(3)]
        if change == "optimizer":
            trainer.optimizer = hl.Adam(lr=0.3)
        elif change == "net":
            trainer.net.load_state_dict({name: state[name] for name in trainer.net.state_dict()})
        elif change == "load":
            trainer.load_state_dict(state)
        else:
            setattr(trainer.optimizer, change, {"lr": 0.3, "betas": (0.5, 0.6), "weight_decay": 0.2}[change])
        before = everything(trainer)
        losses += [trainer.step(*data()) for _ in range(3)]
        assert before != everything(trainer)
        return losses, everything(trainer)

    agree(generally, run)


def test_an_optimizer_with_other_states_is_refused():
    trainer = make(optimizer=hl.SGD(lr=0.1))
    trainer.step(*data()), trainer.step(*data())
    before = everything(trainer)
    trainer.optimizer.momentum = 0.9
    with pytest.raises(ValueError, match="make a new Trainer"):
        trainer.step(*data())
    assert everything(trainer) == before and trainer.updates == 2
    trainer.optimizer.momentum = 0.0
    trainer.step(*data())


# what is refused, and what the general path takes


def bad(**changed):
    """Data with numbers in places of x and y."""
    x, y = data(changed.pop("loss", "labels"))
    for name, array in (("x", x), ("y", y)):
        for place, value in changed.get(name, {}).items():
            array[place] = value
    return x, y


BAD = {"nan": ("labels", bad(x={(31, 4): np.nan})), "inf": ("labels", bad(x={(0, 0): -np.inf})),
       "label": ("labels", bad(y={31: OUTPUTS})), "negative": ("labels", bad(y={0: -1})),
       "share": ("shares", bad(loss="shares", y={(3, 1): -0.1})), "sign": ("signs", bad(loss="signs", y={(3, 1): 0})),
       "bit": ("bits", bad(loss="bits", y={(31, 3): 1.5})), "target": ("numbers", bad(loss="numbers", y={5: np.nan})),
       "rows": ("labels", (data()[0], data(rows=31)[1])), "columns": ("labels", (data()[0][:, 1:], data()[1])),
       "none": ("labels", (None, data()[1])), "empty": ("labels", (data()[0][:0], data()[1][:0])),
       "reals": ("labels", (data()[0], data()[1].astype(float))), "number": ("labels", (np.float32(1), data()[1])),
       "wrapped": ("labels", (data()[0], data()[1].astype(np.uint64) - np.uint64(1))),
       "too large": ("labels", (data()[0] * np.full(1, 1e300), data()[1])),
       "flat": ("labels", (data()[0].ravel(), data()[1])), "complex": ("labels", (data()[0] * 1j, data()[1]))}


@pytest.mark.parametrize("method", ["step", "predict"])
@pytest.mark.parametrize("case", BAD)
def test_refusals_are_the_same_and_change_nothing(generally, case, method):
    loss, (x, y) = BAD[case]
    of_targets = ("label", "negative", "share", "sign", "bit", "target", "rows", "reals", "wrapped")
    if method == "predict" and case in of_targets:
        x = np.full_like(x, np.nan)
    arguments = (x, y) if method == "step" else (x,)

    def run():
        trainer, found = make(loss), []
        for _ in range(2):
            losses = [trainer.step(*data(loss)), trainer.predict(data(loss)[0]).tobytes()]
            before = everything(trainer)
            try:
                found.append(getattr(trainer, method)(*arguments).tobytes())  # no rows can be predicted
            except (TypeError, ValueError) as error:
                found.append((type(error), str(error)))
            assert before == everything(trainer)
            found += losses
        return found, trainer.updates, trainer.step(*data(loss)), everything(trainer)

    agree(generally, run)


@pytest.mark.parametrize("form", ["strided", "read-only", "float64", "list", "big-endian", "int32", "uint64",
                                  "transposed"])
def test_every_form_of_array(generally, form):
    def formed(array):
        if form == "strided":
            return np.repeat(array, 2, 0)[::2]
        if form == "read-only":
            array.flags.writeable = False
        elif form == "list":
            return array.tolist()
        elif form == "transposed":
            return np.array(array.T, order="C").T
        elif form in ("float64", "int32", "uint64"):
            return array.astype(form if (array.dtype.kind == "f") == (form == "float64") else array.dtype)
        return array.astype(array.dtype.newbyteorder(">")) if form == "big-endian" else array

    def run():
        trainer = make()
        losses = [trainer.step(*map(formed, data())) for _ in range(3)]
        return losses, everything(trainer), trainer.predict(formed(data()[0])).tobytes()

    agree(generally, run)
    assert run()[0] == [trainer_loss for trainer in [make()] for trainer_loss in
                        [trainer.step(*data()) for _ in range(3)]]


def test_one_output_takes_targets_without_a_second_dimension():
    x, y = data("numbers")
    losses = []
    for target in (y[:, :1], y[:, 0].copy(), y[:, 0]):
        net = hl.Sequential(hl.Dense(INPUTS, 8), hl.Tanh(), hl.Dense(8, 1))
        trainer = hl.Trainer(net, hl.MSELoss(), hl.Adam())
        losses.append([trainer.step(x, target) for _ in range(3)])
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(ValueError, match="shape"):
        trainer.step(x[:, 0].copy(), y[:, 0])


def test_results_are_arrays_of_their_own():
    trainer = make()
    x, _ = data()
    trainer.predict(x)
    first = trainer.predict(x)
    kept = first.copy()
    assert first.flags.owndata and first.flags.writeable and first.dtype == np.float32
    trainer.predict(-x)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("check_finite", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_leaves_the_last_finite_parameters(generally, dtype, check_finite):
    def run():
        trainer = make("numbers", dtype, optimizer=hl.SGD(lr=1e-3), check_finite=check_finite)
        x, y = data("numbers", dtype=dtype)
        found = [trainer.step(x, y), trainer.step(x, y)]
        huge = y * (np.finfo(dtype).max / 16)
        if not check_finite:
            x[3, 3] = np.nan
        for target in (huge, y):
            try:
                found.append(trainer.step(x, target))
            except hl.NonFiniteError as error:
                found.append((str(error), error.step, str(error.loss)))
        found.append(trainer.predict(x).tobytes())
        assert all(np.isfinite(value).all() for value in trainer.state_dict().values())
        return found, trainer.updates, everything(trainer)

    agree(generally, run)
