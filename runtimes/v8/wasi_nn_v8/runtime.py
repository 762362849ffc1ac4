"""The runtime for V8, through Node.js 20 or newer."""

from __future__ import annotations

import os
from functools import lru_cache

from wasi_nn.errors import Unavailable
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability

#: Names the program ``node``.
VARIABLE = "WASI_NN_NODE"
_OLDEST = 20
_INSTALL = f"install Node.js {_OLDEST} or newer (https://nodejs.org), or name it with {VARIABLE}"


class V8Runtime(Runtime):
    """V8, with one process per guest."""

    name = "v8"
    survives_fork = True
    features = RuntimeFeatures(
        zero_copy_memory=False, interrupt=True, memory_limit=True, shared_memory=True
    )
    wasi_modules = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})

    def availability(self) -> Availability:
        return Availability(True, f"V8 of Node.js {_version(_node())}", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn_v8.instance import V8Module

        return V8Module(_node(), wasm)


def _node() -> str:
    """The path of Node.js. Raises ``Unavailable`` with the remedy."""
    import re
    import shutil

    named = os.environ.get(VARIABLE)
    path = shutil.which(named or "node")
    if path is None:
        raise Unavailable(f"{named or 'node'} is not found; {_INSTALL}")
    version = _version(path)
    found = re.match(r"(\d+)\.", version)
    if found is None or int(found[1]) < _OLDEST:
        raise Unavailable(f"{path} is {version or 'not Node.js'}; {_INSTALL}")
    return path


@lru_cache(maxsize=8)
def _version(path: str) -> str:
    import subprocess

    from wasi_nn.runtime.process import shielded_from_sigint

    try:
        with shielded_from_sigint():
            ended = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip().removeprefix("v")
