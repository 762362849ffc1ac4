"""Sound models, from which hostile ones are made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from wasi_nn_conformance import graphs


def canonical(encoding: str) -> list[bytes]:
    """The first files of the canonical graphs."""
    return [files[0].read_bytes() for files in graphs.canonical(encoding).files.values()]


def canonical_parts(encoding: str) -> list[tuple[bytes, ...]]:
    """All files of each canonical graph."""
    found = graphs.canonical(encoding).files.values()
    return [tuple(file.read_bytes() for file in files) for files in found]


def written(write: Callable[[Path], list[Path]]) -> list[bytes]:
    """The files that a writer of models makes."""
    with tempfile.TemporaryDirectory() as folder:
        return [path.read_bytes() for path in write(Path(folder))]
