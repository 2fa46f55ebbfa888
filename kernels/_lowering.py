"""The LLVM instructions behind `_primitives`. Imported only when something is compiled."""

import operator
from contextlib import contextmanager

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, register_model

_TRIPLE = llvm.get_process_triple()
_X86 = _TRIPLE.startswith(("x86_64", "i686", "amd64"))
_I64, _I32, _I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)


class _Span(types.Type):
    """A bare pointer with its length: what a kernel sees of a buffer."""

    def __init__(self, dtype, checked):
        self.dtype, self.checked = dtype, checked
        super().__init__(name=f"Span({dtype}, checked={checked})")


@register_model(_Span)
class _SpanModel(models.StructModel):
    def __init__(self, manager, span):
        super().__init__(manager, span, [("data", types.CPointer(span.dtype)), ("size", types.int64)])


@infer_global(operator.getitem)
class _SpanGet(AbstractTemplate):
    def generic(self, arguments, keywords):
        span, index = arguments
        if isinstance(span, _Span) and isinstance(index, types.Integer):
            return span.dtype(span, types.int64)
        return None


@infer_global(operator.setitem)
class _SpanSet(AbstractTemplate):
    def generic(self, arguments, keywords):
        span, index, _ = arguments
        if isinstance(span, _Span) and isinstance(index, types.Integer):
            return types.none(span, types.int64, span.dtype)
        return None


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


def _span(dtype, checked):
    @intrinsic
    def make(typing, address, size):
        span = _Span(dtype, checked)

        def generate(context, builder, signature, arguments):
            value = cgutils.create_struct_proxy(span)(context, builder)
            value.data = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(dtype)))
            value.size = arguments[1]
            return value._getvalue()

        return span(types.int64, types.int64), generate

    return make


def _simple(signature, emit):
    """An intrinsic of fixed signature whose body is `emit(builder, *arguments)`."""

    def generate(context, builder, _signature, arguments):
        result = emit(builder, *arguments)
        return context.get_dummy_value() if result is None else result

    names = [f"a{i}" for i in range(len(signature.args))]
    scope = {"signature": signature, "generate": generate}
    exec(f"def stub(typing, {', '.join(names)}): return signature, generate", scope)
    return intrinsic(scope["stub"])


def _function(builder, name, result, arguments):
    module = builder.module
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def _mixed(builder, z, rounds, last):
    """A hash's finalizer: z ^= z >> shift; z *= factor for each of `rounds`, then z ^= z >> last."""
    for shift, factor in rounds:
        z = builder.mul(builder.xor(z, builder.lshr(z, z.type(shift))), z.type(factor))
    return builder.xor(z, builder.lshr(z, z.type(last)))


class Lowering:
    """Builds the intrinsics for one floating-point type, one vector shape and one checking mode."""

    def __init__(self, bindings, checked):
        self.double = bindings["DOUBLE"]
        self.lanes, self.panel, self.rows = bindings["LANES"], bindings["PANEL"], bindings["TILE"]
        self.checked = checked
        self.real = types.float64 if self.double else types.float32
        self.scalar = ir.DoubleType() if self.double else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.integer = _I64 if self.double else _I32
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
        return _span(self.real, self.checked)

    def make_doubles(self):
        return _span(types.float64, self.checked)

    def make_ints(self):
        return _span(types.int64, self.checked)

    def make_copy(self):
        def emit(builder, target, source, size):
            byte = ir.IntType(8).as_pointer()
            cgutils.raw_memcpy(builder, builder.inttoptr(target, byte), builder.inttoptr(source, byte), size,
                               8 if self.double else 4)

        return _simple(types.void(types.int64, types.int64, types.int64), emit)

    def make_room(self):
        scalar, align = self.scalar, 64

        @intrinsic
        def room(typing, count):
            if not isinstance(count, types.IntegerLiteral):
                return None

            def generate(context, builder, signature, arguments):
                memory = cgutils.alloca_once(builder, ir.ArrayType(scalar, count.literal_value))
                memory.align = align
                return builder.ptrtoint(memory, _I64)

            return types.int64(count), generate

        return room

    # bits

    def make_as_double(self):
        return _simple(types.float64(types.int64), lambda builder, bits: builder.bitcast(bits, ir.DoubleType()))

    def make_fma(self):
        name = "llvm.fmuladd." + ("f64" if self.double else "f32")

        def emit(builder, a, b, c):
            return builder.call(_function(builder, name, self.scalar, [self.scalar] * 3), [a, b, c])

        return _simple(self.real(self.real, self.real, self.real), emit)

    def make_select(self):
        def emit(builder, condition, yes, no):
            return builder.select(condition, yes, no)

        return _simple(self.real(types.boolean, self.real, self.real), emit)

    def make_polynomial(self):
        name = "llvm.fmuladd." + ("f64" if self.double else "f32")
        real, scalar = self.real, self.scalar

        @intrinsic
        def polynomial(typing, x, coefficients):
            def generate(context, builder, signature, arguments):
                step = _function(builder, name, scalar, [scalar] * 3)
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
            step = builder.mul(builder.add(number, _I64(1)), _I64(0x9E3779B97F4A7C15))
            return _mixed(builder, builder.add(key, step),
                          ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)), 31)

        return _simple(types.int64(types.int64, types.int64), emit)

    def make_uniform(self):
        def emit(builder, key, number):
            z = builder.trunc(number, _I32)
            for half in (key, builder.lshr(key, _I64(32))):
                z = builder.mul(builder.xor(z, builder.trunc(half, _I32)), _I32(0x9E3779B1))
                z = _mixed(builder, z, ((16, 0x7FEB352D), (15, 0x846CA68B)), 16)
            high = builder.sitofp(builder.lshr(z, _I32(8)), self.scalar)
            return builder.fmul(high, ir.Constant(self.scalar, 2.0**-24))

        return _simple(self.real(types.int64, types.int64), emit)

    def make_finite(self):
        def emit(builder, x):
            ones = self.integer(((1 << self.exponent_bits) - 1) << self.bits)
            return builder.icmp_unsigned("!=", builder.and_(builder.bitcast(x, self.integer), ones), ones)

        return _simple(types.boolean(self.real), emit)

    def make_exp2i(self):
        def emit(builder, t, shift):
            digits = builder.bitcast(t, self.integer)
            bias = self._narrow(builder, builder.add(shift, _I64(self.bias)))
            power = builder.shl(builder.add(digits, bias), self.integer(self.bits))
            return builder.bitcast(power, self.scalar)

        return _simple(self.real(self.real, types.int64), emit)

    def make_digit(self):
        def emit(builder, t, place):
            digits = builder.lshr(builder.bitcast(t, self.integer), self._narrow(builder, place))
            return builder.trunc(digits, _I1)

        return _simple(types.boolean(self.real, types.int64), emit)

    def _narrow(self, builder, value):
        return value if self.double else builder.trunc(value, _I32)

    def _above_least(self, builder, x):
        """The bits of x less those of sqrt(1/2): the exponent and, where it is 0, what exceeds the least mantissa."""
        return builder.sub(builder.bitcast(x, self.integer), self.least)

    def make_exponent(self):
        def emit(builder, x):
            power = builder.ashr(self._above_least(builder, x), self.integer(self.bits))
            return builder.sitofp(power, self.scalar)

        return _simple(self.real(self.real), emit)

    def make_mantissa(self):
        def emit(builder, x):
            above = builder.and_(self._above_least(builder, x), self.integer((1 << self.bits) - 1))
            return builder.bitcast(builder.add(above, self.least), self.scalar)

        return _simple(self.real(self.real), emit)

    def make_signed(self):
        name = "llvm.copysign." + ("f64" if self.double else "f32")

        def emit(builder, x, sign):
            return builder.call(_function(builder, name, self.scalar, [self.scalar] * 2), [x, sign])

        return _simple(self.real(self.real, self.real), emit)

    def make_chop(self):
        def emit(builder, x):
            kept = builder.and_(builder.bitcast(x, self.integer), self.integer(-1 << (27 if self.double else 12)))
            return builder.bitcast(kept, self.scalar)

        return _simple(self.real(self.real), emit)

    # vectors

    def _load(self, builder, address, kind):
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=self.scalar_bytes)

    def _store(self, builder, value, address):
        builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=self.scalar_bytes)

    @property
    def scalar_bytes(self):
        return 8 if self.double else 4

    def make_tile(self):
        def emit(builder, m, vectors, depth, a, a_panel, b, c, start, start_row, finish, mask):
            size = _I64(self.scalar_bytes)
            a_panel, start_row = builder.mul(a_panel, size), builder.mul(start_row, size)
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    sums = self._panels(builder, rows, columns, depth, a, a_panel, b, first)
                    self._finish(builder, rows, columns, sums, c, finish, mask)

        return _simple(types.void(*[types.int64] * 11), emit)

    def make_tile_transposed(self):
        def emit(builder, m, vectors, depth, a, b, c, start, start_row):
            start_row = builder.mul(start_row, _I64(self.scalar_bytes))
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    _, _, sums = self._loop(builder, depth, a, 1, self.panel, b, rows, columns, first)
                    self._store_tile(builder, columns, sums, c)

        return _simple(types.void(*[types.int64] * 8), emit)

    @contextmanager
    def _shapes(self, builder, m, vectors):
        """Code for each shape of a tile, chosen at run time by a jump."""
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(builder.add(builder.mul(m, _I64(2)), vectors), done)

        def shapes():
            for rows in range(1, self.rows + 1):
                for columns in (1, 2):
                    block = builder.append_basic_block(f"tile.{rows}x{columns}")
                    switch.add_case(_I64(2 * rows + columns), block)
                    builder.position_at_end(block)
                    yield rows, columns
                    builder.branch(done)

        yield shapes()
        builder.position_at_end(done)

    def _at(self, builder, base, elements):
        return builder.add(base, _I64(elements * self.scalar_bytes))

    def _load_tile(self, builder, rows, columns, base, row):
        return [self._load(builder, self._at(builder, builder.add(base, builder.mul(_I64(i), row)), j * self.lanes),
                           self.vector) for i in range(rows) for j in range(columns)]

    def _store_tile(self, builder, columns, values, base):
        for place, value in enumerate(values):
            offset = place // columns * self.panel + place % columns * self.lanes
            self._store(builder, value, self._at(builder, base, offset))

    def _loop(self, builder, count, a, a_row, a_step, b, rows, columns, first):
        """sums += a[i, k] b[k] for k < count; returns where a and b stand after it, and the sums."""
        before = builder.block
        loop, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.k.done")
        builder.cbranch(builder.icmp_signed(">", count, _I64(0)), loop, after)
        builder.position_at_end(loop)
        left, a_now, b_now = builder.phi(_I64), builder.phi(_I64), builder.phi(_I64)
        sums = [builder.phi(self.vector) for _ in first]
        right = [self._load(builder, self._at(builder, b_now, j * self.lanes), self.vector) for j in range(columns)]
        fmuladd = _function(builder, f"llvm.fmuladd.v{self.lanes}f{self.scalar_bytes * 8}", self.vector,
                            [self.vector] * 3)
        totals = []
        for i in range(rows):
            value = self._load(builder, self._at(builder, a_now, i * a_row), self.scalar)
            splat = builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, _I32(0))
            splat = builder.shuffle_vector(splat, ir.Constant(self.vector, ir.Undefined),
                                           ir.Constant(ir.VectorType(_I32, self.lanes), None))
            totals += [builder.call(fmuladd, [splat, right[j], sums[i * columns + j]]) for j in range(columns)]
        fewer = builder.sub(left, _I64(1))
        steps = [(left, count, fewer), (a_now, a, self._at(builder, a_now, a_step)),
                 (b_now, b, self._at(builder, b_now, self.panel)), *zip(sums, first, totals, strict=True)]
        builder.cbranch(builder.icmp_signed(">", fewer, _I64(0)), loop, after)
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, loop)
        builder.position_at_end(after)
        return self._joined(builder, before, loop, [step for step in steps if step[0] is not left])

    def _joined(self, builder, before, loop, steps):
        results = []
        for phi, start, following in steps:
            result = builder.phi(phi.type)
            result.add_incoming(start, before)
            result.add_incoming(following, loop)
            results.append(result)
        return results[0], results[1], results[2:]

    def _panels(self, builder, rows, columns, depth, a, a_panel, b, first):
        """The sums over all panels of a, PANEL steps of k in each, fewer in the last."""
        before = builder.block
        panels, after = builder.append_basic_block("tile.panels"), builder.append_basic_block("tile.panels.done")
        builder.cbranch(builder.icmp_signed(">", depth, _I64(0)), panels, after)
        builder.position_at_end(panels)
        left, a_now, b_now = builder.phi(_I64), builder.phi(_I64), builder.phi(_I64)
        sums = [builder.phi(self.vector) for _ in first]
        whole = builder.icmp_signed(">", left, _I64(self.panel))
        count = builder.select(whole, _I64(self.panel), left)
        _, b_next, totals = self._loop(builder, count, a_now, self.panel, 1, b_now, rows, columns, sums)
        a_next, fewer = builder.add(a_now, a_panel), builder.sub(left, count)
        latch = builder.block
        builder.cbranch(builder.icmp_signed(">", fewer, _I64(0)), panels, after)
        steps = [(left, depth, fewer), (a_now, a, a_next), (b_now, b, b_next), *zip(sums, first, totals, strict=True)]
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, latch)
        builder.position_at_end(after)
        return self._joined(builder, before, latch, steps[1:])[2]

    def _finish(self, builder, rows, columns, sums, c, finish, mask):
        zero = ir.Constant(self.vector, None)
        plain, positive, masked, done = (builder.append_basic_block(f"tile.{name}")
                                         for name in ("plain", "relu", "mask", "stored"))
        choice = builder.switch(finish, plain)
        choice.add_case(_I64(1), positive)
        choice.add_case(_I64(2), masked)
        builder.position_at_end(plain)
        self._store_tile(builder, columns, sums, c)
        builder.branch(done)
        builder.position_at_end(positive)
        self._store_tile(builder, columns, [
            builder.select(builder.fcmp_ordered("<=", value, zero), zero, value) for value in sums], c)
        builder.branch(done)
        builder.position_at_end(masked)
        gates = self._load_tile(builder, rows, columns, mask, _I64(self.panel * self.scalar_bytes))
        self._store_tile(builder, columns, [
            builder.select(builder.fcmp_ordered(">", gate, zero), value, zero)
            for value, gate in zip(sums, gates, strict=True)], c)
        builder.branch(done)
        builder.position_at_end(done)

    def make_transpose(self):
        def emit(builder, source, source_row, target, target_row):
            size, lanes = _I64(self.scalar_bytes), self.lanes
            source_row, target_row = builder.mul(source_row, size), builder.mul(target_row, size)
            rows = [self._load(builder, builder.add(source, builder.mul(_I64(i), source_row)), self.vector)
                    for i in range(lanes)]
            step = lanes // 2
            while step:  # swap the off-diagonal step x step blocks
                upper = [j if not j & step else lanes + j - step for j in range(lanes)]
                lower = [j + step if not j & step else lanes + j for j in range(lanes)]
                masks = [ir.Constant(ir.VectorType(_I32, lanes), [_I32(j) for j in order]) for order in (upper, lower)]
                for i in range(lanes):
                    if not i & step:
                        pair = rows[i], rows[i + step]
                        rows[i], rows[i + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
                step //= 2
            for j in range(lanes):
                self._store(builder, rows[j], builder.add(target, builder.mul(_I64(j), target_row)))

        return _simple(types.void(*[types.int64] * 4), emit)

    def make_add_rows(self):
        def emit(builder, x, rows, vectors, total):
            done = builder.append_basic_block("rows.done")
            switch = builder.switch(vectors, done)
            for columns in (1, 2):
                block = builder.append_basic_block(f"rows.{columns}")
                switch.add_case(_I64(columns), block)
                builder.position_at_end(block)
                sums = [cgutils.alloca_once_value(builder, ir.Constant(self.vector, None)) for _ in range(columns)]
                with cgutils.for_range(builder, rows, intp=_I64) as loop:
                    row = builder.add(x, builder.mul(loop.index, _I64(self.panel * self.scalar_bytes)))
                    for j, place in enumerate(sums):
                        value = self._load(builder, self._at(builder, row, j * self.lanes), self.vector)
                        builder.store(builder.fadd(builder.load(place), value), place)
                self._store_tile(builder, columns, [builder.load(place) for place in sums], total)
                builder.branch(done)
            builder.position_at_end(done)

        return _simple(types.void(*[types.int64] * 4), emit)

    # control

    def make_call(self):
        def emit(builder, address, *arguments):
            kind = ir.FunctionType(_I64, [_I64] * 4)
            return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)

        return _simple(types.int64(*[types.int64] * 5), emit)

    def make_yield_thread(self):
        def emit(builder, address):
            builder.call(builder.inttoptr(address, ir.FunctionType(_I32, []).as_pointer()), [])

        return _simple(types.void(types.int64), emit)

    def make_atomic_add(self):
        def emit(builder, address, value):
            return builder.atomic_rmw("add", builder.inttoptr(address, _I64.as_pointer()), value, "seq_cst")

        return _simple(types.int64(types.int64, types.int64), emit)

    def make_atomic_load(self):
        def emit(builder, address):
            return builder.load_atomic(builder.inttoptr(address, _I64.as_pointer()), "acquire", 8)

        return _simple(types.int64(types.int64), emit)

    def make_atomic_store(self):
        def emit(builder, address, value):
            builder.store_atomic(value, builder.inttoptr(address, _I64.as_pointer()), "release", 8)

        return _simple(types.void(types.int64, types.int64), emit)

    def make_pause(self):
        def emit(builder):
            if _X86:
                builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
            elif _TRIPLE.startswith(("aarch64", "arm64")):
                builder.call(_function(builder, "llvm.aarch64.hint", ir.VoidType(), [_I32]), [_I32(1)])

        return _simple(types.void(), emit)
