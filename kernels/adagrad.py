"""Optimizers that scale each element's step by its squared gradients: Adagrad, Adadelta, RMSprop.

What a kernel is given, and what it does about numbers that are not finite, stands in `optimizers`.
"""

import math

import numpy as np

from ._context import CONTEXT, GRADIENT, UPDATE
from ._jit import kernel
from ._op import Op, register
from ._primitives import SIZE, flaw_in, fma, ints, real, reals, select
from .optimizers import for_cuda, mean_square, ratio, update_shape, watched


@kernel
def adagrad(w, sum, lr: float, lr_decay: float, weight_decay: float, initial_accumulator_value: float, eps: float,
            context, low, high):
    """Adagrad (Duchi, Hazan and Singer 2011) in torch's form: s += g^2, w -= lr_t g / (sqrt(s) + eps).

    lr_t = lr / (1 + (t - 1) lr_decay) in update t. An element with g = 0 does not move, whatever eps.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = adagrad_coefficients(lr, lr_decay, weight_decay, initial_accumulator_value, eps, cells[UPDATE])
    return adagrad_loop(count, weights, slopes, reals(sum + low * SIZE, count), given)


def adagrad_coefficients(lr, lr_decay, weight_decay, initial_accumulator_value, eps, update):
    """What `adagrad_loop` takes; the last is 1 in the first update."""
    one, fresh = np.float64(1.0), real(0.0)
    if update == 1:
        fresh = real(1.0)
    rate = real(lr / (one + (update - 1) * lr_decay))
    return rate, real(weight_decay), real(eps), real(initial_accumulator_value), fresh


def adagrad_loop(count, weights, slopes, squares, coefficients):
    """Update `count` elements; 1 if one would not be finite."""
    rate, decay, floor, initial, fresh = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        before = select(fresh == 1.0, initial, squares[i])
        sound, flaws = watched(flaws, fma(slope, slope, before))
        slope = select(sound, slope, 0.0)
        total = fma(slope, slope, before)
        squares[i] = total
        moved = select(slope == 0.0, 0.0, slope / (math.sqrt(total) + floor))
        good, flaws = watched(flaws, fma(-rate, moved, weights[i]))
        good &= sound
        weights[i] = fma(-rate, select(good, moved, 0.0), weights[i])
    return int(flaws < 0)


@kernel
def adadelta(w, square_avg, acc_delta, lr: float, rho: float, eps: float, weight_decay: float, context, low, high):
    """Adadelta (Zeiler 2012, algorithm 1): v = rho v + (1 - rho) g^2, d = g sqrt(a + eps) / sqrt(v + eps), w -= lr d.

    a = rho a + (1 - rho) d^2 follows. The paper has no lr; torch's is 1. An element with g = 0 does not move.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = adadelta_coefficients(lr, rho, eps, weight_decay, cells[UPDATE])
    return adadelta_loop(count, weights, slopes, reals(square_avg + low * SIZE, count),
                         reals(acc_delta + low * SIZE, count), given)


def adadelta_coefficients(lr, rho, eps, weight_decay, update):
    """What `adadelta_loop` takes."""
    return real(lr), real(weight_decay), real(eps), real(rho), real(np.float64(1.0) - rho)


def adadelta_loop(count, weights, slopes, squares, deltas, coefficients):
    """Update `count` elements; 1 if one would not be finite."""
    rate, decay, floor, old, new = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        flaws, _, slope, v = mean_square(flaws, slope, squares[i], old, new)
        squares[i] = v
        moved = select(slope == 0.0, 0.0, math.sqrt(deltas[i] + floor) / math.sqrt(v + floor) * slope)
        near, flaws = watched(flaws, fma(old, deltas[i], new * moved * moved))
        good, flaws = watched(flaws, fma(-rate, moved, weights[i]))
        moved = select(good & near, moved, 0.0)
        deltas[i] = fma(old, deltas[i], new * moved * moved)
        weights[i] = fma(-rate, moved, weights[i])
    return int(flaws < 0)


@kernel
def rmsprop(w, square_avg, grad_avg, momentum_buffer, lr: float, alpha: float, eps: float, weight_decay: float,
            momentum: float, context, low, high):
    """RMSprop (Tieleman and Hinton 2012) in torch's form: v = alpha v + (1 - alpha) g^2, w -= lr g / (sqrt(v) + eps).

    With `grad_avg` (centered; Graves 2013) m = alpha m + (1 - alpha) g, and v - m^2, at least 0, stands for v under the
    root. With `momentum_buffer` b = momentum b + g / (sqrt(v) + eps) and w -= lr b. Either may be 0, unused. TensorFlow
    puts eps under the root. An element with g = 0 and b = 0 does not move, whatever eps.
    """
    first, count = low * SIZE, high - low
    weights, slopes = reals(w + first, count), reals(ints(context, CONTEXT)[GRADIENT] + first, count)
    squares, means = reals(square_avg + first, count), reals(grad_avg + first, count)
    memory = reals(momentum_buffer + first, count)
    given = rmsprop_coefficients(lr, alpha, eps, weight_decay, momentum, 0)
    if grad_avg and momentum_buffer:  # a loop for each case: stores on a condition are masked, and slow
        return rmsprop_loop(count, weights, slopes, squares, means, memory, given, 1, 1)
    if grad_avg:
        return rmsprop_loop(count, weights, slopes, squares, means, memory, given, 1, 0)
    if momentum_buffer:
        return rmsprop_loop(count, weights, slopes, squares, means, memory, given, 0, 1)
    return rmsprop_loop(count, weights, slopes, squares, means, memory, given, 0, 0)


def rmsprop_coefficients(lr, alpha, eps, weight_decay, momentum, update):
    """What `rmsprop_loop` takes."""
    return real(lr), real(weight_decay), real(eps), real(momentum), real(alpha), real(np.float64(1.0) - alpha)


def rmsprop_loop(count, weights, slopes, squares, means, memory, coefficients, centered, heavy):
    """Update `count` elements, with `means` if centered, with `memory` if heavy; 1 if one would not be finite."""
    rate, decay, floor, kept, old, new = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        flaws, sound, slope, v = mean_square(flaws, slope, squares[i], old, new)
        squares[i] = v
        if centered:
            m = fma(new, slope - means[i], means[i])
            means[i] = m
            v = fma(-m, m, v)
            v = select(v < 0.0, 0.0, v)
        moved = select(slope == 0.0, 0.0, slope / (math.sqrt(v) + floor))
        if heavy:
            light, flaws = watched(flaws, fma(kept, memory[i], moved))
            sound &= light
            moved = fma(kept, memory[i], select(sound, moved, 0.0))
            memory[i] = moved
        good, flaws = watched(flaws, fma(-rate, moved, weights[i]))
        good &= sound
        weights[i] = fma(-rate, select(good, moved, 0.0), weights[i])
    return int(flaws < 0)


def _adagrad_reference(attributes, update, w, g, total):
    g = g + attributes["weight_decay"] * w
    if update == 1:
        total = np.full_like(total, attributes["initial_accumulator_value"])
    total = total + g * g
    rate = attributes["lr"] / (1 + (update - 1) * attributes["lr_decay"])
    return w - rate * ratio(g, np.sqrt(total) + attributes["eps"]), total


def _adadelta_reference(attributes, update, w, g, square, delta):
    rho, eps = attributes["rho"], attributes["eps"]
    g = g + attributes["weight_decay"] * w
    square = rho * square + (1 - rho) * g * g
    moved = ratio(np.sqrt(delta + eps) * g, np.sqrt(square + eps))
    return w - attributes["lr"] * moved, square, rho * delta + (1 - rho) * moved * moved


def _rmsprop_reference(attributes, update, w, g, square, *others):
    alpha, mean = attributes["alpha"], []
    g = g + attributes["weight_decay"] * w
    square = spread = alpha * square + (1 - alpha) * g * g
    if attributes["centered"]:
        mean, *others = others
        mean = [alpha * mean + (1 - alpha) * g]
        spread = np.maximum(square - mean[0] ** 2, 0)
    moved = ratio(g, np.sqrt(spread) + attributes["eps"])
    buffer = [attributes["momentum"] * before + moved for before in others]
    return w - attributes["lr"] * (buffer[0] if buffer else moved), square, *mean, *buffer


register(Op("adagrad", update_shape, _adagrad_reference, cpu=adagrad, states=("sum",), tolerance="update"))
register(Op("adadelta", update_shape, _adadelta_reference, cpu=adadelta, states=("square_avg", "acc_delta"),
            tolerance="update"))
register(Op("rmsprop", update_shape, _rmsprop_reference, cpu=rmsprop,
            states=("square_avg", "grad_avg", "momentum_buffer"), tolerance="update"))
for_cuda(adagrad, adagrad_coefficients, adagrad_loop)
for_cuda(adadelta, adadelta_coefficients, adadelta_loop)
for_cuda(rmsprop, rmsprop_coefficients, rmsprop_loop, ("grad_avg", "momentum_buffer"))
