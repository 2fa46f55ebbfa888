"""Randomized leaky ReLU in training (Xu et al. 2015, arXiv:1505.00853): y = x where x > 0, else a x, with random a.

a is uniform in [lower, upper), as in torch; the paper divides by a. The op takes what is multiplied apart from x, which
chooses: rrelu(x, x) is the value, rrelu(dy, x) the gradient.
"""

import numpy as np

from ._block import THREADS, block_kernel, blocks, lane, spot, thread
from ._elementwise import SPAN
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, real, reals, select, uniform
from ._random import batch_shape, draws, row_key


@kernel
def rrelu(y, y_panel, x, x_panel, z, z_panel, z_panels, lower: float, upper: float, place, key, context, low, high):
    """Z = Y where X > 0, else a Y, for rows [low, high); Z may be Y."""
    least, width = real(lower), real(upper) - real(lower)
    for i in range(low, high):
        row = row_key(key, place, context, i)
        for panel in range(z_panels):
            source = reals(y + (panel * y_panel + i * PANEL) * SIZE, PANEL)
            chosen = reals(x + (panel * x_panel + i * PANEL) * SIZE, PANEL)
            target = reals(z + (panel * z_panel + i * PANEL) * SIZE, PANEL)
            for j in range(PANEL):
                a = least + width * uniform(row, panel * PANEL + j)
                target[j] = source[j] * select(chosen[j] > 0.0, 1.0, a)
    return 0


@block_kernel(rrelu, "z", span=SPAN)
def rrelu_cuda(y, x, z, z_cols, lower: float, upper: float, place, key, context, row, rows, column, columns):
    """Z = Y where X > 0, else a Y; Z may be Y."""
    for block in blocks(row, rows):
        begin, count = spot(block, z_cols, column) * SIZE, columns * PANEL
        source, chosen, target = reals(y + begin, count), reals(x + begin, count), reals(z + begin, count)
        own = row_key(key, place, context, block * PANEL + lane())
        for i in range(thread(), count, THREADS):
            a = lower + (upper - lower) * uniform(own, column + i // PANEL)
            target[i] = source[i] * select(chosen[i] > 0.0, 1.0, a)
    return 0


def _rrelu_reference(attributes, y, x, key):
    lower, upper, u = attributes["lower"], attributes["upper"], draws(attributes["place"], key, x)
    return y * np.where(x > 0, 1, lower + (upper - lower) * u).astype(x.dtype)


def _rrelu_gradient(graph, node, upstream):
    _, x, key = node.inputs
    return graph.apply("rrelu", upstream, x, key, **node.attributes), None, None


register(Op("rrelu", batch_shape, _rrelu_reference, _rrelu_gradient, cpu=rrelu,
            cases=({"lower": 0.125, "upper": 0.5, "place": 0}, {"lower": 0.3, "upper": 0.3, "place": 2})))
