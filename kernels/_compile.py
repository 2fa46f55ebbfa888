"""From a kernel's Python source to object code, through Numba. Imported only when something is compiled."""

from contextlib import contextmanager

import numba
from llvmlite import ir
from numba.core import compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from ._jit import HEADER, symbol
from ._lowering import Lowering
from ._specialize import Specializer
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
    bound = Specializer(bindings, Lowering(bindings, checked), dtype, numba.njit(**_HELPER), _external).bind(function)
    return machine.emit_object(_optimized(bound, signature(function), name, machine))


def _external(function, dtype):
    """Another kernel, as a kernel calls it: by symbol."""
    return types.ExternalFunction(f"{symbol(function, dtype)}_direct", signature(function))


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
