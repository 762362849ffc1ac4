"""Counting the files that a guest has open, for engines whose WASI does not.

Each one takes a descriptor of this process. Without a limit, one guest can take all of them, and
then the host itself can open nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from wasi_nn.escaping import logger
from wasi_nn.runtime import WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES
from wasi_nn.wasm.module import WasmFile

__all__ = ["OpenFiles", "opens_files", "warn"]

log = logger("wasi_nn")
#: WASI's errno for too many open files.
_MFILE = 33
_SUCCESS = 0


def opens_files(file: WasmFile, wasi: WasiConfig) -> bool:
    """Whether a guest of this module can open files."""
    return bool(wasi.preopens) and any(
        item.name == "path_open" and item.module in WASI_MODULES for item in file.imports
    )


def warn(limit: int) -> None:
    """Log that a guest has all of its files open."""
    log.warning("quota files: the guest has %d files open, the most that it may", limit)


class OpenFiles:
    """The descriptors that a guest has opened, at most ``limit``. The functions of WASI go through
    its methods, which return the errno."""

    def __init__(self, limit: int, refused: defaultdict[str, int]) -> None:
        """``refused`` counts what the limit refuses."""
        self._limit = limit
        self._refused = refused
        self._open: set[int] = set()

    def path_open(self, call: Callable[[], int], opened: Callable[[], int]) -> int:
        """``call`` opens a file and returns the errno. ``opened`` gives its descriptor."""
        if len(self._open) >= self._limit:
            self._refused["files"] += 1
            if self._refused["files"] == 1:
                warn(self._limit)
            return _MFILE
        errno = call()
        if errno == _SUCCESS:
            self._open.add(opened())
        return errno

    def fd_close(self, call: Callable[[], int], descriptor: int) -> int:
        """``call`` closes a descriptor."""
        errno = call()
        if errno == _SUCCESS:
            self._open.discard(descriptor)
        return errno

    def fd_renumber(self, call: Callable[[], int], source: int, target: int) -> int:
        """``call`` closes ``target`` and gives its number to ``source``."""
        errno = call()
        if errno == _SUCCESS and source != target:
            self._open.discard(target)
            if source in self._open:
                self._open.discard(source)
                self._open.add(target)
        return errno
