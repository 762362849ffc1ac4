"""WASI's ``poll_oneoff``, with which a guest sleeps or waits for its streams.

An engine's own function waits in the system. Nothing can end that wait, so a deadline or Ctrl-C
would have to wait too. This one waits in a ``Pause``.

Layouts (wasi_snapshot_preview1.witx): a subscription has 48 bytes: userdata at 0 and the event's
type at 8. At 16 it has a descriptor, or a clock, with its timeout in nanoseconds at 24 and its
flags at 40. An event has 32 bytes: userdata at 0, an errno at 8, the type at 10, and at 16 the
number of bytes that can be read.
"""

from __future__ import annotations

import time
from struct import Struct
from typing import NamedTuple

from wasi_nn.runtime import GuestMemory, Stdin
from wasi_nn.runtime.pause import Pause

__all__ = ["Polls"]

_SUBSCRIPTION = Struct("<QBxxxxxxxIxxxxQxxxxxxxxHxxxxxx")
_EVENT = Struct("<QHBxxxxxQxxxxxxxx")
_U32 = Struct("<I")
_CLOCK, _READ, _WRITE = 0, 1, 2
_REALTIME, _MONOTONIC = 0, 1
_ABSOLUTE = 1
_SUCCESS, _INVALID, _NOT_SUPPORTED = 0, 28, 58
_MAX_SUBSCRIPTIONS = 4096
_SECOND = 10**9


class _Wanted(NamedTuple):
    """What a subscription waits for. ``seconds`` is None for a descriptor."""

    userdata: int
    kind: int
    errno: int
    seconds: float | None
    on_stdin: bool


class Polls:
    """The function for one guest.

    A descriptor other than standard input is always ready: output streams and files do not wait."""

    def __init__(self, stdin: Stdin, pause: Pause, clock_start: int = 0) -> None:
        """``clock_start`` is ``time.monotonic_ns()`` at the moment at which the engine's monotonic
        clock shows 0."""
        self._waits_for_stdin = stdin == "inherit"
        self._pause = pause
        self._clock_start = clock_start

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
        at_once = any(one.errno or (one.seconds is None and not one.on_stdin) for one in wanted)
        times = [one.seconds for one in wanted if one.seconds is not None]
        on_stdin = any(one.on_stdin for one in wanted)
        started = time.monotonic()
        shortest = 0.0 if at_once else min(times, default=None)
        stdin_ready = self._pause.wait(shortest, 0 if on_stdin else None)
        passed = time.monotonic() - started
        ready = [
            one
            for one in wanted
            if one.errno
            or (stdin_ready if one.on_stdin else one.seconds is None or one.seconds <= passed)
        ]
        for number, one in enumerate(ready):
            event = _EVENT.pack(one.userdata, one.errno, one.kind, one.seconds is None)
            memory.write(events + number * _EVENT.size, event)
        memory.write(out, _U32.pack(len(ready)))
        return _SUCCESS

    def _wanted(self, userdata: int, kind: int, target: int, timeout: int, flags: int) -> _Wanted:
        if kind in (_READ, _WRITE):
            on_stdin = kind == _READ and target == 0 and self._waits_for_stdin
            return _Wanted(userdata, kind, _SUCCESS, None, on_stdin)
        if kind != _CLOCK:
            return _Wanted(userdata, kind, _INVALID, None, False)
        if target not in (_REALTIME, _MONOTONIC):
            return _Wanted(userdata, kind, _NOT_SUPPORTED, None, False)
        if flags & _ABSOLUTE:
            real = target == _REALTIME
            timeout -= time.time_ns() if real else time.monotonic_ns() - self._clock_start
        return _Wanted(userdata, kind, _SUCCESS, max(0, timeout) / _SECOND, False)
