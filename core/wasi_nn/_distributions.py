"""Entry points and versions of installed distributions, as ``importlib.metadata`` finds them.

Importing that module takes longer than loading all of our plugins: it brings the standard library's
mail parser and archives. Almost every distribution is a folder on ``sys.path``, which is read here;
if anything else may hold one, ``importlib.metadata`` is asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any, NamedTuple


class EntryPoint(NamedTuple):
    """What a distribution calls one of its objects; ``value`` is ``module:attribute``."""

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the object. Raises what its module raises."""
        module, _, names = self.value.partition("[")[0].replace(" ", "").partition(":")
        found: Any = import_module(module)
        for name in filter(None, names.split(".")):
            found = getattr(found, name)
        return found


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group. The first distribution of a name on ``sys.path`` counts."""
    folders = _folders()
    if folders is None:
        from importlib import metadata

        return [
            EntryPoint(entry.name, entry.value, entry.dist.name, entry.dist.version)
            for entry in metadata.entry_points(group=group)
            if entry.dist is not None
        ]
    return [entry for folder in folders.values() for entry in _read(folder, group)]


def installed_version(distribution: str) -> str:
    """The version of a distribution, or "" if it is not installed. Costs a program's start less
    than ``importlib.metadata.version``, and nothing the next time."""
    with suppress(LookupError):
        return _version(distribution, tuple(map(str, sys.path)))
    return ""


@lru_cache
def _version(distribution: str, paths: tuple[str, ...]) -> str:
    """Raises ``LookupError`` if it is not installed, which may change."""
    folders = _folders()
    if folders is not None:
        return _header(folders[_normal(distribution)]).get("version", "")
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise LookupError from None


def _folders() -> dict[str, str] | None:
    """The metadata folder of each distribution, by its normal name. None if there may be
    distributions that are not folders on ``sys.path``."""
    for finder in sys.meta_path:
        if finder != PathFinder and hasattr(finder, "find_distributions"):
            return None
    folders: dict[str, str] = {}
    # Python imports nothing from an entry that is not a str.
    for path in [path for path in sys.path if isinstance(path, str)]:
        try:
            names = os.listdir(path or ".")
        except NotADirectoryError:
            return None  # (An archive.)
        except (OSError, ValueError):
            continue
        if path.lower().endswith(".egg"):
            return None
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix.lower() in ("dist-info", "egg-info"):
                folders.setdefault(_normal(stem.partition("-")[0]), os.path.join(path, name))
    return folders


def _normal(distribution: str) -> str:
    return distribution.lower().replace("-", "_").replace(".", "_")


def _read(folder: str, group: str) -> Iterator[EntryPoint]:
    lines = _lines(folder, "entry_points.txt")
    section = f"[{group}]"
    if section not in lines:
        return
    header = _header(folder)
    here = False
    for line in lines:
        if line.startswith("["):
            here = line == section
        elif here and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(
                name.strip(), value.strip(), header.get("name", ""), header.get("version", "")
            )


def _header(folder: str) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in _lines(folder, "METADATA") or _lines(folder, "PKG-INFO"):
        key, colon, value = line.partition(":")
        if not colon:
            break
        header.setdefault(key.lower(), value.strip())
    return header


def _lines(folder: str, name: str) -> list[str]:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file]
    except OSError:
        return []
