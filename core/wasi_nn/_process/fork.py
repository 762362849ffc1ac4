"""What is left of the host in a process that was forked from one that used it.

A fork copies the memory and one thread. Engines and machine-learning libraries have further
threads, and their locks: in the child a call waits for ever, and freeing what was made in the
parent can wait or crash as well. So the child refuses what was used before the fork, and never
frees it. What was not used yet works there.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from wasi_nn.errors import ForkedProcess

_forks = 0
# The engines and backends that were used, and after how many forks they first were.
_used: dict[str, int] = {}
_kept: weakref.WeakSet[object] = weakref.WeakSet()


class OfOneProcess:
    """What cannot go to another process by pickling: it has native parts and locks."""

    def __reduce__(self) -> str:
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and cannot be pickled: give the path "
            "of the file, and make a Host in the other process"
        )


def use(title: str) -> None:
    """An engine or a backend is about to be used. Raises ``ForkedProcess`` where it was used in
    the process that this one was forked from."""
    if _used.setdefault(title, _forks) != _forks:
        raise refusal(title)


def keep(owner: object) -> None:
    """Never free ``owner`` in a child of this process. Its method ``forked``, where it has one, is
    called there once, after the fork."""
    _kept.add(owner)


def refusal(title: str) -> ForkedProcess:
    """The error for what the parent's process has used."""
    return ForkedProcess(
        f"{title} was used before this process was forked, and does not work in the child: its "
        "threads stayed in the parent. Use it first after the fork, or start processes with "
        "multiprocessing's 'spawn' or 'forkserver' (docs/forking.md)"
    )


def _after_fork() -> None:
    global _forks
    _forks += 1
    for owner in list(_kept):
        # One reference more than there are: the end of the process frees nothing either.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
        forked = getattr(owner, "forked", None)
        if forked is not None:
            forked()
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
