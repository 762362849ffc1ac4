"""WASI's ``poll_oneoff``, with which a guest sleeps or waits for its streams.

An engine's own function waits in the system. Nothing can end that wait, so a deadline or Ctrl-C
would have to wait too. This one waits in a ``Pause``.

Layouts (wasi_snapshot_preview1.witx): a subscription has 48 bytes: userdata at 0 and the event's
type at 8. At 16 it has a descriptor, or a clock, with its timeout in nanoseconds at 24 and its
flags at 40. An event has 32 bytes: userdata at 0, an errno at 8, the type at 10, at 16 the number
of bytes that can be read, and at 24 a flag that says that the other side has hung up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from struct import Struct
from typing import NamedTuple, Protocol

from wasi_nn.runtime import GuestMemory, Stdin
from wasi_nn.runtime.pause import READABLE, WRITABLE, Pause

__all__ = ["AtOnce", "Polls", "Source", "descriptor_of", "of_stdin", "subscribed"]

_SUBSCRIPTION = Struct("<QBxxxxxxxIxxxxQxxxxxxxxHxxxxxx")
_EVENT = Struct("<QHBxxxxxQHxxxxxx")
_U32 = Struct("<I")
_CLOCK, _READ, _WRITE = 0, 1, 2
_EVENTS = {_READ: READABLE, _WRITE: WRITABLE}
_ANY = READABLE | WRITABLE
_REALTIME, _MONOTONIC = 0, 1
_ABSOLUTE = 1
_SUCCESS, _INVALID, _NOT_SUPPORTED = 0, 28, 58
_MAX_SUBSCRIPTIONS = 4096
_SECOND = 10**9


class Source(Protocol):
    """What a guest's descriptor stands for, in a subscription to it."""

    @property
    def descriptor(self) -> int | None:
        """The host's descriptor to wait for. With None, it is ready at once."""

    def event(self, happened: int) -> tuple[int, int, int]:
        """The errno, the number of bytes that can be read, and the flags of its event.
        ``happened`` are the events of ``poll``, which are 0 at a descriptor of None."""


class AtOnce:
    """A descriptor that is ready at once, with an errno if it has one: output streams and files do
    not wait."""

    descriptor: int | None = None

    def __init__(self, errno: int = _SUCCESS) -> None:
        self._errno = errno

    def event(self, happened: int) -> tuple[int, int, int]:
        return self._errno, 0 if self._errno else 1, 0


_AT_ONCE = AtOnce()


def descriptor_of(stdin: Stdin) -> int | None:
    """The descriptor of this process that is read for a guest's standard input, if there is one."""
    return 0 if stdin == "inherit" else stdin if isinstance(stdin, int) else None


def of_stdin(stdin: Stdin) -> Callable[[int, bool], Source]:
    """The sources of a guest with this standard input, for which alone it can wait."""
    waited = AtOnce()
    waited.descriptor = descriptor_of(stdin)

    def source(descriptor: int, reads: bool) -> Source:
        return waited if reads and descriptor == 0 else _AT_ONCE

    return source


class _Wanted(NamedTuple):
    """What a subscription waits for: a time, or a source."""

    userdata: int
    kind: int
    seconds: float
    source: Source | None


class Polls:
    """The function for one guest."""

    def __init__(
        self, source: Callable[[int, bool], Source], pause: Pause, clock_start: int = 0
    ) -> None:
        """``source`` gives what one of the guest's descriptors stands for, if the guest wants to
        read it (True) or to write to it. ``clock_start`` is ``time.monotonic_ns()`` at the moment
        at which the engine's monotonic clock shows 0."""
        self._source = source
        self._pause = pause
        self.clock_start = clock_start

    def poll_oneoff(
        self, memory: GuestMemory, subscriptions: int, events: int, count: int, out: int
    ) -> int:
        """Wait until one of ``count`` subscriptions is ready, and write an event for each that is.
        Returns the errno."""
        if not 0 < count <= _MAX_SUBSCRIPTIONS:
            return _INVALID
        memory.check(events, count * _EVENT.size)
        memory.check(out, _U32.size)
        data = memory.read(subscriptions, count * _SUBSCRIPTION.size)
        wanted = [self._wanted(*fields) for fields in _SUBSCRIPTION.iter_unpack(data)]
        waited: dict[int, int] = {}
        shortest: float | None = None
        for one in wanted:
            source = one.source
            if source is not None and source.descriptor is not None:
                events_before = waited.get(source.descriptor, 0)
                waited[source.descriptor] = events_before | _EVENTS[one.kind]
            else:
                seconds = one.seconds if source is None else 0.0
                shortest = seconds if shortest is None else min(shortest, seconds)
        started = time.monotonic()
        found = self._pause.wait(shortest, waited)
        passed = time.monotonic() - started
        ready = [event for one in wanted if (event := _event(one, found, passed)) is not None]
        memory.write(events, b"".join(ready))
        memory.write(out, _U32.pack(len(ready)))
        return _SUCCESS

    def _wanted(self, userdata: int, kind: int, target: int, timeout: int, flags: int) -> _Wanted:
        if kind in _EVENTS:
            return _Wanted(userdata, kind, 0.0, self._source(target, kind == _READ))
        if kind != _CLOCK:
            return _Wanted(userdata, kind, 0.0, AtOnce(_INVALID))
        if target not in (_REALTIME, _MONOTONIC):
            return _Wanted(userdata, kind, 0.0, AtOnce(_NOT_SUPPORTED))
        if flags & _ABSOLUTE:
            real = target == _REALTIME
            timeout -= time.time_ns() if real else time.monotonic_ns() - self.clock_start
        return _Wanted(userdata, kind, max(0, timeout) / _SECOND, None)


def subscribed(memory: GuestMemory, subscriptions: int, count: int) -> list[int]:
    """The descriptors that a guest waits for. Raises ``InvalidArgument`` for subscriptions outside
    the memory."""
    data = memory.read(subscriptions, min(count, _MAX_SUBSCRIPTIONS) * _SUBSCRIPTION.size)
    return [fields[2] for fields in _SUBSCRIPTION.iter_unpack(data) if fields[1] in _EVENTS]


def _event(one: _Wanted, found: Mapping[int, int], passed: float) -> bytes | None:
    """The event of a subscription, or None as long as it waits."""
    source = one.source
    if source is None:
        return _EVENT.pack(one.userdata, 0, one.kind, 0, 0) if one.seconds <= passed else None
    happened = 0
    if source.descriptor is not None:
        # (An error and an end count as any event.)
        happened = found.get(source.descriptor, 0) & ~(_ANY & ~_EVENTS[one.kind])
        if not happened:
            return None
    errno, size, flags = source.event(happened)
    return _EVENT.pack(one.userdata, errno, one.kind, size, flags)
