"""A stack for a text: llama.cpp splits one with std::regex, which calls itself for each character.

Measured with every pre-tokenizer of the library: up to 400 bytes of stack for a byte of the text,
so that a text of 30 KB ends a process whose stack has 8 MB. What is not touched of a stack costs
nothing.
"""

from __future__ import annotations

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
# The size of new threads' stacks is the process's.
_lock = threading.Lock()


def call(function: Callable[[], _Result], length: int) -> _Result:
    """What ``function`` gives, called with a stack for a text of ``length`` bytes. Raises what it
    raises, and ``PromptTooLong`` and ``RuntimeFailure`` where there is no such stack."""
    if length <= _SHORT:
        return function()
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="wasi-nn-ggml-text")
    _start(thread, length)
    interrupted: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:
            # Ctrl-C. llama.cpp reads what the caller would free.
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if errors:
        raise errors[0]
    return results[0]


def _start(thread: threading.Thread, length: int) -> None:
    size = _LEAST + -(-length * _PER_BYTE // _BLOCK) * _BLOCK
    with _lock:
        try:
            before = threading.stack_size(size)
        except (ValueError, OverflowError):
            raise PromptTooLong(
                f"a text of {length} bytes: this system has no stack for it"
            ) from None
        try:
            thread.start()
        except RuntimeError as error:
            raise RuntimeFailure(f"there is no memory to read a text of {length} bytes") from error
        finally:
            threading.stack_size(before)
