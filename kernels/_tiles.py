"""The register tiles of the matrix kernels, as LLVM vectors: sums that stay in registers over a loop of steps k."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ._intrinsics import I32, I64, prefetch, simple
from ._primitives import SHALLOW, WIDE, WIDE_ROWS
from ._vectors import Vectors

_UNROLL = 8  # steps of k in the body of a whole tile's loop


class Tiles(Vectors):
    """Builds those intrinsics for one floating-point type and one tile."""

    def __init__(self, bindings):
        super().__init__(bindings)
        self.rows = {1: bindings["NARROW"], 2: bindings["TILE"]}  # of a tile, by its vectors
        self.ahead = bindings["AHEAD"]

    def make_tile(self):
        def emit(builder, m, vectors, depth, a, a_panel, b, c, start, start_row, finish, mask, ahead):
            size = I64(self.scalar_bytes)
            a_panel, start_row = builder.mul(a_panel, size), builder.mul(start_row, size)
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    for i in range(rows):  # where the next tile's rows begin
                        prefetch(builder, self._at(builder, a, (rows + i) * self.panel))
                    whole = rows == self.rows[columns]
                    sums = self._panels(builder, rows, columns, depth, a, a_panel, b, first,
                                        unroll=_UNROLL if whole else 1, ahead=ahead if whole else None)
                    self._finish(builder, rows, columns, sums, c, finish, mask)

        return simple(types.void(*[types.int64] * 12), emit)

    def make_tile_wide(self):
        def emit(builder, m, depth, a, a_panel, b, b_panel, c, c_panel, start, finish):
            size = I64(self.scalar_bytes)
            a_panel, b_panel, c_panel = (builder.mul(panel, size) for panel in (a_panel, b_panel, c_panel))
            with self._cases(builder, I64(0), m, [(0, rows) for rows in range(1, WIDE_ROWS + 1)]) as cases:
                for _, rows in cases:
                    columns = 2 * (WIDE // rows)
                    first = [self._load(builder, self._vector(builder, start, b_panel, j), self.vector)
                             for j in range(columns)] * rows
                    sums = self._panels(builder, rows, columns, depth, a, a_panel, b, first, b_panel, _UNROLL // 2)
                    zero = ir.Constant(self.vector, None)
                    plain = builder.icmp_signed("==", finish, I64(0))
                    for place, value in enumerate(sums):
                        i, j = divmod(place, columns)
                        cut = builder.select(builder.fcmp_ordered("<=", value, zero), zero, value)
                        self._store(builder, builder.select(plain, value, cut),
                                    self._at(builder, self._vector(builder, c, c_panel, j), i * self.panel))

        return simple(types.void(*[types.int64] * 10), emit)

    def _vector(self, builder, base, panel, j):
        """Where vector `j` of a row begins that lies in panels so many bytes apart."""
        if j > 1:
            base = builder.add(base, builder.mul(I64(j // 2), panel))
        return self._at(builder, base, j % 2 * self.lanes)

    def make_dots(self):
        def emit(builder, m, depth, a, a_panel, line, start, c, finish, mask):
            size, lanes = self.scalar_bytes, range(self.lanes)
            a_panel = builder.mul(a_panel, I64(size))
            last = builder.sub(m, I64(1))  # stands for rows that there are not: written again, with the same number
            rows = [builder.mul(builder.select(builder.icmp_signed("<", I64(i), m), I64(i), last),
                                I64(self.panel * size)) for i in lanes]
            rest = builder.and_(depth, I64(self.panel - 1))
            a, line, sums = self._dot_panels(builder, builder.sub(depth, rest), rows, a, a_panel, line)
            sums = [cgutils.alloca_once_value(builder, value) for value in sums]
            with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
                for j in range(2):  # what fills up the last panel may be anything
                    held = self._held_lanes(builder, rest, j)
                    right = self._load(builder, self._at(builder, line, j * self.lanes), self.vector)
                    for row, place in zip(rows, sums, strict=True):
                        left = self._load(builder, self._at(builder, builder.add(a, row), j * self.lanes), self.vector)
                        left = builder.select(held, left, ir.Constant(self.vector, None))
                        builder.store(self._fmuladd(builder, left, right, builder.load(place)), place)
            total = builder.fadd(self._across(builder, [builder.load(place) for place in sums]),
                                 self._splat(builder, start))
            zero = ir.Constant(self.vector, None)
            positive = builder.select(builder.fcmp_ordered("<=", total, zero), zero, total)
            total = builder.select(builder.icmp_signed("==", finish, I64(1)), positive, total)
            masked = builder.icmp_signed("==", finish, I64(2))
            for i in lanes:
                value = builder.extract_element(total, I32(i))
                place = cgutils.alloca_once_value(builder, value)
                with builder.if_then(masked):
                    gate = self._load(builder, builder.add(mask, rows[i]), self.scalar)
                    none = ir.Constant(self.scalar, 0.0)
                    builder.store(builder.select(builder.fcmp_ordered(">", gate, none), value, none), place)
                self._store(builder, builder.load(place), builder.add(c, rows[i]))

        return simple(types.void(*[types.int64] * 9), emit)

    def _dot_panels(self, builder, whole, rows, a, a_panel, line):
        """Vectors of partial sums of each row's products with `line`, over whole panels."""
        before = builder.block
        loop, after = builder.append_basic_block("dots.panel"), builder.append_basic_block("dots.done")
        zeros = [ir.Constant(self.vector, None) for _ in rows]
        builder.cbranch(builder.icmp_signed(">", whole, I64(0)), loop, after)
        builder.position_at_end(loop)
        left, a_now, line_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in rows]
        totals = list(sums)
        for j in range(2):
            right = self._load(builder, self._at(builder, line_now, j * self.lanes), self.vector)
            for i, row in enumerate(rows):
                value = self._load(builder, self._at(builder, builder.add(a_now, row), j * self.lanes), self.vector)
                totals[i] = self._fmuladd(builder, value, right, totals[i])
        fewer = builder.sub(left, I64(self.panel))
        steps = [(left, whole, fewer), (a_now, a, builder.add(a_now, a_panel)),
                 (line_now, line, self._at(builder, line_now, self.panel)), *zip(sums, zeros, totals, strict=True)]
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, after)
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, loop)
        builder.position_at_end(after)
        return self._joined(builder, before, loop, steps[1:])

    def _across(self, builder, vectors):
        """The sums of each of LANES vectors, as one: neighbours within 16 bytes first, then pieces of 16 bytes."""
        piece, width = min(self.lanes, 16 // self.scalar_bytes), 1
        while len(vectors) > 1:
            whole = width == piece  # pieces are added up: what is paired now are neighbouring pieces
            halves = []
            for odd in range(2):
                if whole:
                    order = [start + k for start in range(odd * piece, 2 * self.lanes, 2 * piece) for k in range(piece)]
                else:
                    order = [vector * self.lanes + start + k for start in range(0, self.lanes, piece)
                             for vector in range(2) for k in range(odd, piece, 2)]
                halves.append(ir.Constant(ir.VectorType(I32, self.lanes), [I32(k) for k in order]))
            vectors = [builder.fadd(*(builder.shuffle_vector(*pair, half) for half in halves))
                       for pair in zip(vectors[::2], vectors[1::2], strict=True)]
            width = width if whole else 2 * width
        return vectors[0]

    def make_tile_transposed(self):
        def emit(builder, m, vectors, depth, a, b, c, start, start_row):
            start_row = builder.mul(start_row, I64(self.scalar_bytes))
            with self._shapes(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = self._load_tile(builder, rows, columns, start, start_row)
                    _, _, sums = self._loop(builder, depth, a, 1, self.panel, b, rows, columns, first)
                    self._store_tile(builder, columns, sums, c)

        return simple(types.void(*[types.int64] * 8), emit)

    def make_outer(self):
        def emit(builder, m, vectors, depth, a, b, c, start, start_row):
            size = I64(self.scalar_bytes)
            depths = [(k, columns) for k in range(1, SHALLOW + 1) for columns in (1, 2)]
            with self._cases(builder, depth, vectors, depths) as cases:
                for k, columns in cases:
                    right = [self._load(builder, self._at(builder, b, row * self.panel + j * self.lanes), self.vector)
                             for row in range(k) for j in range(columns)]
                    with cgutils.for_range(builder, m, intp=I64) as loop:
                        place = builder.mul(loop.index, size)
                        sums = self._load_tile(builder, 1, columns, builder.add(start, builder.mul(place, start_row)),
                                               I64(0))
                        for row in range(k):
                            splat = self._splat(builder, self._at(builder, builder.add(a, place), row * self.panel))
                            sums = [self._fmuladd(builder, splat, right[row * columns + j], sums[j])
                                    for j in range(columns)]
                        self._store_tile(builder, columns, sums, builder.add(c, builder.mul(place, I64(self.panel))))

        return simple(types.void(*[types.int64] * 8), emit)

    @contextmanager
    def _shapes(self, builder, m, vectors):
        """Code for each shape of a tile, chosen at run time by a jump."""
        shapes = [(rows, columns) for columns, highest in self.rows.items() for rows in range(1, highest + 1)]
        with self._cases(builder, m, vectors, shapes) as cases:
            yield cases

    def _load_tile(self, builder, rows, columns, base, row):
        return [self._load(builder, self._at(builder, builder.add(base, builder.mul(I64(i), row)), j * self.lanes),
                           self.vector) for i in range(rows) for j in range(columns)]

    def _loop(self, builder, count, a, a_row, a_step, b, rows, columns, first, unroll=1, b_panel=None, ahead=None):
        """sums += a[i, k] b[k] for k < count, a multiple of `unroll`; also where a and b stand then.

        ahead: what is asked for meanwhile, see `_ask`.
        """
        before = builder.block
        loop, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.k.done")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), loop, after)
        builder.position_at_end(loop)
        left, a_now, b_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in first]
        totals = sums
        if ahead is not None:
            self._ask(builder, b_now, ahead, unroll)
        for k in range(unroll):
            totals = self._step(builder, self._at(builder, a_now, k * a_step), a_row,
                                self._at(builder, b_now, k * self.panel), rows, columns, totals, b_panel)
        fewer = builder.sub(left, I64(unroll))
        steps = [(left, count, fewer), (a_now, a, self._at(builder, a_now, unroll * a_step)),
                 (b_now, b, self._at(builder, b_now, unroll * self.panel)), *zip(sums, first, totals, strict=True)]
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, after)
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, loop)
        builder.position_at_end(after)
        return self._joined(builder, before, loop, [step for step in steps if step[0] is not left])

    def _ask(self, builder, b, ahead, steps):
        """Ask for AHEAD bytes a step of what begins at ahead[0], while b is at this place on its way from ahead[1]."""
        target, begin = ahead
        shift = (self.panel * self.scalar_bytes // self.ahead).bit_length() - 1
        place = builder.add(target, builder.lshr(builder.sub(b, begin), I64(shift)))
        for line in range(0, steps * self.ahead, 64):
            prefetch(builder, builder.add(place, I64(line)), locality=2)

    def _step(self, builder, a, a_row, b, rows, columns, sums, b_panel):
        """One step of k: sums + a[i] b."""
        right = [self._load(builder, self._vector(builder, b, b_panel, j), self.vector) for j in range(columns)]
        totals = []
        for i in range(rows):
            splat = self._splat(builder, self._at(builder, a, i * a_row))
            totals += [self._fmuladd(builder, splat, right[j], sums[i * columns + j]) for j in range(columns)]
        return totals

    def _joined(self, builder, before, loop, steps):
        results = []
        for phi, start, following in steps:
            result = builder.phi(phi.type)
            result.add_incoming(start, before)
            result.add_incoming(following, loop)
            results.append(result)
        return results[0], results[1], results[2:]

    def _panels(self, builder, rows, columns, depth, a, a_panel, b, first, b_panel=None, unroll=1, ahead=None):
        """The sums over all panels of a, PANEL steps of k in each, fewer in the last. ahead: see `tile`."""
        asked = None if ahead is None or not self.ahead else (ahead, b)
        before = builder.block
        panels, after = builder.append_basic_block("tile.panels"), builder.append_basic_block("tile.panels.done")
        rest = builder.and_(depth, I64(self.panel - 1))
        whole = builder.sub(depth, rest)
        builder.cbranch(builder.icmp_signed(">", whole, I64(0)), panels, after)
        builder.position_at_end(panels)
        left, a_now, b_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in first]
        _, b_next, totals = self._loop(builder, I64(self.panel), a_now, self.panel, 1, b_now, rows, columns, sums,
                                       min(unroll, self.panel), b_panel, asked)
        a_next, fewer = builder.add(a_now, a_panel), builder.sub(left, I64(self.panel))
        latch = builder.block
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), panels, after)
        steps = [(left, whole, fewer), (a_now, a, a_next), (b_now, b, b_next), *zip(sums, first, totals, strict=True)]
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, latch)
        builder.position_at_end(after)
        a_rest, b_rest, sums = self._joined(builder, before, latch, steps[1:])
        return self._loop(builder, rest, a_rest, self.panel, 1, b_rest, rows, columns, sums, 1, b_panel)[2]

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
