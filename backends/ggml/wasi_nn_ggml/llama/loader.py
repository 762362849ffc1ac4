"""Loads llama.cpp's library: its functions and its log.

llama-cpp-python and xllamacpp contain the same C library. Its C functions are called directly;
neither package is imported.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasi_nn.backend import installed_version
from wasi_nn.errors import Unavailable
from wasi_nn.escaping import logger
from wasi_nn.runtime.library import Once
from wasi_nn_ggml.llama import bindings
from wasi_nn_ggml.llama.provider import INSTALL, Provider, find

log = logger("wasi_nn.ggml")

_ERROR, _WARNING, _CONTINUED = 4, 3, 5
# What llama.cpp logs as warnings and errors when a computation is stopped on request, or finds its
# memory full, which is then made larger or emptied.
_EXPECTED = (
    "removing memory module entries", "failed to decode, ret = 2", "failed to decode, ret = 1",
    "failed to find a memory slot",
)  # fmt: skip


class Library:
    """llama.cpp's functions by name (``library.llama_decode(…)``), with their types declared."""

    def __init__(self, provider: Provider) -> None:
        # On an abort, ggml would start a debugger for a backtrace. That takes seconds.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        # Threads that spin while they wait for each other collapse on shared cores: beside other
        # work, two threads wrote 2 tokens/s spinning and 87 sleeping.
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
        self.provider = provider
        try:
            self._native = ctypes.CDLL(str(provider.path))
        except OSError as error:
            raise Unavailable(f"llama.cpp's library cannot be loaded: {error}") from error
        self._bind(self._native, bindings.FUNCTIONS)
        for name, types in bindings.OPTIONAL_FUNCTIONS.items():
            with suppress(Unavailable):
                self._bind(self._native, {name: types})
        mismatch = bindings.mismatch(self.llama_model_default_params())
        mismatch = mismatch or self._bind_context()
        if mismatch is not None:
            raise Unavailable(
                f"{provider.path} is an unknown version of llama.cpp ({mismatch}); {INSTALL}"
            )
        self._log = bindings.LogCallback(_receive)
        self.llama_log_set(self._log, None)
        self.llama_backend_init()
        #: The build number and commit that the library was built with. A library without them has
        #: 0, and its distribution with the version.
        self.build_number, self.commit = self._build()
        #: Why images are not supported; None if they are.
        self.no_vision = self._bind_vision(provider.vision)

    def __getattr__(self, name: str) -> Any:
        # For mypy only: the functions are set as attributes.
        raise AttributeError(name)

    @property
    def version(self) -> str:
        """The distribution and its version, or the file."""
        if not self.provider.distribution:
            return str(self.provider.path)
        return f"{self.provider.distribution} {installed_version(self.provider.distribution)}"

    def _bind(self, native: ctypes.CDLL, functions: dict[str, tuple[Any, tuple[Any, ...]]]) -> None:
        for name, (result, parameters) in functions.items():
            try:
                function = getattr(native, name)
            except AttributeError:
                raise Unavailable(
                    f"{native._name} has no function {name}: it is an unknown version of "
                    f"llama.cpp; {INSTALL}"
                ) from None
            function.restype = result
            function.argtypes = parameters
            setattr(self, name, function)

    def _bind_context(self) -> str | None:
        mismatch = None
        for params in bindings.CONTEXT_PARAMS:
            self._bind(self._native, bindings.context_functions(params))
            mismatch = bindings.mismatch(self.llama_context_default_params())
            if mismatch is None:
                break
        return mismatch

    def _bind_vision(self, path: Path | None) -> str | None:
        if path is None:
            return f"{self.provider.path} has no mtmd"
        try:
            native = self._native if path == self.provider.path else ctypes.CDLL(str(path))
            self._bind(native, bindings.VISION_FUNCTIONS)
        except (OSError, Unavailable) as error:
            return str(error)
        mismatch = bindings.mismatch(self.mtmd_context_params_default())
        if mismatch is None:
            self.mtmd_helper_log_set(self._log, None)
        return mismatch

    def _build(self) -> tuple[int, str]:
        try:
            number = ctypes.c_int.in_dll(self._native, "LLAMA_BUILD_NUMBER").value
            commit = ctypes.c_char_p.in_dll(self._native, "LLAMA_COMMIT").value or b"unknown"
        except ValueError:
            number, commit = 0, b"unknown"
        if commit == b"unknown" and self.provider.distribution:
            # The library was built without its commit. Its distribution identifies it.
            commit = self.version.encode()
        return number, commit.decode("utf-8", "replace")


def _load() -> Library:
    provider = find()
    if provider is None:
        raise Unavailable(f"llama.cpp is not installed; {INSTALL}")
    return Library(provider)


#: The library, loaded on first use. Raises ``Unavailable``, which says what to install.
library = Once(_load)


def freed_with(
    owner: object, free: Callable[[int], None], pointer: int, needs: object = None
) -> weakref.finalize[..., Any]:
    """Call ``free(pointer)`` once, when ``owner`` is garbage-collected. Keeps ``needs`` until then.

    At exit nothing is freed. Open streams, other threads and the program's exit handlers may use it
    until the end, and the system takes all memory back."""
    finalizer = weakref.finalize(owner, lambda needs: free(pointer), needs)
    finalizer.atexit = False
    return finalizer


class ErrorLog(threading.local):
    """The errors that llama.cpp logged in this thread, so that a failure can give a reason."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self, otherwise: str) -> str:
        """The last lines joined, or ``otherwise`` if there are none. Clears the log."""
        text = "; ".join(line for line in self.lines[-3:] if line)
        self.lines.clear()
        return text or otherwise


error_log = ErrorLog()
_level = threading.local()


def _receive(level: int, text: bytes | None, _: Any) -> None:
    # llama.cpp's log is for debugging. Its errors are reported as the reasons of failures.
    try:
        line = (text or b"").decode("utf-8", "replace").rstrip("\n")
        if level == _CONTINUED:
            level = getattr(_level, "last", 0)
        _level.last = level
        if level >= _ERROR and line.strip(". "):
            error_log.lines.append(line.strip())
            del error_log.lines[:-8]
        if line.strip(". "):
            notable = level >= _WARNING and not any(words in line for words in _EXPECTED)
            log.log(logging.INFO if notable else logging.DEBUG, "llama.cpp: %s", line)
    except Exception:  # an exception must not cross into C
        log.exception("llama.cpp's log could not be written")
