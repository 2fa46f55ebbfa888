"""Copies of kernels and their helpers with the names they read bound for one dtype and target."""

import types

import numpy as np

from . import _block, _primitives
from ._jit import names_read

_PRIMITIVES = _primitives.__name__, _block.__name__


class Specializer:
    """Copies functions with the names they read bound.

    bindings: constants of the target by name. lowering: what stands for a primitive, by its name; what a module of
    primitives has beside these is a helper as any other. helper: makes of a copied function what its callers call.
    kernel: `(function, dtype) -> what callers call` for another kernel.
    """

    def __init__(self, bindings, lowering, dtype, helper, kernel=None):
        self.bindings, self.lowering, self.dtype = bindings, lowering, dtype
        self.helper, self.kernel = helper, kernel
        self.real = np.dtype(dtype).type
        self.made = {}

    def bind(self, function):
        """A copy of `function` that reads specialised globals and holds its float literals as `real`."""
        scope = {"__name__": function.__module__, "__builtins__": __builtins__}
        bound = {name: self._value(name, value) for name, value in names_read(function).items()}
        cells = tuple(types.CellType(bound[name]) for name in function.__code__.co_freevars)
        scope.update(bound)
        copy = types.FunctionType(self._code(function.__code__), scope, function.__name__, None, cells)
        copy.__module__ = function.__module__
        return copy

    def _code(self, code):
        return code.replace(co_consts=tuple(
            self._literal(constant) for constant in code.co_consts))

    def _literal(self, value):
        """Floats, also those in tuples, as `real`."""
        if isinstance(value, _primitives.ByPrecision):
            return tuple(map(self.real, value if self.real is np.float64 else value.single))
        if type(value) is tuple:
            return tuple(map(self._literal, value))
        return self.real(value) if type(value) is float else value

    def _value(self, name, value):
        if isinstance(value, types.FunctionType):
            if value.__module__ in _PRIMITIVES and value.__name__ in self.lowering:
                return self.lowering[value.__name__]
            if hasattr(value, "is_kernel") and self.kernel is not None:
                return self.kernel(value, self.dtype)
            if value not in self.made:
                self.made[value] = self.helper(self.bind(value))
            return self.made[value]
        if name in self.bindings and any(getattr(module, name, None) is value for module in (_primitives, _block)):
            return self.bindings[name]
        return self._literal(value)
