"""Makes kernels of elementwise ops from their formulas.

A formula in two stages is a pair (first, then) that means then(x, first(x)). Its kernel runs one loop after the other
over a block of numbers: a processor has room for so many instructions that wait for others, and in two short loops more
of them belong to different numbers than in a long one.
"""

from ._block import THREADS, block_kernel, blocks, spot, thread
from ._jit import kernel
from ._primitives import PANEL, SIZE, reals

BLOCK = 256  # numbers that stay in the first-level cache from one loop to the next


def stages(formula):
    """The stages of a formula, one or two."""
    return formula if isinstance(formula, tuple) else (formula,)


def elementwise_kernel(name, value, arity):
    """The kernel that computes `value` of one, two or three operands, not in place: such loops would not vectorise."""
    makers = {1: _one_operand, 2: _two_operands, 3: _three_operands}
    made = kernel(_two_stages(*value) if isinstance(value, tuple) else makers[arity](value), name)
    _make_cuda(made, value, arity)
    return made


def near_kernel(name, value, near, bound, for_cuda):
    """As `elementwise_kernel` for one operand; blocks of numbers up to `bound` take `near`, quicker and of one result.

    bound: as a tuple whose first element holds, see `ByPrecision`. for_cuda: the formula there.
    """
    def run(source, target, count):
        inside = True
        for i in range(count):
            inside &= abs(source[i]) <= bound[0]
        if inside:
            for i in range(count):
                target[i] = near(source[i])
        else:
            for i in range(count):
                target[i] = value(source[i])

    made = kernel(_by_blocks(run), name)
    _make_cuda(made, for_cuda, 1)
    return made


def _two_stages(first, then):
    def run(source, target, count):
        for i in range(count):
            target[i] = first(source[i])
        for i in range(count):
            target[i] = then(source[i], target[i])

    return _by_blocks(run)


def _by_blocks(run):
    """A kernel of one operand that calls `run(source, target, count)` on a block of numbers at a time."""
    def unary(x, x_panel, y, y_panel, y_panels, context, low, high):
        end = high * PANEL
        for panel in range(y_panels):
            for start in range(low * PANEL, end, BLOCK):
                count = min(BLOCK, end - start)
                source = reals(x + (panel * x_panel + start) * SIZE, count)
                target = reals(y + (panel * y_panel + start) * SIZE, count)
                run(source, target, count)
        return 0

    return unary


def _one_operand(value):
    def unary(x, x_panel, y, y_panel, y_panels, context, low, high):
        count = (high - low) * PANEL
        for panel in range(y_panels):
            source = reals(x + (panel * x_panel + low * PANEL) * SIZE, count)
            target = reals(y + (panel * y_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = value(source[i])
        return 0

    return unary


def _two_operands(value):
    def binary(x, x_panel, y, y_panel, z, z_panel, z_panels, context, low, high):
        count = (high - low) * PANEL
        for panel in range(z_panels):
            left = reals(x + (panel * x_panel + low * PANEL) * SIZE, count)
            right = reals(y + (panel * y_panel + low * PANEL) * SIZE, count)
            target = reals(z + (panel * z_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = value(left[i], right[i])
        return 0

    return binary


def _three_operands(value):
    def ternary(a, a_panel, b, b_panel, c, c_panel, y, y_panel, y_panels, context, low, high):
        count = (high - low) * PANEL
        for panel in range(y_panels):
            first = reals(a + (panel * a_panel + low * PANEL) * SIZE, count)
            second = reals(b + (panel * b_panel + low * PANEL) * SIZE, count)
            third = reals(c + (panel * c_panel + low * PANEL) * SIZE, count)
            target = reals(y + (panel * y_panel + low * PANEL) * SIZE, count)
            for i in range(count):
                target[i] = value(first[i], second[i], third[i])
        return 0

    return ternary


# On CUDA a thread takes every THREADS-th number of a rectangle.

SPAN = 32  # columns of a rectangle for elementwise kernels: four numbers a thread


def _make_cuda(cpu, value, arity):
    """The kernel for CUDA beside that of `elementwise_kernel`."""
    if isinstance(value, tuple):
        value = _joined(*value)

    def unary(x, y, y_cols, context, row, rows, column, columns):
        for block in blocks(row, rows):
            first, count = spot(block, y_cols, column) * SIZE, columns * PANEL
            source, target = reals(x + first, count), reals(y + first, count)
            for i in range(thread(), count, THREADS):
                target[i] = value(source[i])
        return 0

    def binary(x, y, z, z_cols, context, row, rows, column, columns):
        for block in blocks(row, rows):
            first, count = spot(block, z_cols, column) * SIZE, columns * PANEL
            left, right, target = reals(x + first, count), reals(y + first, count), reals(z + first, count)
            for i in range(thread(), count, THREADS):
                target[i] = value(left[i], right[i])
        return 0

    def ternary(a, b, c, y, y_cols, context, row, rows, column, columns):
        for block in blocks(row, rows):
            start, count = spot(block, y_cols, column) * SIZE, columns * PANEL
            first, second, third = reals(a + start, count), reals(b + start, count), reals(c + start, count)
            target = reals(y + start, count)
            for i in range(thread(), count, THREADS):
                target[i] = value(first[i], second[i], third[i])
        return 0

    function, over = {1: (unary, "y"), 2: (binary, "z"), 3: (ternary, "y")}[arity]
    block_kernel(cpu, over, span=SPAN)(function)


def _joined(first, then):
    def both(x):
        return then(x, first(x))

    return both
