"""Networks: layers in a row, with parameters drawn from a seed."""

from collections.abc import Mapping

import numpy as np

from . import checks
from .graph import Graph
from .initializers import initialize
from .layers import LAYERS, Dense


class Sequential:
    """Layers applied one after the other.

    layers: at least one Dense; the sizes of neighbours must fit. seed: of the initial parameters (see `Dense`).
    Parameters are named as in torch: "0.weight" (out, in), "0.bias". A new network holds them in float64; while a
    Trainer trains it, it holds them in the trainer's dtype. Raises TypeError for what is no layer, ValueError where
    sizes do not fit or a layer stands in two places.
    """

    def __init__(self, *layers, seed=0):
        for place, layer in enumerate(layers):
            if isinstance(layer, list | tuple):
                raise TypeError(f"layer {place} is a {type(layer).__name__}: give the layers one by one, "
                                "Sequential(*layers)")
            checks.kind(f"layer {place}", layer, LAYERS)
            if isinstance(layer, Dense) and any(layer is other for other in layers[:place]):
                raise ValueError(f"layer {place} stands in the network twice: make a new Dense for each place")
        dense = [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, Dense)]
        if not dense:
            raise ValueError("a network needs at least one Dense layer")
        for (before, left), (after, right) in zip(dense[:-1], dense[1:], strict=True):
            if left.out_features != right.in_features:
                raise ValueError(f"layer {after} takes {right.in_features} features, but layer {before} gives "
                                 f"{left.out_features}: make them equal")
        self.layers, self.seed = layers, checks.integer("seed", seed, 0)
        self.in_features, self.out_features = dense[0][1].in_features, dense[-1][1].out_features
        self.shapes = {f"{place}.{name}": shape for place, layer in dense for name, shape in layer.parameters().items()}
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
        """Copies of the parameters by name, in torch's order and shapes."""
        if self.owner is not None:
            return {name: self.owner.read_parameter(name) for name in self.shapes}
        values = {name: np.empty(shape) for name, shape in self.shapes.items()}
        for name, first, rows in self._rows():
            values[name][first : first + len(rows)] = rows
        return values

    def load_state_dict(self, state):
        """Take over parameters: a mapping of all names to arrays of the same shapes (anything NumPy can read).

        Raises KeyError for missing or unknown names, ValueError for other shapes or values that are not finite,
        TypeError for what are no real numbers; then nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict must map names to arrays, got {state!r}")
        missing, unknown = self.shapes.keys() - state.keys(), state.keys() - self.shapes.keys()
        if missing or unknown:
            raise KeyError(f"state_dict misses {sorted(missing)} and has unknown {sorted(unknown)}: "
                           f"the network has {list(self.shapes)}")
        values = {}
        for name, shape in self.shapes.items():
            value = np.asarray(state[name])
            if value.dtype.kind not in "fiu":
                raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
            with np.errstate(over="ignore"):  # what is too large for the trainer's dtype is not finite in it
                values[name] = np.array(value, np.float64 if self.owner is None else self.owner.dtype)
            if not np.isfinite(values[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        self.give(values)

    def give(self, values):
        """Set all parameters, checked before."""
        if self.owner is None:
            self._values = values
        else:
            for name, value in values.items():
                self.owner.write_parameter(name, value)

    def take(self, owner):
        """Hand the parameters over to `owner`, which keeps them from now on."""
        for name, first, rows in self._rows():
            owner.write_parameter(name, rows, first)
        self.owner, self._values = owner, None

    def _rows(self):
        """All parameters as (name, first row, rows), drawn from the seed where there are no others."""
        values = self._values if self.owner is None else self.state_dict()
        if values is not None:
            yield from ((name, 0, value) for name, value in values.items())
            return
        for place, layer in enumerate(self.layers):
            if isinstance(layer, Dense):
                generator = np.random.default_rng([self.seed, place])
                for name, first, rows in initialize(generator, layer.init, layer.parameters()):
                    yield f"{place}.{name}", first, rows

    def graph(self):
        """A graph of the network and its output node; the input is called "x"."""
        graph = Graph()
        value = graph.input("x", (None, self.in_features))
        for place, layer in enumerate(self.layers):
            value = layer.apply(graph, value, str(place))
        return graph, value
