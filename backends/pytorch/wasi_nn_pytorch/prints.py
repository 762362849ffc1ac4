"""Send what a TorchScript module prints to the log, escaped, because it is text of the model.

torch writes it to ``sys.stdout``. So ``sys.stdout`` is replaced while such a module runs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wasi_nn.escaping import logger

log = logger("wasi_nn")

_here = threading.local()
_lock = threading.Lock()
_users = 0


class _Output:
    """Logs what a module prints in this thread, and passes on what other threads write."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def write(self, text: str) -> int:
        if not getattr(_here, "prints", False):
            return int(self.before.write(text))
        # A log handler may write to sys.stdout.
        _here.prints = False
        try:
            log.info("the model prints: %s", text.rstrip("\n"))
        finally:
            _here.prints = True
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)


@contextmanager
def logged() -> Iterator[None]:
    """A block that logs what a module prints in this thread."""
    global _users
    with _lock:
        if not _users:
            sys.stdout = _Output(sys.stdout)
        _users += 1
    outside = getattr(_here, "prints", False)
    _here.prints = True
    try:
        yield
    finally:
        _here.prints = outside
        with _lock:
            _users -= 1
            if not _users and isinstance(sys.stdout, _Output):
                sys.stdout = sys.stdout.before


class Printing:
    """A module whose prints are logged. Call it like the module itself."""

    def __init__(self, module: Callable[..., Any]) -> None:
        self._module = module

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with logged():
            return self._module(*arguments, **named)
