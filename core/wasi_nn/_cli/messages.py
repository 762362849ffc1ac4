"""The command's own lines on stdout and stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from contextvars import ContextVar
from typing import Any

import click

from wasi_nn.escaping import trace_of, visible, visible_lines

_MAX_FAILURES = 20
#: What the log is about, such as the file of a run. Empty for a command that does one thing.
subject: ContextVar[str] = ContextVar("subject", default="")
# The line that stays below all others on a terminal.
_row = ""
_row_lock = threading.RLock()


def tell(text: str) -> None:
    """Print a line to stdout."""
    click.echo(visible(text))


def complain(text: str) -> None:
    """Print a line to stderr with ``write``."""
    write(f"wasi-nn: {visible_lines(text)}\n")


def show_row(text: str) -> None:
    """Show a line below all others, in place of the present one, if stderr is a terminal that can
    erase it. An empty text erases it."""
    global _row
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if terminal and os.environ.get("TERM") != "dumb":
        with _row_lock:
            erase, _row = _erase(), text and f"wasi-nn: {visible(text)}"
            _write(erase + _row)


def write(text: str) -> None:
    """Write to stderr, above the row. A closed stream is not an error."""
    with _row_lock:
        _write(_erase() + text + _row)


def _erase() -> str:
    return "\r\x1b[K" if _row else ""


def _write(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except ValueError:
        pass
    except OSError:
        # Python would exit with 120 if it could not flush the buffer, so send that to nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _Lines(logging.Handler):
    """Prints log records as lines of the command, and at most ``most`` of them: a guest that fails
    in a loop must not flood the terminal."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._left = most

    def emit(self, record: logging.LogRecord) -> None:
        if self._left is not None:
            if self._left == 0:
                complain("further messages are not shown (-v shows all)")
            self._left -= 1
            if self._left < 0:
                return
        about = subject.get()
        complain(f"{visible(about)}: {self.format(record)}" if about else self.format(record))


class _Brief(logging.Handler):
    """Prints each log record once: its first line and, of a traceback, its last line."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        first, *others = self.format(record).splitlines()
        text = f"{first}: {others[-1].strip()}" if others else first
        if text not in self._printed:
            self._printed.add(text)
            complain(text)


def speak_for_python() -> None:
    """Print warnings and uncaught errors as lines of the command. Python itself would print their
    texts unescaped."""

    def warn(message: object, category: type[Warning], *_: object, **__: object) -> None:
        complain(f"{category.__name__}: {message}")

    def tell_of(arguments: Any) -> None:
        if arguments.exc_value is not None:
            complain(trace_of(arguments.exc_value))

    warnings.showwarning = warn
    threading.excepthook = sys.unraisablehook = tell_of


def set_up_logging(verbose: bool = False, brief: bool = False) -> None:
    """Print the host's log to stderr: warnings and errors, or every call if ``verbose``."""
    log = logging.getLogger("wasi_nn")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.addHandler(_Brief() if brief else _Lines(None if verbose else _MAX_FAILURES))
    log.propagate = False
