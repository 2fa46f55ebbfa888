"""Arrays on a CUDA device: what others made, which is read where it lies, and what the cuda backend gives them."""

import numpy as np

from hotloop.kernels import _cuda, _steps
from hotloop.kernels.data import check_reals, take_parameters

_CUDA = 2, 13  # DLPack's numbers for memory of a CUDA device, and for what it shares with the computer


class DeviceArray:
    """A C-contiguous array on the device.

    Libraries for CUDA take it by `__cuda_array_interface__` (version 3), such as torch.as_tensor(array, device="cuda"),
    cupy.asarray and numba.cuda.as_cuda_array; NumPy by a copy, np.asarray(array). Slices of rows are views.
    """

    def __init__(self, address, shape, dtype, owner):
        self.address, self.shape, self.dtype = address, tuple(shape), np.dtype(dtype)
        self._owner = owner  # keeps the memory

    @classmethod
    def empty(cls, shape, dtype):
        """A new array of zeros."""
        memory = _cuda.Memory(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return cls(memory.address, shape, dtype, memory)

    @property
    def ndim(self):
        """The number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self):
        """Bytes of all numbers."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self):
        """What other libraries read it by; all work on it is done."""
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3,
                "strides": None, "stream": None}

    def __len__(self):
        """The number of rows."""
        return self.shape[0]

    def __getitem__(self, rows):
        """A view of some rows, a slice of step 1."""
        if not isinstance(rows, slice):
            raise TypeError(f"rows of an array on the device are a slice, got {rows!r}: take np.asarray(array), or a "
                            "library for CUDA, for others")
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of an array on the device are a slice of step 1, got {rows}")
        size = self.nbytes // max(len(self), 1)
        return DeviceArray(self.address + first * size, (max(last - first, 0), *self.shape[1:]), self.dtype, self)

    def __array__(self, dtype=None, copy=None):
        """A copy in the computer's memory; ValueError where none may be made."""
        if copy is False:
            raise ValueError("an array on the device has to be copied: leave copy=False out")
        found = np.empty(self.shape, self.dtype)
        _cuda.fetch(self.address, found)
        return found if dtype is None else found.astype(dtype)

    def __repr__(self):
        """Shape and dtype."""
        return f"DeviceArray{self.shape}, {self.dtype}"


def lies_there(x):
    """Whether x is an array on a CUDA device."""
    if isinstance(x, np.ndarray | np.generic | list | tuple | int | float):
        return False
    if hasattr(x, "__cuda_array_interface__"):
        return True
    return hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in _CUDA


def wrapped(x, name):
    """An array of somebody else as a DeviceArray, without a copy, when all work on it is done.

    Raises ValueError unless it is C-contiguous, has no mask, and lies on the device that is in use.
    """
    if isinstance(x, DeviceArray):
        return x
    _cuda.finish()
    if hasattr(x, "__cuda_array_interface__"):
        told = x.__cuda_array_interface__
        address, shape, dtype = told["data"][0], told["shape"], np.dtype(told["typestr"])
        strides = told.get("strides")
        if told.get("mask") is not None:
            raise ValueError(f"{name} has a mask, which nothing here reads: give an array without one")
    else:
        number, own = int(x.__dlpack_device__()[1]), _cuda.device_number()
        if number != own:
            raise ValueError(f"{name} lies on device {number}, but device {own} is in use: move it there, or choose "
                             "the device with CUDA_VISIBLE_DEVICES")
        address, shape, dtype, strides = _cuda.dlpack(x)
    whole = tuple(int(np.prod(shape[axis + 1 :])) * dtype.itemsize for axis in range(len(shape)))
    if strides is not None and tuple(strides) != whole and 0 not in shape:
        raise ValueError(f"{name} lies on the device with strides {tuple(strides)}: make it C-contiguous there")
    result = DeviceArray(address, shape, dtype, x)
    _cuda.allow(result, address, result.nbytes)
    return result


def finite(array):
    """Whether all numbers of a DeviceArray of float32 or float64 are finite; a kernel looks."""
    size = int(np.prod(array.shape))
    if not size:
        return True
    most = float(np.finfo(array.dtype).max)
    return not _run(check_reals.cuda, array.dtype, (-(-size // check_reals.cuda.span), 1),
                    {"source": array.address, "size": size, "least": -most, "most": most})


def taken(memory, block, name, dtype):
    """A parameter of a block that begins at the address `memory`, as a new DeviceArray in torch's shape."""
    shape = block.shapes()[name]
    result, kernel = DeviceArray.empty(shape, dtype), take_parameters.cuda
    rows = shape[1] if name == block.matrix else 1
    _run(kernel, dtype, (-(-rows // kernel.height), -(-block.outputs // kernel.span)),
         {"w": memory, "height": block.inputs + 1, "first": 0 if name == block.matrix else block.inputs,
          "inputs": rows, "outputs": block.outputs, "target": result.address})
    return result


def _run(kernel, dtype, grid, values):
    """Run a kernel that stands by itself, in rectangles down and across; whether it returned what is not 0."""
    row = np.zeros(_cuda.HEAD + len(values), np.int64)
    down, across = grid
    row[: _cuda.HEAD] = kernel.kind, down * kernel.height, kernel.height, across * kernel.span, kernel.span, 0
    for cell, name in enumerate(_cuda.operands(kernel), _cuda.HEAD):
        if kernel.__annotations__.get(name) is float:
            row[cell : cell + 1].view(dtype)[0] = values[name]
        else:
            row[cell] = values[name]
    table, context = _cuda.Memory.of(row), _cuda.Memory(_steps.CONTEXT * 8)
    cells = np.empty(_steps.CONTEXT, np.int64)
    _cuda.launch(_cuda.launcher((kernel,), dtype), grid, kernel.near * dtype.itemsize, table.address, context.address)
    context.read(cells)
    return bool(cells[_steps.FLAWED])
