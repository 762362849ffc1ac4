"""Calls a function with a stack that is large enough for a text.

llama.cpp splits texts with std::regex, which recurses for each character. Measured with every
pre-tokenizer of the library, it takes up to 400 bytes of stack for a byte of text: a text of 30 KB
overflows a stack of 8 MB. Pages of a stack that are never touched cost only address space.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from wasi_nn.errors import PromptTooLong, RuntimeFailure

_Result = TypeVar("_Result")

# Bytes of a text that every stack has room for.
_SHORT_TEXT = 4 << 10
_MIN_STACK, _STACK_PER_BYTE = 16 << 20, 1 << 10
# Some systems accept only whole pages.
_BLOCK = 1 << 20
# The stack size of new threads is a setting of the process.
_lock = threading.Lock()


def call(function: Callable[[], _Result], length: int) -> _Result:
    """Call ``function`` with a stack for a text of ``length`` bytes and return its result. Raises
    what it raises, ``PromptTooLong`` if the system allows no such stack, and ``RuntimeFailure`` if
    there is no memory for it."""
    if length <= _SHORT_TEXT:
        return function()
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    _start(run, length)
    interrupted: BaseException | None = None
    while not future.done():
        try:
            wait([future])
        except BaseException as error:
            # Ctrl-C. Keep waiting: llama.cpp still reads what the caller would free.
            interrupted = error
    if interrupted is not None:
        raise interrupted
    return future.result()


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
