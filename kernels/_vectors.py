"""The primitives of the matrix kernels: register tiles, transposed blocks and sums of rows, as LLVM vectors."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ._intrinsics import I32, I64, declared, prefetch, simple

_UNROLL = 8  # steps of k in the body of a whole tile's loop


class Vectors:
    """Builds those intrinsics for one floating-point type and one vector shape."""

    def __init__(self, bindings):
        self.double = bindings["DOUBLE"]
        self.lanes, self.panel, self.rows = bindings["LANES"], bindings["PANEL"], bindings["TILE"]
        self.scalar, self.scalar_bytes = (ir.DoubleType(), 8) if self.double else (ir.FloatType(), 4)
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def _load(self, builder, address, kind):
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=self.scalar_bytes)

    def _store(self, builder, value, address):
        builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=self.scalar_bytes)

    def make_tile(self):
        def emit(builder, m, vectors, depth, a, a_panel, b, c, start, start_row, finish, mask):
            size = I64(self.scalar_bytes)
            a_panel, start_row = builder.mul(a_panel, size), builder.mul(start_row, size)
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    for i in range(rows):  # where the next tile's rows begin
                        prefetch(builder, self._at(builder, a, (rows + i) * self.panel))
                    sums = self._panels(builder, rows, columns, depth, a, a_panel, b, first)
                    self._finish(builder, rows, columns, sums, c, finish, mask)

        return simple(types.void(*[types.int64] * 11), emit)

    def make_tile_transposed(self):
        def emit(builder, m, vectors, depth, a, b, c, start, start_row):
            start_row = builder.mul(start_row, I64(self.scalar_bytes))
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    _, _, sums = self._loop(builder, depth, a, 1, self.panel, b, rows, columns, first)
                    self._store_tile(builder, columns, sums, c)

        return simple(types.void(*[types.int64] * 8), emit)

    @contextmanager
    def _shapes(self, builder, m, vectors):
        """Code for each shape of a tile, chosen at run time by a jump."""
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(builder.add(builder.mul(m, I64(2)), vectors), done)

        def shapes():
            for rows in range(1, self.rows + 1):
                for columns in (1, 2):
                    block = builder.append_basic_block(f"tile.{rows}x{columns}")
                    switch.add_case(I64(2 * rows + columns), block)
                    builder.position_at_end(block)
                    yield rows, columns
                    builder.branch(done)

        yield shapes()
        builder.position_at_end(done)

    def _at(self, builder, base, elements):
        return builder.add(base, I64(elements * self.scalar_bytes))

    def _load_tile(self, builder, rows, columns, base, row):
        return [self._load(builder, self._at(builder, builder.add(base, builder.mul(I64(i), row)), j * self.lanes),
                           self.vector) for i in range(rows) for j in range(columns)]

    def _store_tile(self, builder, columns, values, base):
        for place, value in enumerate(values):
            offset = place // columns * self.panel + place % columns * self.lanes
            self._store(builder, value, self._at(builder, base, offset))

    def _loop(self, builder, count, a, a_row, a_step, b, rows, columns, first, unroll=1):
        """sums += a[i, k] b[k] for k < count, a multiple of `unroll`; also where a and b stand then."""
        before = builder.block
        loop, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.k.done")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), loop, after)
        builder.position_at_end(loop)
        left, a_now, b_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in first]
        totals = sums
        for k in range(unroll):
            totals = self._step(builder, self._at(builder, a_now, k * a_step), a_row,
                                self._at(builder, b_now, k * self.panel), rows, columns, totals)
        fewer = builder.sub(left, I64(unroll))
        steps = [(left, count, fewer), (a_now, a, self._at(builder, a_now, unroll * a_step)),
                 (b_now, b, self._at(builder, b_now, unroll * self.panel)), *zip(sums, first, totals, strict=True)]
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, after)
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, loop)
        builder.position_at_end(after)
        return self._joined(builder, before, loop, [step for step in steps if step[0] is not left])

    def _step(self, builder, a, a_row, b, rows, columns, sums):
        """One step of k: sums + a[i] b."""
        right = [self._load(builder, self._at(builder, b, j * self.lanes), self.vector) for j in range(columns)]
        fmuladd = declared(builder, f"llvm.fmuladd.v{self.lanes}f{self.scalar_bytes * 8}", self.vector,
                           [self.vector] * 3)
        totals = []
        for i in range(rows):
            value = self._load(builder, self._at(builder, a, i * a_row), self.scalar)
            splat = builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, I32(0))
            splat = builder.shuffle_vector(splat, ir.Constant(self.vector, ir.Undefined),
                                           ir.Constant(ir.VectorType(I32, self.lanes), None))
            totals += [builder.call(fmuladd, [splat, right[j], sums[i * columns + j]]) for j in range(columns)]
        return totals

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
        rest = builder.and_(depth, I64(self.panel - 1))
        whole = builder.sub(depth, rest)
        builder.cbranch(builder.icmp_signed(">", whole, I64(0)), panels, after)
        builder.position_at_end(panels)
        left, a_now, b_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in first]
        unroll = min(_UNROLL, self.panel) if rows == self.rows else 1
        _, b_next, totals = self._loop(builder, I64(self.panel), a_now, self.panel, 1, b_now, rows, columns, sums,
                                       unroll)
        a_next, fewer = builder.add(a_now, a_panel), builder.sub(left, I64(self.panel))
        latch = builder.block
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), panels, after)
        steps = [(left, whole, fewer), (a_now, a, a_next), (b_now, b, b_next), *zip(sums, first, totals, strict=True)]
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, latch)
        builder.position_at_end(after)
        a_rest, b_rest, sums = self._joined(builder, before, latch, steps[1:])
        return self._loop(builder, rest, a_rest, self.panel, 1, b_rest, rows, columns, sums)[2]

    def _finish(self, builder, rows, columns, sums, c, finish, mask):
        zero = ir.Constant(self.vector, None)
        plain, positive, masked, done = (builder.append_basic_block(f"tile.{name}")
                                         for name in ("plain", "relu", "mask", "stored"))
        choice = builder.switch(finish, plain)
        choice.add_case(I64(1), positive)
        choice.add_case(I64(2), masked)
        builder.position_at_end(plain)
        self._store_tile(builder, columns, sums, c)
        builder.branch(done)
        builder.position_at_end(positive)
        self._store_tile(builder, columns, [
            builder.select(builder.fcmp_ordered("<=", value, zero), zero, value) for value in sums], c)
        builder.branch(done)
        builder.position_at_end(masked)
        gates = self._load_tile(builder, rows, columns, mask, I64(self.panel * self.scalar_bytes))
        self._store_tile(builder, columns, [
            builder.select(builder.fcmp_ordered(">", gate, zero), value, zero)
            for value, gate in zip(sums, gates, strict=True)], c)
        builder.branch(done)
        builder.position_at_end(done)

    def make_transpose(self):
        def emit(builder, source, source_row, target, target_row):
            size, lanes = I64(self.scalar_bytes), self.lanes
            source_row, target_row = builder.mul(source_row, size), builder.mul(target_row, size)
            rows = [self._load(builder, builder.add(source, builder.mul(I64(i), source_row)), self.vector)
                    for i in range(lanes)]
            step = lanes // 2
            while step:  # swap the off-diagonal step x step blocks
                upper = [j if not j & step else lanes + j - step for j in range(lanes)]
                lower = [j + step if not j & step else lanes + j for j in range(lanes)]
                masks = [ir.Constant(ir.VectorType(I32, lanes), [I32(j) for j in order]) for order in (upper, lower)]
                for i in range(lanes):
                    if not i & step:
                        pair = rows[i], rows[i + step]
                        rows[i], rows[i + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
                step //= 2
            for j in range(lanes):
                self._store(builder, rows[j], builder.add(target, builder.mul(I64(j), target_row)))

        return simple(types.void(*[types.int64] * 4), emit)

    def make_add_rows(self):
        def emit(builder, x, rows, vectors, total):
            done = builder.append_basic_block("rows.done")
            switch = builder.switch(vectors, done)
            for columns in (1, 2):
                block = builder.append_basic_block(f"rows.{columns}")
                switch.add_case(I64(columns), block)
                builder.position_at_end(block)
                sums = [cgutils.alloca_once_value(builder, ir.Constant(self.vector, None)) for _ in range(columns)]
                with cgutils.for_range(builder, rows, intp=I64) as loop:
                    row = builder.add(x, builder.mul(loop.index, I64(self.panel * self.scalar_bytes)))
                    for j, place in enumerate(sums):
                        value = self._load(builder, self._at(builder, row, j * self.lanes), self.vector)
                        builder.store(builder.fadd(builder.load(place), value), place)
                self._store_tile(builder, columns, [builder.load(place) for place in sums], total)
                builder.branch(done)
            builder.position_at_end(done)

        return simple(types.void(*[types.int64] * 4), emit)
