"""What users may hand over, in every form, and what is refused: by an exception, before a kernel runs."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import hotloop as hl
from hotloop.cpu_backend import CpuBackend
from hotloop.numpy_backend import NumpyBackend
from hotloop.optimizers import OPTIMIZERS

ROWS, INPUTS, CLASSES = 13, 5, 3
X = np.random.default_rng(0).integers(0, 2, (ROWS, INPUTS)).astype(np.float32)  # numbers that every dtype has
LABELS = np.arange(ROWS) % CLASSES
NUMBERS = np.linspace(-1, 1, ROWS * CLASSES, dtype=np.float32).reshape(ROWS, CLASSES)


@pytest.fixture(params=["numpy", "cpu"])
def backend(request):
    return request.param


def make(backend, loss=None, outputs=CLASSES, **options):
    net = hl.Sequential(hl.Dense(INPUTS, 4), hl.Tanh(), hl.Dense(4, outputs))
    return hl.Trainer(net, loss or hl.CrossEntropyLoss(), hl.SGD(lr=0.1),
                      **{"batch_size": 4, "backend": backend} | options)


def use(method, trainer, x, y):
    """Call one of the trainer's methods that take data."""
    return getattr(trainer, method)(*((x,) if method == "predict" else (x, y)))


def results(trainer, x, y):
    """Everything that the trainer makes of the data, as one list of arrays."""
    return [trainer.predict(x), *trainer.evaluate(x, y).values(), *trainer.gradients(x, y).values(), trainer.step(x, y),
            trainer.fit(x, y, validation_data=(x, y)).val_loss, *trainer.state_dict().values()]


def same(results, others):
    assert all(np.array_equal(one, other) for one, other in zip(results, others, strict=True))


# accepted


class Frame:
    """What only __array__ makes an array, as a data frame."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def strided(array):
    wide = np.full([3 * size for size in array.shape], 9, array.dtype)
    wide[tuple(slice(1, None, 3) for _ in array.shape)] = array
    return wide[tuple(slice(1, None, 3) for _ in array.shape)]


def reversed_strides(array):
    flip = tuple(slice(None, None, -1) for _ in array.shape)
    return array[flip].copy()[flip]


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    result = memory[1:].view(array.dtype).reshape(array.shape)
    result[:] = array
    return result


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {"fortran": np.asfortranarray, "strided": strided, "reversed": reversed_strides, "misaligned": misaligned,
         "read-only": read_only, "list": lambda array: array.tolist(), "tuples": lambda array: tuple(
             map(tuple, array.tolist())) if array.ndim > 1 else tuple(array.tolist()), "frame": Frame}
INTEGERS = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", ">i2", ">u4", ">i8"]
NUMERIC = [*INTEGERS, "bool", "float16", "float32", "float64", "longdouble", ">f2", ">f4", ">f8"]


def check_same_results(backend, dtype, x, y, plain_x, plain_y, **options):
    before = [np.array(value) for value in (x, y)]
    same(results(make(backend, dtype=dtype, **options), x, y),
         results(make(backend, dtype=dtype, **options), plain_x, plain_y))
    for value, old in zip((x, y), before, strict=True):
        assert np.array_equal(np.asarray(value), old)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", NUMERIC)
def test_features_of_every_dtype(backend, dtype, kind):
    check_same_results(backend, dtype, X.astype(kind), LABELS, X.astype(dtype), LABELS)


@pytest.mark.parametrize("kind", INTEGERS)
def test_labels_of_every_dtype(backend, kind):
    check_same_results(backend, "float32", X, LABELS.astype(kind), X, LABELS)


@pytest.mark.parametrize("kind", NUMERIC)
def test_targets_of_every_dtype(backend, kind):
    targets = np.eye(CLASSES)[LABELS]
    for loss in (hl.MSELoss(), hl.CrossEntropyLoss()):
        check_same_results(backend, "float32", X, targets.astype(kind), X, targets.astype("float32"), loss=loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["float32", "float64", "int64", ">f4"])
def test_every_form_of_memory(backend, dtype, form, kind):
    change = FORMS[form]
    check_same_results(backend, dtype, change(X.astype(kind)), change(LABELS), X, LABELS)
    check_same_results(backend, dtype, change(X.astype(kind)), change(NUMBERS), X, NUMBERS, loss=hl.MSELoss())


def test_one_output_takes_targets_without_a_second_dimension(backend):
    bits = LABELS % 2
    check_same_results(backend, "float32", X, bits, X, bits[:, None].astype(np.float32), loss=hl.BCEWithLogitsLoss(),
                       outputs=1)


def test_outputs_are_new_arrays_of_the_trainers_dtype(backend):
    trainer = make(backend, dtype="float64")
    first = trainer.predict(X)
    kept = first.copy()
    trainer.predict(X + 1)
    assert first.dtype == np.float64 and first.flags.writeable and np.array_equal(first, kept)


def test_predicting_no_rows(backend):
    assert make(backend).predict(np.empty((0, INPUTS))).shape == (0, CLASSES)


# refused


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails the test when a backend is asked to run anything."""
    def run(*args, **kwargs):
        raise AssertionError("a kernel ran")

    monkeypatch.setattr(CpuBackend, "run", run)
    monkeypatch.setattr(NumpyBackend, "run", run)


def holding(value, row=7, column=2):
    x = X.astype(np.float64)
    x[row, column] = value
    return x


BAD_FEATURES = {
    "one row without its dimension": (X[0], ValueError, "(rows, 5)", "(5,)", "reshape"),
    "too few columns": (X[:, :4], ValueError, "(rows, 5)", "(13, 4)"),
    "too many columns": (np.ones((ROWS, 6)), ValueError, "(rows, 5)", "(13, 6)"),
    "three dimensions": (X[None], ValueError, "(rows, 5)", "(1, 13, 5)"),
    "a number": (3.0, ValueError, "(rows, 5)", "()"),
    "NaN": (holding(np.nan), ValueError, "nan", "row 7", "column 2", "check_finite=False"),
    "infinity": (holding(np.inf), ValueError, "inf", "row 7", "column 2", "check_finite=False"),
    "minus infinity in float16": (holding(-np.inf).astype(np.float16), ValueError, "-inf", "row 7", "column 2"),
    "two infinities that cancel": (np.where(X > 0, np.inf, -np.inf), ValueError, "inf", "row 0", "column 0"),
    "a number beyond float32": (holding(1e300), ValueError, "1e+300", "row 7", "column 2"),
    "complex numbers": (X.astype(complex), TypeError, "real numbers", "complex128", "X.real"),
    "objects": (X.astype(object), TypeError, "real numbers", "object", "astype"),
    "text": (X.astype(str), TypeError, "real numbers", "astype"),
    "dates": (X.astype("datetime64[s]"), TypeError, "real numbers", "datetime64"),
    "rows of several lengths": ([[1.0] * INPUTS, [1.0]], ValueError, "X", "array"),
    "None": (None, TypeError, "X", "array", "None"),
}
BAD_LABELS = {
    **{f"label {label}": (np.where(LABELS == 1, label, LABELS), ValueError, f"label {label}", "row 1", "0 ... 2")
       for label in (-1, CLASSES, 2**31, 2**32 + 1, -(2**63))},
    "label 2**63 + 1": (np.where(LABELS == 1, np.uint64(2**63 + 1), LABELS.astype(np.uint64)), ValueError,
                        f"label {2**63 + 1}", "row 1", "0 ... 2"),
    "float labels": (LABELS.astype(float), TypeError, "integers", "float64", "astype(int)", "(rows, 3)"),
    "bool labels": (LABELS > 0, TypeError, "integers", "bool", "astype(int)"),
    "labels as a column": (LABELS[:, None], ValueError, "(rows,)", "(13, 1)", "ravel"),
    "too few labels": (LABELS[:-1], ValueError, "13", "12"),
    "too many probabilities": (np.ones((ROWS + 1, CLASSES)), ValueError, "13", "14", "(14, 3)"),
    "probabilities of other classes": (np.ones((ROWS, 4)), TypeError, "(rows, 3)", "(13, 4)"),
    "NaN probability": (np.where(NUMBERS == 1, np.nan, NUMBERS), ValueError, "nan", "row 12", "column 2"),
    "text": (LABELS.astype(str), TypeError, "integers"),
    "None": (None, TypeError, "y", "array", "None"),
    "rows of several lengths": ([[1.0] * CLASSES, [1.0]], ValueError, "y", "array"),
    "a negative probability": (np.where(np.eye(CLASSES)[LABELS] > 0, 1.5, -0.5), ValueError, "between 0", "-0.5",
                               "row 0", "column 1"),
}
BAD_TARGETS = {
    "one dimension": (NUMBERS[:, 0], ValueError, "(rows, 3)", "(13,)"),
    "other columns": (NUMBERS[:, :2], ValueError, "(rows, 3)", "(13, 2)"),
    "too few": (NUMBERS[:-1], ValueError, "13", "12"),
    "NaN": (np.where(NUMBERS == 1, np.nan, NUMBERS), ValueError, "nan", "y", "row 12", "column 2"),
    "complex numbers": (NUMBERS.astype(complex), TypeError, "real numbers", "complex128"),
    "None": (None, TypeError, "y", "array", "None"),
}
BAD_BITS = {
    "labels of -1 and 1": (np.where(np.eye(CLASSES)[LABELS] > 0, 1, -1), ValueError, "between 0 and 1", "-1.0", "row 0",
                           "column 1"),
    "pixels": (255 * np.eye(CLASSES)[LABELS], ValueError, "BCEWithLogitsLoss", "between 0 and 1", "255.0", "row 0"),
}


def refused(call, kind, *words):
    with pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)) as caught:
        call()
    assert type(caught.value) is kind


@pytest.mark.parametrize("case", BAD_FEATURES)
@pytest.mark.parametrize("method", ["fit", "step", "gradients", "evaluate", "predict"])
def test_bad_features(no_kernel, backend, method, case):
    x, kind, *words = BAD_FEATURES[case]
    labels = LABELS[: len(x)] if hasattr(x, "__len__") else LABELS
    refused(lambda: use(method, make(backend), x, labels), kind, *words)


@pytest.mark.parametrize(("loss", "case"), [(hl.CrossEntropyLoss(), case) for case in BAD_LABELS.items()]
                         + [(hl.MSELoss(), case) for case in BAD_TARGETS.items()]
                         + [(hl.BCEWithLogitsLoss(), case) for case in BAD_BITS.items()], ids=lambda value: value[0]
                         if isinstance(value, tuple) else type(value).__name__)
@pytest.mark.parametrize("method", ["fit", "step", "gradients", "evaluate"])
def test_bad_targets(no_kernel, backend, method, loss, case):
    y, kind, *words = case[1]
    refused(lambda: use(method, make(backend, loss), X, y), kind, *words)


@pytest.mark.parametrize("method", ["fit", "step", "gradients", "evaluate"])
def test_no_rows(no_kernel, backend, method):
    refused(lambda: use(method, make(backend), X[:0], LABELS[:0]), ValueError, "at least one row")


VALIDATIONS = {
    "other columns": ((X[:, :4], LABELS), ValueError, "validation_data", "(13, 4)"),
    "NaN": ((holding(np.nan), LABELS), ValueError, "validation_data", "row 7"),
    "unknown label": ((X, LABELS + 1), ValueError, "validation_data", "label 3", "row 2"),
    "other lengths": ((X, LABELS[1:]), ValueError, "X of validation_data has 13", "y of validation_data has 12"),
    "no labels": ((X, None), TypeError, "y of validation_data", "None"),
    "no rows": ((X[:0], LABELS[:0]), ValueError, "validation_data", "at least one row"),
    "no targets": ((X,), ValueError, "validation_data", "(X, y)"),
    "three parts": ((X, LABELS, LABELS), ValueError, "validation_data", "(X, y)"),
    "no pair": (3, TypeError, "validation_data", "(X, y)"),
}


@pytest.mark.parametrize("case", VALIDATIONS)
def test_bad_validation_data(no_kernel, backend, case):
    validation, kind, *words = VALIDATIONS[case]
    refused(lambda: make(backend).fit(X, LABELS, validation_data=validation), kind, *words)


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"epochs": -1}, ValueError, ["epochs", "at least 0", "-1"]),
    ({"epochs": 1.5}, TypeError, ["epochs", "integer", "1.5"]),
    ({"epochs": True}, TypeError, ["epochs", "integer", "True"]),
    ({"callbacks": SimpleNamespace()}, TypeError, ["callbacks"]),
    ({"callbacks": [SimpleNamespace(on_epoch_ends=print)]}, TypeError, ["callback 0", "chunk or on_epoch_end"]),
    ({"callbacks": [hl.ProgressBar]}, TypeError, ["callback 0", "write ProgressBar(...)"]),
    ({"callbacks": hl.ProgressBar}, TypeError, ["callbacks", "ProgressBar"]),
], ids=str)
def test_bad_arguments_of_fit(no_kernel, backend, options, kind, words):
    refused(lambda: make(backend).fit(X, LABELS, **options), kind, *words)


def test_a_refusal_changes_nothing(backend):
    trainer = make(backend)
    trainer.fit(X, LABELS)
    before = trainer.state_dict()
    for x, y in ((holding(np.nan), LABELS), (X, LABELS + 1), (X[:0], LABELS[:0])):
        for method in ("fit", "step", "evaluate", "gradients"):
            with pytest.raises(ValueError):
                use(method, trainer, x, y)
    assert (trainer.epoch, trainer.updates) == (1, 4)
    same(trainer.state_dict().values(), before.values())


# constructors

NET = hl.Sequential(hl.Dense(INPUTS, CLASSES))


def trainer_of(**options):
    return lambda: hl.Trainer(**{"net": NET, "loss": hl.MSELoss(), "optimizer": hl.SGD()} | options)


CONSTRUCTIONS = [
    (lambda: hl.Dense(0, 3), ValueError, "in_features", "at least 1", "0"),
    (lambda: hl.Dense(3, -1), ValueError, "out_features", "at least 1", "-1"),
    (lambda: hl.Dense(2.0, 3), TypeError, "in_features", "integer", "2.0"),
    (lambda: hl.Dense("2", 3), TypeError, "in_features", "integer", "'2'"),
    (lambda: hl.Dense(2, True), TypeError, "out_features", "integer", "True"),
    (lambda: hl.Dense(2, 3, bias="no"), TypeError, "bias", "True or False", "'no'"),
    (lambda: hl.Dense(2, 3, init="zeros"), ValueError, "'zeros'", "torch", "he_normal", "glorot_uniform"),
    (lambda: hl.Dense(2, 3, init=["torch"]), ValueError, "['torch']", "he_normal"),
    (lambda: hl.LeakyReLU("0.1"), TypeError, "negative_slope", "number", "'0.1'"),
    (lambda: hl.LeakyReLU(True), TypeError, "negative_slope", "number", "True"),
    (lambda: hl.LeakyReLU(np.nan), ValueError, "negative_slope", "finite", "nan"),
    *[(lambda kind=kind, name=name: kind(**{name: "1"}), TypeError, name, "number", "'1'") for kind, name in
      ((hl.Threshold, "threshold"), (hl.Threshold, "value"), (hl.Hardtanh, "min_val"), (hl.Hardshrink, "lambd"),
       (hl.Softplus, "threshold"), (hl.ELU, "alpha"))],
    (lambda: hl.Hardtanh(1, 1), ValueError, "min_val", "less than max_val", "1.0"),
    *[(lambda kind=kind: kind(-0.5), ValueError, "lambd", "at least 0", "-0.5")
      for kind in (hl.Hardshrink, hl.Softshrink)],
    (lambda: hl.Softplus(beta=0), ValueError, "beta", "more than 0", "0.0"),
    (lambda: hl.CELU(0), ValueError, "alpha", "more than 0", "0.0"),
    (lambda: hl.ELU(np.inf), ValueError, "alpha", "finite", "inf"),
    (lambda: hl.GELU("erf"), ValueError, "approximate", "none", "tanh", "'erf'"),
    (lambda: hl.GELU(None), ValueError, "approximate", "none", "tanh", "None"),
    *[(lambda kind=kind: kind("none"), ValueError, "reduction", "mean", "sum", "'none'")
      for kind in (hl.MSELoss, hl.L1Loss, hl.BCEWithLogitsLoss, hl.CrossEntropyLoss)],
    (lambda: hl.MSELoss(None), ValueError, "reduction", "mean", "sum", "None"),
    *[(lambda kind=kind, lr=lr: kind(lr=lr), ValueError, "lr", "more than 0", str(float(lr)))
      for kind in OPTIMIZERS.values() for lr in (0, -1e-3, np.nan, np.inf)],
    *[(lambda kind=kind, lr=lr: kind(lr=lr), TypeError, "lr", "number", repr(lr))
      for kind in OPTIMIZERS.values() for lr in ("0.1", None, True, 1j, np.array([0.1]))],
    *[(lambda kind=kind: kind(weight_decay=-0.1), ValueError, "weight_decay", "at least 0", "-0.1")
      for kind in OPTIMIZERS.values() if kind is not hl.Rprop],
    (lambda: hl.SGD(momentum=1), ValueError, "momentum", "less than 1", "1.0"),
    (lambda: hl.SGD(momentum=-0.1), ValueError, "momentum", "at least 0", "-0.1"),
    (lambda: hl.SGD(momentum=0.9, dampening=np.nan), ValueError, "dampening", "nan"),
    (lambda: hl.SGD(nesterov=True), ValueError, "nesterov", "momentum", "dampening"),
    (lambda: hl.SGD(momentum=0.9, dampening=0.1, nesterov=True), ValueError, "nesterov", "dampening", "0.1"),
    (lambda: hl.SGD(momentum=0.9, nesterov="no"), TypeError, "nesterov", "True or False", "'no'"),
    *[(lambda betas=betas: hl.Adam(betas=betas), ValueError, "betas", word) for betas, word in
      (((1, 0.9), "less than 1"), ((0.9, 1.5), "less than 1"), ((-0.1, 0.9), "at least 0"), ((np.nan, 0.9), "nan"),
       ((0.9,), "two numbers"), (0.9, "two numbers"), ((0.9, 0.9, 0.9), "two numbers"))],
    (lambda: hl.Adam(betas=("0.9", 0.9)), TypeError, "betas", "number", "'0.9'"),
    (lambda: hl.Adam(eps=-1e-8), ValueError, "eps", "at least 0", "-1e-08"),
    (lambda: hl.Adam(eps=np.inf), ValueError, "eps", "finite", "inf"),
    *[(lambda kind=kind, name=name: kind(**{name: 1}), ValueError, name, "less than 1", "1.0")
      for kind, name in ((hl.RMSprop, "alpha"), (hl.RMSprop, "momentum"), (hl.Adadelta, "rho"))],
    *[(lambda kind=kind, name=name: kind(**{name: -1}), ValueError, name, "at least 0", "-1.0")
      for kind, name in ((hl.ASGD, "lambd"), (hl.ASGD, "t0"), (hl.Adagrad, "lr_decay"), (hl.NAdam, "momentum_decay"),
                         (hl.Adagrad, "initial_accumulator_value"))],
    (lambda: hl.RMSprop(centered=1), TypeError, "centered", "True or False", "1"),
    (lambda: hl.Rprop(etas=(0.5, 1)), ValueError, "etas[1]", "more than 1", "1.0"),
    (lambda: hl.Rprop(etas=(0, 1.2)), ValueError, "etas[0]", "more than 0", "0.0"),
    (lambda: hl.Rprop(step_sizes=0.1), ValueError, "step_sizes", "two numbers", "0.1"),
    (lambda: hl.Sequential(), ValueError, "at least one Dense"),
    (lambda: hl.Sequential(hl.ReLU()), ValueError, "at least one Dense"),
    (lambda: hl.Sequential(hl.Dense(2, 3), hl.Dense(4, 2)), ValueError, "layer 1", "4", "layer 0", "3"),
    (lambda: hl.Sequential(hl.Dense(2, 3), np.tanh), TypeError, "layer 1", "tanh", "Dense"),
    (lambda: hl.Sequential(hl.Dense), TypeError, "layer 0", "write Dense(...)"),
    (lambda: hl.Sequential([hl.Dense(2, 3), hl.ReLU()]), TypeError, "layer 0", "list", "Sequential(*layers)"),
    (lambda: hl.Sequential(*[hl.Dense(2, 2)] * 2), ValueError, "layer 1", "twice"),
    (lambda: hl.Sequential(hl.Dense(2, 2), seed=-1), ValueError, "seed", "at least 0", "-1"),
    (lambda: hl.Sequential(hl.Dense(2, 2), seed=0.5), (TypeError, ValueError), "seed", "integer", "0.5"),
    (trainer_of(net=[hl.Dense(2, 2)]), TypeError, "net", "Sequential"),
    (trainer_of(loss="mse"), TypeError, "loss", "MSELoss", "'mse'"),
    (trainer_of(loss=hl.MSELoss), TypeError, "loss", "write MSELoss(...)"),
    (trainer_of(optimizer="adam"), TypeError, "optimizer", "Adam", "'adam'"),
    *[(trainer_of(batch_size=size), kind, "batch_size", word, repr(size)) for size, kind, word in
      ((0, ValueError, "at least 1"), (-5, ValueError, "at least 1"), (2.0, TypeError, "integer"),
       (None, TypeError, "integer"))],
    *[(trainer_of(backend=name), ValueError, "backend", repr(name), "numpy", "cpu")
      for name in ("gpu", "CPU", None, 0)],
    *[(trainer_of(threads=count), kind, "threads", word, repr(count)) for count, kind, word in
      ((0, ValueError, "at least 1"), (-1, ValueError, "at least 1"), (1.5, TypeError, "integer"),
       ("2", TypeError, "integer"))],
    *[(trainer_of(dtype=dtype), (TypeError, ValueError), "dtype", "float32", "float64", repr(dtype))
      for dtype in ("float16", "int32", "real", ">f4", None, 7)],
    (trainer_of(seed=-1), ValueError, "seed", "at least 0", "-1"),
    (trainer_of(seed="0"), TypeError, "seed", "integer", "'0'"),
    (trainer_of(shuffle="no"), TypeError, "shuffle", "True or False", "'no'"),
    (trainer_of(check_finite="no"), TypeError, "check_finite", "True or False", "'no'"),
]


@pytest.mark.parametrize(("call", "kind", "words"), [(call, kind, words) for call, kind, *words in CONSTRUCTIONS],
                         ids=[f"{number}-{case[2]}" for number, case in enumerate(CONSTRUCTIONS)])
def test_bad_construction(call, kind, words):
    with pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)):
        call()


@pytest.mark.parametrize("optimizer", [kind() for kind in OPTIMIZERS.values() if kind is not hl.Rprop], ids=repr)
def test_settings_are_checked_when_they_change(optimizer):
    refused(lambda: setattr(optimizer, "lr", -1), ValueError, "lr", "more than 0", "-1.0")
    refused(lambda: setattr(optimizer, "weight_decay", "1"), TypeError, "weight_decay", "number", "'1'")
    refused(lambda: setattr(optimizer, "learning_rate", 0.1), AttributeError, "learning_rate", "lr", "weight_decay")
    assert optimizer == type(optimizer)()


def test_numbers_of_numpy_are_numbers():
    layers = hl.Dense(np.int64(INPUTS), np.uint8(4)), hl.LeakyReLU(np.float32(0.5)), hl.Dense(np.int32(4), CLASSES)
    trainer = hl.Trainer(hl.Sequential(*layers, seed=np.int16(3)), hl.MSELoss(), hl.SGD(lr=np.float32(0.5)),
                         batch_size=np.int64(4), threads=np.int8(2), seed=np.uint64(5), dtype=np.float64)
    assert len(trainer.fit(X, NUMBERS, epochs=np.int64(2)).loss) == 2
