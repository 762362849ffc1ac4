"""A guest's binary: from its file to what a program links."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn._host.guest_module import GuestModule
from wasi_nn._models.registry import detect
from wasi_nn.errors import UsageError
from wasi_nn.plugins import Plugins
from wasi_nn.wasm import module as wasm_module

if TYPE_CHECKING:
    from wasi_nn._host.linkable import Linkable


def read_guest(path: Path, limit: int, plugins: Plugins) -> bytes:
    """Read a guest's file, up to a byte above the limit, which suffices to refuse it. Raises
    ``UsageError`` for any other file, after its first bytes: a model can be larger than memory."""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                start = file.read(len(wasm_module.MAGIC))
                if wasm_module.is_wasm(start):
                    return start + file.read(limit)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    from wasi_nn._models import recognition

    raise UsageError(recognition.guest(path, detect(plugins, [path])))


def linkable(wasm: bytes) -> Linkable:
    """A guest's binary. Raises ``UsageError`` for a damaged one."""
    if wasm_module.is_component(wasm):
        # (Most guests are core modules, and start without the component ABI.)
        from wasi_nn._host.guest_component import GuestComponent

        return GuestComponent(wasm)
    return GuestModule(wasm)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Prefix a ``UsageError`` of the block with the guest's file."""
    try:
        yield
    except UsageError as error:
        if not where or type(error) is not UsageError:
            raise
        raise UsageError(f"{where}{error}") from error
