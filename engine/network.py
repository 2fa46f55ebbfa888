"""Networks: layers in a row, with parameters drawn from a seed."""

import math
from collections.abc import Mapping

import numpy as np

from . import checks
from .graph import Graph
from .layers import LAYERS, Dense


class Sequential:
    """Layers applied one after the other.

    layers: at least one Dense; the sizes of neighbours must fit. seed: of the initial parameters (see `Dense`).
    Parameters are named as in torch: "0.weight" (out, in), "0.bias"; statistics, such as "1.running_mean", too. A new
    network holds them in float64; while a Trainer trains it, it holds them in the trainer's dtype. Raises TypeError
    for what is no layer, ValueError where sizes do not fit or a layer with parameters stands in two places.
    """

    def __init__(self, *layers, seed=0):
        for place, layer in enumerate(layers):
            if isinstance(layer, list | tuple):
                raise TypeError(f"layer {place} is a {type(layer).__name__}: give the layers one by one, "
                                "Sequential(*layers)")
            checks.kind(f"layer {place}", layer, LAYERS)
            if (layer.parameters() or layer.statistics()) and any(layer is other for other in layers[:place]):
                raise ValueError(f"layer {place} stands in the network twice: make a new {type(layer).__name__} for "
                                 "each place")
        if not any(isinstance(layer, Dense) for layer in layers):
            raise ValueError("a network needs at least one Dense layer")
        self.layers, self.seed = layers, checks.integer("seed", seed, 0)
        self.in_features, self.out_features = _sizes(layers)
        self.shapes = shapes_of(layers, "parameters")
        self.statistics = shapes_of(layers, "statistics")
        self.owner = None  # the trainer that holds the parameters, once there is one
        self._values = None  # parameters that were loaded before there was an owner

    def __repr__(self):
        """The call that makes this network."""
        return f"Sequential({', '.join(map(repr, self.layers))}, seed={self.seed})"

    def __getstate__(self):
        """Copies and pickles hold the parameters, not the trainer."""
        values = self._values if self.owner is None else self.state_dict()
        return vars(self) | {"owner": None, "_values": values}

    def state_dict(self):
        """Copies of parameters and statistics by name, in torch's order and shapes; counts are int64."""
        if self.owner is not None:
            return {name: self.owner.read_parameter(name) for name in self._all()}
        values = {name: np.empty(shape, _kind(shape)) for name, shape in self._all().items()}
        for name, first, rows in self._rows():
            np.atleast_1d(values[name])[first : first + len(rows)] = rows
        return values

    def _all(self):
        """Shapes of parameters and statistics by name, layer by layer as torch orders them."""
        return dict(sorted((self.shapes | self.statistics).items(), key=lambda item: int(item[0].partition(".")[0])))

    def load_state_dict(self, state):
        """Take over parameters: a mapping of all names to arrays of the same shapes (anything NumPy can read).

        Raises KeyError for missing or unknown names, ValueError for other shapes or values that are not finite,
        TypeError for what are no real numbers; then nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict must map names to arrays, got {state!r}")
        shapes = self._all()
        missing, unknown = shapes.keys() - state.keys(), state.keys() - shapes.keys()
        if missing or unknown:
            raise KeyError(f"state_dict misses {sorted(missing)} and has unknown {sorted(unknown)}: "
                           f"the network has {list(shapes)}")
        values = {}
        for name, shape in shapes.items():
            value = np.asarray(state[name])
            if value.dtype.kind not in ("iu" if shape == () else "fiu"):
                wanted = "a count" if shape == () else "real numbers"
                raise TypeError(f"{name} must hold {wanted}, got dtype {value.dtype}")
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
            with np.errstate(over="ignore"):  # what is too large for the trainer's dtype is not finite in it
                values[name] = np.array(value, _kind(shape, np.float64 if self.owner is None else self.owner.dtype))
            if not np.isfinite(values[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        self.give(values)

    def give(self, values):
        """Set all parameters, checked before."""
        if self.owner is None:
            self._values = values
        else:
            for name, value in values.items():
                self.owner.write_parameter(name, np.atleast_1d(value))

    def take(self, owner):
        """Hand the parameters over to `owner`, which keeps them from now on."""
        for name, first, rows in self._rows():
            owner.write_parameter(name, rows, first)
        self.owner, self._values = owner, None

    def _rows(self):
        """All parameters as (name, first row, rows), drawn from the seed where there are no others."""
        values = self._values if self.owner is None else self.state_dict()
        if values is not None:
            yield from ((name, 0, np.atleast_1d(value)) for name, value in values.items())
            return
        for place, layer in enumerate(self.layers):
            for name, first, rows in layer.initialize(np.random.default_rng([self.seed, place])):
                yield f"{place}.{name}", first, rows

    def least_rows(self, training=False):
        """Rows that a batch must have, and the place of the layer that says so."""
        return max((layer.least_rows(training), place) for place, layer in enumerate(self.layers))

    def graph(self, training=False):
        """A graph of the network, in training or in use, and its output node; the input is called "x"."""
        graph = Graph()
        value = graph.input("x", (None, self.in_features))
        for place, layer in enumerate(self.layers):
            value = layer.apply(graph, value, str(place), training)
        return graph, value


def shapes_of(layers, kind):
    """The shapes of the layers' "parameters" or "statistics" by name."""
    return {f"{place}.{name}": shape for place, layer in enumerate(layers)
            for name, shape in getattr(layer, kind)().items()}


def _kind(shape, real=np.float64):
    """The dtype of what has this shape: counts have none."""
    return np.int64 if shape == () else real


def _sizes(layers):
    """Features that layers take and give, one after the other; ValueError where neighbours do not fit."""
    start = next(place for place, layer in enumerate(layers) if layer.sizes())
    inputs = width = layers[start].sizes()[0] * math.prod(layer.pool for layer in layers[:start])
    giver = 0
    for place, layer in enumerate(layers):
        takes, gives = layer.sizes() or (width, width // layer.pool)
        if takes != width:
            raise ValueError(f"layer {place} takes {takes} features, but layer {giver} gives {width}: make them equal")
        if width % layer.pool:
            raise ValueError(f"layer {place} makes one feature of {layer.pool}, but layer {giver} gives {width}: make "
                             f"it a multiple of {layer.pool}")
        if layer.sizes() or layer.pool > 1:
            giver = place
        width = gives
    return inputs, width
