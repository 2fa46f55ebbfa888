"""What goes to a device and comes from it: arrays that lie there, data that are held there, what does not fit."""

from types import SimpleNamespace

import numpy as np
import pytest

import hotloop as hl
from hotloop import cuda_backend, device_arrays
from hotloop.device_arrays import DeviceArray
from hotloop.epochs import Epochs
from hotloop.kernels import _cuda

ROWS = 24


class There:
    """Another library's array on the device, known by its interface alone."""

    def __init__(self, array):
        self.memory = DeviceArray.empty(array.shape, array.dtype)
        self.memory._owner.write(np.ascontiguousarray(array))
        self.changes = {}

    @property
    def __cuda_array_interface__(self):
        return self.memory.__cuda_array_interface__ | self.changes


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return generator.standard_normal((ROWS, 5)).astype(np.float32), generator.integers(0, 3, ROWS)


def trainer(backend="cuda", batch=16, **options):
    net = hl.Sequential(hl.Dense(5, 4), hl.ReLU(), hl.Dense(4, 3), seed=1)
    return hl.Trainer(net, hl.CrossEntropyLoss(), hl.SGD(lr=0.1), batch, backend=backend, **options)


def test_arrays_on_the_device_are_read_there(data):
    """Training, evaluation and prediction are, to the bit, those of the same numbers in the computer's memory."""
    x, y = data
    one, other = trainer(), trainer()
    loss = one.fit(x, y, epochs=2).loss
    assert other.fit(There(x), There(y), epochs=2).loss == loss
    assert one.evaluate(x, y) == other.evaluate(There(x), There(y))
    assert one.step(x, y) == other.step(There(x), y)
    weights = np.linspace(0.5, 2, ROWS).astype(np.float32)
    assert (one.fit(x, y, sample_weight=weights).loss
            == other.fit(There(x), There(y), sample_weight=There(weights)).loss)
    found = other.predict(There(x))
    assert isinstance(found, DeviceArray) and found.shape == (ROWS, 3)
    np.testing.assert_array_equal(np.asarray(found), one.predict(x))
    np.testing.assert_array_equal(np.asarray(found[3:9]), one.predict(x)[3:9])


def test_parameters_come_as_arrays_on_the_device(data):
    x, y = data
    one = trainer()
    one.fit(x, y)
    for name, value in one.device_state().items():
        expected = one.net.state_dict()[name]
        assert value.shape == expected.shape
        np.testing.assert_array_equal(np.asarray(value), expected)
        told = value.__cuda_array_interface__
        assert (told["shape"], told["typestr"], told["version"]) == (expected.shape, "<f4", 3)
    with pytest.raises(ValueError, match=r"use net\.state_dict"):
        trainer("cpu").device_state()


class Capsule:
    """Another library's array that is known by DLPack, in memory that device `number` shares with the computer."""

    def __init__(self, array, number=0):
        self.array, self.number = array, number

    def __dlpack_device__(self):
        return device_arrays._CUDA[1], self.number

    def __dlpack__(self, **options):
        return self.array.__dlpack__()


def test_arrays_of_dlpack_are_known(data):
    x = data[0]
    assert device_arrays.lies_there(Capsule(x))
    assert not device_arrays.lies_there(x)
    with pytest.raises(TypeError, match="lies on a CUDA device"):
        trainer("cpu").predict(Capsule(x))
    with pytest.raises(ValueError, match="X lies on device 1, but device 0 is in use"):
        trainer().predict(Capsule(x, 1))


def test_arrays_of_dlpack_are_read_where_they_lie(data, monkeypatch):
    """What numba-cuda makes of a capsule; the simulator lacks that part of it."""
    x = np.ascontiguousarray(data[0][:, ::2])
    monkeypatch.setattr(_cuda, "dlpack", lambda capsule: described(capsule.array))
    np.testing.assert_array_equal(np.asarray(device_arrays.wrapped(Capsule(x), "X")), x)
    with pytest.raises(ValueError, match=r"X lies on the device with strides .*make it C-contiguous"):
        device_arrays.wrapped(Capsule(data[0][:, ::2]), "X")


def described(array):
    return array.ctypes.data, array.shape, array.dtype, array.strides


def test_what_a_device_array_is_not(data):
    there = There(data[0]).memory
    with pytest.raises(TypeError, match="rows of an array on the device are a slice, got 0"):
        there[0]
    with pytest.raises(ValueError, match="slice of step 1"):
        there[::2]
    with pytest.raises(ValueError, match="has to be copied"):
        there.__array__(copy=False)


def test_what_does_not_fit_is_refused(data):
    x, y = data
    one = trainer()
    for array, error, message in (
            (x.astype(np.float64), TypeError, "lies on the device in float64, but the trainer computes in float32"),
            (x[:, :4], ValueError, r"X must have shape \(rows, 5\), got \(24, 4\)"),
            (np.where(np.arange(5) == 3, np.nan, x).astype(np.float32), ValueError, "X holds nan in row 0, column 3")):
        with pytest.raises(error, match=message):
            one.fit(There(array), y)
    strided = There(x)
    strided.changes = {"strides": (40, 8)}
    with pytest.raises(ValueError, match="make it C-contiguous there"):
        one.fit(strided, y)
    masked = There(x)
    masked.changes = {"mask": There(x)}
    with pytest.raises(ValueError, match="X has a mask"):
        one.fit(masked, y)
    with pytest.raises(ValueError, match=r"label 3 in row 2 of y is outside 0 \.\.\. 2"):
        one.fit(There(x), There(np.where(np.arange(ROWS) == 2, 3, y)))
    with pytest.raises(TypeError, match=r"0\.weight lies on a CUDA device, where it is not read"):
        one.net.load_state_dict(one.net.state_dict() | {"0.weight": There(one.net.state_dict()["0.weight"])})
    for backend in ("cpu", "numpy"):
        with pytest.raises(TypeError, match="where backend='cuda' alone can read it"):
            trainer(backend).fit(There(x), y)
    assert np.isfinite(one.fit(x, y).loss).all()


def test_data_are_held_during_a_fit(data, monkeypatch):
    """They go to the device once, however often Python gets control back; a changed array is read anew by the next."""
    x, y = data
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    sizes = []

    class Counted(_cuda.Memory):
        def write(self, array, *arguments, **options):
            sizes.append(array.nbytes)
            super().write(array, *arguments, **options)

    monkeypatch.setattr(_cuda, "Memory", Counted)
    one = trainer()
    one.fit(x, y, epochs=2)
    assert sizes.count(x.nbytes) == 1
    before = one.evaluate(x, y)["loss"]
    x[:] = 0
    assert one.evaluate(x, y)["loss"] != before


def test_data_larger_than_the_device_go_there_in_pieces(data, monkeypatch):
    """Of one batch or two, with weights and a schedule: the same bits as data that are held there."""
    monkeypatch.setattr(Epochs, "_chunk", lambda self: 1000)
    x, y = data
    started, start = [], cuda_backend._Bound.start
    monkeypatch.setattr(cuda_backend._Bound, "start", lambda self, *given: started.append(given) or start(self, *given))
    weights = np.linspace(0.5, 2, ROWS).astype(np.float32)
    found = []
    for free, pieces in ((2**40, 1), (1000, 12), (1500, 6)):
        monkeypatch.setattr(_cuda, "free", lambda free=free: free)
        one, before = trainer(batch=4, schedule=hl.StepLR(1, gamma=0.5)), len(started)
        loss = one.fit(x, y, epochs=2, sample_weight=weights).loss
        assert len(started) - before == pieces
        found.append((loss, one.evaluate(x, y), one.predict(x).tobytes(), {
            name: value.tobytes() for name, value in one.net.state_dict().items()}))
    assert found[0] == found[1] == found[2]


def test_memory_for_pieces_is_kept_during_a_fit(data, monkeypatch):
    x, y = data
    monkeypatch.setattr(_cuda, "free", lambda: 1000)
    monkeypatch.setattr("hotloop.epochs._CHUNK_SECONDS", 0)
    made, pinned = [], _cuda.pinned
    monkeypatch.setattr(_cuda, "pinned", lambda *of: made.append(of) or pinned(*of))
    trainer().fit(x, y, epochs=2)
    assert len(made) == 4  # of X and y, two pieces


def test_data_partly_on_the_device_are_all_there_or_none(data, monkeypatch):
    x, y = data
    monkeypatch.setattr(_cuda, "free", lambda: 10)
    with pytest.raises(MemoryError, match="x of the data lie on the device, whose 10 free bytes are too few for 192"):
        trainer().fit(There(x), y)


def test_a_loss_that_is_not_finite_stops_the_pieces(data, monkeypatch):
    x, y = data
    messages = []
    for free in (2**40, 1000):
        monkeypatch.setattr(_cuda, "free", lambda free=free: free)
        one = trainer()
        one.optimizer.lr = 1e30
        with pytest.raises(hl.NonFiniteError) as error:
            one.fit(x, y, epochs=3)
        messages.append((str(error.value), one.updates))
    assert messages[0] == messages[1]


# Errors


def test_memory_that_is_not_there(monkeypatch, data):
    """A MemoryError that says how much is free; the trainer goes on with what fits."""
    one = trainer()
    one.fit(*data)
    cuda = _cuda.target()
    given = cuda.device_array

    def full(size, dtype):
        if size > 10**6:
            raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        return given(size, dtype)

    monkeypatch.setattr(cuda, "device_array", full)
    with pytest.raises(MemoryError, match=r"the device has no room for .* are free on the device: take a smaller"):
        one.predict(np.zeros((10**5, 5), np.float32))
    assert np.isfinite(one.fit(*data).loss).all()


def _raises(message):
    def fail(*given):
        raise ImportError(message)

    return fail


@pytest.mark.parametrize(("module", "error"), [("numba.cuda.cudadrv.driver", hl.DeviceError), ("somewhere", KeyError)])
def test_a_part_that_is_missing_at_last(module, error, monkeypatch):
    """What links kernels is looked for when there is something to link; our own mistakes stay what they are."""
    def compile(kinds):
        raise type("LinkerError", (KeyError,), {"__module__": module})("nvJitLink is not there")

    monkeypatch.setattr(_cuda, "SIMULATED", False)
    with pytest.raises(error, match="nvJitLink is not there"):
        _cuda.make(SimpleNamespace(compile=compile), 2)


@pytest.mark.parametrize(("given", "message"), [
    ({"get_current_device": _raises("CUDA driver library cannot be found.")},
     "no CUDA device can be used .CUDA driver library cannot be found.*install NVIDIA's driver"),
    ({"driver": (11, 8)}, r"the driver has CUDA 11\.8, older than the installed compiler's 12\.9"),
    ({"compiler": _raises("libNVVM cannot be found.")},
     "there is no compiler for the device .libNVVM cannot be found.*install hotloop with the extra cuda12 or cuda13"),
    ({"streams": 1}, "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM is set"),
    ({"capability": (6, 1)}, r"compute capability \(6, 1\), the cuda backend needs 7\.5"),
])
def test_what_is_missing_is_said(given, message, monkeypatch):
    """When the trainer is made, before anything runs."""
    cuda = Installed(**given)
    monkeypatch.setattr(_cuda, "target", lambda: cuda)
    monkeypatch.setattr(_cuda, "find_compiler", cuda.compiler)
    monkeypatch.setattr(_cuda, "SIMULATED", False)
    with pytest.raises(hl.DeviceError, match=message):
        trainer()
    trainer("cpu")


def test_a_device_that_fits_is_taken(monkeypatch):
    monkeypatch.setattr(_cuda, "target", lambda: Installed())
    monkeypatch.setattr(_cuda, "find_compiler", lambda: None)
    monkeypatch.setattr(_cuda, "SIMULATED", False)
    _cuda.require()


class Installed:
    """As much of numba-cuda as `require` asks, with a device."""

    def __init__(self, driver=(12, 9), capability=(9, 0), get_current_device=None, compiler=lambda: None, streams=0):
        self.driver = self.runtime = self
        self.version = driver
        self.compute_capability, self.name = capability, "a device"
        self.compiler = compiler
        self.core = SimpleNamespace(config=SimpleNamespace(CUDA_PER_THREAD_DEFAULT_STREAM=streams))
        self.get_current_device = get_current_device or (lambda: self)

    def get_version(self):
        """Of the driver at first, then of the compiler."""
        found, self.version = self.version, (12, 9)
        return found
