"""Calls a function with a stack that is large enough for a text.

llama.cpp splits texts with std::regex, which recurses for each character. Measured with every
pre-tokenizer of the library, it takes up to 400 bytes of stack for a byte of text: a text of 30 KB
overflows a stack of 8 MB. Pages of a stack that are never touched cost only address space.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from wasi_nn.errors import PromptTooLong, RuntimeFailure

_Result = TypeVar("_Result")

# Bytes of a text that every stack has room for.
_SHORT_TEXT = 4 << 10
_MIN_STACK, _STACK_PER_BYTE = 16 << 20, 1 << 10
# Some systems accept only whole pages.
_BLOCK = 1 << 20
# The stack size of new threads is a setting of the process. A fork must not copy it changed, nor
# this lock while it is locked.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def call(function: Callable[[], _Result], length: int) -> _Result:
    """Call ``function`` with a stack for a text of ``length`` bytes and return its result. Raises
    what it raises, ``PromptTooLong`` if the system allows no such stack, and ``RuntimeFailure`` if
    there is no memory for it."""
    if length <= _SHORT_TEXT:
        return function()
    results: list[_Result] = []
    errors: list[BaseException] = []
    ended = threading.Lock()
    ended.acquire()

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.release()

    _start(run, length)
    interrupted: BaseException | None = None
    # (Thread.join would take an exception of a signal handler for the end of the thread.)
    while not (results or errors):
        try:
            ended.acquire(timeout=1)
        except BaseException as error:
            # Ctrl-C. Keep waiting: llama.cpp still reads what the caller would free.
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def _start(run: Callable[[], None], length: int) -> None:
    size = _MIN_STACK + -(-length * _STACK_PER_BYTE // _BLOCK) * _BLOCK
    with _lock:
        try:
            before = threading.stack_size(size)
        except (ValueError, OverflowError):
            raise PromptTooLong(
                f"a text of {length} bytes is too long: this system allows no stack for it"
            ) from None
        try:
            # (Thread.start waits for the thread, and a signal handler could raise meanwhile.)
            _thread.start_new_thread(run, ())
        except RuntimeError as error:
            raise RuntimeFailure(f"there is no memory to read a text of {length} bytes") from error
        finally:
            threading.stack_size(before)
