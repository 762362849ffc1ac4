"""The versions of all files that a model depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn._models.checks import Blame, BrokenContract
from wasi_nn.backend import Backend
from wasi_nn.backend import files as model_files
from wasi_nn.errors import ModelNotFound, RuntimeFailure


class FilesChanged(RuntimeFailure):
    """A model's files are no longer those that were looked at."""


def versions(
    backend: Backend, paths: Sequence[Path], config: Mapping[str, Any]
) -> tuple[model_files.Version, ...]:
    """The versions of all files that the model of ``paths`` depends on; of a folder, those of the
    files in it. Raises ``ModelNotFound`` for a missing file, and ``RuntimeFailure`` where the
    backend fails."""
    found: list[model_files.Version] = []
    with model_files.looking_once():
        with Blame(backend):
            files = [*backend.files(paths, config)]
            if not all(isinstance(file, Path) for file in files):
                raise BrokenContract("files must give a sequence of Path")
        for file in files:
            try:
                found += model_files.versions(file)
            except ModelNotFound as error:
                if file in paths:
                    raise
                raise ModelNotFound(f"{error} ({paths[0]} needs this file)") from error
    return tuple(found)
