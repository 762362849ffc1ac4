"""A worker, as the host sees it: a process in which one backend loads and runs graphs."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from wasi_nn import errors
from wasi_nn._process.fork import keep, refusal
from wasi_nn._worker import deaths, description, stderr
from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.description import Description
from wasi_nn._worker.endings import GivenUp, WorkerEnded
from wasi_nn._worker.messages import (
    CANCEL,
    CHANNEL,
    DROP,
    ERROR,
    I64,
    JOURNAL,
    LOAD,
    LOG,
    OK,
    OUTPUT,
    RESERVE,
    Channel,
    Interrupted,
    as_json,
    from_json,
)
from wasi_nn._worker.prepared import Started, prepared
from wasi_nn._worker.records import Records
from wasi_nn._worker.steps import Steps
from wasi_nn._worker.unawaited import Unawaited
from wasi_nn.backend import Backend, Builder, LoadOptions, Reserve, discard, unlimited
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import NnError, RuntimeFailure, Unavailable, WasiNnError
from wasi_nn.escaping import logger

# The errors of reading nonsense, from a process that a model has taken over.
GARBLED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error)
_CONTROL_SECONDS = 5.0
_MAX_TEXT = 4000
_STOPPED = "the guest was stopped"
# Connections that are kept for the next requests.
_MAX_IDLE = 8
# Requests at one time that nobody waits for any more. Each may keep a processor busy.
_MAX_UNAWAITED = 8

log = logger("wasi_nn")


class Worker:
    """A process with one backend. Any number of threads may use it.

    A ``private`` worker belongs to one guest, and ends with it."""

    def __init__(
        self,
        backend: Backend,
        read: Sequence[Path] = (),
        memory: int | None = None,
        private: bool = False,
        stopped: Stopped = never,
        confined: bool = True,
        nice: int = 0,
        failed: Callable[[Stopped], object] | None = None,
    ) -> None:
        """Start the process. If it is ``confined``, it may read the files and folders ``read``, and
        take ``memory`` bytes beside what its library takes. ``nice`` is how far it stands back
        where others want the processor (nice(2)). ``failed`` is called when a model cannot be
        loaded or ends the worker, before the guest learns it. Raises ``RuntimeFailure``, and
        ``Unavailable`` without the library."""
        self.backend = backend
        self.private = private
        self._lost = self._killed = ""
        self._stopped = stopped if private else never
        self._failed = failed
        #: Whether this is a child process of the one that has the worker.
        self.is_parents = False
        self._prepared = prepared(backend, stopped)
        confinement = {
            "confined": confined,
            "read": [os.path.realpath(path) for path in read],
            "memory": memory,
            "descriptors": 1024,
            "nice": nice,
        }
        self._started = self._prepared.fork(confinement, stopped)
        self.process = self._started.process
        # A worker that reads nothing more must not block the host.
        self._started.control.settimeout(_CONTROL_SECONDS)
        self._control = Channel(self._started.control)
        # For the control connection. A finalizer must not wait for it.
        self._lock = threading.Lock()
        self._idle: list[Channel] = []
        self._unawaited = Unawaited()
        #: The graphs that the worker has not been told to free yet.
        self._dropped: deque[int] = deque()
        self._numbers = count()
        self._records = Records(backend)
        #: What takes the memory of graphs, by the worker's number of it.
        self.memories: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._finalizer = weakref.finalize(self, _end, self._started, self._idle, self._unawaited)
        # At the end of the program, streams may still be closed. The workers end with the process.
        self._finalizer.atexit = False
        #: Who is at work in a worker of several guests.
        self.steps = None if private else Steps(self._control)
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and only the parent may hold the connections."""
        self.is_parents = True
        self._lost = "the worker belongs to the parent process"
        self._finalizer.detach()
        # Another thread of the parent may have had them.
        self._lock = threading.Lock()
        self._failed = None
        self._started.forked()
        self._unawaited.close()
        while self._idle:
            self._idle.pop().close()

    @property
    def lost(self) -> str:
        """Why the process has ended; empty while it lives."""
        if not self._lost:
            poll = select.poll()
            # The worker sends nothing on this connection.
            poll.register(self._control.socket, select.POLLIN)
            if poll.poll(0):
                self.ended()
        return self._lost

    def number(self) -> int:
        """A new number for a graph or a context."""
        return next(self._numbers)

    def load(
        self, builders: Sequence[Builder], options: LoadOptions, stopped: Stopped = never
    ) -> tuple[int, Description]:
        """Load a graph; its number and description. Raises what ``Backend.load`` does. If
        ``stopped`` says so, it gives up, and a private worker is ended."""
        described: list[str | int] = []
        parts: list[memoryview] = []
        for builder in builders:
            if isinstance(builder, Path):
                described.append(os.fsencode(os.path.abspath(builder)).hex())
            else:
                parts.append(builder.cast("B"))
                described.append(builder.nbytes)
        wanted = {
            "builders": described,
            "encoding": options.encoding,
            "target": options.target.value,
            "config": dict(options.config),
            "allow_fallback": options.allow_fallback,
        }
        number = self.number()
        fds = [shared_memory.pack(parts)] if parts else []
        try:
            answer = self.call(LOAD, number, as_json(wanted), fds, stopped=stopped)
        finally:
            for descriptor in fds:
                os.close(descriptor)
        return number, self.parsed(lambda: description.read(answer))

    def call(
        self,
        kind: int,
        subject: int,
        body: bytes = b"",
        fds: Sequence[int] = (),
        reserve: Reserve = unlimited,
        stopped: Stopped | None = None,
        stdout: Callable[[bytes], object] = discard,
        journal: Callable[[bytes], object] = discard,
    ) -> memoryview:
        """Send a request and return its answer; ``journal`` gets what the context tells the host to
        keep. Raises what the worker answers, ``RuntimeFailure`` if the worker ends (``WorkerEnded``
        if it is not private), and ``GivenUp`` once ``stopped`` says so: then a private worker is
        ended, and another one finishes the request on its own."""
        stopped = stopped or self._stopped
        try:
            channel = self._idle.pop()
        except IndexError:
            channel = self._connect()
        refused: NnError | None = None
        try:
            channel.send(kind, subject, body, fds, stopped)
            while True:
                said, about, answer = channel.receive(None, stopped)
                if about != subject:
                    raise ValueError("an answer to another request")
                if said in (OK, ERROR):
                    break
                if said == JOURNAL:
                    journal(bytes(answer))
                else:
                    told = self._serve(said, answer, channel, reserve, stopped, stdout)
                    refused = told or refused
                # It may send without end.
                if stopped():
                    raise Interrupted
            error = self._error(answer) if said == ERROR else None
            if refused is not None and str(refused) in str(error):
                # The worker has only its text.
                error = refused
        except BaseException as raised:
            # The answer may be still to come: nothing else can be asked here.
            if self.private or not isinstance(raised, Interrupted):
                channel.close()
            elif self._unawaited.add(subject, channel) > _MAX_UNAWAITED:
                self.kill("it was busy with requests of guests that were stopped")
            self._raise(raised)
        self._keep(channel)
        if error is not None:
            if kind == LOAD:
                self._tell_failed()
            raise error
        return answer

    def _tell_failed(self) -> None:
        if self._failed is not None:
            self._failed(self._stopped)

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise what the caller of a request sees of ``error``."""
        if isinstance(error, Interrupted):
            if self.private:
                self.stop()
            raise GivenUp("the guest was stopped while it waited for its model") from None
        if isinstance(error, EOFError):
            self._tell_failed()
            raise self.ended() from None
        if isinstance(error, GARBLED):
            raise self.nonsense() from None
        raise error

    def _keep(self, channel: Channel) -> None:
        if self._lost or len(self._idle) >= _MAX_IDLE:
            channel.close()
        else:
            self._idle.append(channel)

    def parsed(self, parse: Callable[[], Any]) -> Any:
        """The result of ``parse``, which reads what the worker has sent."""
        try:
            return parse()
        except GARBLED:
            raise self.nonsense() from None

    def cancel(self, context: int) -> None:
        """Ask the library to end the computation of a context."""
        with suppress(EOFError), self._lock:
            self._control.send(CANCEL, context)
        self._tell_dropped()

    def drop(self, graph: int) -> None:
        """Let the worker free a graph. A finalizer may call it, so it waits for nothing."""
        self._dropped.append(graph)
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        # Who has the lock does it afterwards.
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                with suppress(EOFError, IndexError):
                    self._control.send(DROP, self._dropped.popleft())
            finally:
                self._lock.release()

    def kill(self, why: str = "") -> None:
        """End the process now, for the reason given. Callable from any thread."""
        self._killed = self._killed or why
        self._started.kill()

    def stop(self) -> None:
        """End the process now, because its guest must end. Callable from any thread."""
        self.kill(_STOPPED)

    def close(self) -> None:
        """End the process, and free what the host has for it."""
        self._lost = self._lost or "the worker was closed"
        # (At the end of the program, a finalizer does nothing when it is called.)
        self._finalizer.detach()
        _end(self._started, self._idle, self._unawaited)

    def ended(self) -> WasiNnError:
        """The error for a worker that has ended."""
        if self.is_parents:
            return refusal(f"a model of {self.backend.title}")
        if not self._lost:
            lost = f"the worker of {self.backend.title} has ended: {self._reason()}"
            with self._lock:
                first = not self._lost
                self._lost = self._lost or lost
            if first and self._killed != _STOPPED:
                deaths[self.backend.name] += 1
                log.error("%s", lost)
        return (RuntimeFailure if self.private else WorkerEnded)(self._lost)

    def nonsense(self) -> WasiNnError:
        """End a worker that does not keep to the protocol."""
        self.kill("it sent what no worker sends")
        return self.ended()

    def _reason(self) -> str:
        if self._killed:
            return self._killed
        self._started.kill()
        status = self._prepared.status(self.process)
        reason = "its process is gone" if status is None else f"exit code {status}"
        if status is not None and status < 0:
            with suppress(ValueError):
                reason = signal.Signals(-status).name
        if status not in (-signal.SIGABRT, 1):
            # Only a process that ends itself says why.
            return reason
        said = stderr.last_line(self._started.errors)
        return f"{reason} ({said})" if said else reason

    def _connect(self) -> Channel:
        if self._lost:
            raise self.ended()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise RuntimeFailure(f"there is no descriptor for a worker: {error}") from error
        with theirs:
            try:
                with self._lock:
                    self._control.send(CHANNEL, 0, b"", [theirs.fileno()])
            except BaseException as error:
                ours.close()
                self._raise(error)
        self._tell_dropped()
        return Channel(ours, endable=True)

    def _serve(
        self,
        kind: int,
        body: memoryview,
        channel: Channel,
        reserve: Reserve,
        stopped: Stopped,
        stdout: Callable[[bytes], object],
    ) -> NnError | None:
        """Do what a worker asks for. Returns why that was refused."""
        if kind == RESERVE:
            (size,) = I64.unpack(body)
            try:
                reserve(size)
            except NnError as error:
                channel.send(ERROR, 0, as_json(str(error)), stopped=stopped)
                return error
            channel.send(OK, stopped=stopped)
        elif kind == LOG:
            self._records.log(from_json(body))
        elif kind == OUTPUT:
            try:
                stdout(bytes(body))
            except Exception as error:
                raise RuntimeFailure(f"the output cannot be written: {error}") from error
        else:
            raise ValueError(f"there is no message {kind}")
        return None

    def _error(self, body: memoryview) -> WasiNnError:
        said = from_json(body)
        name, text = said["error"], said["text"]
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError("what is answered is not an error")
        kind = getattr(errors, name, None)
        text = text[:_MAX_TEXT]
        if isinstance(kind, type) and issubclass(kind, (NnError, Unavailable)):
            # (Some need more than a text.)
            with suppress(TypeError):
                return kind(text)
        return RuntimeFailure(text)


def _end(started: Started, idle: list[Channel], unawaited: Unawaited) -> None:
    started.kill()
    started.close()
    unawaited.close()
    while idle:
        idle.pop().close()
