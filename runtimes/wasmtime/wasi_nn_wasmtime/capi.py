"""Functions of wasmtime's C library, which the PyPI package ``wasmtime`` ships.

Importing that package makes bindings for 1,200 functions, which takes longer than a small guest
runs. So we open its library ourselves and declare the functions that we call. Components are run
through the package, which opens the same library again: the loader gives both the same one. Our
types stay with our handle.

The declarations follow the headers (wasmtime/crates/c-api/include) of the versions in
``versions.py``. A test compares them with the bindings of the installed package.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from wasi_nn.backend import installed_version
from wasi_nn.errors import Unavailable
from wasi_nn.runtime.library import POINTER, holding_gil
from wasi_nn_wasmtime.versions import refusal

__all__ = [
    "POINTER",
    "Extern",
    "Instance",
    "Vector",
    "brief",
    "declared",
    "lean",
]

_NAMES = {"win32": "_wasmtime.dll", "darwin": "_libwasmtime.dylib"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Vector(ctypes.Structure):
    """Every ``wasm_…_vec_t``."""

    _fields_ = (("size", ctypes.c_size_t), ("data", POINTER))


class Extern(ctypes.Structure):
    """``wasmtime_extern_t``: a kind, and a function or a memory from the address ``of`` on."""

    _fields_ = (("kind", ctypes.c_uint8), ("holds", ctypes.c_uint64 * 3))
    #: Kinds.
    FUNCTION, MEMORY = 0, 3

    @property
    def of(self) -> int:
        return ctypes.addressof(self) + Extern.holds.offset


#: ``wasmtime_instance_t``.
Instance = ctypes.c_uint64 * 2


def _path() -> str:
    """The library's file, in the package's folder. Raises ``Unavailable``."""
    from importlib.util import find_spec

    found = find_spec("wasmtime")
    if found is None or not found.submodule_search_locations:
        raise Unavailable('wasmtime is not installed; pip install "wasi-nn[wasmtime]"')
    reason = refusal(installed_version("wasmtime"))
    if reason is not None:
        raise Unavailable(reason)
    # (Before Python 3.13, Android calls itself Linux.)
    system = "android" if hasattr(sys, "getandroidapilevel") else sys.platform
    folder = f"{system}-{_machine()}"
    file = os.path.join(folder, _NAMES.get(sys.platform, "_libwasmtime.so"))
    for place in found.submodule_search_locations:
        path = os.path.join(place, file)
        if os.path.exists(path):
            return path
    raise Unavailable(f"the package wasmtime has no {file}, a library for this system")


def _machine() -> str:
    if hasattr(os, "uname"):
        name = os.uname().machine
    else:
        import platform

        name = platform.machine()
    return _MACHINES.get(name.lower(), name)


#: The results and parameters of the functions, for the test that compares them.
declared: dict[str, tuple[Any, Any]] = {}
_LIBRARY = ctypes.CDLL(_path())
_HOLDING = holding_gil(_LIBRARY)


def lean(name: str, result: Any, *arguments: Any) -> Any:
    """A C function with pointers as plain integers, because a typed pointer costs about 0.3 µs per
    call. None if the library lacks it."""
    return _typed(_LIBRARY, name, result, arguments)


def brief(name: str, result: Any, *arguments: Any) -> Any:
    """A ``lean`` function that returns at once, runs no guest and waits for no lock. It keeps the
    GIL: where many threads run guests, each one that lets go of it has to wait for it again."""
    return _typed(_HOLDING, name, result, arguments)


def _typed(library: ctypes.CDLL, name: str, result: Any, arguments: Any) -> Any:
    try:
        # Not by attribute, which would be shared with whoever else types the same function.
        function = library[name]
    except AttributeError:
        return None
    function.restype = result
    function.argtypes = arguments
    declared[name] = (result, arguments)
    return function
