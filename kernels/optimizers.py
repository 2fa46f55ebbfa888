"""Optimizers: one update of parameters, given their gradient. All are elementwise over one flat run of memory.

A kernel updates elements [low, high); the gradient's element 0 stands at the context's GRADIENT. It returns 1 where
a new parameter or state would not be finite: that parameter keeps its old value, a state that would not be finite is
given a gradient of zero, and the training stops. Its step, not its value, is chosen: a choice between new and old value
becomes a masked store, which is slow on some processors. Coefficients are float64 until they meet a parameter.
"""

import math

import numpy as np

from ._context import CONTEXT, GRADIENT, UPDATE
from ._jit import kernel
from ._op import Op, register
from ._primitives import SIZE, finite, fma, ints, real, reals, select


@kernel
def sgd(w, velocity, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov, context, low, high):
    """Gradient descent in torch's form: g += decay w; v = momentum v + (1 - dampening) g, v = g at first; w -= lr v.

    Nesterov's step is lr (g + momentum v). Without momentum, `velocity` is 0 and unused.
    """
    cells = ints(context, CONTEXT)
    first = cells[UPDATE] == 1
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    rate, decay = real(lr), real(weight_decay)
    bad = False
    if not velocity:
        for i in range(count):
            step = fma(decay, weights[i], slopes[i])
            good = finite(fma(-rate, step, weights[i]))
            bad |= not good
            weights[i] = fma(-rate, select(good, step, 0.0), weights[i])
        return int(bad)
    memory = reals(velocity + low * SIZE, count)
    kept, taken = real(momentum), real(1.0 - dampening)
    if first:
        kept, taken = real(0.0), real(1.0)
    ahead, own = real(0.0), real(1.0)
    if nesterov:
        ahead, own = real(1.0), real(momentum)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        before = select(first, 0.0, memory[i])
        sound = finite(fma(kept, before, taken * slope))
        slope = select(sound, slope, 0.0)
        speed = fma(kept, before, taken * slope)
        memory[i] = speed
        step = fma(own, speed, ahead * slope)
        good = finite(fma(-rate, step, weights[i])) & sound
        bad |= not good
        weights[i] = fma(-rate, select(good, step, 0.0), weights[i])
    return int(bad)


@kernel
def adam(w, mean, square, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled,
         context, low, high):
    """Adam (Kingma and Ba 2015, algorithm 1); with `decoupled`, AdamW (Loshchilov and Hutter 2019, algorithm 2).

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, w -= lr m_hat / (sqrt(v_hat) + eps): eps stands outside
    the bias correction, as in torch. Weight decay is added to g, or, decoupled, w is multiplied by 1 - lr decay.
    An element with m = 0 does not move, whatever eps.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    means, squares = reals(mean + low * SIZE, count), reals(square + low * SIZE, count)
    update = cells[UPDATE]
    one = np.float64(1.0)
    step = real(lr / (one - power(beta1, update)))
    spread = real(one / math.sqrt(one - power(beta2, update)))
    new1, new2, floor = real(one - beta1), real(one - beta2), real(eps)
    old2 = real(beta2)
    added, shrink = real(weight_decay), real(1.0)
    if decoupled:
        added, shrink = real(0.0), real(one - lr * weight_decay)
    bad = False
    for i in range(count):
        slope = fma(added, weights[i], slopes[i])
        sound = finite(fma(old2, squares[i], new2 * slope * slope))
        slope = select(sound, slope, 0.0)
        m = fma(new1, slope - means[i], means[i])
        v = fma(old2, squares[i], new2 * slope * slope)
        means[i] = m
        squares[i] = v
        moved = select(m == 0.0, 0.0, m / fma(math.sqrt(v), spread, floor))
        good = finite(fma(-step, moved, weights[i] * shrink)) & sound
        bad |= not good
        weights[i] = fma(-step, select(good, moved, 0.0), weights[i] * select(good, shrink, 1.0))
    return int(bad)


def power(base, exponent):
    """base**exponent in float64 for an integer exponent >= 0, by squaring."""
    result = np.float64(1.0)
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


# Reference: (attributes, update, w, gradient, *state) -> (w, *state).


def _sgd_reference(attributes, update, w, g, velocity=None):
    g = g + attributes["weight_decay"] * w
    if velocity is None:
        return (w - attributes["lr"] * g,)
    velocity = g if update == 1 else attributes["momentum"] * velocity + (1 - attributes["dampening"]) * g
    step = g + attributes["momentum"] * velocity if attributes["nesterov"] else velocity
    return w - attributes["lr"] * step, velocity


def _adam_reference(attributes, update, w, g, mean, square):
    lr, decay = attributes["lr"], attributes["weight_decay"]
    beta1, beta2 = attributes["beta1"], attributes["beta2"]
    if attributes["decoupled"]:
        w = w * (1 - lr * decay)
    else:
        g = g + decay * w
    mean = beta1 * mean + (1 - beta1) * g
    square = beta2 * square + (1 - beta2) * g * g
    corrected = mean / (1 - beta1**update)
    spread = np.sqrt(square / (1 - beta2**update)) + attributes["eps"]
    return w - lr * np.divide(corrected, spread, out=np.zeros_like(w), where=mean != 0), mean, square


def _update_shape(attributes, w, g, *state):
    if any(shape != w for shape in (g, *state)):
        raise ValueError(f"parameter, gradient and state need one shape; got {w}, {g}, {state}")
    return w


register(Op("sgd", _update_shape, _sgd_reference, cpu=sgd, states=("velocity",)))
register(Op("adam", _update_shape, _adam_reference, cpu=adam, states=("mean", "square")))
