"""Starts ``worker`` in an interpreter that may have nothing of this project:

    python _boot.py '{"wasi_nn": FOLDER, ...}' PACKAGE RUNTIME ...

The packages come from where they lie on the other side, and only they do, since what lies beside
them was installed for another Python. (pluggy, which is plain Python, where there is none.)
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any


class _Packages:
    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        folder = self._folders.get(name)
        if folder is None:
            return None
        places = [folder]
        return spec_from_file_location(
            name, f"{folder}/__init__.py", submodule_search_locations=places
        )


if __name__ == "__main__":
    # The host decides what Ctrl-C means; a terminal sends it here too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This script's folder, whose modules are no top-level ones.
    if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    folders = json.loads(sys.argv[1])
    last = {name: folders.pop(name) for name in ("pluggy",) if name in folders}
    sys.meta_path.insert(0, _Packages(folders))
    sys.meta_path.append(_Packages(last))
    from wasi_nn.runtime.process._worker import main

    main(*sys.argv[2:])
