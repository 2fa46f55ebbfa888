"""Normalizing layers: descriptions. Formulas and kernels stand in `hotloop.kernels.normalization`."""

from dataclasses import dataclass

import numpy as np

from . import checks
from .functions import sqrt, square
from .layers import Layer


class _Norm(Layer, abstract=True):
    """What the layers share: affine parameters named as torch's, ones and zeros at first."""

    def _check(self, size, *switches):
        object.__setattr__(self, size, checks.integer(size, getattr(self, size), 1))
        for name in switches:
            object.__setattr__(self, name, checks.switch(name, getattr(self, name)))

    def initialize(self, generator):
        """Scales and variances are one, all else is zero."""
        for name, shape in (self.parameters() | self.statistics()).items():
            yield name, 0, np.full(shape or 1, float(name in ("weight", "running_var")))

    def _affine(self, graph, x, sources, prefix):
        """Scale and shift, where the layer has parameters for it."""
        own = [sources[name] for name in self.parameters()]
        return graph.apply("affine", x, *own, name=f"affine_{prefix}") if own else x

    def _scaled(self, x, sources):
        """The same as a formula."""
        y = x * sources["weight"] if "weight" in sources else x
        return y + sources["bias"] if "bias" in sources else y


@dataclass(frozen=True, eq=False)
class LayerNorm(_Norm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the features of each row (Ba et al. 2016).

    The variance is biased. normalized_shape: the number of features, or it alone in a tuple. eps: more than 0.
    elementwise_affine: False leaves out weight and bias; bias: False leaves out the bias. Both are (features,).
    """

    normalized_shape: int
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self):
        """Check the arguments."""
        object.__setattr__(self, "normalized_shape", _features(self.normalized_shape))
        self._check("normalized_shape", "elementwise_affine", "bias")
        object.__setattr__(self, "eps", checks.number("eps", self.eps, 0, open_low=True))

    def parameters(self):
        """Weight and bias, where there are any."""
        names = ("weight", "bias")[: self.elementwise_affine * (1 + self.bias)]
        return dict.fromkeys(names, (self.normalized_shape,))

    def sizes(self):
        """As many as it takes."""
        return self.normalized_shape, self.normalized_shape

    def formula(self, x, **sources):
        """As it says."""
        centered = x - x.mean(-1, keepdims=True)
        return self._scaled(centered / sqrt(square(centered).mean(-1, keepdims=True) + self.eps), sources)

    def apply(self, graph, x, prefix, training=False):
        """Append the layer to `graph`."""
        sources = self.sources(graph, prefix)
        return self._affine(graph, graph.apply("layer_norm", x, eps=self.eps, name=f"layer_norm_{prefix}"), sources,
                            prefix)


@dataclass(frozen=True, eq=False)
class RMSNorm(_Norm):
    """y = x / sqrt(mean(x^2) + eps) * weight over the features of each row (Zhang and Sennrich 2019).

    normalized_shape: the number of features, or it alone in a tuple. eps: more than 0, or None for the distance of 1
    from the next number of the trainer's dtype. elementwise_affine: False leaves out the weight (features,).
    """

    normalized_shape: int
    eps: float | None = None
    elementwise_affine: bool = True

    def __post_init__(self):
        """Check the arguments."""
        object.__setattr__(self, "normalized_shape", _features(self.normalized_shape))
        self._check("normalized_shape", "elementwise_affine")
        if self.eps is not None:
            object.__setattr__(self, "eps", checks.number("eps", self.eps, 0, open_low=True))

    def parameters(self):
        """The weight, if there is one."""
        return {"weight": (self.normalized_shape,)} if self.elementwise_affine else {}

    def sizes(self):
        """As many as it takes."""
        return self.normalized_shape, self.normalized_shape

    def formula(self, x, **sources):
        """As it says; without eps, which depends on the dtype then, there is none."""
        if self.eps is None:
            return None
        return self._scaled(x / sqrt(square(x).mean(-1, keepdims=True) + self.eps), sources)

    def apply(self, graph, x, prefix, training=False):
        """Append the layer to `graph`."""
        sources = self.sources(graph, prefix)
        return self._affine(graph, graph.apply("rms_norm", x, eps=self.eps or 0.0, name=f"rms_norm_{prefix}"), sources,
                            prefix)


@dataclass(frozen=True, eq=False)
class BatchNorm1d(_Norm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias for each feature (Ioffe and Szegedy 2015).

    In training mean and variance (biased) are the batch's, which needs two rows at least; in use they are running_mean
    and running_var, which follow the batches': running += momentum * (batch's - running), the variance unbiased.
    momentum: in [0, 1], or None for the mean over all batches so far. eps: more than 0. affine: False leaves out weight
    and bias. track_running_stats: False keeps no statistics; then what is predicted or evaluated is one batch, too.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True

    def __post_init__(self):
        """Check the arguments."""
        self._check("num_features", "affine", "track_running_stats")
        object.__setattr__(self, "eps", checks.number("eps", self.eps, 0, open_low=True))
        if self.momentum is not None:
            momentum = checks.number("momentum", self.momentum, 0)
            if momentum > 1:
                raise ValueError(f"momentum must be at most 1, or None, got {momentum}")
            object.__setattr__(self, "momentum", momentum)

    def parameters(self):
        """Weight and bias, where there are any."""
        return {name: (self.num_features,) for name in ("weight", "bias") if self.affine}

    def statistics(self):
        """Running mean and variance and the number of batches that went into them, where they are kept."""
        shapes = {"running_mean": (self.num_features,), "running_var": (self.num_features,), "num_batches_tracked": ()}
        return shapes if self.track_running_stats else {}

    def sizes(self):
        """As many as it takes."""
        return self.num_features, self.num_features

    def least_rows(self, training):
        """The variance of one row is zero, and says nothing."""
        return 2 if training or not self.track_running_stats else 1

    def apply(self, graph, x, prefix, training=False):
        """Append the layer to `graph`; in training, also what follows the moments."""
        sources, name = self.sources(graph, prefix), f"batch_norm_{prefix}"
        statistics = [sources[name] for name in self.statistics()]
        if statistics and not training:
            mean, variance, _ = statistics
            y = graph.apply("standardize", x, mean, variance, eps=self.eps, name=name)
        else:
            moments = graph.apply("batch_moments", x, name=f"moments_{prefix}")
            y = graph.apply("batch_norm", x, moments, eps=self.eps, name=name)
            if statistics:
                graph.apply("track_moments", moments, *statistics, momentum=self.momentum or 0.0,
                            cumulative=self.momentum is None, name=f"track_moments_{prefix}")
        return self._affine(graph, y, sources, prefix)


def _features(shape):
    """The number of features that a normalized_shape means."""
    return shape[0] if isinstance(shape, tuple | list) and len(shape) == 1 else shape
