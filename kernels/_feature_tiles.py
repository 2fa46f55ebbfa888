"""The register tiles of programs by feature (see `dense_by_feature`): rows of the batch in the lanes of vectors."""

from llvmlite import ir
from numba import types

from ._intrinsics import I1, I32, I64, simple
from ._primitives import HEIGHTS
from ._tiles import Tiles


class FeatureTiles(Tiles):
    """Builds those intrinsics for one floating-point type and one tile."""

    def __init__(self, bindings):
        super().__init__(bindings)
        self.sums = bindings["SUMS"]

    def make_tile_by_feature(self):
        def emit(builder, m, vectors, depth, w, x, y, finish):
            bias = builder.add(w, builder.mul(depth, I64(self.panel * self.scalar_bytes)))
            with self._heights(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = [value for i in range(rows)
                             for value in [self._splat(builder, self._at(builder, bias, i))] * columns]
                    _, _, sums = self._loop(builder, depth, w, 1, self.panel, x, rows, columns, first)
                    self._store_tile(builder, columns, self._cut(builder, sums, finish), y)

        return simple(types.void(*[types.int64] * 7), emit)

    def make_tile_by_block(self):
        def emit(builder, m, vectors, depth, a, b, c, start, finish, mask):
            size = I64(self.panel * self.scalar_bytes)
            zero, masked = ir.Constant(self.vector, None), builder.icmp_signed("==", finish, I64(2))
            begun = builder.icmp_signed("!=", start, I64(0))
            with self._heights(builder, m, vectors) as shapes:
                for rows, columns in shapes:
                    first = [builder.select(begun, value, zero)
                             for value in self._load_tile(builder, rows, columns, c, size)]
                    _, _, sums = self._loop(builder, depth, a, self.panel, 1, b, rows, columns, first)
                    gates = self._load_tile(builder, rows, columns, builder.select(masked, mask, c), size)
                    open_ = [builder.fcmp_ordered(">", gate, zero) for gate in gates]
                    shut = [builder.select(gate, value, zero) for gate, value in zip(open_, sums, strict=True)]
                    self._store_tile(builder, columns, [builder.select(masked, *pair)
                                                        for pair in zip(shut, sums, strict=True)], c)

        return simple(types.void(*[types.int64] * 9), emit)

    def _heights(self, builder, m, vectors):
        """Code for each shape of a tile, of which there are few: m is one of HEIGHTS."""
        shapes = [(rows, columns) for columns, most in ((1, HEIGHTS[-1]), (2, self.rows[2]))
                  for rows in HEIGHTS if rows <= most]
        return self._cases(builder, m, vectors, shapes)

    def _cut(self, builder, sums, finish):
        """The sums, or their positive part."""
        zero, plain = ir.Constant(self.vector, None), builder.icmp_signed("==", finish, I64(0))
        positive = [builder.select(builder.fcmp_ordered("<=", value, zero), zero, value) for value in sums]
        return [builder.select(plain, *pair) for pair in zip(sums, positive, strict=True)]

    def make_cross(self):
        def emit(builder, across, vectors, x, x_block, dy, dy_block, target):
            shapes = [(1 << power, 1) for power in range(self.sums.bit_length())]
            with self._cases(builder, across, I64(1), shapes) as cases:
                for columns, _ in cases:
                    self._cross(builder, self.sums // columns, columns, vectors, (x, x_block), (dy, dy_block), target)

        return simple(types.void(*[types.int64] * 7), emit)

    def _cross(self, builder, rows, columns, vectors, x, dy, target):
        """The sums of one shape: to `target`, LANES of them at a time."""
        def add(x, dy, sums):
            right = [self._load(builder, self._at(builder, dy, j * self.panel), self.vector) for j in range(columns)]
            totals = []
            for i in range(rows):
                left = self._load(builder, self._at(builder, x, i * self.panel), self.vector)
                totals += [self._fmuladd(builder, left, right[j], sums[i * columns + j]) for j in range(columns)]
            return totals

        sums = self._blocks(builder, vectors, x, dy, self.sums, add)
        piece = min(columns, self.lanes)
        for first in range(0, self.sums, self.lanes):
            total = self._across(builder, sums[first : first + self.lanes])
            for place in range(first, first + self.lanes, piece):
                order = [I32(place - first + i) for i in range(piece)]
                part = builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, piece), order))
                offset = place // columns * self.panel + place % columns
                self._store(builder, part, self._at(builder, target, offset))

    def _blocks(self, builder, vectors, x, dy, count, add):
        """`count` sums of add(place of x, of dy, sums) over so many vectors of rows, two in each block.

        x, dy: an address, and the distance of blocks in numbers.
        """
        (x, x_block), (dy, dy_block) = x, dy
        zeros, size, before = [ir.Constant(self.vector, None)] * count, I64(self.scalar_bytes), builder.block
        loop, after, odd, done = (builder.append_basic_block(f"blocks.{name}")
                                  for name in ("loop", "after", "odd", "done"))
        x_block, dy_block = builder.mul(x_block, size), builder.mul(dy_block, size)
        whole = builder.lshr(vectors, I64(1))
        builder.cbranch(builder.icmp_signed(">", whole, I64(0)), loop, after)
        builder.position_at_end(loop)
        left, x_now, dy_now = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        sums = [builder.phi(self.vector) for _ in zeros]
        totals = add(x_now, dy_now, sums)
        totals = add(self._at(builder, x_now, self.lanes), self._at(builder, dy_now, self.lanes), totals)
        fewer = builder.sub(left, I64(1))
        steps = [(left, whole, fewer), (x_now, x, builder.add(x_now, x_block)),
                 (dy_now, dy, builder.add(dy_now, dy_block)), *zip(sums, zeros, totals, strict=True)]
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, after)
        for phi, start, following in steps:
            phi.add_incoming(start, before)
            phi.add_incoming(following, loop)
        builder.position_at_end(after)
        x_rest, dy_rest, sums = self._joined(builder, before, loop, steps[1:])
        builder.cbranch(builder.trunc(vectors, I1), odd, done)
        builder.position_at_end(odd)
        totals = add(x_rest, dy_rest, sums)
        builder.branch(done)
        builder.position_at_end(done)
        results = [builder.phi(self.vector) for _ in sums]
        for result, value, total in zip(results, sums, totals, strict=True):
            result.add_incoming(value, after)
            result.add_incoming(total, odd)
        return results
