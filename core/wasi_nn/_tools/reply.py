"""What a call of a tool gives, and how a guest's output becomes it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.errors import WasiNnError

if TYPE_CHECKING:
    from wasi_nn._host.result import RunResult

# Libraries that write JSON recurse.
_MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_STDERR = 300


class ToolError(WasiNnError):
    """A tool was called with a wrong input, or its guest gave no result. The text is a sentence
    for the model that has called it."""


class ToolResult(NamedTuple):
    """What a tool's call gave.

    ``text`` is what the model reads: the guest's output or, after an ``error``, the reason in a
    sentence. ``value`` is the output as JSON has it (output ``json`` and ``numbers``), else the
    text. ``rule`` is the name of the policy's rule that ended the guest, or an empty text. ``run``
    is the run of a command, if there was one."""

    text: str
    value: Any = None
    error: str = ""
    rule: str = ""
    run: RunResult | None = None

    def check(self) -> ToolResult:
        """Return this result. Raises ``ToolError`` if it is an error."""
        if self.error:
            raise ToolError(self.error)
        return self


def parsed(output: str, data: bytes) -> tuple[str, Any]:
    """The text and the value of a guest's output, ``text`` or ``json``. Raises ``ToolError`` for
    what is not that."""
    try:
        text = data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ToolError(
            f"the guest's output is not text in UTF-8: byte 0x{data[error.start]:02x} at "
            f"{error.start}"
        ) from None
    if output == "text":
        return text, text
    try:
        value = json.loads(text)
        # What JSON does not have, but Python's reader takes: NaN, 1e999, half a surrogate pair.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ToolError(
            f"the guest's output is not JSON: {error}; it begins with {text[:100]!r}"
        ) from None
    if _depth(value) > _MAX_DEPTH:
        raise ToolError(f"the guest's output is JSON that is nested more than {_MAX_DEPTH} deep")
    return text, value


def why(result: RunResult) -> str:
    """Why a guest that ended with another exit code than 0 did so, in a sentence."""
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    said = f"; it says: {lines[-1].strip()[:_MAX_STDERR]}" if lines else ""
    failed = ""
    if result.failures:
        last = result.failures[-1]
        failed = f"; its last failed call was {last.function}: {last.reason}"
    return f"the guest ended with exit code {result.exit_code}{said}{failed}"


def printable(text: str) -> str:
    """A text that every encoding can write."""
    return _SURROGATE.sub("\ufffd", text)


def _depth(value: object) -> int:
    """How deep lists and objects are nested, up to one above what is allowed."""
    level: list[Any] = [value]
    for depth in range(_MAX_DEPTH + 1):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return depth + 1
    return _MAX_DEPTH + 1
