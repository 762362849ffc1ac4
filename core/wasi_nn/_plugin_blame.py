"""What a plugin's mistakes are called: by the plugin, its version and its own line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.escaping import logger, visible

# Whose frames say nothing about a plugin: those that import it and call it.
_OTHERS = ("wasi_nn", "pluggy", "pkgutil", "importlib")
_MAX_PRINTED = 200


def explain(error: BaseException, module: str = "") -> str:
    """One line for the plugin's author, with the place of the error if there is one: a line of the
    plugin's ``module``, or else of what it called."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, SyntaxError) and error.filename:
        # (Its text has the file's name and the line, without the folder.)
        said, place = error.msg, f"{error.filename}:{error.lineno}"
        return visible(f"{type(error).__name__}: {said} ({place})")
    own = other = ""
    trace = error.__traceback__
    while trace is not None:
        place, by = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})", _of(trace.tb_frame)
        if by and by == module.partition(".")[0]:
            own = place
        elif by not in _OTHERS:
            other = place
        trace = trace.tb_next
    return visible(f"{type(error).__name__}: {error}{own or other}")


def _of(frame: FrameType) -> str:
    """The package that a frame's code belongs to."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@contextmanager
def heard(title: str) -> Iterator[None]:
    """Keep what a plugin prints in the block out of standard output, which is the guest's, and log
    it with the plugin's ``title``."""
    before = sys.stdout
    heard = _Heard(before)
    if before is not None:
        sys.stdout = heard
    try:
        yield
    finally:
        sys.stdout = before
        text = " ".join("".join(heard.end()).split())
        if text:
            # (A list of the plugins needs no logging.)
            logger("wasi_nn").warning("%s prints when it is loaded: %s", title, text[:_MAX_PRINTED])


class _Heard:
    """Standard output, but for what this thread writes until the end. (A plugin may keep it.)"""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._printed: list[str] | None = []
        self._thread = threading.get_ident()

    def end(self) -> list[str]:
        printed, self._printed = self._printed, None
        return printed or []

    def write(self, text: str) -> int:
        if self._printed is None or threading.get_ident() != self._thread:
            return int(self._stream.write(text))
        self._printed.append(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
