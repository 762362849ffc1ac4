"""The host in a child process that was forked after the host was used.

A fork copies the memory and only one thread. Engines and machine-learning libraries have more
threads, and locks that those threads hold. In the child, a call into such a library can hang, and
freeing the parent's objects can hang or crash. So the child refuses to use what was used before the
fork, and never frees it. What was not used before the fork works in the child.
"""

from __future__ import annotations

import ctypes
import os
import weakref

from wasi_nn.errors import ForkedProcess

_forks = 0
# The engines and backends that were used, with the number of forks before their first use.
_used: dict[str, int] = {}
_kept: weakref.WeakSet[object] = weakref.WeakSet()


class OfOneProcess:
    """An object that cannot be pickled, because it has native parts and locks."""

    def __reduce__(self) -> str:
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and cannot be pickled: give the path "
            "of the file, and make a Host in the other process"
        )


def use(title: str) -> None:
    """Record that an engine or a backend is used. Raises ``ForkedProcess`` if it was used in the
    parent before this process was forked."""
    if _used.setdefault(title, _forks) != _forks:
        raise refusal(title)


def keep(owner: object) -> None:
    """Never free ``owner`` in a forked child of this process. If it has a method ``forked``, the
    child calls it once, after the fork."""
    _kept.add(owner)


def let_go(owner: object) -> None:
    """``owner`` has nothing left that a child must not free. (What is kept leaves with a callback
    in Python, which loses what a signal's handler raises in it.)"""
    _kept.discard(owner)


def refusal(title: str) -> ForkedProcess:
    """The error for something that the parent process has used."""
    return ForkedProcess(
        f"{title} was used before this process was forked, and does not work in the child: its "
        "threads stayed in the parent. Use it first after the fork, or start processes with "
        "multiprocessing's 'spawn' or 'forkserver' (docs/forking.md)"
    )


def _after_fork() -> None:
    global _forks
    _forks += 1
    for owner in list(_kept):
        # An extra reference, so that not even the exit of the process frees it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
        forked = getattr(owner, "forked", None)
        if forked is not None:
            forked()
    _kept.clear()


os.register_at_fork(after_in_child=_after_fork)
