"""The directory of compiled code, which wasmtime uses again in later processes.

Whoever can write to this directory chooses the native code that runs for a guest. So only the user
may enter it. We do not use wasmtime's default directory, because ``~/.config/wasmtime/config.toml``
can name another one.
"""

from __future__ import annotations

import os
import stat
import sys
from functools import cache
from typing import TYPE_CHECKING

from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    import logging

    from wasi_nn_wasmtime.engine import Config

VARIABLE = "WASI_NN_CACHE"


class _Unsafe(Exception):
    """What another user could do to the cache, and what to do about it."""


def enable_cache(config: Config) -> None:
    """Let wasmtime cache compiled code, if the directory is safe. Raises ``UsageError`` if
    ``WASI_NN_CACHE`` is neither ``off`` nor an absolute path."""
    from wasi_nn_wasmtime.failures import WasmtimeError

    try:
        if sys.platform == "win32":
            # Access control lists keep other users out of a profile, and modes say nothing.
            if os.environ.get(VARIABLE) != "off":
                config.load_cache(None)
        elif directory := _directory():
            _use(config, _make_private(directory))
    except _Unsafe as unsafe:
        _warn_once(str(unsafe))
    except (OSError, ValueError, WasmtimeError) as error:
        # Without a writable home directory, compilation takes longer, but the guest runs.
        _log().info("compiled code is not cached: %s", error)


def _directory() -> str | None:
    given = os.environ.get(VARIABLE)
    if given == "off":
        return None
    if given:
        if not os.path.isabs(given):
            raise UsageError(f"{VARIABLE} must be off or an absolute path, not {given!r}")
        return os.path.normpath(given)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(caches):
        raise FileNotFoundError("this user has no home directory")
    return os.path.join(caches, "wasi-nn", "wasmtime")


def _make_private(directory: str) -> str:
    """The path without symbolic links. Missing directories are made with mode 0700.

    Like sshd, this resolves links first and then checks every directory of the result.

    Raises ``OSError``, and ``_Unsafe`` if another user can enter the directory, or replace it or a
    parent."""
    parent, name = os.path.split(directory)
    directory = os.path.join(os.path.realpath(parent), name)
    path = ""
    for part in directory.split(os.sep):
        path += part or os.sep
        _check(path, _status(path), is_parent=path != directory)
        path = path.rstrip(os.sep) + os.sep
    return directory


def _status(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        os.makedirs(path, 0o700, exist_ok=True)  # Another process may be faster.
        return os.lstat(path)


def _check(path: str, status: os.stat_result, is_parent: bool) -> None:
    user = os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        if is_parent:
            raise NotADirectoryError(f"{path} is not a directory")
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a file"
        raise _Unsafe(f"{path} is {kind}, not a directory; remove it")
    # Root can write everywhere, so its directories may be parents.
    if status.st_uid != user and not (is_parent and status.st_uid == 0):
        repair = "set" if is_parent else "remove it, or set"
        raise _Unsafe(
            f"{path} belongs to user {status.st_uid}, not to user {user}; "
            f"{repair} {VARIABLE} to a directory of your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    if not is_parent:
        # wasmtime makes the directories in it with the umask, so others must not enter at all.
        if mode & 0o077:
            raise _Unsafe(
                f"other users can enter {path} (mode {mode:04o}); delete its files if others could "
                f"write there, then chmod 700 {path}"
            )
    # In a sticky directory (/tmp), only the owner can replace an entry.
    elif mode & 0o022 and not mode & stat.S_ISVTX:
        raise _Unsafe(f"other users can write to {path} (mode {mode:04o}); chmod go-w {path}")


@cache
def _warn_once(reason: str) -> None:
    text = "compiled code is not cached: %s (%s=off stops this warning)"
    _log().warning(text, reason, VARIABLE)


def _log() -> logging.Logger:
    # Importing logging takes milliseconds, which the process of an engine does not have to spend.
    from wasi_nn.escaping import logger

    return logger("wasi_nn.wasmtime")


def _use(config: Config, directory: str) -> None:
    """wasmtime takes its settings only from a file. A pipe is one that nobody can replace."""
    quoted = directory.replace("\\", "\\\\").replace('"', '\\"')
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as settings:
            settings.write(f'[cache]\ndirectory = "{quoted}"\n'.encode())
        config.load_cache(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
