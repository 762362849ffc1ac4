"""The digests that the operator pins models to, checked before a library reads a byte.

A file is read once per version of it. Whoever replaces it afterwards makes another version, which
is read again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from wasi_nn._models.file_versions import FilesChanged
from wasi_nn.backend.files import Version
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import ModelNotFound, NotAllowed, RuntimeFailure

_CHUNK = 1 << 20
_MAX_KNOWN = 1024
_known: dict[Version, str] = {}


def check(files: Sequence[Version], pin: str, stopped: Stopped) -> None:
    """Raise ``NotAllowed`` unless the files of a model have the digests of ``pin``, in order.

    Raises ``FilesChanged`` if a file is replaced meanwhile, and ``RuntimeFailure`` once ``stopped``
    says so."""
    wanted = pin.split(",")
    if len(wanted) != len(files):
        names = ", ".join(os.path.basename(file.path) for file in files)
        raise NotAllowed(
            "pins", f"the model has {len(files)} files ({names}), and {len(wanted)} are pinned"
        )
    for file, expected in zip(files, wanted, strict=True):
        found = of(file, stopped)
        if found != expected:
            raise NotAllowed("pins", f"{file.path} has the digest {found}, not {expected}")


def remember(file: Version, digest: str) -> None:
    """Take a file's digest from a record of an earlier process, which read this version of it."""
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[file] = digest


def forget() -> None:
    """Read every file again."""
    _known.clear()


def of(file: Version, stopped: Stopped = never) -> str:
    """The digest of a file, as in a pin. Raises ``FilesChanged``, ``ModelNotFound`` and
    ``RuntimeFailure`` as ``check`` does."""
    known = _known.get(file)
    if known is not None:
        return known
    from hashlib import sha256

    total = sha256()
    try:
        with open(file.path, "rb") as opened:
            while chunk := opened.read(_CHUNK):
                total.update(chunk)
                if stopped():
                    raise RuntimeFailure("the guest was stopped while its model was checked")
            if Version.of(file.path, os.fstat(opened.fileno())) != file:
                raise FilesChanged(f"{file.path} was replaced while it was read")
    except OSError as error:
        raise ModelNotFound(f"cannot read {file.path}: {error.strerror or error}") from error
    remember(file, f"sha256:{total.hexdigest()}")
    return _known[file]
