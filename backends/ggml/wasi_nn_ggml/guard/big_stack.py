"""A stack for a text: llama.cpp splits one with std::regex, which calls itself for each character.

Measured with every pre-tokenizer of the library: up to 400 bytes of stack for a byte of the text,
so that a text of 30 KB ends a process whose stack has 8 MB. What is not touched of a stack costs
address space alone.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from wasi_nn.errors import PromptTooLong, RuntimeFailure

_Result = TypeVar("_Result")

# Any stack has room for a text of this size.
_SHORT = 4 << 10
_LEAST, _PER_BYTE = 16 << 20, 1 << 10
# Some systems take whole pages alone.
_BLOCK = 1 << 20
# The size of new threads' stacks is the process's; no fork is to find it changed, or this held.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def call(function: Callable[[], _Result], length: int) -> _Result:
    """What ``function`` gives, called with a stack for a text of ``length`` bytes. Raises what it
    raises, and ``PromptTooLong`` and ``RuntimeFailure`` where there is no such stack."""
    if length <= _SHORT:
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
    # (Thread.join takes an exception of a signal's handler for the thread's end.)
    while not (results or errors):
        try:
            ended.acquire(timeout=1)
        except BaseException as error:
            # Ctrl-C. llama.cpp reads what the caller would free.
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def _start(run: Callable[[], None], length: int) -> None:
    size = _LEAST + -(-length * _PER_BYTE // _BLOCK) * _BLOCK
    with _lock:
        try:
            before = threading.stack_size(size)
        except (ValueError, OverflowError):
            raise PromptTooLong(
                f"a text of {length} bytes: this system has no stack for it"
            ) from None
        try:
            # (Thread.start waits, where a signal's handler can raise with the thread under way.)
            _thread.start_new_thread(run, ())
        except RuntimeError as error:
            raise RuntimeFailure(f"there is no memory to read a text of {length} bytes") from error
        finally:
            threading.stack_size(before)
