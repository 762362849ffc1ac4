"""Chromium: finding it, and starting one without a window.

No driver is needed: the page that is opened asks the host's own server for its work. So there are
no further packages, and no port on which other programs could drive the browser.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache

from wasi_nn.errors import Unavailable
from wasi_nn.runtime.process import shielded_from_sigint

#: Names the browser's program.
VARIABLE = "WASI_NN_CHROMIUM"
_PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--password-store=basic",
    "--use-mock-keychain",
    # A page that nobody sees is slowed down otherwise.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # The page needs nobody else, and neither does the browser.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# It ends the browser, and removes its profile ($0), as soon as this process ends in any way: then
# the pipe that it reads from closes. (The browser's other processes may write for a moment longer.)
_WATCHER = (
    '"$@" & exec >&- 2>&-; read _; kill $! 2>/dev/null; wait; '
    'for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && break; sleep 0.3; done'
)
_TAIL = 2000


def find() -> str:
    """The path of Chromium. Raises ``Unavailable`` with the remedy."""
    named = os.environ.get(VARIABLE)
    for program in (named,) if named else _PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return path
    raise Unavailable(
        f"{named or 'Chromium'} is not found; install Chromium or Chrome, or name its program with "
        f"{VARIABLE}"
    )


@lru_cache(maxsize=8)
def version(path: str) -> str:
    """What it says of itself. Raises ``Unavailable``."""
    try:
        with shielded_from_sigint():
            ended = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{path} does not start: {error}") from error
    said = ended.stdout.strip().splitlines()
    if ended.returncode or not said:
        raise Unavailable(f"{path} --version failed; name another browser with {VARIABLE}")
    return " ".join(said[-1].split()[:2])


class Chromium:
    """A browser without a window, that shows one page."""

    def __init__(self, path: str, url: str, on_end: Callable[[], object]) -> None:
        """``on_end`` is called on another thread when the browser has ended."""
        self._said = b""
        profile = tempfile.mkdtemp(prefix="wasi-nn-browser-")
        flags = [*_FLAGS, f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # Chromium does not start as root otherwise. Its guests then lack its sandbox.
            flags.append("--no-sandbox")
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, profile, path, *flags, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends guests, and then this
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
