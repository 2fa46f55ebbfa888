"""The LLVM instructions behind `_primitives`. Imported only when something is compiled."""

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._feature_tiles import FeatureTiles
from ._intrinsics import I32, I64, declared, prefetch, simple, span

_TRIPLE = llvm.get_process_triple()
_X86 = _TRIPLE.startswith(("x86_64", "i686", "amd64"))
_FLUSH = 1 << 15  # of MXCSR: results below the normal numbers become 0


def _set_rounding(builder, place):
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    builder.call(declared(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [pointer.type]), [pointer])


class Lowering(FeatureTiles):
    """Builds the intrinsics for one floating-point type, one vector shape and one checking mode."""

    intrinsic, simple, multiply_add = staticmethod(intrinsic), staticmethod(simple), "fmuladd"

    def __init__(self, bindings, checked):
        super().__init__(bindings)
        self.checked = checked

    # memory

    def make_reals(self):
        return span(self.real, self.checked)

    def make_doubles(self):
        return span(types.float64, self.checked)

    def make_ints(self):
        return span(types.int64, self.checked)

    def make_copy(self):
        def emit(builder, target, source, size):
            byte = ir.IntType(8).as_pointer()
            cgutils.raw_memcpy(builder, builder.inttoptr(target, byte), builder.inttoptr(source, byte), size,
                               self.scalar_bytes)

        return simple(types.void(types.int64, types.int64, types.int64), emit)

    def make_prefetch(self):
        return simple(types.void(types.int64), prefetch)

    def make_room(self):
        scalar, align = self.scalar, 64

        @intrinsic
        def room(typing, count):
            if not isinstance(count, types.IntegerLiteral):
                return None

            def generate(context, builder, signature, arguments):
                memory = cgutils.alloca_once(builder, ir.ArrayType(scalar, count.literal_value))
                memory.align = align
                return builder.ptrtoint(memory, I64)

            return types.int64(count), generate

        return room

    def make_as_double(self):
        return simple(types.float64(types.int64), lambda builder, bits: builder.bitcast(bits, ir.DoubleType()))

    def _held(self, builder, value):
        """`value`, of which the compiler no longer knows that it is a constant.

        Vectors of a constant are loaded anew in each turn of a loop that wants more of them than there are registers.
        What is no constant stays on the stack instead, where instructions of x86 read it as their operand.
        """
        if not _X86:
            return value
        kind = ir.FunctionType(self.scalar, [self.scalar])
        call = builder.asm(kind, "", "=x,0", [value], side_effect=False)
        call.attributes.add("readnone")
        call.attributes.add("nounwind")
        return call

    # control

    def make_call(self):
        def emit(builder, address, *arguments):
            kind = ir.FunctionType(I64, [I64] * 4)
            return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)

        return simple(types.int64(*[types.int64] * 5), emit)

    def make_yield_thread(self):
        def emit(builder, address):
            builder.call(builder.inttoptr(address, ir.FunctionType(I32, []).as_pointer()), [])

        return simple(types.void(types.int64), emit)

    def make_atomic_add(self):
        def emit(builder, address, value):
            return builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), value, "seq_cst")

        return simple(types.int64(types.int64, types.int64), emit)

    def make_atomic_load(self):
        def emit(builder, address):
            return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), "acquire", 8)

        return simple(types.int64(types.int64), emit)

    def make_atomic_store(self):
        def emit(builder, address, value):
            builder.store_atomic(value, builder.inttoptr(address, I64.as_pointer()), "release", 8)

        return simple(types.void(types.int64, types.int64), emit)

    def make_compare_and_swap(self):
        def emit(builder, address, expected, value):
            cell = builder.inttoptr(address, I64.as_pointer())
            return builder.extract_value(builder.cmpxchg(cell, expected, value, "seq_cst", "seq_cst"), 0)

        return simple(types.int64(types.int64, types.int64, types.int64), emit)

    def make_flush_subnormals(self):
        def emit(builder):
            if not _X86:
                return I64(0)
            place, before = self._rounding(builder)
            builder.store(builder.or_(before, I32(_FLUSH)), place)
            _set_rounding(builder, place)
            return builder.zext(before, I64)

        return simple(types.int64(), emit)

    def make_restore_rounding(self):
        def emit(builder, before):
            if _X86:
                place = cgutils.alloca_once_value(builder, builder.trunc(before, I32))
                _set_rounding(builder, place)

        return simple(types.void(types.int64), emit)

    def _rounding(self, builder):
        """A place in memory that holds the thread's settings of floating-point arithmetic, and what it holds."""
        place = cgutils.alloca_once(builder, I32)
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        builder.call(declared(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [pointer.type]), [pointer])
        return place, builder.load(place)

    def make_draw_bits(self):
        def emit(builder, function, state):
            kind = ir.FunctionType(I64, [I64])
            return builder.call(builder.inttoptr(function, kind.as_pointer()), [state])

        return simple(types.int64(types.int64, types.int64), emit)

    def make_acquire(self):
        def emit(builder, function, lock):
            kind = ir.FunctionType(I32, [I64, I32])
            builder.call(builder.inttoptr(function, kind.as_pointer()), [lock, I32(1)])

        return simple(types.void(types.int64, types.int64), emit)

    def make_release(self):
        def emit(builder, function, lock):
            kind = ir.FunctionType(ir.VoidType(), [I64])
            builder.call(builder.inttoptr(function, kind.as_pointer()), [lock])

        return simple(types.void(types.int64, types.int64), emit)

    def make_pause(self):
        def emit(builder):
            if _X86:
                builder.call(declared(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
            elif _TRIPLE.startswith(("aarch64", "arm64")):
                builder.call(declared(builder, "llvm.aarch64.hint", ir.VoidType(), [I32]), [I32(1)])

        return simple(types.void(), emit)
