"""The folders that a guest in the browser can read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import Preopen

# The page gets the names of all files when the guest starts.
_MAX_ENTRIES = 100_000


def trees(preopens: Sequence[Preopen], files: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Each folder as the page reads it: names to trees, and to ``(number, size)`` for a file, whose
    path is added to ``files``. Links are followed to files in the same folder alone.

    Raises ``UsageError`` for a folder that the guest may write to, and for too many files."""
    made = []
    for preopen in preopens:
        if preopen.writable:
            raise UsageError(
                f"a guest in the browser cannot write to {preopen.host}: give it for reading "
                f"(--dir {preopen.host}::{preopen.guest}:readonly, or Preopen(…, writable=False))"
            )
        made.append((preopen.guest, _tree(preopen.host.resolve(), files)))
    return made


def _tree(root: Path, files: list[Path]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    folders = [(root, made)]
    count = 0
    while folders:
        folder, entries = folders.pop()
        for entry in os.scandir(folder):
            count += 1
            if count > _MAX_ENTRIES:
                raise UsageError(
                    f"{root} has more than {_MAX_ENTRIES} files, the most that a guest in the "
                    "browser can be given"
                )
            try:
                entry.name.encode()
                if entry.is_dir(follow_symlinks=False):
                    below: dict[str, Any] = {}
                    entries[entry.name] = below
                    folders.append((Path(entry.path), below))
                elif entry.is_file() and Path(entry.path).resolve().is_relative_to(root):
                    entries[entry.name] = (len(files), entry.stat().st_size)
                    files.append(Path(entry.path))
            except (OSError, UnicodeEncodeError):
                continue  # It is gone, or no guest can name it.
    return made
