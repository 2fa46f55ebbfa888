"""Clipping of gradients before the update, by value and by the norm of the whole gradient (Pascanu et al. 2013).

A norm is summed in blocks of _BLOCK elements, the blocks one after the other: the same bits for any number of threads.
"""

import math

import numpy as np

from ._block import PANEL_ROWS, THREADS, add_threads, block_kernel, thread
from ._context import CONTEXT, GRADIENT, SCRATCH
from ._jit import kernel
from ._op import Op, one_shape, register
from ._primitives import PANEL, SIZE, call, doubles, ints, real, reals, select
from .optimizers import element

_BLOCK = 1024  # a multiple of every panel; its numbers stay in the first-level cache


@kernel
def clip_value(limit: float, chain, context, low, high):
    """g = min(max(g, -limit), limit) for elements [low, high), then the instruction `chain` on them. NaN stays."""
    slopes = reals(ints(context, CONTEXT)[GRADIENT] + low * SIZE, high - low)
    most = real(limit)
    for i in range(high - low):
        slope = slopes[i]
        slopes[i] = select(slope > most, most, select(slope < -most, -most, slope))
    if chain:
        return call(ints(chain, 1)[0], chain, context, low, high)
    return 0


@kernel
def gradient_norm(gradient, size, sums, context, low, high):
    """sums[i] = sum of the squares of block i of the gradient's `size` elements, low <= i < high, in float64."""
    totals, found = doubles(ints(context, CONTEXT)[SCRATCH], PANEL), doubles(sums, high)
    for block in range(low, high):
        count = min(_BLOCK, size - block * _BLOCK)
        slopes = reals(gradient + block * _BLOCK * SIZE, count)
        for j in range(PANEL):
            totals[j] = 0.0
        for i in range(0, count, PANEL):
            for j in range(PANEL):
                slope = np.float64(slopes[i + j])
                totals[j] += slope * slope
        total = np.float64(0.0)
        for j in range(PANEL):
            total += totals[j]
        found[block] = total
    return 0


@kernel
def clip_norm(gradient, size, sums, blocks, limit: float, chain, context, low, high):
    """g *= min(1, limit / (norm + 1e-6)) for blocks [low, high), as torch does, then the instruction `chain` on each.

    The norm is the root of all sums. Where it is not finite, nor is what becomes of the gradient's largest elements.
    """
    cells = ints(context, CONTEXT)
    found, total = doubles(sums, blocks), np.float64(0.0)
    for i in range(blocks):
        total += found[i]
    factor = limit / (math.sqrt(total) + np.float64(1e-6))
    scale = real(select(factor > np.float64(1.0), np.float64(1.0), factor))
    status = 0
    for block in range(low, high):
        begin, end = block * _BLOCK, min((block + 1) * _BLOCK, size)
        slopes = reals(gradient + begin * SIZE, end - begin)
        for i in range(end - begin):
            slopes[i] = slopes[i] * scale
        cells[GRADIENT] = gradient
        status |= call(ints(chain, 1)[0], chain, context, begin, end)
    return status


# On CUDA a rectangle of the whole gradient is a block of it: _BLOCK_ROWS rows of PANEL numbers.

_BLOCK_ROWS = _BLOCK // PANEL_ROWS


@block_kernel(clip_value, "w", height=PANEL_ROWS, span=PANEL_ROWS)
def clip_value_cuda(limit: float, slopes, block_place, block_height, context, row, rows, column, columns):
    """g = min(max(g, -limit), limit) for a rectangle of a block of parameters. NaN stays."""
    for i in range(thread(), rows * columns, THREADS):
        slope = reals(slopes + element(block_place, block_height, row, rows, column, columns, i) * SIZE, 1)
        value = slope[0]
        slope[0] = select(value > limit, limit, select(value < -limit, -limit, value))
    return 0


@block_kernel(gradient_norm, "all", height=_BLOCK_ROWS, span=PANEL_ROWS)
def gradient_norm_cuda(gradient, sums, context, row, rows, column, columns):
    """sums[i] = sum of the squares of block i of the gradient, in `real`, in pairs."""
    total, count = real(0.0), rows * columns
    slopes = reals(gradient + row * PANEL * SIZE, count)
    for i in range(thread(), count, THREADS):
        total += slopes[i] * slopes[i]
    total = add_threads(total)
    if thread() == 0:
        block = row // _BLOCK_ROWS
        reals(sums, block + 1)[block] = total
    return 0


@block_kernel(clip_norm, "all", height=_BLOCK_ROWS, span=PANEL_ROWS)
def clip_norm_cuda(gradient, sums, blocks, limit: float, context, row, rows, column, columns):
    """g *= min(1, limit / (norm + 1e-6)) for a block of the gradient."""
    found, total, count = reals(sums, blocks), real(0.0), rows * columns
    for i in range(thread(), blocks, THREADS):
        total += found[i]
    factor = limit / (math.sqrt(add_threads(total)) + 1e-6)
    factor = select(factor > 1.0, 1.0, factor)
    slopes = reals(gradient + row * PANEL * SIZE, count)
    for i in range(thread(), count, THREADS):
        slopes[i] = slopes[i] * factor
    return 0


def norm_blocks(size):
    """Blocks of a gradient of `size` elements."""
    return -(-size // _BLOCK)


def _clip_norm_reference(attributes, g, norm):
    return g * np.minimum(1, attributes["max_norm"] / (norm + 1e-6)).astype(g.dtype)


def _norm_reference(attributes, *gradients):
    return np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in gradients))


def _clip_value_reference(attributes, g):
    return np.clip(g, -attributes["clip_value"], attributes["clip_value"])


register(Op("clip_value", one_shape, _clip_value_reference, cpu=clip_value, cases=({"clip_value": 0.5},)))
register(Op("gradient_norm", lambda attributes, *gradients: (), _norm_reference, cpu=gradient_norm, tolerance="row"))
register(Op("clip_norm", lambda attributes, g, norm: g, _clip_norm_reference, cpu=clip_norm, tolerance="row",
            cases=({"max_norm": 0.5},)))
