"""Makes kernels of elementwise ops from their formulas."""

from ._jit import kernel
from ._primitives import PANEL, SIZE, reals


def elementwise_kernel(name, value, arity):
    """The kernel that computes `value` of one, two or three operands, not in place: such loops would not vectorise."""
    made = (_one_operand, _two_operands, _three_operands)[arity - 1](value)
    made.__name__ = made.__qualname__ = name
    return kernel(made)


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
