"""Where one file of a model comes from, as the operator writes it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote

from wasi_nn._models.sources.url import scheme_of, split
from wasi_nn.errors import UsageError

SCHEMES = ("https", "http", "hf", "s3", "file")
_FORMS = {
    "hf": "hf://OWNER/REPOSITORY/FILE, with @REVISION after the repository",
    "s3": "s3://BUCKET/KEY",
    "https": "https://HOST/FILE",
    "http": "http://HOST/FILE",
}
# Other characters of a name become underscores: it is a file's name here.
_ODD = re.compile(r"[^\w.+=@-]")
_MAX_NAME = 120


class About(NamedTuple):
    """What a source says of a file before it is downloaded: the size in bytes, and the licence.
    None for what it does not say."""

    size: int | None = None
    licence: str | None = None


#: Is told the bytes that are here, and the bytes of the whole file if they are known.
Progress = Callable[[int, "int | None"], None]
#: Makes room for a file of so many bytes. Raises ``UsageError`` if there is none.
Room = Callable[[int], None]


class Remote(Protocol):
    """A file that is not on this machine."""

    def about(self) -> About:
        """Ask the source. Raises ``UsageError`` if it does not have the file."""

    def download(self, to: Path, room: Room, progress: Progress) -> None:
        """Write the file to ``to``, and go on with what is there from a download that was cut off.
        Raises ``UsageError``; what is there remains for the next time."""


def remote(text: str, digest: str | None = None) -> Remote:
    """The file of a URL. The modules that reach it are imported here. Raises ``UsageError`` for a
    URL that is not understood, and for one that is not safe without a ``digest``."""
    scheme, parts = scheme_of(text), split(text)
    if scheme not in SCHEMES:
        raise UsageError(f"{text}: a model comes by {', '.join(SCHEMES)} or a path, not {scheme}")
    if not parts.netloc or not parts.path.strip("/"):
        raise UsageError(f"{text}: write {_FORMS[scheme]}")
    if parts.username is not None or parts.password is not None:
        # It would be written to a file, and to logs.
        raise UsageError(f"{_without_login(parts)}: leave the login out of the URL")
    if scheme == "hf":
        from wasi_nn._models.sources.hub import HubFile

        return HubFile(text)
    if scheme == "s3":
        from wasi_nn._models.sources.bucket import BucketFile

        return BucketFile(text)
    from wasi_nn._models.sources.web import WebFile

    return WebFile(text, digest is not None)


def file_name(text: str) -> str:
    """The name of a source's file in a folder of downloads."""
    path = text if scheme_of(text) is None else unquote(split(text).path)
    name = _ODD.sub("_", os.path.basename(path.rstrip("/")))[-_MAX_NAME:].lstrip(".")
    return name or "model"


def is_this_machine(host: str | None) -> bool:
    """Whether a URL's host is this machine, where nobody else hears or changes what is said."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _without_login(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
