"""Elementwise arithmetic between values of one shape."""

from ._jit import kernel
from ._op import Op, register, same_shape
from ._primitives import PANEL, SIZE, reals


@kernel
def add(x, x_panel, y, y_panel, z, z_panel, z_panels, context, low, high):
    """z = x + y; z may be x or y."""
    count = (high - low) * PANEL
    for panel in range(z_panels):
        left = reals(x + (panel * x_panel + low * PANEL) * SIZE, count)
        right = reals(y + (panel * y_panel + low * PANEL) * SIZE, count)
        target = reals(z + (panel * z_panel + low * PANEL) * SIZE, count)
        for i in range(count):
            target[i] = left[i] + right[i]
    return 0


def _add_gradient(graph, node, upstream):
    return (upstream, upstream)


register(Op("add", same_shape, lambda attributes, x, y: x + y, _add_gradient, cpu=add))
