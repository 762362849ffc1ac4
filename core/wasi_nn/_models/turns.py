"""One thread at a time in a graph whose contexts cannot compute side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from wasi_nn._process.signals import raised_by_handler
from wasi_nn.backend.shared import Lock, Stopped, acquire_unless_stopped

T = TypeVar("T")


def in_turn(lock: Lock, stopped: Stopped, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function with a graph's lock, which is free afterwards, whatever a signal's handler
    raises. Raises ``RuntimeFailure`` once ``stopped`` says so during the wait."""
    try:
        acquire_unless_stopped(lock, stopped)
        return function(*arguments)
    finally:
        # A signal's handler can raise right after the lock was acquired, so only the lock knows
        # whether it was. It can raise in any Python code before the release, so there is none.
        try:
            lock.release()
        except RuntimeError as error:
            if raised_by_handler(error) is not None:
                raise
