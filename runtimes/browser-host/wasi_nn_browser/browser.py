"""A browser without a window: finding one, and starting it.

No driver is needed: the page that is opened asks the host's own server for its work. So there are
no further packages, and no port on which other programs could drive the browser.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from wasi_nn.errors import Unavailable
from wasi_nn.runtime.process import shielded_from_sigint

# It ends the browser, and removes its profile ($0), as soon as this process ends in any way: then
# the pipe that it reads from closes. (The browser's other processes may write for a moment longer.)
_WATCHER = (
    '"$@" & exec >&- 2>&-; read _; kill $! 2>/dev/null; wait; '
    'for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && break; sleep 0.3; done'
)
_TAIL = 2000


class Browser(ABC):
    """One kind of browser."""

    #: What the user calls it.
    name: str
    #: The environment variable that names its program.
    variable: str
    #: Where it is looked for.
    programs: tuple[str, ...]
    #: What the user can install.
    remedy: str

    @abstractmethod
    def command(self, path: str, profile: Path) -> list[str]:
        """The command that shows the page whose URL comes after it. May write to ``profile``."""

    def variables(self, profile: Path) -> Mapping[str, str]:
        """What its environment has besides this process's own."""
        return {}

    def find(self) -> str:
        """The path of its program. Raises ``Unavailable`` with the remedy."""
        named = os.environ.get(self.variable)
        for program in (named,) if named else self.programs:
            path = shutil.which(program)
            if path is not None:
                return path
        raise Unavailable(
            f"{named or self.name} is not found; install {self.remedy}, or name its program with "
            f"{self.variable}"
        )

    def version(self) -> str:
        """What it says of itself. Raises ``Unavailable``."""
        return _version(self.find(), self.variable)


@lru_cache(maxsize=8)
def _version(path: str, variable: str) -> str:
    try:
        with shielded_from_sigint():
            ended = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{path} does not start: {error}") from error
    said = ended.stdout.strip().splitlines()
    if ended.returncode or not said:
        raise Unavailable(f"{path} --version failed; name another browser with {variable}")
    return " ".join(word for word in said[-1].split()[:3] if word not in ("Mozilla", "built"))


class Window:
    """A browser without a window, that shows one page."""

    def __init__(self, browser: Browser, url: str, on_end: Callable[[], object]) -> None:
        """``on_end`` is called on another thread when the browser has ended. Raises
        ``Unavailable``."""
        self._said = b""
        path = browser.find()
        profile = Path(tempfile.mkdtemp(prefix="wasi-nn-browser-"))
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, profile, *browser.command(path, profile), url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends guests, and then this
                env={**os.environ, **browser.variables(profile)},
            )
        except OSError as error:
            shutil.rmtree(profile, ignore_errors=True)
            raise Unavailable(f"{path} does not start: {error}") from error
        threading.Thread(target=self._listen, args=(on_end,), daemon=True).start()

    def _listen(self, on_end: Callable[[], object]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while piece := stream.read1(4096):  # type: ignore[attr-defined]
                self._said = (self._said + piece)[-_TAIL:]
        on_end()

    @property
    def said(self) -> str:
        """The last line that it printed."""
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def close(self) -> None:
        """End it, and wait for that. Can be called more than once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
