"""Dropout (Srivastava et al. 2014): y = x / (1 - p) where u >= p, else 0, for u uniform in [0, 1).

As in torch, what is kept is scaled in training. The gradient is the op itself.
"""

import numpy as np

from ._block import THREADS, block_kernel, blocks, lane, spot, thread
from ._elementwise import SPAN
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, real, reals, select, uniform
from ._random import batch_shape, draws, row_key


@kernel
def dropout(x, x_panel, y, y_panel, y_panels, p: float, place, key, context, low, high):
    """Y = X u-chosen and scaled, for rows [low, high); Y may be X."""
    bound, scale = real(p), real(1 / (1 - p))
    for i in range(low, high):
        row = row_key(key, place, context, i)
        for panel in range(y_panels):
            source = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                u = uniform(row, panel * PANEL + j)
                target[j] = source[j] * select(u < bound, 0.0, scale)
    return 0


@block_kernel(dropout, "y", span=SPAN)
def dropout_cuda(x, y, y_cols, p: float, place, key, context, row, rows, column, columns):
    """Y = X u-chosen and scaled; Y may be X."""
    scale = 1.0 / (1.0 - p)
    for block in blocks(row, rows):
        begin, count = spot(block, y_cols, column) * SIZE, columns * PANEL
        source, target = reals(x + begin, count), reals(y + begin, count)
        own = row_key(key, place, context, block * PANEL + lane())
        for i in range(thread(), count, THREADS):
            target[i] = source[i] * select(uniform(own, column + i // PANEL) < p, 0.0, scale)
    return 0


def _dropout_reference(attributes, x, key):
    p, u = attributes["p"], draws(attributes["place"], key, x)
    return x * np.where(u < p, 0, 1 / (1 - p)).astype(x.dtype)


def _dropout_gradient(graph, node, dy):
    return graph.apply("dropout", dy, node.inputs[1], **node.attributes), None


register(Op("dropout", batch_shape, _dropout_reference, _dropout_gradient, cpu=dropout,
            cases=({"p": 0.5, "place": 0}, {"p": 0.0, "place": 3}, {"p": 0.9, "place": 1})))
