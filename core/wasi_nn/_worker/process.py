"""A worker, as the host sees it: a process in which one backend loads and runs graphs."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from wasi_nn import errors
from wasi_nn._process.fork import keep
from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import (
    CANCEL,
    CHANNEL,
    DROP,
    ERROR,
    I64,
    LOAD,
    LOG,
    OK,
    OUTPUT,
    RESERVE,
    Channel,
    as_json,
    from_json,
)
from wasi_nn._worker.prepared import prepared
from wasi_nn.backend import Backend, Builder, LoadOptions, Reserve, unlimited
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import NnError, RuntimeFailure, UsageError
from wasi_nn.escaping import logger

# The errors of reading nonsense, from a process that a model has taken over.
_GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
_POLL_SECONDS = 0.05
_CONTROL_SECONDS = 5.0
_MAX_TEXT = 4000
_MAX_LINES = 64 << 10

log = logger("wasi_nn")


class Worker:
    """A process with one backend. Any number of threads may use it.

    A ``private`` worker belongs to one guest: cancelling a call of it ends the process."""

    def __init__(
        self,
        backend: Backend,
        read: Sequence[Path] = (),
        memory: int | None = None,
        private: bool = False,
        stopped: Stopped = never,
    ) -> None:
        """Start the process. It may read the files and folders ``read``, and take ``memory`` bytes
        beside what its library takes. Raises ``RuntimeFailure``."""
        self.backend = backend
        self.private = private
        #: Why the process has ended; empty while it lives.
        self.lost = ""
        self._prepared = prepared(backend.plugin, backend.name, stopped)
        confinement = {
            "read": [os.path.realpath(path) for path in read],
            "memory": memory,
            "descriptors": 1024,
        }
        started = self._prepared.fork(confinement, stopped)
        self.process = started.process
        self._handle = started.handle
        self._errors = started.errors
        # A worker that reads nothing more must not block the host.
        started.control.settimeout(_CONTROL_SECONDS)
        self._control = Channel(started.control)
        # A finalizer of a graph may run while its thread has this.
        self._lock = threading.RLock()
        self._idle: list[Channel] = []
        self._numbers = count()
        #: What takes the memory of graphs, by the worker's number of it.
        self.memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._finalizer = weakref.finalize(
            self, _end, started.handle, started.process, started.control, started.errors, self._idle
        )
        # At the end of the program, the workers end with the process that they started from.
        self._finalizer.atexit = False
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and only the parent may hold the connections."""
        self.lost = "the worker belongs to the parent process"
        self._finalizer.detach()
        for channel in (self._control, *self._idle):
            channel.close()

    def number(self) -> int:
        """A new number for a graph or a context."""
        return next(self._numbers)

    def load(
        self, builders: Sequence[Builder], options: LoadOptions, stopped: Stopped = never
    ) -> tuple[int, dict[str, Any]]:
        """Load a graph; its number and description. Raises what ``Backend.load`` does. If
        ``stopped`` says so, it gives up, and a private worker is ended."""
        fds: list[int] = []
        try:
            described: list[str | int] = []
            for builder in builders:
                if isinstance(builder, Path):
                    described.append(os.fsencode(os.path.abspath(builder)).hex())
                else:
                    fds.append(shared_memory.make(len(builder), builder))
                    described.append(len(builder))
            body = {
                "builders": described,
                "encoding": options.encoding,
                "target": options.target.value,
                "config": dict(options.config),
                "allow_fallback": options.allow_fallback,
            }
            number = self.number()
            answer = self.call(LOAD, number, as_json(body), fds, stopped=stopped)
        finally:
            for descriptor in fds:
                os.close(descriptor)
        found = self.parsed(lambda: from_json(answer))
        if not isinstance(found, dict):
            raise self.nonsense()
        return number, found

    def call(
        self,
        kind: int,
        subject: int,
        body: bytes = b"",
        fds: Sequence[int] = (),
        reserve: Reserve = unlimited,
        stopped: Stopped | None = None,
    ) -> memoryview:
        """Send a request and return its answer, which is valid until the next request. Raises what
        the worker answers, and ``RuntimeFailure`` if the worker ends."""
        try:
            channel = self._idle.pop()
        except IndexError:
            channel = self._connect()
        refused: NnError | None = None
        try:
            channel.send(kind, subject, body, fds)
            while True:
                if stopped is not None:
                    self._wait(channel, stopped)
                said, _, answer = channel.receive()
                if said == OK:
                    break
                if said == ERROR:
                    error = self._error(answer)
                    self._idle.append(channel)
                    if refused is not None and str(refused) in str(error):
                        # The worker has only its text.
                        raise refused
                    raise error
                refused = self._serve(said, answer, channel, reserve) or refused
        except EOFError:
            channel.close()
            raise self.ended() from None
        except _GARBLED:
            channel.close()
            raise self.nonsense() from None
        except NnError:
            raise
        except UsageError:
            raise
        except BaseException:
            # The answer is still to come: nothing else can be asked here.
            channel.close()
            raise
        self._idle.append(channel)
        return answer

    def parsed(self, parse: Callable[[], Any]) -> Any:
        """The result of ``parse``, which reads what the worker has sent."""
        try:
            return parse()
        except _GARBLED:
            raise self.nonsense() from None

    def cancel(self, context: int) -> None:
        """Ask the library to end the computation of a context; end a private worker."""
        if self.private:
            self.kill()
            return
        with suppress(EOFError), self._lock:
            self._control.send(CANCEL, context)

    def drop(self, graph: int) -> None:
        """Let the worker free a graph."""
        with suppress(EOFError), self._lock:
            self._control.send(DROP, graph)

    def kill(self) -> None:
        """End the process now. Callable from any thread."""
        if self._finalizer.alive:
            _kill(self._handle, self.process)

    def close(self) -> None:
        """End the process, and free what the host has for it."""
        self.lost = self.lost or "the worker was closed"
        self._finalizer()

    def ended(self) -> RuntimeFailure:
        """The error for a worker that has ended."""
        with self._lock:
            if not self.lost:
                self.lost = f"the worker of {self.backend.title} has ended: {self._reason()}"
                log.error("%s", self.lost)
        return RuntimeFailure(self.lost)

    def nonsense(self) -> RuntimeFailure:
        """End a worker that does not keep to the protocol."""
        self.kill()
        return self.ended()

    def _reason(self) -> str:
        self.kill()
        status = self._prepared.status(self.process)
        reason = "its process is gone" if status is None else f"exit code {status}"
        if status is not None and status < 0:
            with suppress(ValueError):
                reason = signal.Signals(-status).name
        if status not in (-signal.SIGABRT, 1):
            # Only a process that ends itself says why.
            return reason
        with suppress(OSError):
            lines = os.read(self._errors, _MAX_LINES).decode("utf-8", "replace").split("\n")
            last = [line for line in lines if line.strip()][-1:]
            reason += "".join(f" ({line.strip()[:_MAX_TEXT]})" for line in last)
        return reason

    def _connect(self) -> Channel:
        if self.lost:
            raise RuntimeFailure(self.lost)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise RuntimeFailure(f"there is no descriptor for a worker: {error}") from error
        with theirs:
            try:
                with self._lock:
                    self._control.send(CHANNEL, 0, b"", [theirs.fileno()])
            except EOFError:
                ours.close()
                raise self.ended() from None
        return Channel(ours)

    def _wait(self, channel: Channel, stopped: Stopped) -> None:
        if channel.has_message():
            return
        poll = select.poll()
        poll.register(channel.socket, select.POLLIN)
        while not poll.poll(_POLL_SECONDS * 1000):
            if stopped():
                if self.private:
                    self.kill()
                channel.close()
                raise _GaveUp

    def _serve(
        self, kind: int, body: memoryview, channel: Channel, reserve: Callable[[int], None]
    ) -> NnError | None:
        """Do what a worker asks for. Returns why that was refused."""
        if kind == RESERVE:
            try:
                reserve(*I64.unpack(body))
            except NnError as error:
                channel.send(ERROR, 0, as_json(str(error)))
                return error
            channel.send(OK)
        elif kind == LOG:
            said = from_json(body)
            if said["name"].startswith("wasi_nn"):
                logging.getLogger(said["name"]).log(int(said["level"]), "%s", said["text"])
        elif kind == OUTPUT:
            import sys

            sys.stdout.buffer.write(body)
            sys.stdout.flush()
        else:
            raise ValueError(f"there is no message {kind}")
        return None

    def _error(self, body: memoryview) -> Exception:
        said = from_json(body)
        kind = getattr(errors, said["error"], None)
        text = str(said["text"])[:_MAX_TEXT]
        if isinstance(kind, type) and issubclass(kind, (NnError, UsageError)):
            with suppress(TypeError):
                return kind(text)
        return RuntimeFailure(text)


class Memory:
    """What takes a graph's memory in a worker."""


class _GaveUp(RuntimeFailure):
    """The guest must end."""

    def __init__(self) -> None:
        super().__init__("the guest was stopped while its model was being loaded")


def _kill(handle: int, process: int) -> None:
    with suppress(OSError):
        if handle >= 0:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGKILL)


def _end(
    handle: int, process: int, control: socket.socket, errors: int, idle: list[Channel]
) -> None:
    _kill(handle, process)
    control.close()
    os.close(errors)
    if handle >= 0:
        os.close(handle)
    for channel in idle:
        channel.close()
