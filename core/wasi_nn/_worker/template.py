"""The prepared process: it imports a backend's library once, and forks a worker on request."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any

from wasi_nn._sandbox import Confinement, confine, library_paths, prepare
from wasi_nn._worker import stderr
from wasi_nn._worker.messages import ERROR, FORK, OK, Channel, as_json, from_json
from wasi_nn._worker.service import Service
from wasi_nn.backend import Backend

_PR_SET_PDEATHSIG = 1
# How long to wait for a worker that should have ended, in seconds.
_ENDING_SECONDS = 5.0
_MAX_STATUSES = 1024


def main(connection: str, plugin: str, name: str, origin: str) -> None:
    """Serve the host that is at the descriptor ``connection``."""
    # A terminal, or what stops a service, sends these to this process too, but the host decides
    # what they mean: this process and its workers end with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(connection)))
    try:
        backend = _backend(plugin, name)
        backend.origin = origin
        backend.prepare()
        _check_threads(backend)
        prepare()
        paths = library_paths()
        # What is there now is never collected, so that no worker copies it only to look at it.
        gc.collect()
        gc.freeze()
    except BaseException as error:
        channel.send(ERROR, 0, as_json(f"{type(error).__name__}: {error}"))
        return
    channel.send(OK, 0, as_json(None))
    with suppress(EOFError):
        _serve(channel, backend, paths)
    os._exit(0)


def _backend(plugin: str, name: str) -> Backend:
    brought: Iterable[Backend] = import_module(plugin).wasi_nn_backends()
    return next(backend for backend in brought if backend.name == name)


def _check_threads(backend: Backend) -> None:
    running = threading.active_count()
    with suppress(OSError):
        running = len(os.listdir("/proc/self/task"))
    if running > 1:
        raise RuntimeError(
            f"{backend.title} started {running - 1} threads in prepare, and must start none: "
            "a process with threads cannot be forked safely"
        )


def _serve(channel: Channel, backend: Backend, paths: tuple[str, ...]) -> None:
    statuses: dict[int, int] = {}
    # At once, so that no worker that has ended stays in the system's table.
    signal.signal(signal.SIGCHLD, lambda number, frame: _reap(statuses))
    while True:
        fds: list[int] = []
        kind, subject, body = channel.receive(fds)
        if kind == FORK:
            _fork(channel, backend, paths, statuses, from_json(body), fds)
        else:
            until = time.monotonic() + _ENDING_SECONDS
            while subject not in statuses and time.monotonic() < until:
                time.sleep(0.001)
            channel.send(OK, 0, as_json({"status": statuses.get(subject)}))


def _fork(
    channel: Channel,
    backend: Backend,
    paths: tuple[str, ...],
    statuses: dict[int, int],
    wanted: dict[str, Any],
    fds: list[int],
) -> None:
    parent = os.getpid()
    handle = -1
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        if len(fds) < 2:
            raise OSError("its connection did not arrive: there is no descriptor for it")
        process = os.fork()
        if not process:
            channel.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _become_worker(backend, wanted, paths, parent, *fds)
        # An earlier worker may have had the same number.
        statuses.pop(process, None)
        with suppress(AttributeError, OSError):
            handle = os.pidfd_open(process)
    except OSError as error:
        channel.send(ERROR, 0, as_json(f"no process can be forked: {error}"))
        return
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for descriptor in fds:
            os.close(descriptor)
    answer = as_json({"process": process, "handle": handle >= 0})
    if handle < 0:
        channel.send(OK, 0, answer)
        return
    channel.send(OK, 0, answer, [handle])
    os.close(handle)


def _reap(statuses: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            statuses[process] = os.waitstatus_to_exitcode(status)
            if len(statuses) > _MAX_STATUSES:
                del statuses[next(iter(statuses))]


def _become_worker(
    backend: Backend,
    wanted: dict[str, Any],
    paths: tuple[str, ...],
    parent: int,
    control: int,
    errors: int,
) -> None:
    """Restrict this process and serve the host; never returns."""
    try:
        _end_with_parent()
        if wanted["nice"]:
            _stand_back(wanted["nice"])
        os.dup2(errors, 2)
        os.close(errors)
        # (The pipe's other end.)
        reader = os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK)
        connection = socket.socket(fileno=control)
        if os.getppid() == parent:
            if wanted["confined"]:
                read = (*paths, *wanted["read"])
                confine(Confinement(read, wanted["memory"], descriptors=wanted["descriptors"]))
            # A thread is as restricted as the one that starts it.
            stderr.keep_end(reader)
            Service(backend, connection).run()
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _stand_back(nice: int) -> None:
    """Get less of the processor, and interrupt nobody (sched(7)): a thread of the host that is
    interrupted while it has Python's lock makes all others wait."""
    os.nice(nice)
    with suppress(OSError, AttributeError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _end_with_parent() -> None:
    """Make the system end this process when its parent ends in any way: while a library computes,
    it would not notice that its host has gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
