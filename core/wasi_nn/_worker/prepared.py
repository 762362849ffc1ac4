"""Processes that have imported a backend's library already, and that workers are forked from."""

from __future__ import annotations

import atexit
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import wasi_nn
from wasi_nn._process.interrupts import shielded_from_sigint
from wasi_nn._worker.messages import FORK, OK, STATUS, Channel, as_json, from_json
from wasi_nn.backend.shared import MadeOnce, Stopped, acquire_unless_stopped, never
from wasi_nn.errors import RuntimeFailure

# Python would search the current directory first, and a guest may be able to write to it. So the
# process sets its sys.path to this process's before any import (importing sys opens no file).
_START = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from wasi_nn._worker.template import main; main(*sys.argv[1:4])"
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
_POLL_SECONDS = 0.05


class Started(NamedTuple):
    """A worker's process: its number, a descriptor to signal it by (-1 where the system has none),
    and the connection to it."""

    process: int
    handle: int
    control: socket.socket
    errors: int


class Prepared:
    """The process of one backend. Thread-safe."""

    def __init__(self, plugin: str, backend: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-c", _START, str(theirs.fileno()), plugin, backend]
            with shielded_from_sigint():
                self._process = subprocess.Popen(
                    [*command, *_search_path()],
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        self._channel = Channel(ours)
        self._lock = threading.Lock()
        self._ready = False
        self.ended = False
        _all.append(self)

    def fork(self, confinement: dict[str, Any], stopped: Stopped = never) -> Started:
        """A new worker, which is restricted as ``confinement`` says. Raises ``RuntimeFailure``."""
        acquire_unless_stopped(self._lock, stopped)
        try:
            self._wait(stopped)
            control, theirs = socket.socketpair()
            errors, errors_in = os.pipe()
            os.set_blocking(errors_in, False)
            os.set_blocking(errors, False)
            with theirs:
                fds: list[int] = []
                try:
                    self._channel.send(FORK, 0, as_json(confinement), [theirs.fileno(), errors_in])
                    answer = self._answer(fds)
                except BaseException:
                    control.close()
                    os.close(errors)
                    raise
                finally:
                    os.close(errors_in)
            return Started(answer["process"], fds[0] if fds else -1, control, errors)
        finally:
            self._lock.release()

    def status(self, process: int) -> int | None:
        """The exit status of a worker that has ended: negative for a signal. None if nothing is
        known of it."""
        with self._lock:
            try:
                self._channel.send(STATUS, process)
                found: int | None = self._answer([])["status"]
                return found
            except RuntimeFailure:
                return None

    def close(self) -> None:
        """End the process, and its workers with it."""
        self.ended = True
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def forked(self) -> None:
        """This is a child process now, and only the parent may hold the connection."""
        self._channel.close()
        # Its process is the child of our parent, so we cannot wait for it.
        self._process.returncode = 0

    def _wait(self, stopped: Stopped) -> None:
        if self._ready:
            return
        poll = select.poll()
        poll.register(self._channel.socket, select.POLLIN)
        while not poll.poll(_POLL_SECONDS * 1000):
            if stopped():
                raise RuntimeFailure("the guest was stopped while its backend was being imported")
        self._answer([])
        self._ready = True

    def _answer(self, fds: list[int]) -> Any:
        try:
            kind, _, body = self._channel.receive(fds)
            found = from_json(body)
        except (EOFError, ValueError):
            self.ended = True
            raise RuntimeFailure("the process that workers start from has ended") from None
        if kind != OK:
            self.ended = True
            raise RuntimeFailure(f"no worker can start: {found}")
        return found


_all: list[Prepared] = []
_prepared: MadeOnce[Prepared] = MadeOnce()


def prepared(plugin: str, backend: str, stopped: Stopped = never) -> Prepared:
    """The process for the backend that a plugin's module brings."""
    return _prepared.get(
        (plugin, backend), lambda: Prepared(plugin, backend), stopped, lambda one: not one.ended
    )


def _end() -> None:
    for one in _all:
        with suppress(OSError):
            one.close()
    _all.clear()


def _forget() -> None:
    for one in _all:
        one.forked()
    _all.clear()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)


def _environment() -> dict[str, str]:
    found = {
        name: value
        for name, value in os.environ.items()
        if name in _VARIABLES or name.startswith(_PREFIXES)
    }
    # numpy's library would start threads, and a process with threads cannot be forked safely.
    return {**found, "OPENBLAS_NUM_THREADS": "1"}


def _search_path() -> list[str]:
    """This process's ``sys.path`` without relative folders."""
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    # This process may have found the package in a relative folder.
    own = str(Path(wasi_nn.__file__).resolve().parents[1])
    return folders if own in folders else [*folders, own]
