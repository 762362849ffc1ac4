"""How a module of this package is started in a process of its own, for work that may not end or may
end its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import wasi_nn

# The current directory may be one that the guest writes to, and Python would look for the standard
# library's modules there first: the places of this process's modules replace it before any import
# (that of sys opens no file).
_START = "import sys; sys.path[:] = sys.argv[2:]; import {0} as m; m.main()"


def command(module: str, argument: str) -> list[str]:
    """The command that calls a module's ``main`` with ``argument`` as ``sys.argv[1]``."""
    return [sys.executable, "-c", _START.format(module), argument, *_places()]


def environment() -> dict[str, str]:
    """The environment for it: entries of PYTHONPATH come before the standard library's, and may be
    relative."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _places() -> list[str]:
    """Where modules are looked for: as here, but never relative to the current directory."""
    places = [place for place in sys.path if os.path.isabs(place)]
    for module in (__file__, wasi_nn.__file__):
        # This process may have found itself by a relative place.
        place = str(Path(module).resolve().parents[1])
        if place not in places:
            places.append(place)
    return places
