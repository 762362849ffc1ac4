"""Processes that have imported a backend's library already, and that workers are forked from."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import wasi_nn
from wasi_nn._process import exit as python_exit
from wasi_nn._process.interrupts import shielded_from_sigint
from wasi_nn._worker import stderr
from wasi_nn._worker.messages import (
    FORK,
    OK,
    STATUS,
    Channel,
    Interrupted,
    as_json,
    from_json,
)
from wasi_nn.backend import Backend
from wasi_nn.backend.shared import MadeOnce, Stopped, acquire_unless_stopped, never
from wasi_nn.errors import RuntimeFailure, Unavailable, UsageError
from wasi_nn.plugins import availability

# Python would search the current directory first, and a guest may be able to write to it. So the
# process sets its sys.path to this process's before any import (importing sys opens no file).
_START = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "from wasi_nn._worker.template import main; main(*sys.argv[1:5])"
)
# What the process gets of the environment: never a secret of the host's.
_VARIABLES = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "PATH",
    "TMPDIR",
    "TZ",
    "XDG_CACHE_HOME",
)
_PREFIXES = (
    *("CUDA", "GGML_", "GOMP_", "HIP_", "HSA_", "KMP_", "LC_", "LLAMA_", "MKL_", "NVIDIA_", "OMP_"),
    *("OPENBLAS_", "OPENVINO_", "ORT_", "OV_", "ROCM_", "ROCR_", "TF_", "TORCH_", "WASI_NN_"),
)
# A process that has been killed ends within this time, in seconds.
_STATUS_SECONDS = 10.0
_GONE = "the process that workers start from has ended"


class Started:
    """A worker's process and the connections to it. Thread-safe."""

    def __init__(self, process: int, handle: int, control: socket.socket, errors: int) -> None:
        """``handle`` is a descriptor to signal the process by; -1 where the system has none.
        ``errors`` is what the process writes to its stderr."""
        self.process = process
        self.control = control
        self.errors = errors
        self._handle = handle
        # A finalizer may run while its thread has this.
        self._lock = threading.RLock()
        self._open = True

    def kill(self) -> None:
        """End the process now; nothing once this is closed."""
        # Once it is closed, the handle's number may be that of another worker.
        with self._lock, suppress(OSError):
            if not self._open:
                return
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self.process, signal.SIGKILL)

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        with self._lock:
            if self._open:
                self._open = False
                self.control.close()
                os.close(self.errors)
                if self._handle >= 0:
                    os.close(self._handle)

    def forked(self) -> None:
        """This is a child process now: close what is the parent's."""
        # Another thread of the parent may have had it.
        self._lock = threading.RLock()
        self.close()


class Prepared:
    """The process of one backend. Thread-safe."""

    def __init__(self, plugin: str, backend: str, origin: str) -> None:
        """Start it. Raises ``UsageError`` if this program has no Python interpreter to start, and
        ``RuntimeFailure`` if the system has no process or descriptor for it."""
        interpreter = _interpreter()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _unavailable(error) from error
        with theirs:
            named = plugin, backend, origin
            command = [interpreter, "-I", "-c", _START, str(theirs.fileno()), *named]
            try:
                with shielded_from_sigint():
                    self._process = subprocess.Popen(
                        [*command, *_search_path()],
                        pass_fds=[theirs.fileno()],
                        env=_environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise _unavailable(error) from error
                raise
        self._interpreter = interpreter
        self._channel = Channel(ours, endable=True)
        self._lock = threading.Lock()
        self._ready = False
        self._ended = False
        _all.append(self)

    @property
    def alive(self) -> bool:
        """Whether it can start workers."""
        return not self._ended and self._process.poll() is None

    def fork(self, confinement: dict[str, Any], stopped: Stopped = never) -> Started:
        """A new worker, which is restricted as ``confinement`` says. Raises ``RuntimeFailure``."""
        acquire_unless_stopped(self._lock, stopped)
        try:
            if not self._ready:
                self._answer([], stopped)
                self._ready = True
            return self._fork(as_json(confinement), stopped)
        finally:
            self._lock.release()

    def _fork(self, confinement: bytes, stopped: Stopped) -> Started:
        fds: list[int] = []
        made: list[int] = []
        try:
            try:
                control, theirs = socket.socketpair()
                made += (control.detach(), theirs.detach())
                made += stderr.pipe()
            except OSError as error:
                raise _unavailable(error) from error
            ours, theirs_in, errors, errors_in = made
            answer = self._ask(FORK, 0, confinement, [theirs_in, errors_in], fds, stopped)
            if answer["handle"] and not fds:
                # The worker ends, since nobody holds its connection.
                raise RuntimeFailure("no worker can start: there is no descriptor for it")
            made = [theirs_in, errors_in]
            handle = fds.pop() if fds else -1
            return Started(answer["process"], handle, socket.socket(fileno=ours), errors)
        finally:
            for descriptor in (*made, *fds):
                os.close(descriptor)

    def status(self, process: int) -> int | None:
        """The exit status of a worker that has ended: negative for a signal. None if nothing is
        known of it."""
        until = time.monotonic() + _STATUS_SECONDS

        def late() -> bool:
            return time.monotonic() > until

        try:
            acquire_unless_stopped(self._lock, late)
            try:
                found: int | None = self._ask(STATUS, process, b"", (), [], late)["status"]
                return found
            finally:
                self._lock.release()
        except RuntimeFailure:
            return None

    def close(self) -> None:
        """End the process, and its workers with it."""
        self._ended = True
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def forked(self) -> None:
        """This is a child process now, and only the parent may hold the connection."""
        self._channel.close()
        # Its process is the child of our parent, so we cannot wait for it.
        self._process.returncode = 0

    def _ask(
        self,
        kind: int,
        subject: int,
        body: bytes,
        fds: Sequence[int],
        got: list[int],
        stopped: Stopped,
    ) -> Any:
        try:
            self._channel.send(kind, subject, body, fds, stopped)
        except (EOFError, Interrupted):
            self._fail()
            raise RuntimeFailure(_GONE) from None
        return self._answer(got, stopped)

    def _answer(self, fds: list[int], stopped: Stopped) -> Any:
        try:
            kind, _, body = self._channel.receive(fds, stopped)
        except EOFError:
            self._fail()
            if self._ready:
                raise RuntimeFailure(_GONE) from None
            raise RuntimeFailure(
                f"no worker can start: {self._interpreter} has ended before it was ready (exit "
                f"code {self._process.returncode}). Is it the Python interpreter of this program?"
            ) from None
        except BaseException as error:
            # An answer that nobody waits for would be taken for that to the next question. Only
            # the first message is one that the next caller can wait for.
            if self._ready:
                self._fail()
            if isinstance(error, Interrupted):
                raise RuntimeFailure(
                    "the guest was stopped while its backend was being imported"
                ) from None
            raise
        found = from_json(body)
        if kind != OK:
            if not self._ready:
                self._fail()
            raise RuntimeFailure(f"no worker can start: {found}")
        return found

    def _fail(self) -> None:
        self.close()
        with suppress(ValueError):
            _all.remove(self)


_all: list[Prepared] = []
_prepared: MadeOnce[Prepared] = MadeOnce()


def prepared(backend: Backend, stopped: Stopped = never) -> Prepared:
    """The process for the backend of an installed plugin. Raises ``Unavailable`` without its
    library."""
    named = backend.plugin, backend.name, backend.origin

    def start() -> Prepared:
        # (It looks for files, which takes as long as the rest of a worker's start in this process.)
        found = availability(backend)
        if not found.usable:
            raise Unavailable(found.detail)
        return Prepared(*named)

    # A module of that name may come from another place later.
    key = *named, getattr(sys.modules.get(backend.plugin), "__file__", None)
    return _prepared.get(key, start, stopped, lambda one: one.alive)


def _leave() -> None:
    for one in _all:
        # Python would warn that it still runs. It ends with this process, which may use it until
        # then: streams are closed late.
        one._process.returncode = 0


def _forget() -> None:
    for one in _all:
        one.forked()
    _all.clear()


python_exit.at_end(_leave)
os.register_at_fork(after_in_child=_forget)


def _unavailable(error: OSError) -> RuntimeFailure:
    return RuntimeFailure(f"no worker can start: {error}")


def _interpreter() -> str:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise UsageError(
            "models of guests run in processes of Python, and this program does not know a Python "
            "interpreter: set sys.executable to one that has the same packages"
        )
    return sys.executable


def _environment() -> dict[str, str]:
    found = {
        name: value
        for name, value in os.environ.items()
        if name in _VARIABLES or name.startswith(_PREFIXES)
    }
    return {
        **found,
        # numpy's library would start threads, and a process with threads cannot be forked safely.
        "OPENBLAS_NUM_THREADS": "1",
        # Large pages for the memory of models, which libraries walk through in each computation: a
        # convolution takes 4 % less time (benchmarks/isolation.py, isolation_large_ratio).
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


def _search_path() -> list[str]:
    """This process's ``sys.path`` without relative folders."""
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    # This process may have found the package in a relative folder.
    own = str(Path(wasi_nn.__file__).resolve().parents[1])
    return folders if own in folders else [*folders, own]
