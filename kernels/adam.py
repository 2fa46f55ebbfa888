"""Optimizers that average the gradient: Adam and what came after it. Averages start at zero.

What a kernel is given, and what it does about numbers that are not finite, stands in `optimizers`. Weight decay is
added to g, or, with `decoupled_weight_decay`, w is multiplied by 1 - lr decay (Loshchilov and Hutter 2019).
"""

import math

import numpy as np

from ._context import CONTEXT, GRADIENT, UPDATE
from ._jit import kernel
from ._op import Op, register
from ._panels import nothing
from ._primitives import SIZE, flaw_in, fma, ints, real, reals, select
from .optimizers import for_cuda, mean_square, ratio, update_shape, watched


@kernel
def adam(w, exp_avg, exp_avg_sq, max_exp_avg_sq, lr: float, beta1: float, beta2: float, eps: float,
         weight_decay: float, decoupled_weight_decay, context, low, high):
    """Adam (Kingma and Ba 2015, algorithm 1); decoupled, AdamW (Loshchilov and Hutter 2019, algorithm 2).

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, w -= lr m_hat / (sqrt(v_hat) + eps): eps stands outside
    the bias correction, as in torch. With `max_exp_avg_sq` (AMSGrad; Reddi, Kale and Kumar 2018) the largest v so far
    stands for v, as in torch before its bias is corrected; else that is 0, unused. An element with m = 0 does not move,
    whatever eps.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    means, squares = reals(exp_avg + low * SIZE, count), reals(exp_avg_sq + low * SIZE, count)
    largest = reals(max_exp_avg_sq + low * SIZE, count)
    given = adam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, cells[UPDATE])
    if max_exp_avg_sq:  # a loop for each case: one that chooses in its body is not always vectorised
        return adam_loop(count, weights, slopes, means, squares, largest, given, 1, nothing(context))
    return adam_loop(count, weights, slopes, means, squares, largest, given, 0, nothing(context))


def adam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, update):
    """What `adam_loop` takes."""
    one = np.float64(1.0)
    step = real(lr / (one - power(beta1, update)))
    spread = real(one / math.sqrt(one - power(beta2, update)))
    added, shrink = decays(weight_decay, lr, decoupled_weight_decay)
    return step, spread, real(one - beta1), real(one - beta2), real(beta2), real(eps), added, shrink


def adam_loop(count, weights, slopes, means, squares, largest, coefficients, amsgrad, same):
    """Update `count` elements; 1 if one would not be finite. `same` is `nothing`."""
    step, spread, new1, new2, old2, floor, added, shrink = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(added, weights[i], slopes[i])
        flaws, sound, slope, m, v = moments(flaws, slope, means[i], squares[i], new1, old2, new2)
        means[i] = m
        squares[i] = v
        if amsgrad:
            v = select(v > largest[i], v, largest[i])
            largest[i] = v + same
        moved = select(m == 0.0, 0.0, m / fma(math.sqrt(v), spread, floor))
        weight = fma(-step, moved, weights[i] * shrink)
        good, flaws = watched(flaws, weight)
        good &= sound
        weights[i] = select(good, weight, weights[i]) + same
    return int(flaws < 0)


@kernel
def adamax(w, exp_avg, exp_inf, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
           context, low, high):
    """Adamax (Kingma and Ba 2015, algorithm 2) with torch's eps: u = max(beta2 u, |g| + eps), w -= lr m_hat / u."""
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = adamax_coefficients(lr, beta1, beta2, eps, weight_decay, cells[UPDATE])
    return adamax_loop(count, weights, slopes, reals(exp_avg + low * SIZE, count), reals(exp_inf + low * SIZE, count),
                       given)


def adamax_coefficients(lr, beta1, beta2, eps, weight_decay, update):
    """What `adamax_loop` takes."""
    one = np.float64(1.0)
    return real(lr / (one - power(beta1, update))), real(one - beta1), real(beta2), real(weight_decay), real(eps)


def adamax_loop(count, weights, slopes, means, norms, coefficients):
    """Update `count` elements; 1 if one would not be finite."""
    step, new1, old2, added, floor = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(added, weights[i], slopes[i])
        sound, flaws = watched(flaws, slope - means[i])
        m = fma(new1, select(sound, slope - means[i], 0.0), means[i])
        slope = select(sound, slope, 0.0)
        size, before = select(slope < 0.0, -slope, slope) + floor, old2 * norms[i]
        u = select(size > before, size, before)
        means[i] = m
        norms[i] = u
        moved = select(m == 0.0, 0.0, m / u)
        good, flaws = watched(flaws, fma(-step, moved, weights[i]))
        good &= sound
        weights[i] = fma(-step, select(good, moved, 0.0), weights[i])
    return int(flaws < 0)


@kernel
def nadam(w, exp_avg, exp_avg_sq, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
          decoupled_weight_decay, mu: float, mu_next: float, mu_product: float, context, low, high):
    """NAdam (Dozat 2016) in torch's form: the step of Adam with mu_next m / (1 - mu_product mu_next) for m_hat, plus g.

    w -= lr ((1 - mu) g / (1 - mu_product) + mu_next m / (1 - mu_product mu_next)) / (sqrt(v_hat) + eps), where mu and
    mu_next are the momenta of this step and the next, mu_product is that of all steps so far.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    means, squares = reals(exp_avg + low * SIZE, count), reals(exp_avg_sq + low * SIZE, count)
    given = nadam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, mu, mu_next, mu_product,
                               cells[UPDATE])
    return nadam_loop(count, weights, slopes, means, squares, given, nothing(context))


def nadam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, mu, mu_next, mu_product, update):
    """What `nadam_loop` takes."""
    one = np.float64(1.0)
    of_slope = real(lr * (one - mu) / (one - mu_product))
    of_mean = real(lr * mu_next / (one - mu_product * mu_next))
    spread = real(one / math.sqrt(one - power(beta2, update)))
    added, shrink = decays(weight_decay, lr, decoupled_weight_decay)
    return of_slope, of_mean, spread, real(one - beta1), real(one - beta2), real(beta2), real(eps), added, shrink


def nadam_loop(count, weights, slopes, means, squares, coefficients, same):
    """Update `count` elements; 1 if one would not be finite. `same` is `nothing`."""
    of_slope, of_mean, spread, new1, new2, old2, floor, added, shrink = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(added, weights[i], slopes[i])
        flaws, sound, slope, m, v = moments(flaws, slope, means[i], squares[i], new1, old2, new2)
        means[i] = m
        squares[i] = v
        step = fma(of_slope, slope, of_mean * m)
        moved = select(step == 0.0, 0.0, step / fma(math.sqrt(v), spread, floor))
        weight = weights[i] * shrink - moved
        good, flaws = watched(flaws, weight)
        good &= sound
        weights[i] = select(good, weight, weights[i]) + same
    return int(flaws < 0)


@kernel
def radam(w, exp_avg, exp_avg_sq, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
          decoupled_weight_decay, context, low, high):
    """RAdam (Liu et al. 2020, algorithm 2): Adam's step times r, or plain lr m_hat while the variance is unknown.

    rho_inf = 2 / (1 - beta2) - 1, rho = rho_inf - 2 t beta2^t / (1 - beta2^t); where rho > 5, r^2 = (rho - 4) (rho - 2)
    rho_inf / ((rho_inf - 4) (rho_inf - 2) rho). As in torch, eps is added to sqrt(v) before the bias is corrected.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    means, squares = reals(exp_avg + low * SIZE, count), reals(exp_avg_sq + low * SIZE, count)
    given = radam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, cells[UPDATE])
    return radam_loop(count, weights, slopes, means, squares, given, nothing(context))


def radam_coefficients(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, update):
    """What `radam_loop` takes."""
    one, two, four = np.float64(1.0), np.float64(2.0), np.float64(4.0)
    rate, unbiased = lr / (one - power(beta1, update)), one - power(beta2, update)
    limit = two / (one - beta2) - one
    rho = limit - two * update * power(beta2, update) / unbiased
    steep, floor = real(0.0), real(1.0)
    if rho > np.float64(5.0):
        rate *= math.sqrt(unbiased * (rho - four) * (rho - two) * limit / ((limit - four) * (limit - two) * rho))
        steep, floor = real(1.0), real(eps)
    added, shrink = decays(weight_decay, lr, decoupled_weight_decay)
    return real(rate), steep, floor, real(one - beta1), real(one - beta2), real(beta2), added, shrink


def radam_loop(count, weights, slopes, means, squares, coefficients, same):
    """Update `count` elements; 1 if one would not be finite. `same` is `nothing`."""
    step, steep, floor, new1, new2, old2, added, shrink = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        slope = fma(added, weights[i], slopes[i])
        flaws, sound, slope, m, v = moments(flaws, slope, means[i], squares[i], new1, old2, new2)
        means[i] = m
        squares[i] = v
        moved = select(m == 0.0, 0.0, m / fma(math.sqrt(v), steep, floor))
        weight = fma(-step, moved, weights[i] * shrink)
        good, flaws = watched(flaws, weight)
        good &= sound
        weights[i] = select(good, weight, weights[i]) + same
    return int(flaws < 0)


@kernel
def lion(w, exp_avg, lr: float, beta1: float, beta2: float, weight_decay: float, context, low, high):
    """Lion (Chen et al. 2023, algorithm 2): w -= lr (sign(beta1 m + (1 - beta1) g) + decay w), then m follows g.

    m = beta2 m + (1 - beta2) g. The decay is decoupled, and sign(0) = 0.
    """
    cells = ints(context, CONTEXT)
    count = high - low
    weights, slopes = reals(w + low * SIZE, count), reals(cells[GRADIENT] + low * SIZE, count)
    given = lion_coefficients(lr, beta1, beta2, weight_decay, cells[UPDATE])
    return lion_loop(count, weights, slopes, reals(exp_avg + low * SIZE, count), given, nothing(context))


def lion_coefficients(lr, beta1, beta2, weight_decay, update):
    """What `lion_loop` takes."""
    one = np.float64(1.0)
    return real(lr), real(one - beta1), real(one - beta2), real(one - lr * weight_decay)


def lion_loop(count, weights, slopes, means, coefficients, same):
    """Update `count` elements; 1 if one would not be finite. `same` is `nothing`."""
    rate, new1, new2, shrink = coefficients
    flaws = flaw_in(0, 0.0)
    for i in range(count):
        mean = means[i]
        sound, flaws = watched(flaws, slopes[i] - mean)
        change = select(sound, slopes[i] - mean, 0.0)
        aim = fma(new1, change, mean)
        means[i] = fma(new2, change, mean)
        moved = select(aim > 0.0, rate, select(aim < 0.0, -rate, 0.0))
        weight = weights[i] * shrink - moved
        good, flaws = watched(flaws, weight)
        good &= sound
        weights[i] = select(good, weight, weights[i]) + same
    return int(flaws < 0)


def decays(weight_decay, lr, decoupled):
    """(what w is multiplied with to be added to g, what w is multiplied with)."""
    if decoupled:
        return real(0.0), real(np.float64(1.0) - lr * weight_decay)
    return real(weight_decay), real(1.0)


def moments(flaws, slope, mean, square, new1, old2, new2):
    """As `mean_square`, with the new mean before that of squares."""
    flaws, sound, slope, square = mean_square(flaws, slope, square, old2, new2)
    return flaws, sound, slope, fma(new1, slope - mean, mean), square


def power(base, exponent):
    """base**exponent in float64 for an integer exponent >= 0, by squaring."""
    result = np.float64(1.0)
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def _decayed(attributes, w, g):
    """(w, g) after weight decay."""
    decay = attributes["weight_decay"]
    if attributes["decoupled_weight_decay"]:
        return w * (1 - attributes["lr"] * decay), g
    return w, g + decay * w


def _moments(attributes, g, mean, square):
    beta1, beta2 = attributes["beta1"], attributes["beta2"]
    return beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g * g


def _adam_reference(attributes, update, w, g, mean, square, *largest):
    w, g = _decayed(attributes, w, g)
    mean, square = _moments(attributes, g, mean, square)
    largest = [np.maximum(before, square) for before in largest]
    corrected = mean / (1 - attributes["beta1"] ** update)
    spread = np.sqrt((largest or [square])[0] / (1 - attributes["beta2"] ** update)) + attributes["eps"]
    return w - attributes["lr"] * ratio(corrected, spread), mean, square, *largest


def _adamax_reference(attributes, update, w, g, mean, norm):
    g = g + attributes["weight_decay"] * w
    mean = attributes["beta1"] * mean + (1 - attributes["beta1"]) * g
    norm = np.maximum(attributes["beta2"] * norm, abs(g) + attributes["eps"])
    return w - attributes["lr"] / (1 - attributes["beta1"] ** update) * ratio(mean, norm), mean, norm


def _nadam_reference(attributes, update, w, g, mean, square):
    mu, following, product = attributes["mu"], attributes["mu_next"], attributes["mu_product"]
    w, g = _decayed(attributes, w, g)
    mean, square = _moments(attributes, g, mean, square)
    spread = np.sqrt(square / (1 - attributes["beta2"] ** update)) + attributes["eps"]
    ahead = (1 - mu) / (1 - product) * g + following / (1 - product * following) * mean
    return w - attributes["lr"] * ratio(ahead, spread), mean, square


def _radam_reference(attributes, update, w, g, mean, square):
    lr, beta2 = attributes["lr"], attributes["beta2"]
    w, g = _decayed(attributes, w, g)
    mean, square = _moments(attributes, g, mean, square)
    corrected = mean / (1 - attributes["beta1"] ** update)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * update * beta2**update / (1 - beta2**update)
    if length <= 5:
        return w - lr * corrected, mean, square
    rectified = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    spread = (np.sqrt(square) + attributes["eps"]) / np.sqrt(1 - beta2**update)
    return w - lr * rectified * ratio(corrected, spread), mean, square


def _lion_reference(attributes, update, w, g, mean):
    lr, beta1, beta2 = attributes["lr"], attributes["beta1"], attributes["beta2"]
    w = w * (1 - lr * attributes["weight_decay"]) - lr * np.sign(beta1 * mean + (1 - beta1) * g)
    return w, beta2 * mean + (1 - beta2) * g


_MOMENTS = ("exp_avg", "exp_avg_sq")
register(Op("adam", update_shape, _adam_reference, cpu=adam, states=(*_MOMENTS, "max_exp_avg_sq")))
register(Op("adamax", update_shape, _adamax_reference, cpu=adamax, states=("exp_avg", "exp_inf"),
            tolerance="update"))
register(Op("nadam", update_shape, _nadam_reference, cpu=nadam, states=_MOMENTS, tolerance="update"))
register(Op("radam", update_shape, _radam_reference, cpu=radam, states=_MOMENTS, tolerance="update"))
register(Op("lion", update_shape, _lion_reference, cpu=lion, states=("exp_avg",)))
for_cuda(adam, adam_coefficients, adam_loop, ("max_exp_avg_sq",))
for_cuda(adamax, adamax_coefficients, adamax_loop)
for_cuda(nadam, nadam_coefficients, nadam_loop)
for_cuda(radam, radam_coefficients, radam_loop)
for_cuda(lion, lion_coefficients, lion_loop)
