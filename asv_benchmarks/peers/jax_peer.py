"""JAX: a jitted step called for each batch, a jitted scan over an epoch, jitted prediction.

Weights (outputs, inputs), a state that is given away, and waiting for the last step alone were the fastest on the
whole.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .competitor import Prediction, Steps
from .workloads import RATES, data, first_batches, weights


def forward(regression, parameters, x):
    """The net's outputs."""
    for weight, bias in parameters[:-1]:
        x = x @ weight.T + bias
        x = jnp.tanh(x) if regression else jax.nn.relu(x)
    weight, bias = parameters[-1]
    return x @ weight.T + bias


def loss(regression, parameters, x, y):
    """The mean of the batch."""
    z = forward(regression, parameters, x)
    if regression:
        return jnp.mean((z - y) ** 2)
    return jnp.mean(jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0])


def step(task, state, batch):
    """The state after one update, and the loss before it."""
    parameters, mean, square, count = state
    value, slope = jax.value_and_grad(partial(loss, task.workload.regression))(parameters, *batch)
    if task.goal == "sgd":
        return (jax.tree.map(lambda w, g: w - RATES["sgd"] * g, parameters, slope), mean, square, count), value
    count = count + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, slope)
    rate, spread = RATES["adam"] / (1 - 0.9**count), 1 - 0.999**count
    moved = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v / spread) + 1e-8), parameters, mean, square)
    return (moved, mean, square, count), value


def first(task):
    """The state before the first step: parameters, and for Adam two moments and a count."""
    parameters = jax.tree.map(jnp.array, weights(task.workload))
    if task.goal == "sgd":
        return parameters, (), (), 0.0
    return parameters, jax.tree.map(jnp.zeros_like, parameters), jax.tree.map(jnp.zeros_like, parameters), 0.0


class Jit(Steps):
    """A loop of steps."""

    def __init__(self, task, threads):
        super().__init__(task)
        self.state, self.update = first(task), jax.jit(partial(step, task), donate_argnums=0)

    def ready(self, x, y):
        """A batch of JAX's arrays."""
        return jnp.array(x), jnp.array(y)

    def step(self, x, y):
        """Start one update."""
        self.state, value = self.update(self.state, (x, y))
        return value

    def finish(self):
        """Wait for the last one."""
        jax.block_until_ready(self.state)


class Scan:
    """A scan over an epoch, and all epochs in one call."""

    compared = True

    def __init__(self, task, threads):
        self.task, self.state, self.batches = task, first(task), tuple(map(jnp.array, data(task)))
        epoch = partial(jax.lax.scan, partial(step, task))
        self.epoch = jax.jit(epoch, donate_argnums=0)
        self.epochs = jax.jit(lambda state, batches, count: jax.lax.fori_loop(
            0, count, lambda _, state: epoch(state, batches)[0], state), donate_argnums=0)

    def results(self):
        """The losses of the first steps."""
        batches = tuple(map(jnp.array, map(np.stack, zip(*first_batches(self.task), strict=True))))
        self.state, values = self.epoch(self.state, batches)
        return values

    def run(self, count):
        """Train `count` epochs."""
        self.state = jax.block_until_ready(self.epochs(self.state, self.batches, count))


class Predict(Prediction):
    """Outputs for one of JAX's arrays."""

    def __init__(self, task, threads):
        x, parameters = jnp.array(data(task)[0][0]), jax.tree.map(jnp.array, weights(task.workload))
        outputs = jax.jit(partial(forward, task.workload.regression))
        self.call = lambda: jax.block_until_ready(outputs(parameters, x))

    def results(self):
        """The outputs as an array."""
        return np.asarray(self.call())


class _OnDevice:
    """Computes in float32 on a CUDA device."""

    def __init__(self, task, threads):
        if jax.default_backend() != "gpu":
            raise SystemExit("JAX finds no CUDA device: install jax[cuda12] or jax[cuda13], or uninstall jax")
        jax.config.update("jax_default_matmul_precision", "highest")
        super().__init__(task, threads)


class JitOnDevice(_OnDevice, Jit):
    """A loop of steps there."""


class ScanOnDevice(_OnDevice, Scan):
    """A scan over an epoch there."""
