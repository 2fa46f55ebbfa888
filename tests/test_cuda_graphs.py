"""General graphs on the cuda backend: in Numba's simulator, or on a device where there is one.

NumPy in float64 judges values and gradients. Shapes are small, but cross rows of 32 elements, blocks of 256 threads,
chunks of sums and tiles of products. After its first call a program runs once more with NaN in all of its working
memory: what fills arrays up to whole blocks must not reach a result, and the bits must be the same.
"""

import numpy as np
import pytest
from test_general_graphs import ELEMENTWISE, apply, cases, numbers, operands
from tolerances import close

import hotloop as hl
from hotloop import functions as f
from hotloop.kernels import _cuda, products_cuda
from hotloop.kernels.reductions import CHUNK, depth_of

OPTIMIZERS = [hl.SGD(0.1), hl.SGD(0.1, momentum=0.9, nesterov=True), hl.ASGD(), hl.Rprop(), hl.Adadelta(),
              hl.RMSprop(momentum=0.9, centered=True), hl.Adam(amsgrad=True), hl.Lion()]


def compiled(build, arrays, backend, dtype, batch=False, wrt=(), seed=None):
    """The program of `build(*inputs)` for such arrays, and the arrays by name."""
    graph = hl.Graph()
    nodes = [graph.input(f"x{i}", (None, *a.shape[1:]) if batch else a.shape) for i, a in enumerate(arrays)]
    program = graph.compile(build(*nodes), [nodes[i] for i in wrt], seed=seed, backend=backend, dtype=dtype)
    return program, {f"x{i}": array for i, array in enumerate(arrays) if f"x{i}" in program.inputs}


def flat(result):
    """A program's values and gradients, by name."""
    value, gradients = result if isinstance(result, tuple) else (result, {})
    return {"value": np.asarray(value)} | {name: np.asarray(gradient) for name, gradient in gradients.items()}


def spoil(program):
    """Fill all working memory with NaN."""
    for bound in program._engine.bound.values():
        bound.working.write(np.full(bound.working.size // program.dtype.itemsize, np.nan, program.dtype))


def judge(build, arrays, dtype, kind, terms=1, **options):
    """Compare values and gradients with NumPy's in float64; the second call's with the first one's, bit for bit."""
    arrays = [array.astype(dtype) for array in arrays]
    kept = [array.copy() for array in arrays]
    program, given = compiled(build, arrays, "cuda", dtype, **options)
    found = flat(program(**given))
    reference, exact = compiled(build, arrays, "numpy", "float64", **options)
    for name, expected in flat(reference(**exact)).items():
        close(found[name], expected, dtype, kind, terms, scale=np.abs(expected).max(initial=1))
    spoil(program)
    for name, value in flat(program(**given)).items():
        np.testing.assert_array_equal(value, found[name])
        assert value.dtype == dtype or value.shape == ()
    assert all(np.array_equal(array, old) for array, old in zip(arrays, kept, strict=True))


# Ops


@pytest.mark.parametrize(("name", "case"), cases(ELEMENTWISE))
@pytest.mark.parametrize(("shape", "dtype"), [((3, 11), "float32"), ((), "float64")], ids=str)
def test_elementwise(name, case, shape, dtype):
    """Values, and gradients where they are no zeros everywhere."""
    arrays = [array.astype(dtype) for array in operands(name, shape)]
    wrt = [] if name in ("detach", "sign", "greater", "greater_equal", "equal") else range(len(arrays))
    judge(apply(name, **case), arrays, dtype, "update", wrt=wrt, seed=numbers(shape, 9) if wrt else None)


ARRAYS = {
    "a sweep of two blocks": (lambda x, y: f.exp(x) * y + f.tanh(x * y), (5, 257), (5, 257)),
    "broadcast": (lambda x, y: x + y[:, :1] * x[0], (3, 33), (3, 33)),
    "transpose": (lambda x: (x.transpose(1, 2, 0) * np.arange(3.0)).reshape(-1), (3, 5, 11)),
    "slice": (lambda x: x[1::2, None, ::-1] + x[0, 2], (5, 33)),
    "concatenate": (lambda x, y: f.concatenate([x, 2 * y, x], 1), (3, 33), (3, 4)),
    "stack": (lambda x, y: f.stack([x, y], -1), (3, 5), (3, 5)),
    "sum of all": (lambda x: x.sum() * x, (3, 33)),
    "sum of columns": (lambda x: x.sum(0) * 2, (70, 3)),
    "sum of rows": (lambda x: x.sum(1, keepdims=True) * x, (5, 33)),
    "sum of few": (lambda x: x.sum(1), (300, 2)),
    "sum in the middle": (lambda x: x.sum(1) + 1, (3, 40, 5)),
    "sum of chunks": (lambda x: x.sum(0), (CHUNK + 7, 2)),
    "sum of nothing": (lambda x: x[:, 3:3].sum(1) + x[:, 0], (5, 3)),
    "mean": (lambda x: x.mean((0, 2)), (5, 3, 4)),
    "max": (lambda x: x.max(1) * x.max(), (5, 33)),
    "max of columns": (lambda x: x.max(0), (40, 3)),
    "max of chunks": (lambda x: x.max(), (CHUNK + 7,)),
    "softmax": (lambda x: f.softmax(x) + f.log_softmax(x, 0), (5, 33)),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case, dtype):
    build, *shapes = ARRAYS[case]
    arrays = [numbers(shape, seed) for seed, shape in enumerate(shapes)]
    shape = compiled(build, arrays, "numpy", "float64")[0].outputs[0].shape
    judge(build, arrays, dtype, "row", max(map(np.size, arrays)), wrt=range(len(arrays)), seed=numbers(shape, 9))


@pytest.mark.parametrize("case", ["sum of columns", "transpose", "softmax", "concatenate"])
def test_any_batch(case):
    build, *shapes = ARRAYS[case]
    program = None
    for rows in (1, 33, 2):
        arrays = [numbers((rows, *shape[1:]), seed) for seed, shape in enumerate(shapes)]
        if case == "transpose":
            build = lambda x: x.transpose(1, 2, 0) * 2  # noqa: E731
        if program is None:
            program, given = compiled(build, arrays, "cuda", "float64", batch=True)
        else:
            given = dict(zip(given, arrays, strict=True))
        reference, _ = compiled(build, arrays, "numpy", "float64", batch=True)
        np.testing.assert_allclose(program(**given), reference(**given), rtol=1e-12)


PRODUCTS = [((3,), (3,)), ((3,), (3, 4)), ((33, 40), (40, 65)), ((2, 5, 3), (3,)), ((3,), (2, 3, 4)),
            ((3, 5, 33), (3, 33, 2)), ((2, 1, 5, 3), (2, 3, 4))]


@pytest.mark.parametrize(("place", "shapes"), [*enumerate(PRODUCTS)], ids=str)
def test_products(place, shapes):
    dtype = ("float64", "float32")[place % 2]
    arrays = [numbers(shape, seed) for seed, shape in enumerate(shapes)]
    judge(lambda x, y: x @ y, arrays, dtype, "row", 65, wrt=[0, 1], seed=numbers((arrays[0] @ arrays[1]).shape, 9))


def test_a_product_in_parts(monkeypatch):
    """Few numbers of long sums are made in parts, here of 16."""
    assert products_cuda.parts_of(33, 5000) == (5, 1000)
    assert products_cuda.parts_of(2**20, 5000) == products_cuda.parts_of(2**30, 5000) == (1, 5000)
    assert products_cuda.parts_of(33, 0) == (1, 1)
    monkeypatch.setattr(products_cuda, "_PART", 16)
    assert products_cuda.parts_of(6, 50) == (4, 13)
    arrays = [numbers((2, 3, 50)), numbers((2, 50, 4), 1)]
    judge(lambda x, y: x @ y, arrays, "float32", "row", 50, wrt=[0, 1], seed=numbers((2, 3, 4), 9))


def test_tiles_change_no_bit(monkeypatch):
    """A tile of any size is the same chains."""
    arrays, found = [numbers((35, 20)).astype("float32"), numbers((20, 70), 1).astype("float32")], []
    larger = products_cuda.gemm_stack.cuda.larger
    for chosen in (larger, larger[1:], ()):
        monkeypatch.setattr(_cuda, "processors", lambda: 0)
        monkeypatch.setattr(products_cuda.gemm_stack.cuda, "larger", chosen)
        program, given = compiled(lambda x, y: x @ y, arrays, "cuda", "float32")
        found.append(program(**given))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_long_sums_lose_nothing():
    """float32: one chain of additions is wrong in the fourth digit."""
    x = np.full((1, 3 * CHUNK + 7), 0.1, np.float32)
    program, given = compiled(lambda x: x.sum(1), [x], "cuda", "float32")
    np.testing.assert_allclose(program(**given), x.size * np.float64(x[0, 0]), rtol=2e-7)
    assert [depth_of(length) for length in (0, 1, 16, 17, 255, CHUNK)] == [1, 1, 1, 2, 16, 256]


@pytest.mark.parametrize("values", [[1, 3, 3], [np.nan, 3, np.nan], [-np.inf, -np.inf, -np.inf], [-0.0, 0.0, -1]],
                         ids=str)
def test_the_first_of_equal_numbers(values):
    """Among many, far apart; NaN is largest."""
    x = np.full((300, 2), -np.inf)
    x[[7, 150, 299]] = np.array(values)[:, None]
    program, given = compiled(lambda x: x.max(0).sum(), [x], "cuda", "float64", wrt=[0])
    value, gradients = program(**given)
    expected = np.zeros_like(x)
    expected[x.argmax(0), [0, 1]] = 1
    np.testing.assert_array_equal(gradients["x0"], expected)
    np.testing.assert_array_equal(value, x.max(0).sum())


def test_sizes_and_sources_as_results():
    """Results that are constants, inputs and parameters, others' reshapes, or empty."""
    found = {}
    for backend in ("cuda", "numpy"):
        graph = hl.Graph()
        x, w = graph.input("x", (None, 3)), graph.parameter("w", [1.0, 2.0])
        nodes = [x, w, graph.constant([3.0, 4.0]), x.reshape(-1, 1, 3), x, x[:, 3:], x.sum() / graph.apply(
            "count", x, axes=(0, 1)), w[0], 2 * w[1]]
        found[backend] = graph.compile(nodes, backend=backend, dtype="float32")(x=np.arange(6).reshape(2, 3))
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)
    found["cuda"][0][0] = 7
    assert found["cuda"][4][0, 0] == 0


# Derivatives


def test_a_value_and_its_slopes():
    graph = hl.Graph()
    w, b = graph.parameter("w", 3.0), graph.parameter("b", 4.0)
    program = graph.compile((2 * w + 3 * b) * (2 * b + 1), wrt=[w, b], backend="cuda")
    assert program() == (162, {"w": 18, "b": 63}) and program() == (162, {"w": 18, "b": 63})
    program["b"] = 1.0
    assert program["b"] == 1 and program() == (27, {"w": 6, "b": 27})
    assert graph.compile(w * b, wrt=[], backend="cuda")() == 12


def test_errors_are_those_of_other_backends():
    graph = hl.Graph()
    x, w = graph.input("x", (None, 2)), graph.parameter("w", shape=(2,))
    with pytest.raises(ValueError, match="choose one of numpy, cpu, cuda"):
        graph.compile(x @ w, backend="gpu")
    program = graph.compile((x @ w).sum(), backend="cuda")
    with pytest.raises(ValueError, match="no value yet"):
        program(x=np.ones((3, 2)))
    program["w"] = [1, 2]
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        program(x=np.ones(3))
    assert program(x=np.ones((3, 2))) == 9


# Descents


def descents(make, optimizer, steps=4, dtype="float64", **options):
    """What a descent makes on the cuda backend and on the numpy backend."""
    found = []
    for backend in ("cuda", "numpy"):
        graph = hl.Graph()
        value, inputs = make(graph)
        program = graph.compile(value, backend=backend, dtype=dtype)
        found.append(program.minimize(optimizer, steps, **options, **inputs))
        assert all(np.array_equal(program[name], values[-1])
                   for name, values in (found[-1].parameters or {}).items())
    return found


def neuron(graph):
    """Of 33 weights and another one, on five rows."""
    w, v = graph.parameter("w", numbers((33,))), graph.parameter("v", 0.5)
    value = hl.mean((hl.tanh(graph.input("x", (None, 33)) @ w) * v - 1) ** 2)
    return value, {"x": numbers((5, 33), 1)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_minimize(optimizer):
    found, expected = descents(neuron, optimizer, trace=True)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12)
    for name, values in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], values, rtol=1e-11, atol=1e-14)


def test_a_descent_begins_anew():
    """The optimizer's state does; a descent of no steps gives the value alone."""
    graph = hl.Graph()
    value, inputs = neuron(graph)
    program = graph.compile(value, backend="cuda", dtype="float32")
    start, found = program.parameters, []
    for _ in range(2):
        found.append(program.minimize(hl.Adam(), 2, trace=True, **inputs))
        for name, array in start.items():
            program[name] = array
    np.testing.assert_array_equal(found[1].values, found[0].values)
    np.testing.assert_array_equal(found[1].parameters["w"], found[0].parameters["w"])
    none = program.minimize(hl.Adam(), 0, trace=True, **inputs)
    assert none.updates == 0 and none.values[0] == found[0].values[0] == program(**inputs)


def parabola(graph):
    w = graph.parameter("w", [1.0, 2.0])
    return (w * w).sum(), {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_until(dtype, monkeypatch):
    """The device stops by itself, and the host sees it sooner or later; what equals the goal is not below it."""
    monkeypatch.setattr("hotloop.graph_cuda._LOOK", 3)
    found, expected = descents(parabola, hl.SGD(0.25), 9, dtype, until=5 / 4**3)
    assert found.values.tolist() == expected.values.tolist() == [5 / 4**i for i in range(5)]
    assert found.reached and found.updates == 4
    found, expected = descents(parabola, hl.SGD(0.25), 2, dtype, until=0.1)
    assert not found.reached and found.values.tolist() == expected.values.tolist()


def test_a_goal_between_two_numbers():
    """That of float64 is compared with float32 as it is."""
    def constant(graph):
        return 0 * graph.parameter("w", 1.0) + 0.1, {}

    value = float(np.float32(0.1))
    for until, reached in ((0.1, False), (value, False), (np.nextafter(value, 1), True), (1e300, True)):
        found, expected = descents(constant, hl.SGD(0.25), 1, "float32", until=until)
        assert found.reached == expected.reached == reached
        assert found.updates == expected.updates == 1 - reached


def test_a_schedule():
    found, expected = descents(parabola, hl.SGD(0.1, momentum=0.9), 5, schedule=hl.StepLR(2, 0.5), trace=True)
    np.testing.assert_allclose(found.parameters["w"], expected.parameters["w"], rtol=1e-13)


def test_only_what_is_wanted_is_trained():
    graph = hl.Graph()
    w, v = graph.parameter("w", 2.0), graph.parameter("v", [3.0, 1.0])
    program = graph.compile(w * v.sum(), wrt=[w], backend="cuda")
    descent = program.minimize(hl.SGD(0.1), 1, trace=True)
    assert program["w"] == pytest.approx(1.6) and program["v"].tolist() == [3, 1]
    assert descent.parameters["v"].tolist() == [[3, 1], [3, 1]]


def failures(make, optimizer, steps):
    """The message, number of updates and last parameters of a descent that stops, on both backends."""
    found = []
    for backend in ("cuda", "numpy"):
        graph = hl.Graph()
        program = graph.compile(make(graph)[0], backend=backend)
        with pytest.raises(hl.NonFiniteError) as error:
            program.minimize(optimizer, steps)
        found.append((str(error.value), error.value.args[1:], program["w"].tolist()))
    return found


def test_a_value_that_is_not_finite_stops():
    found, expected = failures(lambda graph: (
        np.log(graph.parameter("w", [1.0, 0.5])).sum(), {}), hl.SGD(0.3), 5)
    assert found == expected and "the value" in found[0]


def test_an_update_that_is_not_finite_stops():
    found, expected = failures(lambda graph: (np.sqrt(graph.parameter("w", [4.0, 0.0])).sum(), {}), hl.SGD(1.0), 5)
    assert found == expected and "an update" in found[0]


def test_what_fills_parameters_up_has_no_gradient():
    """The logarithm of 0 has none that is finite."""
    found, expected = descents(lambda graph: ((np.log(graph.parameter("w", [1.0, 2.0, 3.0])) ** 2).sum(), {}),
                               hl.SGD(0.1), 2)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-13)
