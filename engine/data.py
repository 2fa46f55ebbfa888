"""Checks on data: everything a kernel will read is right before it runs, or there is a Python exception."""

import numpy as np

from .device_arrays import finite, lies_there


def features_there(x, columns, dtype, check_finite, name):
    """`x`, a DeviceArray, if it can be read where it lies; else what `features` raises, or TypeError for its dtype."""
    if x.ndim != 2 or x.shape[1] != columns:
        raise ValueError(f"{name} must have shape (rows, {columns}), got {x.shape}")
    if x.dtype != dtype:
        raise TypeError(f"{name} lies on the device in {x.dtype}, but the trainer computes in {np.dtype(dtype)}: "
                        "convert it there, or give the trainer this dtype")
    if check_finite and not finite(x):
        features(np.asarray(x), columns, dtype, check_finite, name)
    return x


def features(x, columns, dtype, check_finite=True, name="X"):
    """`x` as a C-contiguous array (rows, columns) of `dtype`; itself where it is one already, never changed.

    Takes any real dtype (bool, integers, floating point of any width and byte order), strided or read-only arrays,
    and what NumPy makes such arrays of. Raises TypeError for other dtypes; ValueError for other shapes and, if
    check_finite, for NaN and infinity, naming row and column.
    """
    array = real_array(x, name)
    if array.ndim != 2 or array.shape[1] != columns:
        hint = ""
        if array.ndim == 1 and (columns == 1 or len(array) == columns):
            hint = f": reshape it to {(-1, 1) if columns == 1 else (1, columns)}"
        raise ValueError(f"{name} must have shape (rows, {columns}), got {array.shape}{hint}")
    return _converted(array, dtype, check_finite, name)


def enough_rows(method, rows, batch_size, net, training=False):
    """Refuse data without rows, or with so many that a batch of it is too small for a layer of `net`."""
    if not rows:
        raise ValueError(f"{method} needs at least one row, got X with none")
    least, name = net.least_rows(training)
    batch = min(batch_size, rows)
    smallest = rows % batch or batch
    if smallest < least:
        raise ValueError(f"layer {name}, {net.modules[name].layer!r}, needs at least {least} rows in a batch, but "
                         f"{method} got {rows} rows, in batches of {batch} and {smallest}: change batch_size or rows")


def targets(y, rows, loss, outputs, dtype, check_finite=True, name="y"):
    """The checked targets of `rows` predictions and their kind, "labels" (int64) or "target" (`dtype`, 2-D).

    Numbers of the prediction's shape must lie in the loss's range; labels are 0 ... outputs - 1, or what it ignores.
    """
    array = as_array(y, name)
    table = array.ndim == 2 and array.shape[1] == outputs and outputs > 1
    if "labels" in loss.kinds and not (table and "target" in loss.kinds):
        return _matched(_labels(array, loss, outputs, name), rows, name), "labels"
    array = real_array(array, name)
    columns = loss.target_columns(outputs)
    if array.ndim == 1 and columns == 1:
        array = array.reshape(-1, 1)
    return _matched(_numbers(array, loss, columns, dtype, check_finite, name), rows, name), "target"


def sample_weights(weights, rows, dtype):
    """The checked weights of `rows` rows, finite and not negative, as a contiguous array (rows,) of `dtype`."""
    array = real_array(weights, "sample_weight")
    if array.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), one weight for each row; got {array.shape}")
    result = features(array.reshape(-1, 1), 1, dtype, name="sample_weight").ravel()
    if (result < 0).any():
        row = int((result < 0).argmax())
        raise ValueError(f"sample_weight must not be negative, got {array[row]} in row {row}")
    return result


def _numbers(array, loss, outputs, dtype, check_finite, name):
    array = features(array, outputs, dtype, check_finite, name)
    outside, allowed = loss.outside(array)
    if outside.any():
        row, column = np.unravel_index(int(outside.argmax()), array.shape)
        raise ValueError(f"targets of {type(loss).__name__} must {allowed}, but {name} holds {array[row, column]} in "
                         f"row {row}, column {column}")
    return array


def _matched(array, rows, name):
    if len(array) != rows:
        inputs = name.partition("[")[0].replace("y", "X", 1)
        raise ValueError(f"{inputs} has {rows} rows, but {name} has {len(array)} (shape {array.shape}): they must "
                         "agree")
    return array


def _labels(array, loss, classes, name):
    if array.dtype.kind not in "iu":
        table = f", or shape (rows, {classes}) for class probabilities" if "target" in loss.kinds else ""
        raise TypeError(f"class labels must be integers, got dtype {array.dtype} of shape {array.shape}: "
                        f"use {name}.astype(int){table}")
    if array.ndim != 1:
        raise ValueError(f"class labels must have shape (rows,), got {array.shape}: use {name}.ravel()")
    if len(array) and not (array.min() >= 0 and array.max() < classes):
        outside, counted = (array < 0) | (array >= classes), loss.counted(array)
        if counted is not None:
            outside &= counted
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(f"label {array[row]} in row {row} of {name} is outside 0 ... {classes - 1}, "
                             f"the {classes} outputs of the network")
    return np.ascontiguousarray(array, np.int64)


def as_array(x, name):
    """`x` as an array; TypeError or ValueError, with its name, for what cannot be one."""
    if x is None:
        raise TypeError(f"{name} must be an array, got None")
    if lies_there(x) and not hasattr(x, "__array__"):
        raise TypeError(f"{name} lies on a CUDA device, where it is not read: copy it to the computer's memory")
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None


def real_array(x, name):
    """`x` as an array of real numbers of any dtype; TypeError for others."""
    array = as_array(x, name)
    if array.dtype.kind not in "bfiu":
        advice = f"take {name}.real" if array.dtype.kind == "c" else f"use {name}.astype(float)"
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}: {advice}")
    return array


def _converted(array, dtype, check_finite, name):
    flags = array.flags
    ready = array.dtype == dtype and array.dtype.isnative and flags.c_contiguous and flags.aligned
    with np.errstate(over="ignore"):  # what is too large for float32 is found below
        result = array if ready else np.require(array, dtype, ["C", "A"])
    if check_finite and array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            suspicious = result.size and not np.isfinite(np.add.reduce(result, None))
        if suspicious:
            wrong = ~np.isfinite(result)
            if wrong.any():
                row, column = np.unravel_index(int(wrong.argmax()), result.shape)
                raise ValueError(f"{name} holds {array[row, column]} in row {row}, column {column}: remove or replace "
                                 f"such values, or switch the check off with check_finite=False")
    return result
