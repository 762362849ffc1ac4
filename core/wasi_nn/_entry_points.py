"""The entry points of installed distributions, as ``importlib.metadata`` finds them.

Importing that module takes longer than loading all of our plugins: it brings the standard library's
mail parser and archives. Almost every distribution is a folder on ``sys.path``, which is read here;
if anything else may hold one, ``importlib.metadata`` is asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
        module, _, attributes = self.value.partition("[")[0].partition(":")
        found: Any = import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            found = getattr(found, attribute)
        return found


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group. The first distribution of a name on ``sys.path`` counts."""
    others = any(
        hasattr(finder, "find_distributions") for finder in sys.meta_path if finder != PathFinder
    )
    folders = None if others else _folders()
    if folders is None:
        from importlib import metadata

        return [
            EntryPoint(entry.name, entry.value, entry.dist.name, entry.dist.version)
            for entry in metadata.entry_points(group=group)
            if entry.dist is not None
        ]
    return [entry for folder in folders for entry in _read(folder, group)]


def _folders() -> list[str] | None:
    """The metadata folder of each distribution. None if ``sys.path`` has more than folders."""
    folders: dict[str, str] = {}
    for path in sys.path:
        try:
            names = os.listdir(path or ".")
        except NotADirectoryError:
            return None  # (An archive.)
        except OSError:
            continue
        if path.lower().endswith(".egg"):
            return None
        for name in names:
            stem, dot, suffix = name.lower().rpartition(".")
            if dot and suffix in ("dist-info", "egg-info"):
                distribution = stem.partition("-")[0].replace(".", "_")
                folders.setdefault(distribution, os.path.join(path, name))
    return list(folders.values())


def _read(folder: str, group: str) -> Iterator[EntryPoint]:
    lines = _lines(folder, "entry_points.txt")
    section = f"[{group}]"
    if section not in lines:
        return
    header: dict[str, str] = {}
    for line in _lines(folder, "METADATA") or _lines(folder, "PKG-INFO"):
        key, colon, value = line.partition(":")
        if not colon:
            break
        header.setdefault(key.lower(), value.strip())
    here = False
    for line in lines:
        if line.startswith("["):
            here = line == section
        elif here and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(
                name.strip(), value.strip(), header.get("name", ""), header.get("version", "")
            )


def _lines(folder: str, name: str) -> list[str]:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file]
    except OSError:
        return []
