"""What Python and its libraries read later: the least that a confined process needs to open."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator

# The system's libraries, and what they and the machine-learning libraries look up: the linker's
# cache, the processors and caches, the memory, the time zone.
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/maps",
    "/dev/null",
    "/dev/urandom",
)


def library_paths() -> tuple[str, ...]:
    """Files and folders, absolute, that Python and the libraries that it has loaded may still open.

    The folders that packages are installed in are there as a whole. Of what was imported from
    elsewhere (a checkout, the program's own folder), only the packages are there. The current
    folder, a home folder and the folders above it are never there as such."""
    found: dict[str, None] = dict.fromkeys(_SYSTEM)
    for path in (*_python(), *_mapped()):
        found[path] = None
    return tuple(found)


def _python() -> Iterator[str]:
    paths = sysconfig.get_paths()
    installed = {
        os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    for entry in filter(os.path.isabs, sys.path):
        real = os.path.realpath(entry)
        packages = os.path.basename(real) in ("site-packages", "dist-packages", "lib-dynload")
        if packages or os.path.isfile(real):  # (A file: a zip.)
            installed.add(real)
    installed = {path for path in installed if _narrow(path)}
    yield from sorted(installed)
    for name, module in list(sys.modules.items()):
        if "." not in name:
            for place in _places(module):
                if not any(place.startswith(folder + os.sep) for folder in installed):
                    yield place


def _places(module: object) -> list[str]:
    """The folders of a package, or the file of a module."""
    try:
        found = [*getattr(module, "__path__", ())] or [getattr(module, "__file__", None)]
    except Exception:  # A module may compute what it answers.
        return []
    return [
        place
        for path in found
        if isinstance(path, str)
        and os.path.isabs(path)
        and _narrow(place := os.path.realpath(path))
    ]


def _mapped() -> Iterator[str]:
    """The folders of the shared libraries that this process has mapped. They load each other."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            files = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    except OSError:
        return
    for file in sorted(files):
        if ".so" in os.path.basename(file):
            folder = os.path.dirname(file)
            yield folder if _narrow(folder) else file


def _narrow(path: str) -> bool:
    """Whether a path is neither the current folder nor so near the root that it may hold
    anything: a home, what is above it, ``/opt``, ``/tmp``."""
    home = os.path.realpath(os.path.expanduser("~"))
    if os.path.dirname(path) in ("/", "/home") or os.path.commonpath([home, path]) == path:
        return False
    try:
        return path != os.getcwd()
    except OSError:  # It is gone.
        return True
