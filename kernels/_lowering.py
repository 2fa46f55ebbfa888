"""The LLVM instructions behind `_primitives`. Imported only when something is compiled."""

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._feature_tiles import FeatureTiles
from ._intrinsics import I1, I32, I64, declared, prefetch, simple, span

_TRIPLE = llvm.get_process_triple()
_X86 = _TRIPLE.startswith(("x86_64", "i686", "amd64"))
_FLUSH = 1 << 15  # of MXCSR: results below the normal numbers become 0


def _mixed(builder, z, rounds, last):
    """A hash's finalizer: z ^= z >> shift; z *= factor for each of `rounds`, then z ^= z >> last."""
    for shift, factor in rounds:
        z = builder.mul(builder.xor(z, builder.lshr(z, z.type(shift))), z.type(factor))
    return builder.xor(z, builder.lshr(z, z.type(last)))


def _set_rounding(builder, place):
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    builder.call(declared(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [pointer.type]), [pointer])


class Lowering(FeatureTiles):
    """Builds the intrinsics for one floating-point type, one vector shape and one checking mode."""

    def __init__(self, bindings, checked):
        super().__init__(bindings)
        self.checked = checked
        self.real = types.float64 if self.double else types.float32
        self.integer = I64 if self.double else I32
        self.bits, self.bias, self.exponent_bits = (52, 1023, 11) if self.double else (23, 127, 8)
        self.least = self.integer(0x3FE6A09E667F3BCD if self.double else 0x3F3504F3)  # the bits of sqrt(1/2)
        self._made = {}

    def __contains__(self, name):
        return hasattr(self, f"make_{name}")

    def __getitem__(self, name):
        if name not in self._made:
            self._made[name] = getattr(self, f"make_{name}")()
        return self._made[name]

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

    # bits

    def make_as_double(self):
        return simple(types.float64(types.int64), lambda builder, bits: builder.bitcast(bits, ir.DoubleType()))

    def make_fma(self):
        name = "llvm.fmuladd." + ("f64" if self.double else "f32")

        def emit(builder, a, b, c):
            return builder.call(declared(builder, name, self.scalar, [self.scalar] * 3), [a, b, c])

        return simple(self.real(self.real, self.real, self.real), emit)

    def make_select(self):
        def emit(builder, condition, yes, no):
            return builder.select(condition, yes, no)

        return simple(self.real(types.boolean, self.real, self.real), emit)

    def make_polynomial(self):
        name = "llvm.fmuladd." + ("f64" if self.double else "f32")
        real, scalar = self.real, self.scalar

        @intrinsic
        def polynomial(typing, x, coefficients):
            def generate(context, builder, signature, arguments):
                step = declared(builder, name, scalar, [scalar] * 3)
                x, table = arguments
                first, *terms = (self._held(builder, builder.extract_value(table, i))
                                 for i in range(len(signature.args[1])))
                power = x
                while len(terms) > 1:
                    pairs = zip(terms[::2], terms[1::2], strict=False)
                    last = terms[-1:] if len(terms) % 2 else []
                    terms = [builder.call(step, [high, power, low]) for low, high in pairs] + last
                    power = builder.fmul(power, power)
                return builder.call(step, [terms[0], x, first])

            return real(real, coefficients), generate

        return polynomial

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

    def make_scramble(self):
        def emit(builder, key, number):
            step = builder.mul(builder.add(number, I64(1)), I64(0x9E3779B97F4A7C15))
            return _mixed(builder, builder.add(key, step),
                          ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)), 31)

        return simple(types.int64(types.int64, types.int64), emit)

    def make_uniform(self):
        def emit(builder, key, number):
            z = builder.trunc(number, I32)
            for half in (key, builder.lshr(key, I64(32))):
                z = builder.mul(builder.xor(z, builder.trunc(half, I32)), I32(0x9E3779B1))
                z = _mixed(builder, z, ((16, 0x7FEB352D), (15, 0x846CA68B)), 16)
            high = builder.sitofp(builder.lshr(z, I32(8)), self.scalar)
            return builder.fmul(high, ir.Constant(self.scalar, 2.0**-24))

        return simple(self.real(types.int64, types.int64), emit)

    def make_finite(self):
        def emit(builder, x):
            ones = self.integer(((1 << self.exponent_bits) - 1) << self.bits)
            return builder.icmp_unsigned("!=", builder.and_(builder.bitcast(x, self.integer), ones), ones)

        return simple(types.boolean(self.real), emit)

    def make_flaw_in(self):
        """The exponent of what is not finite is all ones: one more makes the number with its sign cleared negative."""
        kind = types.int64 if self.double else types.int32

        def emit(builder, flaws, x):
            size = builder.and_(builder.bitcast(x, self.integer), self.integer(2 ** (self.integer.width - 1) - 1))
            return builder.or_(flaws, builder.add(size, self.integer(1 << self.bits)))

        return simple(kind(kind, self.real), emit)

    def make_exp2i(self):
        def emit(builder, t, shift):
            digits = builder.bitcast(t, self.integer)
            bias = self._narrow(builder, builder.add(shift, I64(self.bias)))
            power = builder.shl(builder.add(digits, bias), self.integer(self.bits))
            return builder.bitcast(power, self.scalar)

        return simple(self.real(self.real, types.int64), emit)

    def make_digit(self):
        def emit(builder, t, place):
            digits = builder.lshr(builder.bitcast(t, self.integer), self._narrow(builder, place))
            return builder.trunc(digits, I1)

        return simple(types.boolean(self.real, types.int64), emit)

    def _narrow(self, builder, value):
        return value if self.double else builder.trunc(value, I32)

    def _above_least(self, builder, x):
        """The bits of x less those of sqrt(1/2): the exponent and, where it is 0, what exceeds the least mantissa."""
        return builder.sub(builder.bitcast(x, self.integer), self.least)

    def make_exponent(self):
        def emit(builder, x):
            power = builder.ashr(self._above_least(builder, x), self.integer(self.bits))
            return builder.sitofp(power, self.scalar)

        return simple(self.real(self.real), emit)

    def make_mantissa(self):
        def emit(builder, x):
            above = builder.and_(self._above_least(builder, x), self.integer((1 << self.bits) - 1))
            return builder.bitcast(builder.add(above, self.least), self.scalar)

        return simple(self.real(self.real), emit)

    def make_signed(self):
        name = "llvm.copysign." + ("f64" if self.double else "f32")

        def emit(builder, x, sign):
            return builder.call(declared(builder, name, self.scalar, [self.scalar] * 2), [x, sign])

        return simple(self.real(self.real, self.real), emit)

    def make_chop(self):
        def emit(builder, x):
            kept = builder.and_(builder.bitcast(x, self.integer), self.integer(-1 << (27 if self.double else 12)))
            return builder.bitcast(kept, self.scalar)

        return simple(self.real(self.real), emit)

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
