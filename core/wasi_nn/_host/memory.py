"""A guest's linear memory between its calls, for the embedder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from wasi_nn.errors import InvalidArgument, UsageError
from wasi_nn.runtime import GuestMemory

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
# The bytes that are read at once in search of a text's end.
_PIECE = 1 << 12
_WORD = 1 << 32


class Region(NamedTuple):
    """Bytes in a guest's memory: where they begin, and how many there are."""

    pointer: int
    length: int


class Memory:
    """The memory that a guest exports as ``memory``, between its calls.

    A pointer or a length is a number as ``Guest.call`` returns it: an i32 may be negative, and
    counts as unsigned. Bytes outside the memory are an ``InvalidArgument``, and nothing is written
    then. Each access has the guest's deadline. Raises ``UsageError`` if the guest exports no memory
    or its engine cannot reach it, and the kinds of ``GuestError`` if the guest was interrupted or
    its process has ended."""

    def __init__(self, reach: Callable[[Callable[[GuestMemory], object]], object]) -> None:
        self._reach = reach

    @property
    def size(self) -> int:
        """The present size in bytes."""
        return self._do(lambda memory: memory.size)

    def read(self, pointer: int, length: int) -> bytes:
        """A copy of ``length`` bytes. ``numpy.frombuffer`` makes an array of it."""
        at, count = _unsigned(pointer), _unsigned(length)
        return self._do(lambda memory: bytes(memory.read(at, count)))

    def text(self, pointer: int, length: int | None = None) -> str:
        """UTF-8 text of ``length`` bytes, or up to its NUL. Raises ``InvalidArgument`` if it is not
        UTF-8, or if no NUL follows."""
        if length is not None:
            data = self.read(pointer, length)
        else:
            at = _unsigned(pointer)
            data = self._do(lambda memory: _up_to_nul(memory, at))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"the text at 0x{_unsigned(pointer):x} is not UTF-8") from error

    def write(self, pointer: int, data: str | Buffer) -> None:
        """Copy bytes, a contiguous array, or a text (as UTF-8) to ``pointer``."""
        at, flat = _unsigned(pointer), flat_bytes(data)
        self._do(lambda memory: memory.write(at, flat))

    def _do(self, work: Callable[[GuestMemory], T]) -> T:
        result: T = self._reach(work)  # type: ignore[assignment]
        return result


def flat_bytes(data: str | Buffer) -> memoryview:
    """The bytes of a text, of bytes or of a contiguous array. Raises ``UsageError``."""
    if isinstance(data, str):
        return memoryview(data.encode())
    try:
        view = memoryview(data)
    except TypeError:
        raise UsageError(f"{data!r} is not a text, bytes or an array") from None
    if not view.c_contiguous:
        raise UsageError("the array is not contiguous: copy it first")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _unsigned(number: int) -> int:
    try:
        given = number.__index__()
    except (AttributeError, TypeError):
        raise UsageError(f"{number!r} is not a pointer or a length") from None
    if given < -(_WORD >> 1):
        raise UsageError(f"{given} is not a pointer or a length")
    return given + _WORD if given < 0 else given


def _up_to_nul(memory: GuestMemory, at: int) -> bytes:
    found = bytearray()
    while True:
        length = max(1, min(_PIECE, memory.size - at - len(found)))
        piece = bytes(memory.read(at + len(found), length))
        text, nul, _ = piece.partition(b"\0")
        found += text
        if nul:
            return bytes(found)
