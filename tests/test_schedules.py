"""Schedules: torch's rates, on every backend, in every chunk, and on from a checkpoint."""

import copy

import numpy as np
import pytest
from freeze_torch import FOLDER, LOSSES_OF_EPOCHS, SCHEDULES, build_schedule
from tolerances import close

import hotloop as hl

ROWS, BATCH = 50, 8
BATCHES = 7


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


def make(schedule, optimizer=None, backend="numpy", **options):
    net = hl.Sequential(hl.Dense(6, 5), hl.Tanh(), hl.Dense(5, 3), seed=1)
    return hl.Trainer(net, hl.MSELoss(), optimizer or hl.SGD(lr=0.1), schedule=schedule,
                      **{"batch_size": BATCH, "backend": backend} | options)


def data(rows=ROWS):
    generator = np.random.default_rng(2)
    return generator.standard_normal((rows, 6)), generator.standard_normal((rows, 3))


class Rates:
    """Keeps the rates that callbacks are told, and those that the trainer says will come."""

    def __init__(self, stop=None):
        self.told, self.coming, self.epochs, self.stop = [], [], [], stop

    def on_batch_chunk(self, trainer, logs):
        self.told.append(logs["lr"])
        self.coming.append(trainer.lr)
        if trainer.updates == self.stop:
            trainer.stop()

    def on_epoch_end(self, trainer, logs):
        self.epochs.append(logs["lr"])


def every_kind():
    """Schedules of every class, by updates where they can be."""
    return {
        "constant": hl.ConstantLR(total_iters=9, by="update"), "warm-up": hl.LinearLR(total_iters=9, by="update"),
        "step": hl.StepLR(3, by="update"), "milestones": hl.MultiStepLR([2, 9], by="update"),
        "exponential": hl.ExponentialLR(0.95, by="update"), "cosine": hl.CosineAnnealingLR(3, eta_min=0.01),
        "inverse": hl.InverseScalingLR(0.4, by="update"), "cycle": hl.OneCycleLR(0.2, 18),
        "sequence": hl.SequentialLR([hl.LinearLR(by="update"), hl.CosineAnnealingLR(20, by="update")], [5]),
        "plateau": hl.ReduceLROnPlateau(patience=0, threshold=0.5),
        "chain": hl.ChainedScheduler([hl.LinearLR(total_iters=9, by="update"), hl.StepLR(2),
                                      hl.ReduceLROnPlateau(patience=0, threshold=0.5)])}


kinds = pytest.mark.parametrize("kind", every_kind())


def optimizer():
    return hl.SGD(lr=0.1, momentum=0.9)


def test_every_schedule_is_tested():
    assert {type(schedule) for schedule in every_kind().values()} == set(hl.schedules.SCHEDULES.values())


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_torch(name):
    with np.load(FOLDER / "schedules.npz") as file:
        expected = file[name]
    schedule, found = build_schedule(hl, name), []
    chosen, monitored = hl.SGD(lr=0.1, momentum=0.5), schedule.monitored()
    for count in range(len(expected)):
        settings = schedule.settings(chosen.settings(np.array([1])), "momentum", count, np.array([count]))
        found.append([np.ravel(settings[name])[0] for name in ("lr", "momentum")])
        if monitored:
            schedule.observe({"loss": LOSSES_OF_EPOCHS[count]})
    close(found, expected, "float64", "training", len(expected))


@kinds
def test_one_count_at_a_time_gives_the_same_bits(kind):
    schedule, updates = every_kind()[kind], np.arange(1, 200)
    whole = schedule.settings({"lr": 0.1, "momentum": 0.9}, "momentum", 3, updates)
    for name, values in whole.items():
        parts = [schedule.settings({"lr": 0.1, "momentum": 0.9}, "momentum", 3, updates[i : i + 1])[name]
                 for i in range(len(updates))]
        assert np.broadcast_to(values, len(updates)).tobytes() == np.hstack(parts).tobytes()


@kinds
def test_updates_have_the_rates_of_the_schedule(kind, backend, step_by_step):
    """A twin without one, given each rate by hand, learns the same."""
    trainer, twin, (x, y) = make(every_kind()[kind], optimizer(), backend), make(None, optimizer(), backend), data()
    twin.shuffle = trainer.shuffle = False
    rates, schedule = Rates(), trainer.schedule
    momenta = []
    coming = trainer.lr

    class Momenta:
        def on_batch_chunk(self, trainer, logs):
            momenta.append(trainer._settings(1)["momentum"])

    momenta.append(trainer._settings(1)["momentum"])
    history = trainer.fit(x, y, epochs=3, callbacks=[rates, Momenta()])
    assert [coming, *rates.coming[:-1]] == rates.told and history.lr == rates.epochs == rates.told[6::7]
    for count, rate in enumerate(rates.told):
        first = count % BATCHES * BATCH
        twin.optimizer.lr, twin.optimizer.momentum = max(rate, 1e-300), float(np.ravel(momenta[count])[0])
        twin.step(x[first : first + BATCH], y[first : first + BATCH])
    for name, value in trainer.state_dict().items():
        assert value.tobytes() == twin.state_dict()[name].tobytes()
    assert len(set(rates.told)) > 1 and schedule is trainer.schedule


@kinds
def test_chunks_leave_no_trace(kind, backend, monkeypatch):
    trainers = [make(every_kind()[kind], optimizer(), backend) for _ in range(2)]
    for trainer, seconds in zip(trainers, (0, 10), strict=True):
        monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", seconds)
        trainer.fit(*data(), epochs=4)
    same(*trainers)


def same(one, other):
    assert one.progress() == other.progress() and one.schedule == other.schedule and one.lr == other.lr
    for name, value in one.state_dict().items():
        assert value.tobytes() == other.state_dict()[name].tobytes()


@kinds
@pytest.mark.parametrize("stop", [1, 9, 14])
def test_goes_on_from_a_checkpoint(kind, backend, stop, step_by_step, tmp_path):
    x, y = data()
    whole, half = (make(every_kind()[kind], optimizer(), backend) for _ in range(2))
    whole.fit(x, y, epochs=4)
    half.fit(x, y, epochs=4, callbacks=[Rates(stop)])
    hl.save(half, tmp_path / "half")
    again, copied = hl.load(tmp_path / "half"), copy.deepcopy(half)
    same(again, half)
    for trainer in (again, copied):
        trainer.fit(x, y, epochs=4 - trainer.epoch)
        same(trainer, whole)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    trainers = [make(hl.OneCycleLR(0.2, 21), hl.Adam(), "cpu", threads=count) for count in (2, threads)]
    for trainer in trainers:
        trainer.fit(*data(), epochs=3)
    same(*trainers)


def test_backends_agree_over_whole_chunks():
    one, other = (make(hl.OneCycleLR(0.2, 21), hl.Adam(), name, dtype="float64") for name in ("cpu", "numpy"))
    for trainer in (one, other):
        trainer.fit(*data(), epochs=4)
    for name, value in other.state_dict().items():
        close(one.state_dict()[name], value, "float64", "training", 4 * ROWS, abs(value).max())


def test_a_plateau_of_validation(backend):
    trainer, (x, y) = make(hl.ReduceLROnPlateau(monitor="val_loss", patience=0, threshold=0.9), backend=backend), data()
    assert trainer.fit(x, y, epochs=4, validation_data=(x, y)).lr == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with pytest.raises(ValueError, match=r"monitors val_loss.*reports loss.*validation_data"):
        trainer.fit(x, y)
    accuracy = make(hl.ReduceLROnPlateau("max", monitor="val_accuracy"))
    with pytest.raises(ValueError, match=r"monitors val_accuracy.*reports loss, val_loss"):
        accuracy.fit(x, y, validation_data=(x, y))


def test_steps_of_a_loop_of_ones_own_count_as_updates(backend):
    trainer, (x, y) = make(hl.StepLR(2, by="update"), backend=backend), data()
    found = []
    for _ in range(5):
        found.append(trainer.lr)
        trainer.step(x, y)
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_scikit_learns_inverse_scaling():
    schedule = hl.InverseScalingLR(power_t=0.5, scale=ROWS)
    rates = [float(schedule.rates(0.1, epoch, np.array([0]))[0]) for epoch in range(4)]
    assert rates == pytest.approx([0.1 / (epoch * ROWS + 1) ** 0.5 for epoch in range(4)])


def test_the_square_root_rule():
    assert hl.sqrt_scaled(0.1, 8, 16) == pytest.approx(0.1 * 2**0.5)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        hl.sqrt_scaled(0.1, 0, 16)


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda: hl.StepLR(0), ValueError, "step_size must be at least 1"),
    (lambda: hl.StepLR(2.5), TypeError, "step_size must be an integer"),
    (lambda: hl.StepLR(2, by="batch"), ValueError, "by must be one of 'epoch', 'update'"),
    (lambda: hl.ExponentialLR(np.nan), ValueError, "gamma must be finite"),
    (lambda: hl.MultiStepLR([5, 3]), ValueError, "milestones must rise"),
    (lambda: hl.MultiStepLR(5), TypeError, "milestones must be a list"),
    (lambda: hl.OneCycleLR(0.1, 1), ValueError, "total_steps must be at least 2"),
    (lambda: hl.OneCycleLR(0.1, 9, anneal_strategy="sin"), ValueError, "'cos', 'linear'"),
    (lambda: hl.ReduceLROnPlateau(factor=1), ValueError, "factor must be .* less than 1"),
    (lambda: hl.ReduceLROnPlateau(monitor="accuracy"), ValueError, "monitor must be .*val_accuracy.* got 'accuracy'"),
    (lambda: hl.ReduceLROnPlateau(monitor=3), ValueError, "monitor must be"),
    (lambda: hl.SequentialLR([hl.StepLR(2)], [3]), ValueError, "1 schedules need 0 milestones"),
    (lambda: hl.SequentialLR([hl.StepLR(2), hl.LinearLR(by="update")], [3]), ValueError, "ChainedScheduler"),
    (lambda: hl.SequentialLR([hl.StepLR(2), hl.ReduceLROnPlateau()], [3]), ValueError, "ChainedScheduler"),
    (lambda: hl.SequentialLR([hl.OneCycleLR(1, 9)], []), ValueError, "cycle_momentum=False"),
    (lambda: hl.ChainedScheduler([]), TypeError, "list of schedules"),
    (lambda: hl.ChainedScheduler([hl.StepLR]), TypeError, r"schedules\[0\].*write StepLR\(...\)"),
    (lambda: make("cosine"), TypeError, "schedule must be one of ConstantLR"),
    (lambda: make(hl.OneCycleLR(1, 9)), ValueError, "no momentum to cycle in SGD.*cycle_momentum=False"),
    (lambda: make(hl.ChainedScheduler([hl.OneCycleLR(1, 9)]), hl.NAdam()), ValueError, "cycle_momentum=False"),
])
def test_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
