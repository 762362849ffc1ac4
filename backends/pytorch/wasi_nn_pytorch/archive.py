"""Tell the kind of a PyTorch archive before torch sees it.

Unpickling runs any code that a file contains. So files that torch would unpickle are recognised by
the names in their zip directory and refused. TorchScript keeps its code as source text in the
archive. In a guest's archive, that text is searched for torch's functions that access files.
"""

from __future__ import annotations

import io
import re
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
_MAX_CODE = 64 << 20
_MAX_NESTED = 16
# Only names, because TorchScript can rename torch, and torch.save is ops.aten.save there.
_REACHES_FILES = re.compile(
    rb"\b(from_file|read_file|write_file|save|load_tensor|load_library)\b", re.IGNORECASE
)
# getattr as torch writes it. Several literals could be joined to hide a name.
_PLAIN_GETATTR = re.compile(rb'\bgetattr\((?:(?!getattr)[\w.()])*, "[^"\\]*"\)')


def recognise(builder: Builder) -> Kind:
    """The kind of an archive. Raises ``RuntimeFailure`` for anything else, and says what to do."""
    try:
        source = opened(builder)
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            kind = _kind(names)
            if not isinstance(source, str):
                _check_start(source)
                _check_bytes(archive, kind, source.getbuffer().nbytes)
                _check_code(source)
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


def _check_start(source: io.BytesIO) -> None:
    """torch tells a model's format by its first eight bytes. It must take these for an archive too:
    otherwise it reads another model than the one that is checked here."""
    start = bytes(source.getbuffer()[:8])
    if start[:4] != _ENTRY or start[4:] == _FLATBUFFER:
        raise RuntimeFailure(f"the archive does not begin with its first entry; {_EXPORT}")


def _check_bytes(archive: zipfile.ZipFile, kind: Kind, size: int) -> None:
    """Check a model of bytes, because it comes from a guest. It must not access files or run native
    code. Damaged archives are refused here, because torch's own reader does not survive all of
    them."""
    if kind is not Kind.TORCHSCRIPT:
        raise RuntimeFailure(
            f"{kind.value} archives run code when they are loaded: a guest cannot bring one; "
            "register it by its path"
        )
    entries = archive.infolist()
    # torch compresses only code, not weights. An archive that expands far beyond its size was made
    # to exhaust the host's memory or time.
    if sum(entry.file_size for entry in entries) > size + _MAX_CODE:
        raise RuntimeFailure("the archive holds far more than its size: a guest cannot bring it")
    for entry in entries:
        # Reading an entry checks its CRC.
        archive.read(entry)


def _check_code(source: io.BytesIO) -> None:
    """Search the code with torch's own reader. It ignores the case of names, and a crafted archive
    can show other entries to another reader."""
    import torch

    source.seek(0)
    reader = torch._C.PyTorchFileReader(source)
    for name in reader.get_all_records():
        if not name.lower().startswith("code/"):
            continue
        code = reader.get_record(name)
        if _REACHES_FILES.search(code) or _hides_names(code):
            raise RuntimeFailure(
                f"the TorchScript code in {name} reaches files: a guest cannot bring it; "
                "register it by its path"
            )


def _hides_names(code: bytes) -> bool:
    # Each level of nesting takes one pass. torch nests only a few levels.
    for _ in range(_MAX_NESTED):
        code, found = _PLAIN_GETATTR.subn(b"_", code)
        if not found:
            break
    return b"getattr" in code
