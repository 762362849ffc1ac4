"""Runs a module of this package in a separate process, for work that may not end or may crash."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import wasi_nn

# Python would search the current directory first, and a guest may be able to write to it. So the
# process sets its sys.path to this process's before any import (importing sys opens no file).
_START = "import sys; sys.path[:] = sys.argv[2:]; import {0} as m; m.main()"


def command(module: str, argument: str) -> list[str]:
    """The command that calls a module's ``main`` with ``argument`` as ``sys.argv[1]``."""
    return [sys.executable, "-c", _START.format(module), argument, *_search_path()]


def environment() -> dict[str, str]:
    """The environment for the process, without PYTHONPATH: its entries come before the standard
    library's, and may be relative."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def limit(memory: int, cpu_seconds: int | None = None) -> None:
    """Limit this process's data in bytes, and its computing time, where the system can."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, cpu_seconds)):
        if most is not None:
            # Raised if the system's limit is already lower.
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (most, most))


def _search_path() -> list[str]:
    """This process's ``sys.path`` without relative folders."""
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    for module in (__file__, wasi_nn.__file__):
        # This process may have found these packages in a relative folder.
        folder = str(Path(module).resolve().parents[1])
        if folder not in folders:
            folders.append(folder)
    return folders
