"""The instructions of NVIDIA's devices behind `_primitives` and `_block`. Imported only where something is compiled."""

import operator

from llvmlite import ir
from numba import types
from numba.cuda import cgutils, nvvmutils
from numba.cuda.datamodel import models
from numba.cuda.extending import intrinsic, lower_builtin, register_model
from numba.cuda.typing.templates import AbstractTemplate, infer_global

from ._arithmetic import Arithmetic
from ._block import QUAD
from ._intrinsics import I32, I64, declared, made_simple, type_elements

GLOBAL, SHARED = 1, 3  # LLVM's numbers for the memory of the device, and of a block
_WIDE = 16  # bytes that a thread loads at once


class _Span(types.Type):
    """A bare pointer: what a kernel sees of a buffer, of numbers that lie anywhere (0) or are shared (SHARED)."""

    def __init__(self, dtype, space):
        self.dtype, self.space = dtype, space
        super().__init__(name=f"CudaSpan({dtype}, {space})")


@register_model(_Span)
class _SpanModel(models.PrimitiveModel):
    def __init__(self, manager, span):
        element = manager.lookup(span.dtype).get_data_type()
        super().__init__(manager, span, element.as_pointer(span.space))


type_elements(_Span, AbstractTemplate, infer_global)


@lower_builtin(operator.getitem, _Span, types.int64)
def _read(context, builder, signature, arguments):
    return builder.load(builder.gep(arguments[0], [arguments[1]]))


@lower_builtin(operator.setitem, _Span, types.int64, types.Any)
def _write(context, builder, signature, arguments):
    span, index, value = arguments
    builder.store(value, builder.gep(span, [index]))
    return context.get_dummy_value()


def simple(signature, emit):
    """As `_intrinsics.simple`, for this target."""
    return made_simple(intrinsic, signature, emit)


class CudaLowering(Arithmetic):
    """Builds the intrinsics for one floating-point type."""

    intrinsic, simple, multiply_add = staticmethod(intrinsic), staticmethod(simple), "fma"

    # memory

    def make_reals(self):
        return self._span(self.real)

    def make_doubles(self):
        return self._span(types.float64)

    def make_ints(self):
        return self._span(types.int64)

    @staticmethod
    def _span(dtype):
        kind = _Span(dtype, 0)

        def emit(builder, address, size):
            scalar = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "int64": I64}[dtype.name]
            place = builder.inttoptr(address, scalar.as_pointer(GLOBAL))
            return builder.addrspacecast(place, scalar.as_pointer())

        return simple(kind(types.int64, types.int64), emit)

    def make_nears(self):
        def emit(builder, first, size):
            return builder.gep(self._near(builder), [first])

        return simple(_Span(self.real, SHARED)(types.int64, types.int64), emit)

    def make_near_numbers(self):
        def place(builder, first, count):
            return builder.gep(self._near(builder), [first])

        return self._tuple_of(place, QUAD)

    def make_put_near_numbers(self):
        @intrinsic
        def put_near_numbers(typing, first, numbers):
            if numbers.count != QUAD:
                return None

            def generate(context, builder, signature, arguments):
                place, numbers = builder.gep(self._near(builder), [arguments[0]]), arguments[1]
                vector = ir.Constant(ir.VectorType(self.scalar, QUAD), ir.Undefined)
                for i in range(QUAD):
                    vector = builder.insert_element(vector, builder.extract_value(numbers, i), I32(i))
                builder.store(vector, builder.bitcast(place, vector.type.as_pointer(SHARED)),
                              align=QUAD * self.scalar_bytes)
                return context.get_dummy_value()

            return types.void(first, numbers), generate

        return put_near_numbers

    def make_take_quad(self):
        width = _WIDE // self.scalar_bytes  # numbers that one load takes

        @intrinsic
        def take_quad(typing, address, given):
            kind = types.UniTuple(self.real, QUAD)

            def generate(context, builder, signature, arguments):
                address, given = arguments
                place = builder.inttoptr(address, self.scalar.as_pointer(GLOBAL))
                slots = [cgutils.alloca_once_value(builder, ir.Constant(self.scalar, 0.0)) for _ in range(QUAD)]
                aligned = builder.icmp_unsigned("==", builder.and_(address, I64(_WIDE - 1)), I64(0))
                whole = builder.and_(aligned, builder.icmp_signed(">=", given, I64(QUAD)))
                with builder.if_else(whole) as (every, some):
                    with every:
                        for first in range(0, QUAD, width):
                            wide = builder.bitcast(builder.gep(place, [I64(first)]),
                                                   ir.VectorType(self.scalar, width).as_pointer(GLOBAL))
                            vector = builder.load(wide, align=_WIDE)
                            for i in range(width):
                                builder.store(builder.extract_element(vector, I32(i)), slots[first + i])
                    with some:
                        for i, slot in enumerate(slots):
                            with builder.if_then(builder.icmp_signed(">", given, I64(i))):
                                builder.store(builder.load(builder.gep(place, [I64(i)])), slot)
                return context.make_tuple(builder, kind, [builder.load(slot) for slot in slots])

            return kind(address, given), generate

        return take_quad

    def make_numbers(self):
        def place(builder, address, count):
            return builder.inttoptr(address, self.scalar.as_pointer(GLOBAL))

        return self._tuple_of(place, 1)

    def _near(self, builder):
        """What the threads of a block share, as many bytes as the launch says: a pointer to its first number."""
        kind = ir.ArrayType(self.scalar, 0)
        known = builder.module.globals.get("hotloop_near")
        if known is None:
            known = ir.GlobalVariable(builder.module, kind, "hotloop_near", addrspace=SHARED)
            known.linkage, known.align = "external", 32
        return builder.gep(known, [I32(0), I32(0)])

    def _tuple_of(self, place, width):
        """The intrinsic of (first, literal count) that loads a tuple, `width` numbers at once."""
        real, scalar, size = self.real, self.scalar, self.scalar_bytes

        @intrinsic
        def load(typing, first, count):
            if not isinstance(count, types.IntegerLiteral):
                return None
            kind = types.UniTuple(real, count.literal_value)

            def generate(context, builder, signature, arguments):
                base, loaded = place(builder, *arguments), []
                step = min(width, count.literal_value)
                for i in range(0, count.literal_value, step):
                    at = builder.gep(base, [I64(i)])
                    if step > 1:
                        at = builder.bitcast(at, ir.VectorType(scalar, step).as_pointer(at.type.addrspace))
                    loaded.append(builder.load(at, align=step * size))
                return self._parts(context, builder, kind, loaded)

            return kind(types.int64, count), generate

        return load

    @staticmethod
    def _parts(context, builder, kind, loaded):
        """The numbers of vectors, or numbers, as a tuple."""
        numbers = []
        for value in loaded:
            if isinstance(value.type, ir.VectorType):
                numbers += [builder.extract_element(value, I32(i)) for i in range(value.type.count)]
            else:
                numbers.append(value)
        return context.make_tuple(builder, kind, numbers)

    # bits

    def make_signed(self):
        """By digits: NVIDIA's compiler has no LLVM function for it."""
        def emit(builder, x, sign):
            lowest = 2 ** (self.integer.width - 1)
            size = builder.and_(builder.bitcast(x, self.integer), self.integer(lowest - 1))
            minus = builder.and_(builder.bitcast(sign, self.integer), self.integer(lowest))
            return builder.bitcast(builder.or_(size, minus), self.scalar)

        return simple(self.real(self.real, self.real), emit)

    # tiles in registers

    def make_zeros(self):
        real = self.real

        @intrinsic
        def zeros(typing, count):
            if not isinstance(count, types.IntegerLiteral):
                return None
            kind = types.UniTuple(real, count.literal_value)
            return kind(count), lambda context, builder, signature, arguments: ir.Constant(
                context.get_value_type(kind), None)

        return zeros

    def make_repeat(self):
        real = self.real

        @intrinsic
        def repeat(typing, numbers, count):
            if not isinstance(count, types.IntegerLiteral):
                return None
            kind = types.UniTuple(real, numbers.count * count.literal_value)

            def generate(context, builder, signature, arguments):
                row = [builder.extract_value(arguments[0], i) for i in range(numbers.count)]
                return context.make_tuple(builder, kind, row * count.literal_value)

            return kind(numbers, count), generate

        return repeat

    def make_added(self):
        return self._each(2, lambda builder, left, right: builder.fadd(left, right))

    def make_cut(self):
        zero = ir.Constant(self.scalar, 0.0)

        def emit(builder, number):
            return builder.select(builder.fcmp_ordered("<=", number, zero), zero, number)

        return self._each(1, emit)

    def make_where_positive(self):
        zero = ir.Constant(self.scalar, 0.0)

        def emit(builder, of_mask, number):
            return builder.select(builder.fcmp_ordered(">", of_mask, zero), number, zero)

        return self._each(2, emit)

    @staticmethod
    def _each(arity, emit):
        """The intrinsic of tiles that makes a tile, number by number."""
        def define(typing, *tiles):
            def generate(context, builder, signature, arguments):
                numbers = [emit(builder, *[builder.extract_value(tile, i) for tile in arguments])
                           for i in range(tiles[0].count)]
                return context.make_tuple(builder, signature.return_type, numbers)

            return tiles[0](*tiles), generate

        def one(typing, tile):
            return define(typing, tile)

        def two(typing, left, right):
            return define(typing, left, right)

        return intrinsic(one if arity == 1 else two)

    def make_take_tile(self):
        real = self.real

        @intrinsic
        def take_tile(typing, address, row_step, column_step, rows, columns, given_rows, given_columns):
            if not all(isinstance(size, types.IntegerLiteral) for size in (rows, columns)):
                return None
            shape = rows.literal_value, columns.literal_value
            kind = types.UniTuple(real, shape[0] * shape[1])

            def generate(context, builder, signature, arguments):
                slots = [cgutils.alloca_once_value(builder, ir.Constant(self.scalar, 0.0))
                         for _ in range(kind.count)]

                def take(place, pointer):
                    builder.store(builder.load(pointer), slots[place])

                self._over_tile(builder, shape, arguments, take)
                return context.make_tuple(builder, kind, [builder.load(slot) for slot in slots])

            return kind(address, row_step, column_step, rows, columns, given_rows, given_columns), generate

        return take_tile

    def make_put_tile(self):
        @intrinsic
        def put_tile(typing, tile, address, row_step, column_step, rows, columns, given_rows, given_columns):
            if not all(isinstance(size, types.IntegerLiteral) for size in (rows, columns)):
                return None
            shape = rows.literal_value, columns.literal_value

            def generate(context, builder, signature, arguments):
                def put(place, pointer):
                    builder.store(builder.extract_value(arguments[0], place), pointer)

                self._over_tile(builder, shape, arguments[1:], put)
                return context.get_dummy_value()

            return types.void(tile, address, row_step, column_step, rows, columns, given_rows, given_columns), generate

        return put_tile

    def _over_tile(self, builder, shape, arguments, do):
        """Do something for each number of a tile that is given: without a branch for each where all are."""
        address, row_step, column_step, _, _, given_rows, given_columns = (
            builder.zext(value, I64) if value.type.width < 64 else value for value in arguments)
        base = builder.inttoptr(address, self.scalar.as_pointer(GLOBAL))
        rows, columns = shape

        def pointer(i, j):
            return builder.gep(base, [builder.add(builder.mul(row_step, I64(i)), builder.mul(column_step, I64(j)))])

        all_rows = builder.icmp_signed(">=", given_rows, I64(rows))
        whole = builder.and_(all_rows, builder.icmp_signed(">=", given_columns, I64(columns)))
        with builder.if_else(whole) as (every, some):
            with every:
                for i in range(rows):
                    for j in range(columns):
                        do(i * columns + j, pointer(i, j))
            with some:
                for i in range(rows):
                    for j in range(columns):
                        given = builder.and_(builder.icmp_signed("<", I64(i), given_rows),
                                             builder.icmp_signed("<", I64(j), given_columns))
                        with builder.if_then(given):
                            do(i * columns + j, pointer(i, j))

    def make_outer(self):
        @intrinsic
        def outer(typing, sums, left, right):
            def generate(context, builder, signature, arguments):
                sums, left, right = arguments
                rows, columns = (kind.count for kind in signature.args[1:])
                for i in range(rows):
                    for j in range(columns):
                        place = i * columns + j
                        total = self._multiply_add(builder, builder.extract_value(left, i),
                                                   builder.extract_value(right, j), builder.extract_value(sums, place))
                        sums = builder.insert_value(sums, total, place)
                return sums

            return sums(sums, left, right), generate

        return outer

    # threads

    def make_thread(self):
        return self._register("tid.x")

    def make_block_x(self):
        return self._register("ctaid.x")

    def make_block_y(self):
        return self._register("ctaid.y")

    def make_block_z(self):
        return self._register("ctaid.z")

    @staticmethod
    def _register(name):
        """A special register, read where it is asked for.

        What the compiler knows to be the same throughout a kernel it computes with ahead of all loops, for every
        instruction of a program that is one kernel: then registers do not suffice.
        """
        def emit(builder):
            read = ir.FunctionType(I32, [])
            return builder.zext(builder.asm(read, f"mov.u32 $0, %{name};", "=r", [], side_effect=True), I64)

        return simple(types.int64(), emit)

    def make_meet(self):
        """As Numba's `cuda.cg.this_grid().sync()`; the launch is cooperative then."""
        @intrinsic
        def meet(typing):
            def generate(context, builder, signature, arguments):
                context.active_code_library.use_cooperative = True
                handle = builder.call(nvvmutils.declare_cudaCGGetIntrinsicHandle(builder.module), (I32(1),))
                builder.call(nvvmutils.declare_cudaCGSynchronize(builder.module), (handle, I32(0)))
                return context.get_dummy_value()

            return types.void(), generate

        return meet

    def make_barrier(self):
        def emit(builder):
            builder.call(declared(builder, "llvm.nvvm.barrier0", ir.VoidType(), []), [])

        return simple(types.void(), emit)
