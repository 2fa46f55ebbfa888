"""The LLVM instructions behind `_primitives`. Imported only when something is compiled."""

import operator

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

_I64, _I32 = ir.IntType(64), ir.IntType(32)


class _Span(types.Type):
    """A bare pointer with its length: what a kernel sees of a buffer."""

    def __init__(self, dtype, checked):
        self.dtype, self.checked = dtype, checked
        super().__init__(name=f"Span({dtype}, checked={checked})")


@register_model(_Span)
class _SpanModel(models.StructModel):
    def __init__(self, manager, span):
        super().__init__(manager, span, [("data", types.CPointer(span.dtype)), ("size", types.int64)])


@intrinsic
def _span_read(typing, span, index):
    def generate(context, builder, signature, arguments):
        value = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
        return builder.load(builder.gep(value.data, [arguments[1]]))

    return span.dtype(span, types.int64), generate


@intrinsic
def _span_write(typing, span, index, item):
    def generate(context, builder, signature, arguments):
        value = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
        builder.store(arguments[2], builder.gep(value.data, [arguments[1]]))

    return types.void(span, types.int64, span.dtype), generate


@intrinsic
def _span_size(typing, span):
    def generate(context, builder, signature, arguments):
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).size

    return types.int64(span), generate


@overload(operator.getitem)
def _getitem(span, index):
    if not isinstance(span, _Span):
        return None
    if not isinstance(index, types.Integer):
        raise errors.TypingError(f"a span takes an integer index, not {index}")
    if not span.checked:
        return lambda span, index: _span_read(span, index)

    def checked(span, index):
        if index < 0 or index >= _span_size(span):
            raise IndexError("index outside the buffer")
        return _span_read(span, index)

    return checked


@overload(operator.setitem)
def _setitem(span, index, item):
    if not isinstance(span, _Span):
        return None
    if not span.checked:
        return lambda span, index, item: _span_write(span, index, item)

    def checked(span, index, item):
        if index < 0 or index >= _span_size(span):
            raise IndexError("index outside the buffer")
        _span_write(span, index, item)

    return checked


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
    exec(f"def stub(typing, {', '.join(names)}): return signature, generate", scope)  # noqa: S102 - arity by name
    return intrinsic(scope["stub"])


def _function(builder, name, result, arguments):
    module = builder.module
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


class Lowering:
    """Builds the intrinsics for one floating-point type, one vector shape and one checking mode."""

    def __init__(self, bindings, checked):
        self.double = bindings["DOUBLE"]
        self.lanes, self.rows = bindings["LANES"], bindings["TILE"]
        self.checked = checked
        self.real = types.float64 if self.double else types.float32
        self.scalar = ir.DoubleType() if self.double else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.integer = _I64 if self.double else _I32
        self.bits, self.bias, self.exponent_bits = (52, 1023, 11) if self.double else (23, 127, 8)
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

    def make_horner(self):
        name = "llvm.fmuladd." + ("f64" if self.double else "f32")
        real, scalar = self.real, self.scalar

        @intrinsic
        def horner(typing, x, coefficients):
            def generate(context, builder, signature, arguments):
                step = _function(builder, name, scalar, [scalar] * 3)
                count = len(signature.args[1])
                total = builder.extract_value(arguments[1], count - 1)
                for i in range(count - 2, -1, -1):
                    total = builder.call(step, [total, arguments[0], builder.extract_value(arguments[1], i)])
                return total

            return real(real, coefficients), generate

        return horner

    def make_finite(self):
        def emit(builder, x):
            ones = self.integer(((1 << self.exponent_bits) - 1) << self.bits)
            return builder.icmp_unsigned("!=", builder.and_(builder.bitcast(x, self.integer), ones), ones)

        return _simple(types.boolean(self.real), emit)

    def make_exp2i(self):
        def emit(builder, k):
            power = builder.add(builder.fptosi(k, self.integer), self.integer(self.bias))
            return builder.bitcast(builder.shl(power, self.integer(self.bits)), self.scalar)

        return _simple(self.real(self.real), emit)

    def make_exponent(self):
        def emit(builder, x):
            power = builder.ashr(builder.bitcast(x, self.integer), self.integer(self.bits))
            return builder.sitofp(builder.sub(power, self.integer(self.bias)), self.scalar)

        return _simple(self.real(self.real), emit)

    def make_mantissa(self):
        def emit(builder, x):
            digits = builder.and_(builder.bitcast(x, self.integer), self.integer((1 << self.bits) - 1))
            return builder.bitcast(builder.or_(digits, self.integer(self.bias << self.bits)), self.scalar)

        return _simple(self.real(self.real), emit)

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
        def emit(builder, m, vectors, k, a, a_row, a_col, b, b_row, c, c_row, start, start_row, finish, mask, mask_row):
            size = _I64(self.scalar_bytes)
            a_row, a_col, b_row, c_row, start_row, mask_row = (
                builder.mul(stride, size) for stride in (a_row, a_col, b_row, c_row, start_row, mask_row))
            operands = k, a, a_row, a_col, b, b_row, c, c_row, start, start_row, finish, mask, mask_row
            done = builder.append_basic_block("tile.done")
            nothing = builder.append_basic_block("tile.none")
            code = builder.add(builder.mul(m, _I64(2)), vectors)
            switch = builder.switch(code, nothing)
            for rows in range(1, self.rows + 1):
                for columns in (1, 2):
                    block = builder.append_basic_block(f"tile.{rows}x{columns}")
                    switch.add_case(_I64(2 * rows + columns), block)
                    builder.position_at_end(block)
                    self._tile(builder, rows, columns, done, *operands)
            builder.position_at_end(nothing)
            builder.branch(done)
            builder.position_at_end(done)

        return _simple(types.void(*[types.int64] * 15), emit)

    def _tile(self, builder, rows, columns, done, k, a, a_row, a_col, b, b_row, c, c_row, start, start_row,
              finish, mask, mask_row):
        stride = _I64(self.lanes * self.scalar_bytes)

        def places(base, row_stride):
            return [[builder.add(builder.add(base, builder.mul(_I64(i), row_stride)), builder.mul(_I64(j), stride))
                     for j in range(columns)] for i in range(rows)]

        before = builder.block
        first = [self._load(builder, p, self.vector) for line in places(start, start_row) for p in line]
        a_rows = [builder.mul(_I64(i), a_row) for i in range(rows)]
        before = builder.block
        loop, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.store")
        builder.cbranch(builder.icmp_signed(">", k, _I64(0)), loop, after)

        builder.position_at_end(loop)
        sums = [builder.phi(self.vector) for _ in first]
        left, a_now, b_now = builder.phi(_I64), builder.phi(_I64), builder.phi(_I64)
        right = [self._load(builder, builder.add(b_now, builder.mul(_I64(j), stride)), self.vector)
                 for j in range(columns)]
        fmuladd = _function(builder, f"llvm.fmuladd.v{self.lanes}f{self.scalar_bytes * 8}", self.vector,
                            [self.vector] * 3)
        totals = []
        for i in range(rows):
            value = self._load(builder, builder.add(a_now, a_rows[i]), self.scalar)
            splat = builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, _I32(0))
            splat = builder.shuffle_vector(splat, ir.Constant(self.vector, ir.Undefined),
                                           ir.Constant(ir.VectorType(_I32, self.lanes), None))
            totals += [builder.call(fmuladd, [splat, right[j], sums[i * columns + j]]) for j in range(columns)]
        fewer = builder.sub(left, _I64(1))
        a_next, b_next = builder.add(a_now, a_col), builder.add(b_now, b_row)
        again = builder.block
        builder.cbranch(builder.icmp_signed(">", fewer, _I64(0)), loop, after)
        for phi, start_value, next_value in [(left, k, fewer), (a_now, a, a_next), (b_now, b, b_next),
                                             *zip(sums, first, totals, strict=True)]:
            phi.add_incoming(start_value, before)
            phi.add_incoming(next_value, again)

        builder.position_at_end(after)
        result = [builder.phi(self.vector) for _ in first]
        for phi, start_value, total in zip(result, first, totals, strict=True):
            phi.add_incoming(start_value, before)
            phi.add_incoming(total, again)
        zero = ir.Constant(self.vector, None)
        targets = [p for line in places(c, c_row) for p in line]
        plain, positive, masked = (builder.append_basic_block(f"tile.{name}") for name in ("plain", "relu", "mask"))
        choice = builder.switch(finish, plain)
        choice.add_case(_I64(1), positive)
        choice.add_case(_I64(2), masked)
        builder.position_at_end(plain)
        for value, target in zip(result, targets, strict=True):
            self._store(builder, value, target)
        builder.branch(done)
        builder.position_at_end(positive)
        for value, target in zip(result, targets, strict=True):
            self._store(builder, builder.select(builder.fcmp_ordered("<=", value, zero), zero, value), target)
        builder.branch(done)
        builder.position_at_end(masked)
        gates = [p for line in places(mask, mask_row) for p in line]
        for value, target, gate in zip(result, targets, gates, strict=True):
            open_ = builder.fcmp_ordered(">", self._load(builder, gate, self.vector), zero)
            self._store(builder, builder.select(open_, value, zero), target)
        builder.branch(done)

    def make_row_sum(self):
        zero = ir.Constant(self.scalar, 0.0)
        return self._reduction(zero, lambda builder, total, value: builder.fadd(total, value))

    def make_row_max(self):
        def larger(builder, top, value):
            return builder.select(builder.fcmp_ordered(">", value, top), value, top)

        return self._reduction(ir.Constant(self.scalar, float("-inf")), larger)

    def _reduction(self, neutral, join):
        lanes = self.lanes

        def emit(builder, address, count):
            size, one = _I64(self.scalar_bytes), _I64(1)
            whole = builder.and_(count, _I64(-lanes))
            partial = cgutils.alloca_once_value(builder, ir.Constant(self.vector, [neutral] * lanes))
            with cgutils.for_range_slice(builder, _I64(0), whole, _I64(lanes), _I64) as (i, _):
                value = self._load(builder, builder.add(address, builder.mul(i, size)), self.vector)
                builder.store(join(builder, builder.load(partial), value), partial)
            total = cgutils.alloca_once_value(builder, neutral)
            with builder.if_then(builder.icmp_signed(">", whole, _I64(0))):
                for lane in range(lanes):
                    value = builder.extract_element(builder.load(partial), _I32(lane))
                    builder.store(join(builder, builder.load(total), value), total)
            with cgutils.for_range_slice(builder, whole, count, one, _I64) as (i, _):
                value = self._load(builder, builder.add(address, builder.mul(i, size)), self.scalar)
                builder.store(join(builder, builder.load(total), value), total)
            return builder.load(total)

        return _simple(self.real(types.int64, types.int64), emit)

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
        triple = llvm.get_process_triple()

        def emit(builder):
            if triple.startswith(("x86_64", "i686", "amd64")):
                builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
            elif triple.startswith(("aarch64", "arm64")):
                builder.call(_function(builder, "llvm.aarch64.hint", ir.VoidType(), [_I32]), [_I32(1)])

        return _simple(types.void(), emit)
