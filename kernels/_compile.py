"""From a kernel's Python source to object code, through Numba. Imported only when something is compiled."""

import types as python_types
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import ir
from numba.core import compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from . import _primitives
from ._jit import HEADER, names_read, symbol
from ._lowering import Lowering
from ._target import host

_HELPER = {"inline": "always", "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_WORD, _DOUBLE = ir.IntType(64), ir.DoubleType()


def signature(function):
    """The Numba signature of a kernel: float64 where a parameter is annotated `float`, else int64; returns int64."""
    code, notes = function.__code__, function.__annotations__
    names = code.co_varnames[: code.co_argcount]
    return types.int64(*[types.float64 if notes.get(name) is float else types.int64 for name in names])


def compile_object(function, dtype, name, machine, checked):
    """Compile a kernel for `dtype`.

    The object code exports three C functions. Two give int64, -1 where the kernel raised: `name` takes
    (row, context, low, high) and reads the operands from the row, `name_direct` takes every argument. `name_alone` is
    `name` of a row, with zeros for the rest, and gives nothing: the least that Python can call.
    """
    bindings = host().bindings(dtype) | getattr(function, "bound", {})
    bound = _Specializer(bindings, Lowering(bindings, checked), dtype).bind(function)
    return machine.emit_object(_optimized(bound, signature(function), name, machine))


@global_compiler_lock
def _optimized(function, kind, name, machine):
    """The LLVM module of `function` behind its two entries."""
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    flags = compiler.Flags()
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_compile = True  # the object code is made once, of the whole
    flags.error_model = "numpy"
    flags.nrt = False
    library = target.codegen().create_library(name)
    result = compiler.compile_extra(typing, target, function, kind.args, kind.return_type, flags, {}, library)

    module = library.create_ir_module(name)
    values = [_DOUBLE if argument == types.float64 else _WORD for argument in kind.args]
    direct = ir.Function(module, ir.FunctionType(_WORD, values), f"{name}_direct")
    builder = ir.IRBuilder(direct.append_basic_block())
    inner = target.declare_function(module, result.fndesc)
    status, value = target.call_conv.call_function(builder, inner, kind.return_type, kind.args, list(direct.args))
    builder.ret(builder.select(status.is_error, _WORD(-1), value))

    entry = ir.Function(module, ir.FunctionType(_WORD, [_WORD] * 4), name)
    builder = ir.IRBuilder(entry.append_basic_block())
    row, *common = entry.args
    operands = values[: len(values) - len(common)]
    base = builder.inttoptr(row, _WORD.as_pointer())
    loaded = []
    for place, operand in enumerate(operands, HEADER):
        cell = builder.gep(base, [_WORD(place)])
        loaded.append(builder.load(builder.bitcast(cell, operand.as_pointer())))
    builder.ret(builder.call(direct, loaded + common))

    alone = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD]), f"{name}_alone")
    builder = ir.IRBuilder(alone.append_basic_block())
    builder.call(entry, [*alone.args, *[_WORD(0)] * 3])
    builder.ret_void()
    library.add_ir_module(module)
    if hasattr(library.codegen, "_pass_builder"):
        library._optimize_final_module = lambda: _optimize(library)
    library._finalize_final_module = lambda: None  # not into Numba's own memory, which would want the other kernels
    with _passes_for(library.codegen, machine):
        library.finalize()
    return library._final_module


@contextmanager
def _passes_for(codegen, machine):
    """Let passes choose for the processor of `Target`, not for what Numba makes of it."""
    own, codegen._tm = codegen._tm, machine
    try:
        yield
    finally:
        codegen._tm = own


def _optimize(library):
    """One full pass. Numba makes a cheaper one before it, to prune reference counts; kernels have none."""
    manager, passes = library.codegen._module_pass_manager()
    manager.run(library._final_module, passes)


class _Specializer:
    """Copies functions with the names they read bound for one dtype and target."""

    def __init__(self, bindings, lowering, dtype):
        self.bindings, self.lowering, self.dtype = bindings, lowering, dtype
        self.real = np.dtype(dtype).type
        self.made = {}

    def bind(self, function):
        """A copy of `function` that reads specialised globals and holds its float literals as `real`."""
        scope = {"__name__": function.__module__, "__builtins__": __builtins__}
        bound = {name: self._value(name, value) for name, value in names_read(function).items()}
        cells = tuple(python_types.CellType(bound[name]) for name in function.__code__.co_freevars)
        scope.update(bound)
        copy = python_types.FunctionType(self._code(function.__code__), scope, function.__name__, None, cells)
        copy.__module__ = function.__module__
        return copy

    def _code(self, code):
        return code.replace(co_consts=tuple(
            self._literal(constant) for constant in code.co_consts))

    def _literal(self, value):
        """Floats, also those in tuples, as `real`."""
        if isinstance(value, _primitives.ByPrecision):
            return tuple(map(self.real, value if self.real is np.float64 else value.single))
        if type(value) is tuple:
            return tuple(map(self._literal, value))
        return self.real(value) if type(value) is float else value

    def _value(self, name, value):
        if isinstance(value, python_types.FunctionType):
            if value.__module__ == _primitives.__name__:
                return self.lowering[value.__name__]
            if hasattr(value, "is_kernel"):
                return types.ExternalFunction(f"{symbol(value, self.dtype)}_direct", signature(value))
            if value not in self.made:
                self.made[value] = numba.njit(**_HELPER)(self.bind(value))
            return self.made[value]
        if getattr(_primitives, name, None) is value and name in self.bindings:
            return self.bindings[name]
        return self._literal(value)


