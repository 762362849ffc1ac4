"""The files that a model's answers depend on, and which version of each is on disk.

A program names one file of a model. The library may read others: weights beside it, or the later
parts. The backend says which (``Backend.files``). A model is taken for the one that was loaded
before only if none of them has changed.
"""

from __future__ import annotations

import os
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.errors import ModelNotFound, RuntimeFailure

if TYPE_CHECKING:
    from wasi_nn.backend import Builder

__all__ = ["Kept", "Version", "descriptor_of", "hold", "looking_once", "version", "versions"]

# File systems stamp changes with a clock that moves in steps of up to 10 ms. Two changes in one
# step look the same, so a file is left alone in its first moments. In seconds.
_STEP = 0.02
_scope = threading.local()
# Where Linux has the files that this process holds open.
_DESCRIPTORS = "/proc/self/fd"
# By the identity of what a builder is a view of, while that exists.
_held: dict[int, int] = {}


class Version(NamedTuple):
    """What tells a file from what was or will be at its path: after each change, one of these
    differs. ``path`` has no symbolic links; the times are in nanoseconds, the size in bytes."""

    path: str
    device: int
    inode: int
    modified: int
    changed: int
    size: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Version:
        """The version that a status is of."""
        return cls(
            path,
            status.st_dev,
            status.st_ino,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_size,
        )


def version(path: Path) -> Version:
    """The version of a file that is at ``path`` now. Raises ``ModelNotFound``."""
    return Version.of(*_look(path))


def versions(path: Path) -> list[Version]:
    """The version of the file that is at ``path`` now; of a folder, those of all files in it.
    Raises ``ModelNotFound``."""
    real, status = _look(path)
    if stat.S_ISDIR(status.st_mode):
        return [version(inner) for inner in _inside(real)]
    return [Version.of(real, status)]


class looking_once:
    """A block in which this thread looks at each path once: the versions that it reads are those of
    one moment."""

    def __enter__(self) -> None:
        _scope.seen = {}

    def __exit__(self, *exception: object) -> None:
        del _scope.seen


class Kept:
    """A file that a graph reads again for each context. Where the system can (Linux), it stays the
    one that was there first, also when another is put in its place."""

    def __init__(self, path: Path) -> None:
        """Raises ``ModelNotFound``."""
        self._name = self._place = str(path)
        if os.path.isdir(_DESCRIPTORS):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ModelNotFound(f"model file {path}: {error.strerror or error}") from error
            self._hold(descriptor)
        self._seen: tuple[int, int, int] | None = self._look()

    @classmethod
    def of(cls, builder: Builder) -> Kept | bytes:
        """What a graph reads its model from: the builder's file, the one of ``descriptor_of``, or a
        copy of the bytes. Raises ``ModelNotFound``."""
        if isinstance(builder, Path):
            return cls(builder)
        descriptor = descriptor_of(builder)
        if descriptor is None or not os.path.isdir(_DESCRIPTORS):
            return bytes(builder)
        kept = cls.__new__(cls)
        kept._hold(os.dup(descriptor))
        # Nobody can change it.
        kept._seen = None
        return kept

    def _hold(self, descriptor: int) -> None:
        weakref.finalize(self, os.close, descriptor)
        self._place = f"{_DESCRIPTORS}/{descriptor}"

    @property
    def path(self) -> str:
        """A path of the file. Raises ``RuntimeFailure`` when its contents have changed."""
        if self._seen is not None and self._look() != self._seen:
            raise RuntimeFailure(
                f"{self._name} was changed after the graph was loaded: load the graph again"
            )
        return self._place

    def _look(self) -> tuple[int, int, int]:
        _, status = _look(Path(self._place))
        # A file that another one replaces has a new time of change too.
        return status.st_ino, status.st_mtime_ns, status.st_size


def descriptor_of(builder: memoryview) -> int | None:
    """The descriptor of a file that has exactly the builder's bytes, open during ``load``, for
    libraries that take only files. None if there is none: a worker has one for a model of one part,
    and its sandbox lets it make no file."""
    return _held.get(id(builder.obj))


def hold(builder: memoryview, descriptor: int) -> None:
    """Let ``descriptor_of`` give this descriptor, for as long as what the builder is a view of."""
    of = builder.obj
    _held[id(of)] = descriptor
    weakref.finalize(of, _held.pop, id(of)).atexit = False


def _look(path: Path) -> tuple[str, os.stat_result]:
    name = str(path)
    seen: dict[str, tuple[str, os.stat_result]] | None = getattr(_scope, "seen", None)
    if seen is None:
        return _status(name)
    if name not in seen:
        seen[name] = _status(name)
    return seen[name]


def _status(name: str) -> tuple[str, os.stat_result]:
    try:
        status = os.stat(name)
        age = time.time() - status.st_ctime
        if 0 <= age < _STEP:
            time.sleep(_STEP - age)
            status = os.stat(name)
        absolute = name.startswith(os.sep) or os.path.isabs(name)
        full = name if absolute else os.path.join(os.getcwd(), name)
        return _real(full, status.st_dev, status.st_ino), status
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelNotFound(f"model file {name}: {reason}") from error


@lru_cache(maxsize=1024)
def _real(name: str, device: int, inode: int) -> str:
    """A file's path without links, looked up once: it takes longer than all the rest."""
    return os.path.realpath(name)


def _inside(folder: str) -> Iterator[Path]:
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            # A link that leads back.
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            yield Path(root, name)
