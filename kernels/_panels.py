"""Helpers for kernels that work on one row of a matrix in panels; addresses are of the row in the first panel."""

from ._primitives import PANEL, SIZE, real, reals, row_max, row_sum


def panels_max(row, panel_size, columns):
    """The largest of a row's values; a NaN among them may or may not come out."""
    top = row_max(row, min(PANEL, columns))
    for first in range(PANEL, columns, PANEL):
        other = row_max(row + first // PANEL * panel_size * SIZE, min(PANEL, columns - first))
        if other > top:
            top = other
    return top


def panels_sum(row, panel_size, columns):
    """The sum of a row's values: each panel by itself, then panel after panel."""
    total = real(0.0)
    for first in range(0, columns, PANEL):
        total += row_sum(row + first // PANEL * panel_size * SIZE, min(PANEL, columns - first))
    return total


def clear_padding(row, panel_size, columns):
    """Zero what stands after the last column in the last panel."""
    used = columns % PANEL
    if used:
        line = reals(row + columns // PANEL * panel_size * SIZE, PANEL)
        for j in range(used, PANEL):
            line[j] = 0.0
