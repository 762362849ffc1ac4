"""Starts ``_worker`` in a Python in which this project need not be installed:

    python _boot.py '{"wasi_nn": FOLDER, ...}' PACKAGE RUNTIME ...

The packages are imported from the host's folders. Nothing else in those folders is, because it was
installed for another Python. (Except pluggy, which is plain Python, if this Python has none.)
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
    # A terminal sends Ctrl-C to this process too, but the host decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The modules beside this script must not be imported as top-level ones.
    if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    folders = json.loads(sys.argv[1])
    last = {name: folders.pop(name) for name in ("pluggy",) if name in folders}
    sys.meta_path.insert(0, _Packages(folders))
    sys.meta_path.append(_Packages(last))
    from wasi_nn.runtime.process._worker import main

    main(*sys.argv[2:])
