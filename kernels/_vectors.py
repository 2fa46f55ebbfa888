"""What the matrix kernels are made with: vectors in memory, transposed blocks, sums of rows, rows filled up."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ._arithmetic import Arithmetic
from ._intrinsics import I1, I32, I64, declared, simple
from ._primitives import CHAINS


class Vectors(Arithmetic):
    """Builds those intrinsics for one floating-point type and one vector shape."""

    def __init__(self, bindings):
        super().__init__(bindings)
        self.lanes, self.panel = bindings["LANES"], bindings["PANEL"]
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def _load(self, builder, address, kind):
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=self.scalar_bytes)

    def _store(self, builder, value, address):
        builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=self.scalar_bytes)

    def _at(self, builder, base, elements):
        return builder.add(base, I64(elements * self.scalar_bytes))

    def _splat(self, builder, address):
        """The number at `address` in every place of a vector."""
        value = builder.insert_element(ir.Constant(self.vector, ir.Undefined),
                                       self._load(builder, address, self.scalar), I32(0))
        return builder.shuffle_vector(value, ir.Constant(self.vector, ir.Undefined),
                                      ir.Constant(ir.VectorType(I32, self.lanes), None))

    def _fmuladd(self, builder, left, right, total):
        """left * right + total, as the host does it best."""
        name = f"llvm.fmuladd.v{self.lanes}f{self.scalar_bytes * 8}"
        return builder.call(declared(builder, name, self.vector, [self.vector] * 3), [left, right, total])

    def _store_tile(self, builder, columns, values, base):
        for place, value in enumerate(values):
            offset = place // columns * self.panel + place % columns * self.lanes
            self._store(builder, value, self._at(builder, base, offset))

    def _row(self, builder, x, row):
        return builder.add(x, builder.mul(row, I64(self.panel * self.scalar_bytes)))

    def _held_lanes(self, builder, count, j):
        """Which places of vector `j` of a panel's row the first `count` numbers take."""
        places = ir.VectorType(I32, self.lanes)
        last = builder.insert_element(ir.Constant(places, ir.Undefined), builder.trunc(count, I32), I32(0))
        last = builder.shuffle_vector(last, ir.Constant(places, ir.Undefined), ir.Constant(places, None))
        return builder.icmp_signed("<", ir.Constant(places, [I32(j * self.lanes + i) for i in range(self.lanes)]), last)

    @contextmanager
    def _cases(self, builder, number, vectors, shapes):
        """Code for each of `shapes`, pairs of what `number` and `vectors` may be, chosen at run time by a jump."""
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(builder.add(builder.mul(number, I64(2)), vectors), done)

        def cases():
            for first, columns in shapes:
                block = builder.append_basic_block(f"tile.{first}x{columns}")
                switch.add_case(I64(2 * first + columns), block)
                builder.position_at_end(block)
                yield first, columns
                builder.branch(done)

        yield cases()
        builder.position_at_end(done)

    def make_transpose(self):
        def emit(builder, source, source_row, target, target_row):
            size, lanes = I64(self.scalar_bytes), self.lanes
            source_row, target_row = builder.mul(source_row, size), builder.mul(target_row, size)
            self._transpose(builder, [builder.add(source, builder.mul(I64(i), source_row)) for i in range(lanes)],
                            [builder.add(target, builder.mul(I64(j), target_row)) for j in range(lanes)])

        return simple(types.void(*[types.int64] * 4), emit)

    def make_transpose_edge(self):
        def emit(builder, source, source_row, given, target, target_row, wanted):
            places = []
            for base, row, count in ((source, source_row, given), (target, target_row, wanted)):
                row, last = builder.mul(row, I64(self.scalar_bytes)), builder.sub(count, I64(1))
                numbers = [builder.select(builder.icmp_signed("<", I64(i), count), I64(i), last)
                           for i in range(self.lanes)]
                places.append([builder.add(base, builder.mul(number, row)) for number in numbers])
            self._transpose(builder, *places)

        return simple(types.void(*[types.int64] * 6), emit)

    def _transpose(self, builder, sources, targets):
        """The rows at `targets` are the columns of those at `sources`; of equal targets the first one counts."""
        lanes = self.lanes
        rows = [self._load(builder, place, self.vector) for place in sources]
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
        for row, place in reversed(list(zip(rows, targets, strict=True))):
            self._store(builder, row, place)

    def make_add_rows(self):
        def emit(builder, x, rows, vectors, total):
            zeros, chains = ir.Constant(self.vector, None), range(CHAINS)
            with self._cases(builder, I64(0), vectors, [(0, 1), (0, 2)]) as cases:
                for _, columns in cases:
                    sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(columns)] for _ in chains]

                    def add(chain, row, places):
                        for j, place in enumerate(places[chain]):
                            value = self._load(builder, self._at(builder, row, j * self.lanes), self.vector)
                            builder.store(builder.fadd(builder.load(place), value), place)

                    rest = builder.and_(rows, I64(CHAINS - 1))
                    whole = builder.sub(rows, rest)
                    with cgutils.for_range_slice(builder, I64(0), whole, I64(CHAINS), intp=I64) as (first, _):
                        row = self._row(builder, x, first)
                        for chain in chains:
                            add(chain, self._at(builder, row, chain * self.panel), sums)
                    with cgutils.for_range(builder, rest, intp=I64) as loop:
                        add(0, self._row(builder, x, builder.add(whole, loop.index)), sums)
                    values = [[builder.load(place) for place in places] for places in sums]
                    while len(values) > 1:  # in pairs
                        values = [[builder.fadd(*pair) for pair in zip(*two, strict=True)]
                                  for two in zip(values[::2], values[1::2], strict=True)]
                    self._store_tile(builder, columns, values[0], total)

        return simple(types.void(*[types.int64] * 4), emit)

    def make_widen(self):
        def emit(builder, source, count, target):
            width = f"v{self.lanes}f{self.scalar_bytes * 8}"
            kinds = [self.vector.as_pointer(), I32, ir.VectorType(I1, self.lanes), self.vector]
            load = declared(builder, f"llvm.masked.load.{width}.p0{width}", self.vector, kinds)
            zeros = ir.Constant(self.vector, None)
            for j in range(2):
                mask = self._held_lanes(builder, count, j)
                first = builder.inttoptr(self._at(builder, source, j * self.lanes), self.vector.as_pointer())
                value = builder.call(load, [first, I32(self.scalar_bytes), mask, zeros])
                self._store(builder, value, self._at(builder, target, j * self.lanes))

        return simple(types.void(*[types.int64] * 3), emit)
