"""Tell the kind of a PyTorch archive before torch sees it.

Unpickling runs any code that a file contains. So files that torch would unpickle are recognised by
the names in their zip directory and refused, with a better reason than torch's. This is not what
protects the host from a hostile archive: a guest's models run in a worker.
"""

from __future__ import annotations

import io
import zipfile
from enum import Enum
from pathlib import Path

from wasi_nn.backend import Builder
from wasi_nn.errors import RuntimeFailure


class Kind(Enum):
    """The kinds of archives that can be run."""

    TORCHSCRIPT = "TorchScript"
    EXPORTED = "torch.export"
    AOTINDUCTOR = "AOTInductor"


_EXPORT = (
    "export it with torch.jit.save(torch.jit.trace(module.eval(), example), path) or "
    "torch.export.save(torch.export.export(module.eval(), (example,)), path)"
)
_ENTRY, _FLATBUFFER = b"PK\x03\x04", b"PTMF"


def recognise(builder: Builder) -> Kind:
    """The kind of an archive. Raises ``RuntimeFailure`` for anything else, and says what to do."""
    try:
        source = opened(builder)
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            kind = _kind(names)
            if not isinstance(source, str):
                _check_bytes(source, kind)
            return kind
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError) as error:
        raise RuntimeFailure(f"the model is not a PyTorch archive: {error}; {_EXPORT}") from error


def opened(builder: Builder) -> str | io.BytesIO:
    """The builder in a form that ``zipfile`` accepts."""
    return str(builder) if isinstance(builder, Path) else io.BytesIO(builder)


def _kind(names: list[str]) -> Kind:
    tails = {name.partition("/")[2] for name in names}
    if any(tail.startswith("data/aotinductor/") for tail in tails):
        return Kind.AOTINDUCTOR
    if "constants.pkl" in tails and any(tail.startswith("code/") for tail in tails):
        return Kind.TORCHSCRIPT
    if "archive_format" in tails or any(tail.startswith("models/") for tail in tails):
        return Kind.EXPORTED
    if "data.pkl" in tails:
        raise RuntimeFailure(
            "the file is a pickled module or state dict, which runs code when it is loaded and is "
            f"refused; {_EXPORT}"
        )
    raise RuntimeFailure(f"the archive is neither TorchScript nor torch.export; {_EXPORT}")


def _check_bytes(source: io.BytesIO, kind: Kind) -> None:
    # torch tells a model's format by its first eight bytes. It must take these for an archive too:
    # otherwise it reads another model than the one that is described here.
    start = bytes(source.getbuffer()[:8])
    if start[:4] != _ENTRY or start[4:] == _FLATBUFFER:
        raise RuntimeFailure(f"the archive does not begin with its first entry; {_EXPORT}")
    if kind is not Kind.TORCHSCRIPT:
        raise RuntimeFailure(
            f"{kind.value} archives run code when they are loaded: a guest cannot bring one; "
            "register it by its path"
        )
