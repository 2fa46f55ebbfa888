"""Compiles kernels to object code, keeps the code on disk, loads it: the only place with compile flags.

A kernel is a plain Python function whose last three parameters are `context, low, high`; those before them are its
operands, int64, or float64 where annotated `float`. It returns 0, or a positive status. It is called with the
address of a row of the program, from which the operands are read in the order of the parameters, after HEADER cells.

To compile a kernel for a dtype, every name that it and its helpers read from their modules is bound anew: the names
of `_primitives` to LLVM instructions and constants of the target, helper functions to inlined copies of themselves,
other kernels to external symbols, and float literals to `real`. The result is one self-contained object file for each
kernel and dtype, which a later process loads without importing Numba.
"""

import contextlib
import ctypes
import gc
import hashlib
import os
import sys
import threading
import types
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from . import _primitives
from ._cache import Cache
from ._target import host

CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
_FOLDER, _PACKAGE = Path(__file__).parent, __name__.rpartition(".")[0]
_SIGNATURE = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 5)
_BRIEF = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork waits for a compilation, whose locks nobody would release in the child
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_loaded = {}  # symbol -> address
HEADER = 3  # cells of a row before the operands: kernel address, units, cost of a unit
compiled = []  # symbols compiled, not loaded from disk, by this process and its helpers; tests and `warmup` read it
kernels = []  # every function that was marked


def kernel(function, name=None):
    """Mark a function as compiled on its own and called by address or by symbol; by default under its own name."""
    function.__name__ = function.__qualname__ = name or function.__name__
    function.is_kernel = True
    kernels.append(function)
    return function


def by_feature(function):
    """Make the kernel for programs by feature (see `dense_by_feature`) of the same source: `function.by_feature`."""
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    copy.__module__, copy.__annotations__ = function.__module__, function.__annotations__
    copy.bound = {"BY_FEATURE": True}
    function.by_feature = kernel(copy, f"{function.__name__}_by_feature")


def address(function, dtype):
    """The address of `function` compiled for `dtype`; compiles or loads it on first use."""
    with _lock:
        return _load(function, np.dtype(dtype))


def caller(function, dtype):
    """A Python callable `(row, context, low, high) -> status` on the compiled kernel; it releases the GIL."""
    return _SIGNATURE(address(function, dtype))


def brief_caller(function, dtype):
    """A Python callable on a row for what takes microseconds: it keeps the GIL, and says nothing of its status."""
    address(function, dtype)
    return _BRIEF(_loaded[f"{symbol(function, dtype)}_alone"])


def operands(function):
    """The operand names of a kernel, in the order of its row."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount - 3]


def symbol(function, dtype):
    """The name of a compiled kernel, the same in every process; a user's kernel has its code's digest in it."""
    module = function.__module__.replace(".", "_")
    return f"{module}_{function.__name__}{_foreign(function)}_{np.dtype(dtype).name}"


def _load(function, dtype):
    name = symbol(function, dtype)
    if name not in _loaded:
        for other in _externals(function):
            _load(other, dtype)
        code = _disk().read(key(name))
        engine = _link(build(function, dtype) if code is None else code)
        _loaded[f"{name}_alone"] = engine.get_function_address(f"{name}_alone")
        _loaded[name] = engine.get_function_address(name)
        llvm.add_symbol(f"{name}_direct", engine.get_function_address(f"{name}_direct"))
    return _loaded[name]


def build(function, dtype):
    """Compile a kernel; its object code goes to disk and is returned."""
    dtype, name = np.dtype(dtype), symbol(function, dtype)
    with _lock, _uncollected():
        from . import _compile

        try:
            code = _compile.compile_object(function, dtype, name, _target_machine(), CHECKED)
        except Exception as error:
            if not _foreign(function):
                raise
            reason = " ".join(line for line in str(error).splitlines()[:2] if "nopython" not in line)
            raise TypeError(f"the formula of {function.__name__!r} cannot be compiled: {reason} Write it with "
                            "operators, numbers and the functions of hotloop.kernels.elementary") from error
        compiled.append(name)
        _disk().write(key(name), code)
    return code


@contextlib.contextmanager
def _uncollected():
    """No garbage collection: it would look through all of Numba again and again, a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def missing(wanted):
    """Those of `wanted`, pairs of function and dtype, and of what they call, that are neither loaded nor on disk."""
    found = {}
    todo = list(wanted)
    for function, dtype in todo:
        name = symbol(function, dtype)
        if name not in found and name not in _loaded:
            found[name] = function, np.dtype(dtype)
            todo += [(other, dtype) for other in _externals(function)]
    return [job for name, job in found.items() if not _disk().holds(key(name))]


def extent(function):
    """How much code a kernel is compiled from."""
    return sum(len(part.__code__.co_code) for part in _reached(function) if part is function or is_helper(part))


def folder():
    """Where object code is kept, or None."""
    return _disk().folder


def _externals(function):
    """The other kernels that a kernel calls by symbol."""
    return [other for other in _reached(function) if hasattr(other, "is_kernel") and other is not function]


def _reached(function):
    """The functions that are compiled into a kernel or called by it, itself first, each once, in a fixed order."""
    found, todo = [], [function]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found.append(current)
        if current is function or not hasattr(current, "is_kernel"):
            todo += [value for value in names_read(current).values() if is_helper(value)]
    return found


def names_read(function):
    """The names that a function's own code takes from its module or closure, with their values."""
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    found = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found | {name: cell.cell_contents for name, cell in cells}


def is_helper(value):
    """Whether a name stands for a function to compile along: plain Python, and none of the primitives."""
    return isinstance(value, types.FunctionType) and value.__module__ != _primitives.__name__


_engines = []  # keep the code mapped


def _link(code):
    """Map object code into the process."""
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


def _engine():
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())


def _target_machine():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = host()
    x86 = llvm.get_process_triple().startswith(("x86_64", "i686", "amd64"))
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="static" if x86 else "default",
        codemodel="jitdefault", jit=True)


@cache
def _surroundings():
    """Digest of what all object code depends on: the kernels' sources, compiler, Python, processor, checking mode."""
    from importlib.metadata import version  # takes 30 ms to load

    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    parts = [llvmlite.__version__, version("numba"), np.__version__, sys.version, llvm.get_process_triple(),
             repr(host()), str(CHECKED)]
    digest.update("\0".join(parts).encode())
    return digest


def key(name):
    """The name of a kernel's entry on disk: a digest of everything that its object code depends on."""
    digest = _surroundings().copy()
    digest.update(name.encode())
    return f"{name}-{digest.hexdigest()[:32]}"


@cache
def _foreign(function):
    """Digest of the code that a kernel takes from outside this package, which `_surroundings` does not cover."""
    parts = [part for part in _reached(function) if not part.__module__.startswith(_PACKAGE)]
    digest = hashlib.sha256(b"\0".join(map(_fingerprint, parts)))
    return f"_{digest.hexdigest()[:16]}" if parts else ""


def _fingerprint(function):
    """A function's own code and the numbers it reads, wherever it stands."""
    numbers = {name: value for name, value in names_read(function).items() if not callable(value)}
    codes, words = [function.__code__], [repr(numbers)]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        plain = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
        words += [code.co_code.hex(), repr(plain), repr(code.co_names), repr(code.co_varnames)]
    return "\0".join(words).encode()


@cache
def _disk():
    return Cache.default()
