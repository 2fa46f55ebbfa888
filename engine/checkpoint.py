"""Checkpoints: a whole trainer in one safetensors file.

The tensors are those of `Trainer.state_dict`, so every reader of safetensors finds the parameters under torch's
names. All else is JSON in the file's metadata. Loading executes nothing: layers, losses and optimizers are looked up
in the package's own tables and checked by their constructors, and every shape is compared with the file's before an
array of that size is made.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping

import numpy as np

from .checks import given
from .layers import LAYERS
from .lbfgs import LBFGS
from .losses import LOSSES
from .network import Network, Sequential
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES
from .trainer import Trainer

FORMAT = 1  # of the description; to be raised when an older reader would misread it
_KEY = "hotloop"
_SETTINGS = ("batch_size", "backend", "threads", "dtype", "seed", "shuffle", "check_finite", "l1", "l2",
             "penalize_bias", "clip_value", "clip_norm", "loss_weights")
_DTYPES = {"float32": "F32", "float64": "F64"}  # safetensors' names


def save(trainer, path):
    """Write `trainer` to `path`, replacing a file of that name; `load` continues from it bit for bit.

    Tensors: parameters ("0.weight", (out, in)), statistics ("1.running_mean") and the optimizer's states
    ("optimizer.exp_avg.0.weight"), in the trainer's dtype; counts in int64. Metadata: architecture, loss, optimizer,
    schedule, settings and progress. May be called between steps and from callbacks, in the middle of an epoch too. At
    every moment `path` holds the old file or the new one, whole; a process that is killed may leave a temporary file,
    .hotloop-*, beside it. Raises OSError where the file cannot be written and ValueError where a value is not finite or
    `path` is a folder or device; then nothing has changed.
    """
    from safetensors.numpy import save as serialize

    if not isinstance(trainer, Trainer):
        raise TypeError(f"save takes a Trainer, got {given(trainer)}; the parameters of a network alone are "
                        "`net.state_dict()`, for safetensors or numpy.savez")
    state = trainer.state_dict()
    _check_finite(state)
    text = json.dumps(_describe(trainer), allow_nan=False)
    _write(os.path.realpath(os.fsdecode(path)), serialize(state, {_KEY: text}))


def load(path, backend=None, threads=...):
    """The trainer that `save` wrote to `path`.

    backend, threads: as for `Trainer`, in place of the saved ones. Raises FileNotFoundError where there is no file,
    ValueError for a file that is damaged, of another format, or describes what this version does not know. Memory is
    bounded by a small multiple of the file's size, whatever the file says.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fsdecode(path)
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for its other end
        raise ValueError(f"{path} is a folder or device: give the name of a checkpoint")
    changed = {"backend": backend} if backend is not None else {}
    changed |= {"threads": threads} if threads is not ... else {}
    try:
        with safe_open(path, framework="numpy") as file:
            return _restore(file, changed)
    except (SafetensorError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot load {path}: {error}") from error


def _describe(trainer):
    """All of a trainer but its tensors, as JSON values."""
    settings = {name: getattr(trainer, name) for name in _SETTINGS} | {"dtype": trainer.dtype.name}
    return {"format": FORMAT, "network": _network(trainer.net), "loss": _each(trainer.loss, _entry),
            "optimizer": _entry(trainer.optimizer),
            "schedule": trainer.schedule and _entry(trainer.schedule), "trainer": settings,
            "progress": trainer.progress()}


def _network(net):
    """A network's architecture: layers in a row, or layers by name and the steps from inputs to outputs."""
    if isinstance(net, Sequential):
        return {"layers": [_entry(layer) for layer in net.layers], "seed": net.seed}
    return {"modules": {name: _entry(module.layer) for name, module in net.modules.items()}} | net.description()


def _each(given, change):
    """What is made of a thing, or of each in a list or mapping."""
    if isinstance(given, Mapping):
        return {name: change(one) for name, one in given.items()}
    return [change(one) for one in given] if isinstance(given, list | tuple) else change(given)


def _entry(thing):
    """A layer, loss, optimizer or schedule as its kind and its constructor's arguments, which are its attributes."""
    return {"kind": type(thing).__name__} | {name: _plain(value) for name, value in vars(thing).items()}


def _plain(value):
    """An argument as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return _entry(value) if type(value) in SCHEDULES.values() else value


# loading


def _restore(file, changed):
    network, loss, optimizer, schedule, settings, progress = _description(file.metadata())
    if "layers" in network:
        layers = [_make(LAYERS, entry, f"layer {place}") for place, entry in enumerate(network["layers"])]
        net = Sequential(*layers, seed=network["seed"])
    else:
        if not isinstance(network["modules"], dict):
            raise ValueError(f"modules must map names to layers, got {network['modules']!r}")
        net = Network.described(network, {name: _make(LAYERS, entry, f"layer {name}")
                                          for name, entry in network["modules"].items()})
    if isinstance(loss, dict) and "kind" not in loss:
        loss = {name: _make(LOSSES, one, f"loss {name}") for name, one in loss.items()}
    elif isinstance(loss, list):
        loss = [_make(LOSSES, one, "loss") for one in loss]
    else:
        loss = _make(LOSSES, loss, "loss")
    optimizer = _make(OPTIMIZERS | {"LBFGS": LBFGS}, optimizer, "optimizer")
    schedule = None if schedule is None else _make(SCHEDULES, schedule, "schedule")
    if not isinstance(settings["dtype"], str) or settings["dtype"] not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {settings['dtype']!r}")
    state = _tensors(file, _shapes(net, optimizer), _DTYPES[settings["dtype"]])
    trainer = Trainer(net, loss, optimizer, schedule=schedule, **settings | changed)
    trainer.resume(progress)
    trainer.load_state_dict(state)
    return trainer


def _description(metadata):
    """The parts of a description; ValueError where it has others, or values of other types."""
    if _KEY not in (metadata or {}):
        raise ValueError("the file was not written by hotloop.save: use safetensors and `load_state_dict`")
    description = json.loads(metadata[_KEY], parse_constant=_no_number)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else description
        raise ValueError(f"its format is {found!r}, but this version of hotloop reads format {FORMAT}")
    parts = "network", "loss", "optimizer", "schedule", "trainer", "progress"
    _expect(description, ("format", *parts), "the description")
    network = description["network"]
    chain = not isinstance(network, dict) or "modules" not in network
    _expect(network, ("layers", "seed") if chain else ("modules", "steps", "inputs", "outputs", "seed"), "network")
    _expect(description["trainer"], _SETTINGS, "trainer")
    _expect(description["progress"], ("epoch", "updates", "position", "rows", "loss_sum"), "progress")
    if chain and not isinstance(network["layers"], list):
        raise ValueError(f"layers must be a list, got {network['layers']!r}")
    for name in ("shuffle", "check_finite", "penalize_bias"):
        if not isinstance(description["trainer"][name], bool):
            raise ValueError(f"{name} must be true or false, got {description['trainer'][name]!r}")
    return (description[part] for part in parts)


def _no_number(text):
    raise ValueError(f"the description holds {text}")


def _expect(value, names, what):
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"{what} must have {', '.join(names)}; got {value!r}")


def _make(kinds, entry, what):
    """The layer, loss, optimizer or schedule that `entry` describes; arguments left out take their defaults."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{what} is no known kind but {entry!r}: choose one of {', '.join(kinds)}, or run "
                         "first what defines it, such as operation(...) or custom_loss(...)")
    try:
        made = kinds[kind](**{name: _argument(value, f"{what}, {name}") for name, value in entry.items()
                              if name != "kind"})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: {error}") from None
    if _entry(made) | entry != _entry(made):  # a constructor that converts would accept what `save` never writes
        raise ValueError(f"{what} must be as {_entry(made)}, got {entry}")
    return made


def _argument(value, what):
    """What `_plain` made of an argument, or what constructors check anyway."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return [_make(SCHEDULES, part, what) for part in value]
    return value


def _shapes(net, optimizer):
    """Names and shapes of the tensors that a trainer of this network has."""
    states = {f"optimizer.{state}.{name}": shape for state in optimizer.states() for name, shape in net.shapes.items()}
    return net.shapes | net.statistics | states


def _tensors(file, shapes, dtype):
    """The file's tensors, read only after names, shapes and dtypes are as they must be."""
    found = set(file.keys())
    if found != shapes.keys():
        raise ValueError(f"the architecture misses tensors {sorted(shapes.keys() - found)} in the file, which has "
                         f"{sorted(found - shapes.keys())} besides")
    for name, shape in shapes.items():
        tensor, kind = file.get_slice(name), "I64" if shape == () else dtype
        if tuple(tensor.get_shape()) != shape or tensor.get_dtype() != kind:
            raise ValueError(f"tensor {name} must be {kind} of shape {shape}, got {tensor.get_dtype()} of shape "
                             f"{tuple(tensor.get_shape())}")
    state = {name: file.get_tensor(name) for name in shapes}
    _check_finite(state)
    return state


def _check_finite(state):
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds values that are not finite")


# writing


def _write(path, content):
    """Put `content` into the file `path`, which at every moment is the old one or the new one."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is a folder or device: give the name of a file")
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".hotloop-{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):  # the new file is in place; some file systems cannot do more
            _sync_folder(folder)


def _sync_folder(folder):
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
