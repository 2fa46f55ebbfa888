"""Moving rows between data sets and the arena: shuffled gather on the way in, plain store on the way out."""

from ._context import CONTEXT, START
from ._jit import kernel
from ._primitives import SIZE, copy, ints


@kernel
def gather(source, source_cols, order, y, y_row, context, low, high):
    """y[i] = source[order[START + i]], row by row; without an order, source[START + i]."""
    start = ints(context, CONTEXT)[START]
    for i in range(low, high):
        row = start + i
        if order:
            row = ints(order, row + 1)[row]
        copy(y + i * y_row * SIZE, source + row * source_cols * SIZE, source_cols)
    return 0


@kernel
def gather_labels(source, order, y, context, low, high):
    """y[i] = source[order[START + i]] for int64 labels."""
    start = ints(context, CONTEXT)[START]
    target = ints(y, high)
    for i in range(low, high):
        row = start + i
        if order:
            row = ints(order, row + 1)[row]
        target[i] = ints(source, row + 1)[row]
    return 0


@kernel
def store(x, x_row, x_cols, target, context, low, high):
    """target[START + i] = x[i], row by row, into an array without gaps."""
    start = ints(context, CONTEXT)[START]
    for i in range(low, high):
        copy(target + (start + i) * x_cols * SIZE, x + i * x_row * SIZE, x_cols)
    return 0
