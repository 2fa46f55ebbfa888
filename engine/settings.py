"""Settings: dataclasses whose fields are checked when they are made and whenever they change."""

from collections.abc import Mapping
from dataclasses import field, fields
from functools import partial

from . import checks


class Settings:
    """Base of dataclasses whose fields were made by the functions below."""

    def __setattr__(self, name, value):
        """Check every setting, also one that is changed during training."""
        settings = {setting.name: setting.metadata["check"] for setting in fields(self)}
        if name not in settings:
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}, only {', '.join(settings)}")
        super().__setattr__(name, settings[name](name, value))


def checked(check, *default):
    """A field whose values are what `check(name, value)` makes of them; required where there is no default."""
    return field(metadata={"check": check}, **({"default": default[0]} if default else {}))


def number(*default, **limits):
    """A number, of 0 and more unless `limits` say otherwise."""
    return checked(partial(checks.number, **{"low": 0} | limits), *default)


def positive(*default):
    """A number above 0."""
    return number(*default, open_low=True)


def fraction(*default):
    """A number of 0 to less than 1."""
    return number(*default, below=1)


def integer(*default, low=1):
    """An integer of `low` and more."""
    return checked(partial(checks.integer, low=low), *default)


def switch(*default):
    """True or False."""
    return checked(checks.switch, *default)


def choice(*allowed):
    """One of these values, the first by default."""

    def check(name, value):
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value

    return checked(check, allowed[0])


def pair(default, *limits):
    """Two numbers within `limits`."""

    def check(name, value):
        if not hasattr(value, "__len__") or len(value) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r}")
        parts = zip(value, limits, strict=True)
        return tuple(checks.number(f"{name}[{i}]", part, **limit) for i, (part, limit) in enumerate(parts))

    return checked(check, default)


def milestones(*default):
    """Integers that rise, from 1 on."""

    def check(name, value):
        if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
            raise TypeError(f"{name} must be a list of integers, got {value!r}")
        value = tuple(checks.integer(f"{name}[{i}]", part, 1) for i, part in enumerate(value))
        if any(before >= after for before, after in zip(value[:-1], value[1:], strict=True)):
            raise ValueError(f"{name} must rise, got {value}")
        return value

    return checked(check, *default)
