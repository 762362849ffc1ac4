"""One socket of a guest.

The host's socket never blocks. A guest whose own socket does waits in a ``Pause``, which a deadline
and an interrupt end.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from wasi_nn._policy.network import Address, normal
from wasi_nn._sockets import errnos
from wasi_nn._sockets.addresses import INET4, INET6, of_system
from wasi_nn._sockets.errnos import WasiError
from wasi_nn.runtime.pause import READABLE, WRITABLE, Pause

T = TypeVar("T")
#: WASI's numbers of the types.
DATAGRAM, STREAM = 1, 2
_FAMILIES = {INET4: socket.AF_INET, INET6: socket.AF_INET6}
_TYPES = {DATAGRAM: socket.SOCK_DGRAM, STREAM: socket.SOCK_STREAM}
# A signal would end the program when the other side has gone.
_SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
_TRUNCATED = getattr(socket, "MSG_TRUNC", 0)
_HANGUP = 1
_MOST_HEARD = 1024
_POLLHUP = getattr(select, "POLLHUP", 0)
#: The most bytes that one call takes or gives. A guest repeats it for the rest.
MOST_AT_ONCE = 1 << 20


class Endpoint:
    """A socket, with what a guest has set of it. It is a ``Source`` for ``Polls``."""

    def __init__(
        self, made: socket.socket, family: int, kind: int, pause: Pause, peer: object = None
    ) -> None:
        """``family`` and ``kind`` are WASI's numbers. ``peer`` is the name of the other side, as
        Python's sockets give it."""
        made.setblocking(False)
        self.socket = made
        self.family = family
        self.kind = kind
        self.nonblocking = False
        #: Seconds that the guest waits at most in a call; None for no limit.
        self.receive_timeout: float | None = None
        self.send_timeout: float | None = None
        #: Whether it lingers when it is closed, and for how many seconds, as the guest has set it.
        self.linger = 0, 0
        # Who sent it datagrams, the latest last.
        self._heard: dict[tuple[Address, int], None] = {}
        self._pause = pause
        self._peer = peer
        self.descriptor: int = made.fileno()

    @classmethod
    def opened(cls, family: int, kind: int, pause: Pause) -> Endpoint:
        """A new socket. Raises ``OSError``."""
        return cls(socket.socket(_FAMILIES[family], _TYPES[kind]), family, kind, pause)

    def close(self) -> None:
        self.socket.close()

    def bind(self, name: tuple[str, int]) -> None:
        self.socket.bind(name)

    def listen(self, backlog: int) -> None:
        self.socket.listen(backlog)

    def accept(self, nonblocking: bool) -> Endpoint:
        made, name = self._tried(READABLE, self.receive_timeout, self.socket.accept)
        accepted = Endpoint(made, self.family, self.kind, self._pause, name)
        accepted.nonblocking = nonblocking
        return accepted

    def connect(self, name: tuple[str, int]) -> None:
        """Connect. A guest whose socket does not block learns of the end from ``poll_oneoff``."""
        try:
            self.socket.connect(name)
        except BlockingIOError as error:
            if self.nonblocking or errnos.of_error(error) != errnos.INPROGRESS:
                raise
            if not self._wait(WRITABLE, self.send_timeout):
                raise WasiError(errnos.INPROGRESS) from None
            failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise WasiError(errnos.of_system(failure)) from None

    def receive(self, size: int, flags: int, whole: bool) -> tuple[bytes, object, bool]:
        """At most ``size`` bytes, with the name of their sender (None on a stream), and whether a
        datagram lost its end. ``whole`` waits for all of them, where the guest's socket blocks."""
        size = min(size, MOST_AT_ONCE)
        seconds = self.receive_timeout
        if self.kind == DATAGRAM:
            data, _, happened, name = self._tried(
                READABLE, seconds, self.socket.recvmsg, size, 0, flags
            )
            address, port = self._named(name)
            sender = normal(address), port
            self._heard.pop(sender, None)
            self._heard[sender] = None
            if len(self._heard) > _MOST_HEARD:
                del self._heard[next(iter(self._heard))]
            return data, name, bool(happened & _TRUNCATED)
        data = self._tried(READABLE, seconds, self.socket.recv, size, flags)
        while whole and data and len(data) < size and not (self.nonblocking or flags):
            more = self._tried(READABLE, seconds, self.socket.recv, size - len(data))
            if not more:
                break
            data += more
        return data, None, False

    def send(self, data: bytes | memoryview, name: tuple[str, int] | None = None) -> int:
        """Send the bytes, to ``name`` if there is one, and return how many were taken."""
        if len(data) > MOST_AT_ONCE:
            data = data[:MOST_AT_ONCE] if self.kind == STREAM else data
        if name is not None:
            return self._tried(
                WRITABLE, self.send_timeout, self.socket.sendto, data, _SEND_FLAGS, name
            )
        sent: int = self._tried(WRITABLE, self.send_timeout, self.socket.send, data, _SEND_FLAGS)
        while sent < len(data) and not self.nonblocking:
            try:
                sent += self._tried(
                    WRITABLE, self.send_timeout, self.socket.send, data[sent:], _SEND_FLAGS
                )
            except (OSError, WasiError):
                # The next call tells why.
                break
        return sent

    def has_heard(self, address: Address, port: int) -> bool:
        """Whether a datagram came from there, of late."""
        return (normal(address), port) in self._heard

    def local(self) -> tuple[Address, int]:
        """The address and the port of this side."""
        return self._named(self.socket.getsockname())

    def peer(self) -> tuple[Address, int]:
        """The address and the port of the other side, which may have gone. Raises ``OSError``."""
        try:
            return self._named(self.socket.getpeername())
        except OSError as error:
            if self._peer is None or errnos.of_error(error) != errnos.NOTCONN:
                raise
            # Servers ask right after they accept, and take an error for their own.
            return self._named(self._peer)

    def event(self, happened: int) -> tuple[int, int, int]:
        """For ``Polls``. An error of the socket is not one of the subscription: guests learn it
        from the call that they make next."""
        return 0, 1, _HANGUP if happened & _POLLHUP else 0

    def _named(self, name: object) -> tuple[Address, int]:
        found = of_system(name)
        assert found is not None
        return found

    def _tried(
        self, events: int, seconds: float | None, call: Callable[..., T], *arguments: Any
    ) -> T:
        """What ``call`` returns, once it can. Raises ``OSError``, ``WasiError`` and
        ``Interrupted``."""
        end: float | None = None
        while True:
            try:
                return call(*arguments)
            except BlockingIOError:
                if self.nonblocking:
                    raise WasiError(errnos.AGAIN) from None
            if seconds is not None:
                end = time.monotonic() + seconds if end is None else end
                seconds = max(0.0, end - time.monotonic())
            if not self._wait(events, seconds):
                raise WasiError(errnos.AGAIN)

    def _wait(self, events: int, seconds: float | None) -> bool:
        return bool(self._pause.wait(seconds, {self.descriptor: events}))
