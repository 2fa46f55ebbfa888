"""What products of matrices on CUDA have in common: tiles that a block makes in what its threads share.

A block makes a tile of `high` x `wide` numbers, each thread a smaller one of it in its registers. The operands come in
stretches of `deep` steps, turned so that a step's numbers lie together. Each number is one chain of fused multiply-adds
in the order of steps, so neither the tile's size nor its place changes a bit.
"""

from ._block import (
    EDGE,
    PANEL_ROWS,
    QUAD,
    THREADS,
    block_kernel,
    near_numbers,
    nears,
    outer,
    put_near_numbers,
    thread,
)

APART = 4  # reals that a stretch's steps lie further apart than they are long: a warp's stores meet in fewer banks
SIZES = ((128, 128, 8), (64, 64, 16), (PANEL_ROWS, 64, 32))  # of tiles, for many numbers and for few


class Tile:
    """The parts of a kernel for tiles of one size; kernels are closures over them.

    rows, columns: of a thread's own tile, and `numbers` of it. near: reals that the block shares. `corner()` is where a
    thread's tile begins, `multiplied(sums)` adds the products of the stretch that was loaded.
    """

    def __init__(self, high, wide, deep):
        self.high, self.wide, self.deep = high, wide, deep
        self.rows, self.columns = high // EDGE, wide // EDGE
        self.numbers, self.near = self.rows * self.columns, deep * (high + wide + 2 * APART)
        self.corner, self.multiplied = self._corner(), self._multiplied()

    def _corner(self):
        rows, columns = self.rows, self.columns

        def corner():
            return thread() // EDGE * rows, thread() % EDGE * columns

        return corner

    def _multiplied(self):
        rows, columns, deep = self.rows, self.columns, self.deep
        left_step, right_step, right = self.high + APART, self.wide + APART, deep * (self.high + APART)

        def multiplied(sums, i, j):
            for k in range(deep):
                sums = outer(sums, near_numbers(k * left_step + i, rows),
                             near_numbers(right + k * right_step + j, columns))
            return sums

        return multiplied

    def left(self, quad, along_steps=False):
        """What loads a stretch of the left operand; see `_loader`."""
        return self._loader(self.high, 0, quad, along_steps)

    def right(self, quad, along_steps=False):
        """What loads a stretch of the right operand; see `_loader`."""
        return self._loader(self.wide, self.deep * (self.high + APART), quad, along_steps)

    def _loader(self, size, begin, quad, along_steps):
        """A function (base, cols, first, start, limit, extra) that loads `deep` steps from `first` on.

        `quad(base, cols, step, place, limit, extra)` is QUAD numbers as they lie in memory: a step's, at places from
        `place` on, which counts from `start`; or `along_steps` those of a place, of steps from `step` on.
        """
        step, turns, near = size + APART, self.deep * size // QUAD // THREADS, self.near
        places, steps = size // QUAD, self.deep // QUAD

        def load(base, cols, first, start, limit, extra):
            for turn in range(turns):
                number = turn * THREADS + thread()
                k, place = number // places, number % places * QUAD
                put_near_numbers(begin + k * step + place, quad(base, cols, first + k, start + place, limit, extra))

        def load_along_steps(base, cols, first, start, limit, extra):
            shared = nears(0, near)
            for turn in range(turns):
                number = turn * THREADS + thread()
                k, place = number % steps * QUAD, number // steps
                a, b, c, d = quad(base, cols, first + k, start + place, limit, extra)
                at = begin + k * step + place
                shared[at], shared[at + step] = a, b
                shared[at + 2 * step], shared[at + 3 * step] = c, d

        return load_along_steps if along_steps else load


def tiled(cpu, make, over, sizes=SIZES, single=0, **options):
    """Make the kernels that do what `cpu` does, `make(tile)` for each size; the last, the least, is `cpu.cuda`.

    single: from how many rows of a tile on it is for float32 alone. options: as `block_kernel` takes them.
    """
    larger: list = []
    for high, wide, deep in sizes:
        tile = Tile(high, wide, deep)
        kernel = make(tile)
        block_kernel(cpu, over, high, wide, tile.near, single=0 < single <= high, **options)(kernel)
        kernel.deep, kernel.larger = deep, tuple(larger)  # those that do the same in larger tiles, the largest first
        larger.append(kernel)
