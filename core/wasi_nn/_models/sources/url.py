"""Tell URLs from paths. Every host imports this, so it imports nothing for what is rare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(text: object) -> str | None:
    """The scheme of a URL, or None for anything else."""
    found = _URL.match(text) if isinstance(text, str) else None
    return found[1].lower() if found else None


def is_remote(text: object) -> bool:
    """Whether a file must be fetched."""
    return scheme_of(text) not in (None, "file")


def local_path(text: str) -> Path:
    """The path of ``file:///PATH``. Raises ``UsageError``."""
    from urllib.parse import unquote

    parts = split(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(f"{text}: write file:///PATH, with three slashes")
    return Path(unquote(parts.path))


def split(text: str) -> SplitResult:
    """The parts of a URL. Raises ``UsageError`` for a text that is not one."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{text!r:.200} is not a URL: {error}") from error
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        raise UsageError(f"{text!r:.200} is not a URL: write %20 for a blank")
    return parts
