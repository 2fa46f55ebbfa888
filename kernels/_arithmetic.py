"""The LLVM instructions behind the arithmetic of `_primitives`, the same for every target."""

from llvmlite import ir
from numba.core import types

from ._intrinsics import I1, I32, I64, declared


def _mixed(builder, z, rounds, last):
    """A hash's finalizer: z ^= z >> shift; z *= factor for each of `rounds`, then z ^= z >> last."""
    for shift, factor in rounds:
        z = builder.mul(builder.xor(z, builder.lshr(z, z.type(shift))), z.type(factor))
    return builder.xor(z, builder.lshr(z, z.type(last)))


class Arithmetic:
    """Builds those intrinsics for one floating-point type.

    A target gives `intrinsic`, Numba's decorator for it, `simple` (see `_intrinsics`), and `multiply_add`, the name of
    LLVM's function for a b + c: "fma", or "fmuladd" where that need not be rounded once.
    """

    def __init__(self, bindings):
        self.double = bindings["DOUBLE"]
        self.scalar, self.scalar_bytes = (ir.DoubleType(), 8) if self.double else (ir.FloatType(), 4)
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

    def _multiply_add(self, builder, a, b, c):
        name = f"llvm.{self.multiply_add}." + ("f64" if self.double else "f32")
        return builder.call(declared(builder, name, self.scalar, [self.scalar] * 3), [a, b, c])

    def _held(self, builder, value):
        """A number of a polynomial's table as its arithmetic is to see it."""
        return value

    def make_fma(self):
        return self.simple(self.real(self.real, self.real, self.real), self._multiply_add)

    def make_select(self):
        def emit(builder, condition, yes, no):
            return builder.select(condition, yes, no)

        return self.simple(self.real(types.boolean, self.real, self.real), emit)

    def make_polynomial(self):
        real, step = self.real, self._multiply_add

        @self.intrinsic
        def polynomial(typing, x, coefficients):
            def generate(context, builder, signature, arguments):
                x, table = arguments
                first, *terms = (self._held(builder, builder.extract_value(table, i))
                                 for i in range(len(signature.args[1])))
                power = x
                while len(terms) > 1:
                    pairs = zip(terms[::2], terms[1::2], strict=False)
                    last = terms[-1:] if len(terms) % 2 else []
                    terms = [step(builder, high, power, low) for low, high in pairs] + last
                    power = builder.fmul(power, power)
                return step(builder, terms[0], x, first)

            return real(real, coefficients), generate

        return polynomial

    def make_scramble(self):
        def emit(builder, key, number):
            step = builder.mul(builder.add(number, I64(1)), I64(0x9E3779B97F4A7C15))
            return _mixed(builder, builder.add(key, step),
                          ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)), 31)

        return self.simple(types.int64(types.int64, types.int64), emit)

    def make_uniform(self):
        def emit(builder, key, number):
            z = builder.trunc(number, I32)
            for half in (key, builder.lshr(key, I64(32))):
                z = builder.mul(builder.xor(z, builder.trunc(half, I32)), I32(0x9E3779B1))
                z = _mixed(builder, z, ((16, 0x7FEB352D), (15, 0x846CA68B)), 16)
            high = builder.sitofp(builder.lshr(z, I32(8)), self.scalar)
            return builder.fmul(high, ir.Constant(self.scalar, 2.0**-24))

        return self.simple(self.real(types.int64, types.int64), emit)

    def make_finite(self):
        def emit(builder, x):
            ones = self.integer(((1 << self.exponent_bits) - 1) << self.bits)
            return builder.icmp_unsigned("!=", builder.and_(builder.bitcast(x, self.integer), ones), ones)

        return self.simple(types.boolean(self.real), emit)

    def make_flaw_in(self):
        """The exponent of what is not finite is all ones: one more makes the number with its sign cleared negative."""
        kind = types.int64 if self.double else types.int32

        def emit(builder, flaws, x):
            size = builder.and_(builder.bitcast(x, self.integer), self.integer(2 ** (self.integer.width - 1) - 1))
            return builder.or_(flaws, builder.add(size, self.integer(1 << self.bits)))

        return self.simple(kind(kind, self.real), emit)

    def make_exp2i(self):
        def emit(builder, t, shift):
            digits = builder.bitcast(t, self.integer)
            bias = self._narrow(builder, builder.add(shift, I64(self.bias)))
            power = builder.shl(builder.add(digits, bias), self.integer(self.bits))
            return builder.bitcast(power, self.scalar)

        return self.simple(self.real(self.real, types.int64), emit)

    def make_digit(self):
        def emit(builder, t, place):
            digits = builder.lshr(builder.bitcast(t, self.integer), self._narrow(builder, place))
            return builder.trunc(digits, I1)

        return self.simple(types.boolean(self.real, types.int64), emit)

    def _narrow(self, builder, value):
        return value if self.double else builder.trunc(value, I32)

    def _above_least(self, builder, x):
        """The bits of x less those of sqrt(1/2): the exponent and, where it is 0, what exceeds the least mantissa."""
        return builder.sub(builder.bitcast(x, self.integer), self.least)

    def make_exponent(self):
        def emit(builder, x):
            power = builder.ashr(self._above_least(builder, x), self.integer(self.bits))
            return builder.sitofp(power, self.scalar)

        return self.simple(self.real(self.real), emit)

    def make_mantissa(self):
        def emit(builder, x):
            above = builder.and_(self._above_least(builder, x), self.integer((1 << self.bits) - 1))
            return builder.bitcast(builder.add(above, self.least), self.scalar)

        return self.simple(self.real(self.real), emit)

    def make_signed(self):
        name = "llvm.copysign." + ("f64" if self.double else "f32")

        def emit(builder, x, sign):
            return builder.call(declared(builder, name, self.scalar, [self.scalar] * 2), [x, sign])

        return self.simple(self.real(self.real, self.real), emit)

    def make_chop(self):
        def emit(builder, x):
            kept = builder.and_(builder.bitcast(x, self.integer), self.integer(-1 << (27 if self.double else 12)))
            return builder.bitcast(kept, self.scalar)

        return self.simple(self.real(self.real), emit)
