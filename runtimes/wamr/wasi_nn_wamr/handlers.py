"""Whose signal handlers come after WAMR's.

WAMR notices what a guest reads out of bounds by a segmentation fault. It puts its handler there
anew in each thread that it is used in, and hands on what is not its own to the handler of before,
which it keeps for the whole process: from the second thread on that is its own, and a fault of
anybody else's (a trap of another engine's guest) goes round for ever.

So while a thread is being prepared, a stub of ours is in the handler's place: one instruction that
jumps to where a cell says. That is WAMR's own handler until WAMR has taken the stub for the one of
before; from then on it is the one that was there first. Another stub, which led there all the time,
serves in between: they take turns.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

# `struct sigaction` of x86-64: the handler, 128 bytes of mask, the flags.
_SIZE, _FLAGS_AT = 256, 136
_WITH_INFO = 4  # SA_SIGINFO: the handler takes three arguments, and others do not mind
# No handler of anybody's: the default, and to ignore it.
_NOBODYS = 0, 1
_PAGE = 4096
_CELLS_AT = 2048
_STUB_SIZE = 16


class Handlers:
    """The handlers that WAMR replaces. Made before WAMR is initialised; where there are none, or no
    stubs on this machine, ``preparing`` does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chains: list[_Chain] = []
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return
        with contextlib.suppress(OSError):
            # (Some systems give nobody memory that can be written to and run.)
            stubs = _stubs()
            for number in (signal.SIGSEGV, signal.SIGBUS):
                self._chains.append(_Chain(number, next(stubs), next(stubs)))

    def initialised(self) -> None:
        """WAMR has put its handlers there; a library that needs none has not."""
        self._chains = [chain for chain in self._chains if chain.begins()]

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """WAMR puts its handlers there anew."""
        with self._lock:
            for chain in self._chains:
                chain.hold()
            try:
                yield
            finally:
                for chain in self._chains:
                    chain.settle()


class _Stub:
    def __init__(self, page: int, number: int) -> None:
        self.address = page + _STUB_SIZE * number
        cell = page + _CELLS_AT + 8 * number
        self._cell = ctypes.c_uint64.from_address(cell)
        # jmp [rip + distance], which counts from the end of these six bytes.
        distance = cell - (self.address + 6)
        ctypes.memmove(self.address, b"\xff\x25" + distance.to_bytes(4, "little"), 6)

    def leads_to(self, handler: int) -> None:
        # Where nobody has a handler, what WAMR itself does with a fault that is not its own.
        self._cell.value = _ABORT if handler in _NOBODYS else handler


class _Chain:
    """The handlers of one signal."""

    def __init__(self, number: int, *stubs: _Stub) -> None:
        self._number = number
        self._first = _address(_get(number))
        self._ours = 0
        self._stub, self._other = stubs

    def begins(self) -> bool:
        self._ours = _address(_get(self._number))
        return self._ours != self._first

    def hold(self) -> None:
        self._stub, self._other = self._other, self._stub
        self._now = _get(self._number)
        self._stub.leads_to(_address(self._now))
        held = ctypes.create_string_buffer(self._now.raw, _SIZE)
        ctypes.c_uint64.from_buffer(held).value = self._stub.address
        ctypes.c_int.from_buffer(held, _FLAGS_AT).value |= _WITH_INFO
        _set(self._number, held)

    def settle(self) -> None:
        there = _address(_get(self._number))
        # Whoever came before WAMR's turn stays in front of it, and WAMR's where it failed.
        if there == self._stub.address or (
            there == self._ours and _address(self._now) != self._ours
        ):
            _set(self._number, self._now)
        self._stub.leads_to(self._first)


_page: mmap.mmap | None = None
_libc = ctypes.PyDLL(None)
_ABORT = ctypes.cast(_libc.abort, ctypes.c_void_p).value or 0


def _stubs() -> Iterator[_Stub]:
    # For as long as the process lives, because WAMR keeps their addresses.
    global _page
    _page = mmap.mmap(-1, _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page = ctypes.addressof(ctypes.c_char.from_buffer(_page))
    return (_Stub(page, number) for number in range(_CELLS_AT // _STUB_SIZE))


def _get(number: int) -> Any:
    action = ctypes.create_string_buffer(_SIZE)
    _libc.sigaction(number, None, action)
    return action


def _set(number: int, action: Any) -> None:
    _libc.sigaction(number, action, None)


def _address(action: Any) -> int:
    return ctypes.c_uint64.from_buffer(action).value
