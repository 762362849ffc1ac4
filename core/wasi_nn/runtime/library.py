"""Native shared libraries: where they are, and functions of theirs that are cheap to call."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from wasi_nn.errors import Unavailable

__all__ = ["POINTER", "Once", "holding_gil", "lean", "load", "strings", "view_at"]

#: The type of an untyped pointer.
POINTER = ctypes.c_void_p
T = TypeVar("T")

_loaded: dict[str, ctypes.CDLL] = {}


class Once(Generic[T]):
    """Makes a thing when it is first asked for, once for all threads; what ``make`` raises comes
    out, and it is tried again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._made = lru_cache(maxsize=1)(make)
        # (lru_cache lets two threads make one each.)
        self._lock = threading.Lock()

    def __call__(self) -> T:
        with self._lock:
            return self._made()

    def forget(self) -> None:
        """Make it anew the next time."""
        self._made.cache_clear()


def load(
    variable: str,
    name: str,
    places: Sequence[Path] = (),
    help: str = "",
    sonames: Sequence[str] = (),
) -> ctypes.CDLL:
    """The shared library ``name`` (as in ``iwasm``): the file that the environment variable names,
    or else what the loader's path or one of the folders ``places`` has, or else one of the
    ``sonames`` (a distribution's package has no other name). Loaded once a process.

    Raises ``Unavailable`` with the reason, and ``help``, the way to get it."""
    given = os.environ.get(variable)
    if given:
        try:
            return _open(given)
        except OSError as error:
            reason = f"{variable} names {given}, which cannot be loaded: {error}"
            raise Unavailable(reason) from None
    file = _file_name(name)
    found = (str(place / file) for place in places if (place / file).exists())
    for candidate in (file, *found, *sonames):
        try:
            return _open(candidate)
        except OSError:
            continue
    raise Unavailable(f"{file} is not found; {help} and name it with {variable}")


def _open(path: str) -> ctypes.CDLL:
    if path not in _loaded:
        _loaded[path] = ctypes.CDLL(path)
    return _loaded[path]


def _file_name(name: str) -> str:
    if sys.platform == "win32":
        return f"{name}.dll"
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def holding_gil(library: ctypes.CDLL) -> ctypes.PyDLL:
    """The same library for calls that keep the GIL: right for getters, on which letting go of it
    would cost more than they take, and would let other threads in on every host call."""
    return ctypes.PyDLL(library._name, handle=library._handle)


def lean(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A C function with pointers as plain integers (typed pointers cost about 0.3 µs each on every
    call). A library that lacks it raises ``Unavailable``."""
    try:
        # Not by attribute, which would be shared with whoever else types the same function.
        function = library[name]
    except AttributeError:
        raise Unavailable(f"{library._name} has no function {name}") from None
    function.restype = result
    function.argtypes = arguments
    return function


def view_at(address: int, size: int) -> memoryview:
    """A writable view of memory that the caller does not own."""
    if not size:
        return memoryview(bytearray())
    return memoryview(_array(size).from_address(address)).cast("B")


# (A type that nobody keeps is made again: it takes longer than all the rest.)
@lru_cache(maxsize=256)
def _array(size: int) -> type[ctypes.Array[ctypes.c_ubyte]]:
    return ctypes.c_ubyte * size


def strings(texts: Sequence[str]) -> Any:
    """A C array of strings, which keeps their bytes alive."""
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
