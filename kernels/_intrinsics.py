"""What the instructions behind `_primitives` are made with: intrinsics, declarations, and buffers as Numba's types."""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, register_model

I64, I32, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)


class _Span(types.Type):
    """A bare pointer with its length: what a kernel sees of a buffer."""

    def __init__(self, dtype, checked):
        self.dtype, self.checked = dtype, checked
        super().__init__(name=f"Span({dtype}, checked={checked})")


@register_model(_Span)
class _SpanModel(models.StructModel):
    def __init__(self, manager, span):
        super().__init__(manager, span, [("data", types.CPointer(span.dtype)), ("size", types.int64)])


def type_elements(kind, template, infer):
    """Tell a target's typing that spans of `kind` have elements, by its base class and decorator for templates."""

    class Get(template):
        def generic(self, arguments, keywords):
            span, index = arguments
            if isinstance(span, kind) and isinstance(index, types.Integer):
                return span.dtype(span, types.int64)
            return None

    class Set(template):
        def generic(self, arguments, keywords):
            span, index, _ = arguments
            if isinstance(span, kind) and isinstance(index, types.Integer):
                return types.none(span, types.int64, span.dtype)
            return None

    infer(operator.getitem)(Get)
    infer(operator.setitem)(Set)


type_elements(_Span, AbstractTemplate, infer_global)


@lower_builtin(operator.getitem, _Span, types.int64)
def _read(context, builder, signature, arguments):
    return builder.load(_element(context, builder, signature.args[0], *arguments))


@lower_builtin(operator.setitem, _Span, types.int64, types.Any)
def _write(context, builder, signature, arguments):
    builder.store(arguments[2], _element(context, builder, signature.args[0], *arguments[:2]))
    return context.get_dummy_value()


def _element(context, builder, kind, span, index):
    """Pointer to an element; in checked mode an index outside the span raises IndexError."""
    value = cgutils.create_struct_proxy(kind)(context, builder, value=span)
    if kind.checked:
        outside = builder.icmp_unsigned(">=", index, value.size)  # negative ones are huge
        with cgutils.if_unlikely(builder, outside):
            context.call_conv.return_user_exc(builder, IndexError, ("index outside the buffer",))
    return builder.gep(value.data, [index])


def span(dtype, checked):
    """The intrinsic that makes a span of `dtype` from an address and a size; `checked` ones raise IndexError."""

    @intrinsic
    def make(typing, address, size):
        kind = _Span(dtype, checked)

        def generate(context, builder, signature, arguments):
            value = cgutils.create_struct_proxy(kind)(context, builder)
            value.data = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(dtype)))
            value.size = arguments[1]
            return value._getvalue()

        return kind(types.int64, types.int64), generate

    return make


def simple(signature, emit):
    """An intrinsic of fixed signature whose body is `emit(builder, *arguments)`."""
    return made_simple(intrinsic, signature, emit)


def made_simple(decorator, signature, emit):
    """`simple` by a target's own decorator for intrinsics."""

    def generate(context, builder, _signature, arguments):
        result = emit(builder, *arguments)
        return context.get_dummy_value() if result is None else result

    names = [f"a{i}" for i in range(len(signature.args))]
    scope = {"signature": signature, "generate": generate}
    exec(f"def stub(typing, {', '.join(names)}): return signature, generate", scope)
    return decorator(scope["stub"])


def declared(builder, name, result, arguments):
    """The external function `name`, declared once in the module that `builder` writes."""
    module = builder.module
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def prefetch(builder, address, locality=3):
    """Ask for the cache line at `address`, which need not be mapped, in the first-level cache; 2: in the second."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    function = declared(builder, "llvm.prefetch.p0i8", ir.VoidType(), [pointer.type, I32, I32, I32])
    builder.call(function, [pointer, I32(0), I32(locality), I32(1)])
