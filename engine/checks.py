"""Checks on arguments; every message says what was given and what is allowed."""

import math

import numpy as np


def integer(name, value, low, high=None):
    """`value` as an int of `low` to `high`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    value = value.__index__()
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {high}, got {value}")
    return value


def number(name, value, low=None, below=None, open_low=False):
    """`value` as a finite float of `low` (or more than it, with open_low) to less than `below`."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or np.ndim(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    value = float(value)
    allowed = ["finite"]
    if low is not None:
        allowed.append(f"{'more than' if open_low else 'at least'} {low}")
    if below is not None:
        allowed.append(f"less than {below}")
    fits = math.isfinite(value) and (low is None or value > low or (value == low and not open_low))
    if not fits or (below is not None and value >= below):
        raise ValueError(f"{name} must be {' and '.join(allowed)}, got {value}")
    return value


def numbers(name, values, low):
    """`values` as a tuple of finite floats of at least `low`."""
    if np.ndim(values) != 1:
        raise ValueError(f"{name} must be a list of numbers, got {values!r}")
    return tuple(number(f"{name}[{place}]", value, low) for place, value in enumerate(values))


def switch(name, value):
    """`value` as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real_dtype(dtype):
    """`dtype`, a name or a type, as the NumPy dtype float32 or float64."""
    known = {name for kind in (np.float32, np.float64) for name in (np.dtype(kind).name, kind, np.dtype(kind))}
    if not isinstance(dtype, str | type | np.dtype) or dtype not in known:
        raise ValueError(f'dtype must be "float32" or "float64", got {dtype!r}')
    return np.dtype(dtype)


def kind(name, value, kinds):
    """Refuse what is not an object of one of the classes `kinds`, a dict by name."""
    if type(value) not in kinds.values():
        raise TypeError(f"{name} must be one of {', '.join(kinds)}, got {given(value)}")


def given(value):
    """How a message names a value; for a class, what was probably meant."""
    return f"the class {value.__name__}: write {value.__name__}(...)" if isinstance(value, type) else repr(value)
