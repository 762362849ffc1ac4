"""What a user sees of a download."""

from __future__ import annotations

import time

from wasi_nn._cli.messages import complain, show_row
from wasi_nn._models.sources.fetching import Teller
from wasi_nn._models.sources.source import About, file_name
from wasi_nn._units import shown_size

_ROW_SECONDS = 0.2
_MAX_NAME = 28


class DownloadRow(Teller):
    """Prints a line with the size and the licence before each download, and shows on a terminal
    how far it is."""

    def __init__(self) -> None:
        self._name = ""
        self._begun = self._shown = 0.0
        self._first: int | None = None

    def begins(self, source: str, about: About) -> None:
        """See ``Teller``."""
        size = "of unknown size" if about.size is None else shown_size(about.size)
        licence = f", licence {about.licence}" if about.licence else ""
        complain(f"downloading {source} ({size}{licence})")
        self._name = file_name(source)[-_MAX_NAME:]
        self._begun, self._first = time.monotonic(), None

    def goes_on(self, done: int, whole: int | None) -> None:
        """See ``Teller``."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._shown < _ROW_SECONDS:
            return
        self._shown = now
        share = "" if not whole else f" of {shown_size(whole)} ({done * 100 // whole} %)"
        # What was here before this download is not its speed.
        speed = (done - self._first) / max(now - self._begun, _ROW_SECONDS)
        show_row(f"{self._name}: {shown_size(done)}{share}, {shown_size(int(speed))}/s")

    def waits(self, source: str) -> None:
        """See ``Teller``."""
        complain(f"another process downloads {source}: waiting for it")

    def ended(self) -> None:
        """See ``Teller``."""
        show_row("")
