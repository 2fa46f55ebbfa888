"""Optimizers: one update of parameters, given their gradient. All are elementwise over one flat run of memory.

Here stand gradient descent, its average and Rprop; `adagrad` holds those that scale by squared gradients, `adam` those
that average the gradient as well. States have torch's names and begin at zero; where they begin elsewhere, the kernel
looks at the number of the update.

A kernel updates elements [low, high); the gradient's element 0 stands at the context's GRADIENT. It returns 1 where
a new parameter or state would not be finite: that parameter keeps its old value, a state that would not be finite is
given a gradient of zero, and the training stops. The step is chosen, or the value with `nothing` added: a bare choice
between new and old value becomes a masked store, which is slow on some processors. Coefficients are float64 until they
meet a parameter.
"""

import numpy as np

from ._block import PANEL_ROWS, THREADS, block_kernel, numbers, thread
from ._context import CONTEXT, GRADIENT, UPDATE
from ._jit import kernel
from ._op import Op, register
from ._primitives import PANEL, SIZE, doubles, finite, flaw_in, fma, ints, real, reals, select
from ._steps import COEFFICIENTS
from ._steps import CONTEXT as CELLS


@kernel
def sgd(w, momentum_buffer, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov,
        context, low, high):
    """Gradient descent in torch's form: g += decay w; v = momentum v + (1 - dampening) g, v = g at first; w -= lr v.

    Nesterov's step is lr (g + momentum v). Without momentum, `momentum_buffer` is 0 and unused.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = sgd_coefficients(lr, momentum, dampening, weight_decay, nesterov, cells[UPDATE])
    if momentum_buffer:
        return sgd_loop(count, weights, slopes, reals(momentum_buffer + low * SIZE, count), given, 1)
    return sgd_loop(count, weights, slopes, slopes, given, 0)


def sgd_coefficients(lr, momentum, dampening, weight_decay, nesterov, update):
    """What `sgd_loop` takes; the last is 1 in the first update."""
    kept, taken, ahead, own, fresh = real(momentum), real(1.0 - dampening), real(0.0), real(1.0), real(0.0)
    if update == 1:
        kept, taken, fresh = real(0.0), real(1.0), real(1.0)
    if nesterov:
        ahead, own = real(1.0), real(momentum)
    return real(lr), real(weight_decay), kept, taken, ahead, own, fresh


def sgd_loop(count, weights, slopes, memory, coefficients, heavy):
    """Update `count` elements, with `memory` if heavy; 1 if one would not be finite."""
    rate, decay, kept, taken, ahead, own, fresh = coefficients
    flaws = flaw_in(0, 0.0)
    if not heavy:
        for i in range(count):
            step = fma(decay, weights[i], slopes[i])
            good, flaws = watched(flaws, fma(-rate, step, weights[i]))
            weights[i] = fma(-rate, select(good, step, 0.0), weights[i])
        return int(flaws < 0)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        before = select(fresh == 1.0, 0.0, memory[i])
        sound, flaws = watched(flaws, fma(kept, before, taken * slope))
        slope = select(sound, slope, 0.0)
        speed = fma(kept, before, taken * slope)
        memory[i] = speed
        step = fma(own, speed, ahead * slope)
        good, flaws = watched(flaws, fma(-rate, step, weights[i]))
        good &= sound
        weights[i] = fma(-rate, select(good, step, 0.0), weights[i])
    return int(flaws < 0)


@kernel
def asgd(w, ax, lr: float, slowing: float, mu: float, lambd: float, weight_decay: float, context, low, high):
    """Averaged gradient descent (Polyak and Juditsky 1992) in torch's form: w = (1 - lambd eta) w - eta g.

    eta = lr / slowing. ax, the average, follows w: ax += mu (w - ax), with mu = 1 ax = w. `slowing` and `mu` are those
    of the step.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = asgd_coefficients(lr, slowing, mu, lambd, weight_decay, cells[UPDATE])
    return asgd_loop(count, weights, slopes, reals(ax + low * SIZE, count), given)


def asgd_coefficients(lr, slowing, mu, lambd, weight_decay, update):
    """What `asgd_loop` takes."""
    eta = lr / slowing
    return real(eta), real(weight_decay), real(mu), real(np.float64(1.0) - lambd * eta)


def asgd_loop(count, weights, slopes, averages, coefficients):
    """Update `count` elements; 1 if one would not be finite."""
    rate, decay, share, shrink = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(decay, weights[i], slopes[i])
        good, flaws = watched(flaws, fma(-rate, slope, weights[i] * shrink))
        moved = fma(-rate, select(good, slope, 0.0), weights[i] * select(good, shrink, 1.0))
        weights[i] = moved
        averages[i] = select(share == 1.0, moved, fma(share, moved - averages[i], averages[i]))
    return int(flaws < 0)


@kernel
def rprop(w, prev, step_size, lr: float, etaminus: float, etaplus: float, step_size_min: float, step_size_max: float,
          context, low, high):
    """Resilient backpropagation (Riedmiller and Braun 1993) in torch's form: w -= step sign(g), each with its own step.

    The step, at first lr, grows by etaplus where g keeps its sign and shrinks by etaminus where it changes; then
    the weight stays and the change is forgotten (prev = 0).
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = rprop_coefficients(lr, etaminus, etaplus, step_size_min, step_size_max, cells[UPDATE])
    return rprop_loop(count, weights, slopes, reals(prev + low * SIZE, count), reals(step_size + low * SIZE, count),
                      given)


def rprop_coefficients(lr, etaminus, etaplus, step_size_min, step_size_max, update):
    """What `rprop_loop` takes; the last is 1 in the first update."""
    fresh = real(0.0)
    if update == 1:
        fresh = real(1.0)
    return real(lr), real(etaminus), real(etaplus), real(step_size_min), real(step_size_max), fresh


def rprop_loop(count, weights, slopes, before, steps, coefficients):
    """Update `count` elements; 1 if one would not be finite."""
    initial, shrink, grow, least, most, fresh = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        sound, flaws = watched(flaws, slopes[i])
        slope = select(sound, slopes[i], 0.0)
        product = slope * select(fresh == 1.0, 0.0, before[i])
        factor = select(product > 0.0, grow, select(product < 0.0, shrink, 1.0))
        step = select(fresh == 1.0, initial, steps[i]) * factor
        step = select(step < least, least, select(step > most, most, step))
        slope = select(product < 0.0, 0.0, slope)
        before[i] = slope
        steps[i] = step
        moved = select(slope > 0.0, step, select(slope < 0.0, -step, 0.0))
        good, flaws = watched(flaws, weights[i] - moved)
        weights[i] = weights[i] - select(good, moved, 0.0)
    return int(flaws < 0)


# On CUDA a thread takes every THREADS-th element of a rectangle of a block of parameters. What an update's coefficients
# are made of is float64 and the same for all elements: a kernel for the CPU makes a table of them, a row a step.


def for_cuda(cpu, coefficients, loop, optional=()):
    """Make what updates parameters on CUDA, `cpu.cuda`, and the kernel that makes its coefficients, `cpu.table`.

    coefficients: `(settings ..., number of the update) -> tuple of real`. loop: `(count, weights, slopes, states ...,
    coefficients, flags ..., same)`, a flag for each state in `optional` that says whether it is there, and -0 if it
    takes that. `cpu.settings` are the names of the settings, `cpu.width` is the number of coefficients.
    """
    names = coefficients.__code__.co_varnames[: coefficients.__code__.co_argcount - 1]
    takes = loop.__code__.co_varnames[3 : loop.__code__.co_argcount]
    operands = cpu.__code__.co_varnames[1 : 1 + takes.index("coefficients")]
    width = len(coefficients(*[np.float64(0.5)] * len(names), 2))
    scope = {"ints": ints, "reals": reals, "doubles": doubles, "numbers": numbers, "thread": thread, "SIZE": SIZE,
             "THREADS": THREADS, "CELLS": CELLS, "COEFFICIENTS": COEFFICIENTS, "PANEL": PANEL, "element": element,
             "coefficients": coefficients, "loop": loop}
    spans = "".join(f", reals({name} + at, {name} != 0)" for name in operands)
    flags = "".join(f", {name} != 0" for name in optional) + ", -0.0" * ("same" in takes)
    given = ", ".join(f"row[{i}]" for i in range(len(names)))
    made = ", ".join(f"made[{i}]" for i in range(width))
    exec(f"""
def update(w, {", ".join(operands)}, slopes, block_place, block_height, context, row, rows, column, columns):
    given, bad = numbers(ints(context, CELLS)[COEFFICIENTS], {width}), 0
    for i in range(thread(), rows * columns, THREADS):
        at = element(block_place, block_height, row, rows, column, columns, i) * SIZE
        bad |= loop(1, reals(w + at, 1), reals(slopes + at, 1){spans}, given{flags})
    return bad

def table(settings, target, update, context, low, high):
    for step in range(low, high):
        row = doubles(settings + step * {8 * len(names)}, {len(names)})
        made = reals(target + step * {width} * SIZE, {width})
        {made}{"," if width == 1 else ""} = coefficients({given}, update + step)
    return 0
""", scope)
    for function in (scope["update"], scope["table"]):
        function.__module__ = cpu.__module__
    block_kernel(cpu, "w", height=PANEL_ROWS, span=PANEL_ROWS)(scope["update"])
    cpu.table, cpu.settings, cpu.width = kernel(scope["table"], f"{cpu.__name__}_table"), names, width


def element(place, height, row, rows, column, columns, i):
    """The place among all parameters of element i of a rectangle of a block, panel after panel.

    The block begins at `place`, its panels have `height` rows; the rectangle has whole panels, or columns of one.
    """
    width = min(columns, PANEL)
    panel, rest = column // PANEL + i // (rows * width), i % (rows * width)
    return place + (panel * height + row + rest // width) * PANEL + column % PANEL + rest % width


# Reference: (attributes, update, w, gradient, *present states) -> (w, *present states).


def watched(flaws, x):
    """(whether x is finite, `flaws` with it)."""
    return finite(x), flaw_in(flaws, x)


def mean_square(flaws, slope, square, old, new):
    """(flaws, whether old square + new slope^2 is finite, the slope, or 0 where it is not, the mean with it)."""
    after = fma(old, square, new * slope * slope)
    sound, flaws = watched(flaws, after)
    return flaws, sound, select(sound, slope, 0.0), select(sound, after, old * square)


def _sgd_reference(attributes, update, w, g, velocity=None):
    g = g + attributes["weight_decay"] * w
    if velocity is None:
        return (w - attributes["lr"] * g,)
    velocity = g if update == 1 else attributes["momentum"] * velocity + (1 - attributes["dampening"]) * g
    step = g + attributes["momentum"] * velocity if attributes["nesterov"] else velocity
    return w - attributes["lr"] * step, velocity


def _asgd_reference(attributes, update, w, g, ax):
    g = g + attributes["weight_decay"] * w
    eta = attributes["lr"] / attributes["slowing"]
    w = w * (1 - attributes["lambd"] * eta) - eta * g
    return w, w if attributes["mu"] == 1 else ax + attributes["mu"] * (w - ax)


def _rprop_reference(attributes, update, w, g, prev, step_size):
    if update == 1:
        prev, step_size = np.zeros_like(prev), np.full_like(step_size, attributes["lr"])
    turned = np.sign(g) * np.sign(prev)
    factor = np.where(turned > 0, attributes["etaplus"], np.where(turned < 0, attributes["etaminus"], 1))
    step_size = np.clip(step_size * factor, attributes["step_size_min"], attributes["step_size_max"])
    g = np.where(turned < 0, 0, g)
    return w - np.sign(g) * step_size, g, step_size


def update_shape(attributes, w, g, *state):
    """The shape rule of optimizers: parameter, gradient and states have one shape."""
    if any(shape != w for shape in (g, *state)):
        raise ValueError(f"parameter, gradient and state need one shape; got {w}, {g}, {state}")
    return w


def ratio(numerator, denominator):
    """For references: the quotient, and 0 where the numerator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=numerator != 0)


register(Op("sgd", update_shape, _sgd_reference, cpu=sgd, states=("momentum_buffer",)))
register(Op("asgd", update_shape, _asgd_reference, cpu=asgd, states=("ax",)))
register(Op("rprop", update_shape, _rprop_reference, cpu=rprop, states=("prev", "step_size")))
for_cuda(sgd, sgd_coefficients, sgd_loop, ("momentum_buffer",))
for_cuda(asgd, asgd_coefficients, asgd_loop)
for_cuda(rprop, rprop_coefficients, rprop_loop)
