"""What kernels may use beyond plain Python: memory spans, exact-bit helpers, vector tiles, atomics.

Each function here is the plain-Python meaning. When a kernel is compiled, `_lowering` puts the LLVM instructions of
the same name in its place, so kernel sources import nothing but this module and run, slowly, as ordinary Python too.
Addresses and sizes are int64 throughout; `real` is the floating-point type that a kernel is compiled for.
"""

import ctypes
import math
import threading

import numpy as np

# Bound anew for every compilation (see `_jit.bindings`); these values serve plain-Python runs.
real = np.float64  # the floating-point type of the kernel
DOUBLE = True  # real is float64
SIZE = 8  # bytes of one `real`
LANES = 4  # `real`s in one vector register
PANEL = 8  # columns of a weight panel: two vectors
TILE = 6  # rows of a register tile two vectors wide
NARROW = 8  # rows of a register tile one vector wide
WIDE, WIDE_ROWS = 4, 2  # panels that the rows of a wide tile meet together, WIDE // m each; the most rows
SHALLOW = 4  # the largest depth of `outer`
CHAINS = 4  # that `add_rows` adds up side by side
FUSED = False  # `fma` rounds once
AHEAD = 0  # bytes that a tile asks for with each of its steps
HEIGHTS = 1, 2, 3, 4, 6, 8  # features that a tile by feature may have, at most TILE where it is two vectors wide
SUMS = 8  # that `cross` makes at once
BY_FEATURE = False  # how buffers lie: see `dense_by_feature`
ROUND = 1.5 * 2.0**52  # x + ROUND holds the integer k nearest to x, for |x| < 2**22, in its last digits


class ByPrecision(tuple):
    """Polynomial coefficients, lowest power first, for each type: read in a kernel as the tuple of its own type."""

    def __new__(cls, single, double):
        """Keep `double` as the tuple itself and `single` beside it."""
        made = super().__new__(cls, double)
        made.single = single
        return made

    def __repr__(self):
        """Both tables; a user's kernel is known on disk by what it reads."""
        return f"ByPrecision({self.single}, {tuple(self)})"


def _array(address, size, dtype):
    nbytes = size * np.dtype(dtype).itemsize
    if not size:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * int(nbytes)).from_address(int(address)), dtype)


def reals(address, size):
    """View `size` values of type `real` at `address`."""
    return _array(address, size, real)


def doubles(address, size):
    """View `size` float64 values at `address`."""
    return _array(address, size, np.float64)


def ints(address, size):
    """View `size` int64 values at `address`."""
    return _array(address, size, np.int64)


def as_double(bits):
    """Read the float64 whose bit pattern is the int64 `bits`."""
    return np.int64(bits).view(np.float64)


def fma(a, b, c):
    """a * b + c, rounded once where the host has the instruction."""
    return a * b + c


def select(condition, yes, no):
    """`yes` where `condition` holds, else `no`; both are evaluated, so loops stay free of branches."""
    return yes if condition else no


def polynomial(x, coefficients):
    """The polynomial with these coefficients, lowest power first, at x.

    All but the last addition in pairs (G. Estrin 1960), since a chain of additions takes longer than they do.
    """
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = fma(total, x, coefficient)
    return total


def exp2i(t, shift):
    """2**(k + shift) for t = k + ROUND, where that is a normal number; else, and for NaN, anything."""
    k = t - ROUND + shift
    return real(math.ldexp(1.0, int(k))) if abs(k) < 1100 else real(0)


def digit(t, place):
    """Whether k has the binary digit 2**place, for t = k + ROUND; a negative k as two's complement."""
    return bool(int(t - ROUND) >> place & 1) if math.isfinite(t) else False


def exponent(x):
    """The integral k, as `real`, with sqrt(1/2) <= x / 2**k < sqrt(2), for positive normal x; else anything."""
    return real(math.frexp(x / math.sqrt(0.5))[1] - 1) if math.isfinite(x) else real(0)


def mantissa(x):
    """x / 2**exponent(x) for positive normal x; else anything."""
    return real(math.ldexp(x, -int(exponent(x))))


def signed(x, sign):
    """x with the sign of `sign`, that of a zero too."""
    return math.copysign(x, sign)


def chop(x):
    """x with the lower half of its significand cleared, so that chop(x)**2 is exact."""
    if DOUBLE:
        return (np.float64(x).view(np.int64) & np.int64(-1 << 27)).view(np.float64)
    return (np.float32(x).view(np.int32) & np.int32(-1 << 12)).view(np.float32)


def scramble(key, number):
    """64 bits that look random, a function of both int64: the finalizer of splitmix64 on key + (number + 1) golden."""
    z = (int(key) + (int(number) + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) - (z >> 63 << 64)


def uniform(key, number):
    """The element `number` < 2**32 of the stream `key`, uniform among the multiples of 2**-24 in [0, 1).

    Each half of the key goes into one round of mixing 32 bits, so that loops over `number` vectorise.
    """
    z = int(number) % 2**32
    for half in (int(key) % 2**32, int(key) % 2**64 >> 32):
        z = (z ^ half) * 0x9E3779B1 % 2**32
        z = (z ^ z >> 16) * 0x7FEB352D % 2**32
        z = (z ^ z >> 15) * 0x846CA68B % 2**32
        z ^= z >> 16
    return real((z >> 8) * 2.0**-24)


def finite(x):
    """Whether x is neither NaN nor infinite."""
    return math.isfinite(x)


def flaw_in(flaws, x):
    """A number that is negative if `flaws` is or x is not finite; begin with 0.

    Loops that gather truth values instead pack vectors of them into smaller ones in each turn.
    """
    return flaws if math.isfinite(x) else -1


def tile(m, vectors, depth, a, a_panel, b, c, start, start_row, finish, mask, ahead):
    """c = finish(start + a @ b) on one register tile, m <= TILE rows and 2 vectors of columns, or NARROW and 1.

    All lie in panels, rows of PANEL values: b, c, mask in one each, a in as many as `depth` takes, `a_panel` apart;
    start's rows are `start_row` apart. Each element is one chain of fused multiply-adds in the order of k, so neither
    the tile's height nor its place changes a bit. `finish`: 0 stores, 1 stores the positive part, 2 stores where
    `mask` is positive, else zero. A whole tile asks for what lies at `ahead`, AHEAD bytes for each of its rows of b.
    """
    n = vectors * LANES
    for i in range(m):
        total = _array(start + i * start_row * SIZE, n, real).copy()
        for k in range(depth):
            left = a + (k // PANEL * a_panel + i * PANEL + k % PANEL) * SIZE
            total += _array(left, 1, real) * _array(b + k * PANEL * SIZE, n, real)
        if finish == 1:
            total = np.where(total <= 0, real(0), total)
        elif finish == 2:
            total = np.where(_array(mask + i * PANEL * SIZE, n, real) > 0, total, real(0))
        _array(c + i * PANEL * SIZE, n, real)[:] = total


def dots(m, depth, a, a_panel, line, start, c, finish, mask):
    """c = finish(start[0] + a @ line) for m <= LANES rows of a and one column of c, whose rows are PANEL apart.

    a lies in panels as for `tile`, the column `line` without gaps, filled up with zeros to whole panels. A row's
    products are added up in LANES chains, and these in pairs: a row's sum depends on nothing but the row.
    """
    for i in range(m):
        sums = np.zeros(LANES, real)
        for k in range(depth):
            sums[k % LANES] += _array(a + (k // PANEL * a_panel + i * PANEL + k % PANEL) * SIZE, 1, real)[0] * _array(
                line + k * SIZE, 1, real)[0]
        while len(sums) > 1:
            sums = sums[::2] + sums[1::2]
        total = sums[0] + _array(start, 1, real)[0]
        if finish == 1:
            total = max(total, real(0)) if total == total else total
        elif finish == 2:
            total = total if _array(mask + i * PANEL * SIZE, 1, real)[0] > 0 else real(0)
        _array(c + i * PANEL * SIZE, 1, real)[0] = total


def tile_wide(m, depth, a, a_panel, b, b_panel, c, c_panel, start, finish):
    """`tile` of m <= WIDE_ROWS rows and WIDE // m panels of b and c, which are `b_panel` and `c_panel` apart.

    start is one row, beside b. So few rows of a narrower tile are too few sums to keep the multipliers busy, and one
    stream from memory.
    """
    for panel in range(WIDE // m):
        tile(m, 2, depth, a, a_panel, b + panel * b_panel * SIZE, c + panel * c_panel * SIZE,
             start + panel * b_panel * SIZE, 0, finish, 0, 0)


def tile_transposed(m, vectors, depth, a, b, c, start, start_row):
    """c = start + a' @ b on one register tile, m columns of the panel a against 1 or 2 vectors of b; see `tile`."""
    n = vectors * LANES
    for i in range(m):
        total = _array(start + i * start_row * SIZE, n, real).copy()
        for k in range(depth):
            total += _array(a + (k * PANEL + i) * SIZE, 1, real) * _array(b + k * PANEL * SIZE, n, real)
        _array(c + i * PANEL * SIZE, n, real)[:] = total


def outer(m, vectors, depth, a, b, c, start, start_row):
    """`tile_transposed` for any m and 1 <= depth <= SHALLOW: the same numbers, row by row, b held in registers."""
    tile_transposed(m, vectors, depth, a, b, c, start, start_row)


def tile_by_feature(m, vectors, depth, w, x, y, finish):
    """y = finish(w' @ x + bias) by feature: m outputs, one of HEIGHTS, of 1 or 2 vectors of the batch's rows.

    w, x and y are rows of PANEL numbers, w's those of a panel: `depth` of weights, then the bias. The numbers are those
    of `tile`; `finish` is 0 or 1.
    """
    n = vectors * LANES
    for i in range(m):
        total = np.full(n, _array(w + (depth * PANEL + i) * SIZE, 1, real)[0], real)
        for k in range(depth):
            total += _array(w + (k * PANEL + i) * SIZE, 1, real) * _array(x + k * PANEL * SIZE, n, real)
        if finish:
            total = np.where(total <= 0, real(0), total)
        _array(y + i * PANEL * SIZE, n, real)[:] = total


def tile_by_block(m, vectors, depth, a, b, c, start, finish, mask):
    """`tile` of m rows, one of HEIGHTS, and depth <= PANEL: start is c, or 0 where it is none; finish is 0 or 2."""
    n = vectors * LANES
    for i in range(m):
        row = _array(c + i * PANEL * SIZE, n, real)
        total = row.copy() if start else np.zeros(n, real)
        for k in range(depth):
            total += _array(a + (i * PANEL + k) * SIZE, 1, real) * _array(b + k * PANEL * SIZE, n, real)
        if finish == 2:
            total = np.where(_array(mask + i * PANEL * SIZE, n, real) > 0, total, real(0))
        row[:] = total


def cross(across, vectors, x, x_block, dy, dy_block, target):
    """target[i, j] = sum over the batch's rows of x_i dy_j: `across` features dy_j and SUMS // across features x_i.

    `across` is a power of 2. So many vectors of rows, two in each block, which are `x_block` and `dy_block` numbers
    apart; features and target's rows lie PANEL numbers apart. Each lane adds up its rows, in order; then lanes are
    added up in pairs.
    """
    for i in range(SUMS // across):
        for j in range(across):
            sums = np.zeros(LANES, real)
            for v in range(vectors):
                sums += _vector(x, x_block, i, v) * _vector(dy, dy_block, j, v)
            while len(sums) > 1:
                sums = sums[::2] + sums[1::2]
            _array(target + (i * PANEL + j) * SIZE, 1, real)[0] = sums[0]


def _vector(base, block, feature, v):
    """Vector `v` of the batch's rows of one feature."""
    return _array(base + (v // 2 * block + feature * PANEL + v % 2 * LANES) * SIZE, LANES, real)


def add_rows(x, rows, vectors, total):
    """total = sum over the rows of 1 or 2 vectors of one panel: every CHAINS-th of them, and these sums in pairs.

    Rows that are left over after the last whole turn join the first chain.
    """
    n, whole = vectors * LANES, rows - rows % CHAINS
    sums = np.zeros((CHAINS, n), real)
    for i in range(rows):
        sums[i % CHAINS if i < whole else 0] += _array(x + i * PANEL * SIZE, n, real)
    while len(sums) > 1:
        sums = sums[::2] + sums[1::2]
    _array(total, n, real)[:] = sums[0]


def widen(source, count, target):
    """target = the `count` <= PANEL numbers of source, then zeros: a whole row of a panel. May be in place."""
    numbers = _array(source, count, real).copy()
    row = _array(target, PANEL, real)
    row[:count], row[count:] = numbers, 0


def transpose(source, source_row, target, target_row):
    """target[j, i] = source[i, j] on one LANES x LANES block; the strides count elements."""
    block = [_array(source + i * source_row * SIZE, LANES, real) for i in range(LANES)]
    for j in range(LANES):
        _array(target + j * target_row * SIZE, LANES, real)[:] = [row[j] for row in block]


def transpose_edge(source, source_row, given, target, target_row, wanted):
    """`transpose` of a source of `given` rows, whose last stands for those missing, to a target of `wanted` rows."""
    block = [_array(source + min(i, given - 1) * source_row * SIZE, LANES, real) for i in range(LANES)]
    columns = [[row[j] for row in block] for j in range(wanted)]
    for j, column in enumerate(columns):
        _array(target + j * target_row * SIZE, LANES, real)[:] = column


_rooms = threading.local()


def room(count):
    """The address of `count` reals of the kernel's own, a literal number; what they hold is not said."""
    _rooms.last = np.empty(count, real)
    return _rooms.last.ctypes.data


def copy(target, source, size):
    """Copy `size` reals between spans that do not overlap."""
    _array(target, size, real)[:] = _array(source, size, real)


def prefetch(address):
    """Ask for the cache line at `address`, which need not be mapped."""


_KERNEL = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)


def call(address, row, context, low, high):
    """Call the compiled kernel at `address`."""
    return _KERNEL(int(address))(*map(int, (row, context, low, high)))


def atomic_add(address, value):
    """Add to the int64 at `address`, return what it held before; a full fence."""
    cell = _array(address, 1, np.int64)
    cell[0] += value
    return cell[0] - value


def atomic_load(address):
    """Read the int64 at `address`; later reads see what its writer had written."""
    return _array(address, 1, np.int64)[0]


def atomic_store(address, value):
    """Write the int64 at `address` after everything written before."""
    _array(address, 1, np.int64)[0] = value


def compare_and_swap(address, expected, value):
    """Write the int64 at `address` if it is `expected`; return what it held before; a full fence."""
    cell = _array(address, 1, np.int64)
    held = cell[0]
    if held == expected:
        cell[0] = value
    return held


def pause():
    """Tell the core that this is a waiting loop."""


def yield_thread(address):
    """Give the time slice away through the C function at `address`."""
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def flush_subnormals():
    """Have this thread round results below the normal numbers to 0 from now on, on x86; what `restore_rounding` takes.

    Other processors compute with subnormal numbers as fast as with others, and this changes nothing there.
    """
    return 0


def restore_rounding(before):
    """Have this thread round as it did before `flush_subnormals`."""


def draw_bits(function, state):
    """64 random bits by `next_uint64` of one of NumPy's generators, the function at this address, and its state."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(function)(state)


def acquire(function, lock):
    """Sleep until the interpreter's lock `lock` can be taken, by `PyThread_acquire_lock` at address `function`."""
    ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(function)(lock, 1)


def release(function, lock):
    """Give the interpreter's lock `lock` back, by `PyThread_release_lock` at address `function`."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(lock)
