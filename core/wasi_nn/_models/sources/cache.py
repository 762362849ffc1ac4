"""The folder of downloaded models. It has a largest size: what was used least recently goes first.

An entry is a folder with the files of one model, named by a digest of their URLs. It appears when
all of them are there and checked. Until then it is `KEY.part`, which the next try goes on with.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn._models import digests
from wasi_nn.backend.files import Version
from wasi_nn.errors import UsageError

#: Names another folder for downloads.
VARIABLE = "WASI_NN_MODELS_CACHE"
DEFAULT_SIZE = 50 << 30
_PART = ".part"
_OLD = ".old"
_ABOUT = "about.json"
# What a download leaves free on the disk, in bytes.
_SPARE = 64 << 20


class Cached(NamedTuple):
    """A model in the cache. ``sources`` are its URLs, ``size`` is in bytes, ``used`` in seconds
    since 1970. ``paths`` and ``digests`` belong to the sources, in order; they are empty for a
    download that is not complete."""

    key: str
    sources: tuple[str, ...]
    size: int
    used: float
    licence: str | None = None
    paths: tuple[Path, ...] = ()
    digests: tuple[str, ...] = ()


def key_of(sources: Sequence[str]) -> str:
    """The name of the entry of a model with these URLs."""
    return sha256(json.dumps(list(sources)).encode()).hexdigest()[:32]


def default_folder() -> Path:
    """The user's folder for downloads."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("wasi-nn", appauthor=False)) / "models"


class Cache:
    """The downloads of one user. Several processes may use it. Models whose keys are ``kept`` are
    never removed to make room."""

    def __init__(
        self, folder: Path | None = None, most: int = DEFAULT_SIZE, kept: Collection[str] = ()
    ) -> None:
        self.folder = folder or default_folder()
        self.most = most
        self._kept = kept

    def find(self, key: str) -> Cached | None:
        """The complete entry of a key. From now on it is the one that was used last."""
        found = self._read(key)
        if found is not None and found.paths:
            with suppress(OSError):
                os.utime(self.folder / key / _ABOUT)
            return found
        return None

    def entries(self) -> list[Cached]:
        """All entries, those in part too, the one that was used last at the end."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        keys = {name.removesuffix(_PART) for name in names if (self.folder / name).is_dir()}
        found = (self._read(key) for key in keys if not key.endswith(_OLD))
        return sorted((one for one in found if one), key=lambda one: one.used)

    @contextmanager
    def locked(self, key: str, waiting: Callable[[], None]) -> Iterator[Path]:
        """The folder for a download of this key, which nobody else downloads in the block.
        ``waiting`` is called if another process does it now."""
        self._make_private(self.folder)
        lock = self._lock(key)
        if not lock.try_acquire():
            waiting()
            lock.acquire()
        part = self.folder / f"{key}{_PART}"
        try:
            self._make_private(part)
            yield part
        finally:
            with suppress(OSError):
                part.rmdir()  # (If there is nothing to go on with.)
            lock.release()

    def complete(self, key: str, cached: Cached) -> Cached:
        """Make an entry of a download whose files, by their names in ``cached.paths``, are there
        and checked. It takes the place of the former one."""
        part, entry, old = (self.folder / f"{key}{end}" for end in (_PART, "", _OLD))
        names = [path.name for path in cached.paths]
        for path in part.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        checked = [Version.of(name, (part / name).stat())[1:] for name in names]
        about = {
            "sources": cached.sources,
            "licence": cached.licence,
            "files": names,
            "digests": cached.digests,
            "checked": checked,
        }
        (part / _ABOUT).write_text(json.dumps(about, indent=1))
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            entry.rename(old)
        part.rename(entry)
        shutil.rmtree(old, ignore_errors=True)
        made = self._read(key)
        assert made is not None
        return made

    def make_room(self, key: str, size: int) -> None:
        """Remove what was used least recently until ``key`` may have ``size`` bytes. Raises
        ``UsageError`` if that is too much."""
        others = [one for one in self.entries() if one.key != key]
        taken = sum(one.size for one in others)
        for one in others:
            if taken + size <= self.most:
                break
            if one.key not in self._kept and self.remove(one.key):
                taken -= one.size
        if taken + size > self.most:
            others_take = f", and {taken} are taken by models with names" if taken else ""
            raise UsageError(
                f"the model takes {size} bytes or more, and all downloads at most {self.most}"
                f"{others_take}: remove a model (wasi-nn models list), or raise cache-size in the "
                "models file"
            )
        here = self._read(key)
        further = size - (here.size if here else 0)
        free = shutil.disk_usage(self.folder).free
        if further > 0 and free < further + _SPARE:
            raise UsageError(
                f"the model takes {further} bytes more, and {self.folder} has {free} bytes free"
            )

    def remove(self, key: str) -> bool:
        """Remove an entry, and what there is of it in part, unless it is being downloaded now."""
        lock = self._lock(key)
        if not lock.try_acquire():
            return False
        try:
            for end in (_PART, _OLD, ""):
                shutil.rmtree(self.folder / f"{key}{end}", ignore_errors=True)
        finally:
            lock.release()
        return True

    def _read(self, key: str) -> Cached | None:
        entry, part = self.folder / key, self.folder / f"{key}{_PART}"
        try:
            about = json.loads((entry / _ABOUT).read_text())
            paths = tuple(entry / name for name in about["files"])
            for path, digest, checked in zip(
                paths, about["digests"], about["checked"], strict=True
            ):
                seen = Version.of(os.path.realpath(path), path.stat())
                if list(seen[1:]) == checked:
                    digests.remember(seen, digest)
            return Cached(
                key,
                tuple(about["sources"]),
                _size(entry) + _size(part),
                (entry / _ABOUT).stat().st_mtime,
                about["licence"],
                paths,
                tuple(about["digests"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            # It was damaged, or removed meanwhile, or was never complete.
            place = part if part.is_dir() else entry
        try:
            return Cached(key, (), _size(place), place.stat().st_mtime)
        except OSError:
            return None

    def _lock(self, key: str) -> Any:
        from filelock import FileLock, Timeout

        class Lock(FileLock):
            def try_acquire(self) -> bool:
                try:
                    self.acquire(timeout=0)
                except Timeout:
                    return False
                return True

        return Lock(self.folder / f"{key}.lock", mode=0o600)

    def _make_private(self, folder: Path) -> None:
        """Make a folder that no other user can change. Raises ``UsageError`` if another one can."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {folder} for downloads: {error.strerror or error} "
                f"({VARIABLE} names another one)"
            ) from error
        ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not ours or stat.S_IMODE(status.st_mode) & 0o022:
            raise UsageError(
                f"another user can change the models in {folder}: make it yours alone (chmod 700), "
                f"or name another folder in {VARIABLE}"
            )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(root, name)).st_size
    return total
