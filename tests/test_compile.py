"""What compilation makes of kernels: their precision, what their code needs, and the same results as plain Python."""

import ctypes
import functools
import itertools
import re
import struct

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from freeze_torch import activation_layers
from tolerances import close

import hotloop as hl
from hotloop.kernels import OPS, _compile, _jit, _primitives, _rows, dropout, features, losses, walk
from hotloop.kernels._lowering import Lowering
from hotloop.kernels._specialize import Specializer
from hotloop.kernels._target import host

KERNELS = [function for function in _jit.kernels if function.__module__.startswith("hotloop.")]
kernels = pytest.mark.parametrize("function", KERNELS, ids=lambda function: function.__name__)
LITERAL, PAIR, TABLE = 0.1, (0.1, 2.0), _primitives.ByPrecision(single=(0.1,), double=(0.1, 0.2))
CALLBACK = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)


def specialised(function, dtype):
    bindings = host().bindings(dtype)
    return Specializer(bindings, Lowering(bindings, False), dtype, numba.njit(**_compile._HELPER),
                       _compile._external).bind(function)


# Precision


def test_literals_get_the_type_of_the_kernel(dtype):
    scale = 0.1

    def values():
        pair = 0.1, 2.0
        return 0.1, scale, LITERAL, *pair, *PAIR, *TABLE

    found = specialised(values, dtype)()
    assert {type(value) for value in found} == {dtype.type}
    exact = 0.1, 0.1, 0.1, 0.1, 2.0, 0.1, 2.0, *(TABLE if dtype == np.float64 else TABLE.single)
    assert found == tuple(map(dtype.type, exact))


FORMULAS = [name for name, op in OPS.items()
            if name in losses.LOSSES
            or (op.cpu and op.tolerance in ("elementwise", "update") and name not in ("sin", "cos"))]  # angles: float64


@pytest.mark.parametrize(("name", "function"), [
    pytest.param(name, function, id=function.__name__)
    for name in FORMULAS for function in (OPS[name].cpu, OPS[name].wide) if function])
def test_single_precision_stays_single(name, function):
    """No float32 is widened; float64 is for coefficients of updates and the share of a row in the loss."""
    code = str(_compile._optimized(specialised(function, "float32"), _compile.signature(function), "tested",
                                   _jit._target_machine()))
    assert "fpext" not in code
    if name not in losses.LOSSES and function.__module__ != dropout.__name__ and not OPS[name].states:
        assert re.findall(r"= (?:fadd|fsub|fmul|fdiv|fneg|(?:tail )?call) [^(@]*double.*", code) == []


# Object code


@kernels
def test_object_code_needs_nothing_but_kernels(function, dtype):
    """Nor could it: the process that loads it has no other symbols to offer than those of its C library."""
    _jit.address(function, dtype)
    name = _jit.symbol(function, dtype)
    code = _jit._disk().read(_jit.key(name)) or _compile.compile_object(
        function, dtype, name, _jit._target_machine(), _jit.CHECKED)
    if not code.startswith(b"\x7fELF"):
        pytest.skip("reads the symbol tables of ELF objects alone")
    needed = {symbol for symbol, section in symbols(code) if symbol and not section}
    known = {f"{_jit.symbol(other, dtype)}_direct" for other in _jit._externals(function)}
    assert needed <= known | {"memcpy", "memset"}


def symbols(code):
    """Names and sections of the symbols of a 64-bit ELF object."""
    sections = {section.name(): section.data() for section in llvm.ObjectFileRef.from_data(code).sections()}
    names = sections[b".strtab"]
    for name, section in ((entry[0], entry[3]) for entry in struct.iter_unpack("<IBBHQQ", sections[b".symtab"])):
        yield names[name : names.index(b"\0", name)].decode(), section


# Plain Python


@pytest.fixture
def run_plain(monkeypatch):
    """Makes backends run kernels as plain Python from the call on; returns the set that those called go to."""
    callbacks, called = {}, set()

    def address(function, dtype):
        if (function, dtype) not in callbacks:
            callbacks[function, dtype] = CALLBACK(python(function, dtype))
        return ctypes.cast(callbacks[function, dtype], ctypes.c_void_p).value

    def python(function, dtype):
        bindings = host().bindings(dtype) | getattr(function, "bound", {})
        bindings["FUSED"] = False  # plain Python rounds twice
        run, names = Specializer(bindings, {}, dtype, lambda helper: helper).bind(function), _jit.operands(function)

        def call(row, *common):
            called.add(function)
            cells = _primitives.ints(row, _jit.HEADER + len(names))[_jit.HEADER :]
            operands = [float(cell.view(np.float64)) if function.__annotations__.get(name) is float else int(cell)
                        for name, cell in zip(names, cells, strict=True)]
            with np.errstate(all="ignore"):
                return int(run(*operands, *common))

        return call

    def start():
        monkeypatch.setattr(_jit, "address", address)
        return called

    return start


LAYERS = activation_layers(hl)
LOSSES = [kind() for kind in hl.losses.LOSSES.values()] + [
    hl.CrossEntropyLoss("sum", label_smoothing=0.1), hl.CrossEntropyLoss(weight=(0.5, 2.0, 0.0, 1.0, 3.0)),
    hl.KLDivLoss(log_target=True), hl.PoissonNLLLoss(full=True), hl.PoissonNLLLoss(log_input=False),
    hl.PoissonNLLLoss(log_input=False, full=True)]
LOSSES = [(loss, kind) for loss in LOSSES for kind in loss.kinds]
OPTIMIZERS = [hl.SGD(lr=0.1, momentum=0.9, nesterov=True),
              *[kind(lr=0.1, **{"eps": 1e-3} if "eps" in kind.__dataclass_fields__ else {})
                for kind in hl.optimizers.OPTIMIZERS.values()]]
NETS = list(itertools.islice(zip(*map(itertools.cycle, (LAYERS, LOSSES, OPTIMIZERS)), strict=True),
                             max(len(LAYERS), len(LOSSES))))


def trained(layer, loss, optimizer, dtype, **options):
    """What training makes of a net where the layer stands first, between and last."""
    generator, (loss, kind) = np.random.default_rng(0), loss
    x, y = generator.standard_normal((3, 2)), generator.dirichlet(np.ones(5), 3)
    last = hl.Sigmoid() if type(loss) in (hl.BCELoss, hl.PoissonNLLLoss, hl.GaussianNLLLoss) else layer
    outputs = 10 if type(loss) is hl.GaussianNLLLoss else 5
    net = hl.Sequential(layer, hl.Dense(2, 17), layer, hl.Dense(17, outputs), last)
    trainer = hl.Trainer(net, loss, optimizer, dtype=dtype, batch_size=2, threads=1, **options)
    y = y.argmax(1) if kind == "labels" else np.where(y > 0.2, 1, -1) if loss.outside(y)[0].any() else y
    if type(loss) is hl.ZeroOneLoss:
        return {"loss": trainer.evaluate(x, y)["loss"], "outputs": trainer.predict(x)}
    weights = np.array([1, 0.5, 2])
    found = trainer.gradients(x, y, weights) | {"losses": trainer.fit(x, y, sample_weight=weights).loss}
    return found | trainer.state_dict() | {"outputs": trainer.predict(x)}


def normalised(dtype):
    """What training makes of the layers that have vectors, statistics and random numbers."""
    net = hl.Sequential(hl.Dense(2, 8), hl.LayerNorm(8), hl.PReLU(), hl.Dense(8, 8), hl.BatchNorm1d(8), hl.Dropout(0.3),
                        hl.GLU(), hl.PReLU(4), hl.Dense(4, 6), hl.RMSNorm(6), hl.Maxout(2))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.1), dtype=dtype, batch_size=3, threads=1)
    x, y = np.random.default_rng(0).standard_normal((6, 2)), np.random.default_rng(1).standard_normal((6, 3))
    return {"losses": trainer.fit(x, y).loss} | trainer.gradients(x, y) | {"outputs": trainer.predict(x)}


def as_they_lie(dtype):
    """What training makes of the kernels of many columns, whatever the widths."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "_WIDE", 0)
        for layer in (hl.Softmax(), hl.LogSoftmax()):
            for name, value in trained(layer, (hl.CrossEntropyLoss(), "labels"), hl.SGD(lr=0.1), dtype).items():
                found[f"{layer} {name}"] = value
    return found


def expressions(dtype):
    """What general graphs make of the ops that no layer uses."""
    graph = hl.Graph()
    x = graph.input("x", (3, 5))
    inputs = x, x + 0.5, x - 0.25
    nodes = [graph.apply(name, *inputs[: op.arity]) for name, op in OPS.items() if op.arity and op.cases == ({},)]
    products, top = x.T @ x, (x[::2, 1:] * x.sum(1)[1]).max(0)
    whole = hl.concatenate([products, products.T], 1).sum()
    nodes += [products, top, whole, *graph.gradient(whole + top.sum(), [x])]
    values = graph.compile(nodes, dtype=dtype, threads=1)(x=np.random.default_rng(0).uniform(0.5, 2, (3, 5)))
    graph = hl.Graph()
    program = graph.compile(hl.square(graph.parameter("w", [1.0, 2.0])).sum(), dtype=dtype, threads=1)
    return dict(enumerate(values)) | {"descent": program.minimize(hl.SGD(lr=0.1), 3).values}


def networks(dtype):
    """What networks make of general ops, and of a layer that is called twice."""
    g = hl.Graph()
    x, layer = g.input("x", (None, 4)), hl.Dense(4, 4)
    pairs = layer(hl.tanh(layer(x))).reshape(None, 2, 2)
    parts = hl.softmax(pairs, 1)[:, ::-1].transpose(0, 2, 1), pairs.max(1, keepdims=True) + pairs.sum(1, keepdims=True)
    net = hl.Network(x, hl.Dense(6, 3)(hl.concatenate(parts, 1).reshape(None, -1) * [1.0, 2, 3, 4, 5, 6]))
    trainer = hl.Trainer(net, hl.MSELoss(), hl.SGD(lr=0.1), dtype=dtype, threads=1)
    x, y = np.random.default_rng(0).standard_normal((3, 4)), np.random.default_rng(1).standard_normal((3, 3))
    return {"losses": trainer.fit(x, y, 2).loss} | trainer.gradients(x, y) | {"outputs": trainer.predict(x)}


def narrow(run):
    """What comes out of programs by feature."""
    def runs():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hotloop.build.narrow_rows", lambda program: 1)
            return run()

    return runs


def test_kernels_mean_the_same_in_plain_python(dtype, run_plain, by_panels):
    runs = [functools.partial(trained, *net, dtype) for net in NETS] + [functools.partial(expressions, dtype),
                                                                            functools.partial(normalised, dtype),
                                                                            functools.partial(networks, dtype),
                                                                            functools.partial(as_they_lie, dtype)]
    runs.append(functools.partial(trained, *NETS[0], dtype, l1=0.1, l2=0.2, clip_value=0.1, clip_norm=0.2,
                                  schedule=hl.StepLR(1, by="update")))
    runs += [narrow(functools.partial(trained, *net, dtype)) for net in NETS if type(net[0]) in (hl.Sigmoid, hl.ReLU)]
    runs += [narrow(functools.partial(trained, hl.Tanh(), loss, hl.SGD(lr=0.1), dtype)) for loss in LOSSES
             if type(loss[0]) is not hl.ZeroOneLoss]
    compiled = [run() for run in runs]
    called = run_plain()
    for run, expected in zip(runs, compiled, strict=True):
        found = run()
        scale = max(np.abs(value).max() for value in expected.values())
        for name, value in expected.items():
            close(found[name], value, dtype, "training", 17, scale)  # the longest sum
    narrower = {function.by_feature for function in KERNELS if hasattr(function, "by_feature")}
    assert called >= narrower | ({function for op in OPS.values() for function in (op.cpu, op.wide) if function}
                      | {function for function in KERNELS if function.__module__ == features.__name__}
                      | {walk.walk, losses.total_loss, losses.total_weight})
