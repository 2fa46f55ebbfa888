"""The kernels of normalization, vectors, random numbers and pooling, called one by one on panels laid out by hand."""

import numpy as np
import pytest
from tolerances import close

from hotloop.cpu_backend import layout
from hotloop.kernels import OPS, _jit
from hotloop.kernels._target import host
from hotloop.kernels.batch_norm import track_moments

# The operands of each op: "x" batch values of all features, "y" of those that pooling leaves, "w" a vector, "1" a
# single number for all features, "m" two vectors, the second positive.
OPERANDS = {
    "layer_norm": "x", "layer_norm_backward": "xx", "rms_norm": "x", "rms_norm_backward": "xx",
    "affine": "xww", "affine_weight_gradient": "xx", "affine_bias_gradient": "x",
    "prelu": "xw", "prelu_backward": "xxw", "prelu_weight_gradient": "xxw",
    "batch_moments": "x", "batch_norm": "xm", "standardize": "xwv", "batch_norm_sums": "xx",
    "batch_norm_backward": "xxmm", "glu": "x", "glu_backward": "yx", "maxout": "x", "maxout_backward": "yx",
    "dropout": "xk", "rrelu": "xxk", "track_moments": "mwvc",
}
FORMS = [(name, case, form) for name, form in OPERANDS.items() for case in OPS[name].cases if name != "track_moments"]
FORMS += [(name, {}, form) for name, form in (("affine", "xw"), ("prelu", "x1"), ("prelu_backward", "xx1"),
                                              ("prelu_weight_gradient", "xx1"))]
SHAPES = [(1, 1), (2, 10), (3, 20), (7, 10), (7, 30), (31, 40), (65, 30), (130, 10), (430, 10), (1000, 100),
          (3, 2000)]
SHAPED = [(*form, shape) for form in FORMS for shape in SHAPES  # pools have no half
          if not (form[0].startswith(("glu", "maxout")) and shape[1] % 10)]
KEY, UPDATE = -(2**62) - 5, 2**40 + 3


def draw(generator, letter, shape, outputs, dtype):
    rows, cols = shape
    size = {"x": shape, "y": (rows, outputs), "w": cols, "v": cols, "1": 1, "m": (2, cols)}[letter]
    value = generator.standard_normal(size) + 0.5
    if letter in "vm":
        value[-1 if letter == "m" else slice(None)] = abs(value[-1 if letter == "m" else slice(None)]) + 0.1
    return value.astype(dtype)


def lay(array, panel, padding):
    """A matrix in panels, a vector in a run of them; `padding` stands past the last column."""
    rows, cols = np.atleast_2d(array).shape
    wide = np.full((rows, -(-cols // panel) * panel), padding, array.dtype)
    wide[:, :cols] = array
    return wide.reshape(rows, -1, panel).transpose(1, 0, 2).copy()


def unlay(memory):
    return memory.transpose(1, 0, 2).reshape(memory.shape[1], -1)


def call(worker, name, case, operands, result, dtype, cuts):
    """Run the kernel of an op piece by piece; the memory of its result, as a matrix, padding and all."""
    op, panel = OPS[name], host().bindings(dtype)["PANEL"]
    kernel, rows = op.cpu, len(operands[0])
    names = _jit.operands(kernel)
    *inputs, target = [base for base in names if base.rpartition("_")[0] not in names
                       and base not in ("key", "onto", "chain", "w_first", "w_cols", *case)]
    given = [array for array in operands if isinstance(array, np.ndarray)]
    if name == "affine_bias_gradient":
        given *= 2
    arrays = dict(zip(inputs, given, strict=False))
    memory = {base: lay(array, panel, 0 if array.ndim == 1 else np.nan)
              for base, array in arrays.items()}
    before = {base: content.tobytes() for base, content in memory.items()}
    memory[target] = lay(np.full(result.shape, np.nan, dtype), panel, np.nan)
    values = dict.fromkeys(names, 0) | {"w_cols": result.size} | memory | case | {"key": KEY}
    for base, array in (arrays | {target: result}).items():
        values |= {f"{base}_panel": memory[base][0].size, f"{base}_panels": len(memory[base]),
                   f"{base}_cols": array.shape[-1]}
    end = rows if op.phase == "rows" else -(-result.shape[-1] // panel)
    scratch = layout(dtype).scratch(max(array.shape[-1] for array in given))
    one, cuts = worker(dtype, batch=rows, update=UPDATE, scratch=scratch), [min(cut, end) for cut in cuts]
    for low, high in zip([0, *cuts], [*cuts, end], strict=True):
        assert one.run(kernel, low, high, **values) == 0
    assert before == {base: memory[base].tobytes() for base in before}
    return unlay(memory[target])


def scale_of(name, case, operands, expected):
    """The size of the numbers that were added or, for norms of rows, divided by a small deviation."""
    largest = abs(expected).max() + abs(operands[0]).max()
    if name.startswith(("layer_norm", "rms_norm")):
        x = operands[-1]
        square = x.var(-1, keepdims=True) if name.startswith("layer") else (x**2).mean(-1, keepdims=True)
        return largest * (1 + (1 + abs(x).max()) / np.sqrt(square + case["eps"])) ** 2
    return largest


@pytest.mark.parametrize(("name", "case", "form", "shape"), SHAPED, ids=str)
def test_kernels_equal_their_references(name, case, form, shape, dtype, worker):
    """Whole, and cut into pieces that give the same bits; padding of gradients stays zero."""
    generator, op = np.random.default_rng(sum(shape)), OPS[name]
    pool = 2 if name.startswith("glu") else case.get("pool", 1)
    operands = [draw(generator, letter, shape, shape[1] // pool, dtype) if letter != "k" else (KEY, UPDATE)
                for letter in form]
    exact = [value.astype(np.float64) if isinstance(value, np.ndarray) else value for value in operands]
    expected = np.asarray(op.reference(case, *exact))
    found = call(worker, name, case, operands, expected, dtype, ())
    wanted = np.atleast_2d(expected)
    close(found[:, : wanted.shape[1]], wanted, dtype, op.tolerance, max(shape), scale_of(name, case, exact, expected))
    for cuts in ((1,), (1, 2)):
        assert call(worker, name, case, operands, expected, dtype, cuts).tobytes() == found.tobytes()
    lanes = host().bindings(dtype)["LANES"]
    if name.endswith("_gradient"):
        assert not found[:, wanted.shape[1] :].any()
    elif name in ("layer_norm_backward", "rms_norm_backward", "glu_backward", "maxout_backward"):
        assert not found[:, wanted.shape[1] : -(-wanted.shape[1] // lanes) * lanes].any()


def test_moments_of_many_rows_far_from_zero(worker):
    """10,000 rows in float32, whose deviation is a thousandth of their mean."""
    x = (1000 + np.random.default_rng(0).standard_normal((10_000, 20))).astype(np.float32)
    exact = x.astype(np.float64)
    mean, variance = call(worker, "batch_moments", {}, [x], np.zeros((2, 20)), np.dtype("float32"), ())[:, :20]
    np.testing.assert_allclose(mean, exact.mean(0), rtol=2e-7)
    np.testing.assert_allclose(variance, exact.var(0), rtol=2e-6)


@pytest.mark.parametrize("case", OPS["track_moments"].cases, ids=str)
def test_running_statistics(case, dtype, worker):
    """They follow three batches; a value that is not finite leaves its place as it was, and is told."""
    generator, panel = np.random.default_rng(0), host().bindings(dtype)["PANEL"]
    mean, variance, batches = np.zeros(20, dtype), np.ones(20, dtype), np.array(0)
    held = [lay(mean, panel, 0), lay(variance, panel, 0)]
    count, one = np.zeros(1, np.int64), worker(dtype, batch=7)

    def follow(moments):
        memory = lay(moments, panel, np.nan)
        return one.run(track_moments, 0, 1, moments=memory, moments_panel=2 * panel, moments_panels=len(memory),
                       moments_cols=20, mean=held[0], variance=held[1], batches=count, **case)

    for _ in range(3):
        moments = draw(generator, "m", (7, 20), 20, dtype)
        assert follow(moments) == 0
        mean, variance, batches = OPS["track_moments"].reference(case, 7, moments.astype(np.float64), mean, variance,
                                                                 batches)
        for kept, expected in zip(held, (mean, variance), strict=True):
            close(unlay(kept)[0, :20], expected, dtype, "row", scale=3)
            assert not unlay(kept)[0, 20:].any()
    assert count[0] == batches == 3
    before = unlay(held[1])[0].copy()
    moments[1, 4] = np.inf
    assert follow(moments) == 1
    assert np.flatnonzero(unlay(held[1])[0] == before)[0] == 4 and np.isfinite(held).all()


def test_dropout_draws_evenly(worker):
    """Shares within five standard errors, and no element goes with its neighbour in row, column, layer or update."""
    shape, p = (500, 200), 0.3
    x = np.ones(shape)

    def kept(place, update):
        return OPS["dropout"].reference({"p": p, "place": place}, x, (KEY, update)) != 0

    base = kept(0, 1)
    error = np.sqrt(p * (1 - p) / base.size)
    assert abs(base.mean() - (1 - p)) < 5 * error
    for other in (kept(1, 1), kept(0, 2), np.roll(base, 1, 0), np.roll(base, 1, 1)):
        assert abs((base == other).mean() - (p**2 + (1 - p) ** 2)) < 5 * np.sqrt(0.25 / base.size)
    assert abs(base.mean(0) - (1 - p)).max() < 5 * error * np.sqrt(shape[1])
    assert abs(base.mean(1) - (1 - p)).max() < 5 * error * np.sqrt(shape[0])
