"""The worker for a model of files, which all guests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn._models.isolation import uses_device
from wasi_nn.backend import Backend
from wasi_nn.backend.files import Version
from wasi_nn.backend.shared import MadeOnce, Stopped
from wasi_nn.types import ExecutionTarget

if TYPE_CHECKING:
    from wasi_nn._worker.process import Worker

_workers: MadeOnce[Worker] = MadeOnce()


def readable(backend: Backend, paths: Sequence[Path], files: Sequence[Version]) -> list[Path]:
    """What a model's worker may read: the model's files, and their folder if a config may name
    files there."""
    beside = [path.parent for path in paths] if backend.reads_beside else []
    return [*(Path(file.path) for file in files), *paths, *beside]


def shared_worker(
    backend: Backend,
    paths: Sequence[Path],
    files: tuple[Version, ...],
    target: ExecutionTarget,
    stopped: Stopped,
) -> Worker:
    """The worker for a model of files, one for all guests and configs. Once it has died, another
    one."""
    from wasi_nn._worker.process import Worker

    read, confined = readable(backend, paths, files), not uses_device(target)
    return _workers.get(
        (kind_of(backend), tuple(paths), files[: len(paths)], confined),
        lambda: Worker(backend, read, stopped=stopped, confined=confined),
        stopped,
        lambda worker: not worker.lost,
    )


def kind_of(backend: Backend) -> str:
    """The same text for each object of a backend."""
    return f"{type(backend).__module__}.{type(backend).__qualname__}"
