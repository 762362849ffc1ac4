"""Any engine in a process of its own, under this Python or another one.

Some engines work in other Pythons only (wasmer's package needs 3.10 or older). A guest in its own
process can be ended at any moment, and if its engine crashes, the host does not. Models stay in the
host: the process has the engine and the guest's memory, and asks for everything else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wasi_nn._process.interrupts import shielded_from_sigint
from wasi_nn.errors import Unavailable
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.runtime.component import Component
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.runtime.process.child import Child
from wasi_nn.runtime.process.components import RemoteComponent
from wasi_nn.runtime.process.guest import MakeChild
from wasi_nn.runtime.process.remote import RemoteModule
from wasi_nn.types import Availability

__all__ = ["ProcessRuntime"]

_BOOT = Path(__file__).with_name("_boot.py")
# How long another Python may take to describe its engine.
_DESCRIBING_SECONDS = 120


class ProcessRuntime(Runtime):
    """A runtime whose guests run in processes of another Python."""

    name: str
    survives_fork = True

    def __init__(self, runtime: Runtime, python: str) -> None:
        """``python`` is a program's name or path; empty for this Python."""
        self.name = str(RuntimeName(runtime.name, python))
        self._python = python or sys.executable
        self._plugin = (type(runtime).__module__.partition(".")[0], runtime.name)

    @property
    def features(self) -> RuntimeFeatures:
        """The engine's features, with those that a process changes."""
        engine = RuntimeFeatures(**self._described()["features"])
        return engine._replace(
            zero_copy_memory=False,
            interrupt=True,
            memory_limit=True,
            threads=True,
        )

    @property
    def wasi_modules(self) -> frozenset[str]:
        """What the engine's own WASI provides."""
        return frozenset(self._described()["wasi"])

    def availability(self) -> Availability:
        described = self._described()
        detail = f"{described['detail']}, in a process of {self._python}"
        return Availability(described["usable"], detail, ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        able = bool(self._described()["features"]["memory_limit"])
        return RemoteModule(self.name, self._make_child(limits), wasm, limits_memory=able)

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        if not self.features.components:
            return super().compile_component(wasm, limits)
        return RemoteComponent(self.name, self._make_child(limits), wasm)

    def _make_child(self, limits: EngineLimits) -> MakeChild:
        what = "plain" if limits.fuel is None else "fuel"
        command = [*_command(self._python, *self._plugin), what]
        environment = _environment(self._python)
        return lambda streams: Child(command, streams, True, environment)

    def _described(self) -> dict[str, Any]:
        return _describe(self._python, *self._plugin)


def _command(python: str, package: str, name: str) -> list[str]:
    folders = {}
    for needed in ("wasi_nn", package, "pluggy"):
        spec = find_spec(needed)
        if spec is not None and spec.submodule_search_locations:
            folders[needed] = str(next(iter(spec.submodule_search_locations)))
    return [python, str(_BOOT), json.dumps(folders), package, name]


def _environment(python: str) -> dict[str, str]:
    """This process's environment. Another Python does not get the places of this one's modules."""
    own = python == sys.executable
    return {k: v for k, v in os.environ.items() if own or k not in ("PYTHONHOME", "PYTHONPATH")}


@lru_cache(maxsize=32)
def _describe(python: str, package: str, name: str) -> dict[str, Any]:
    """What a runtime says about itself under another Python. Raises ``Unavailable``."""
    if shutil.which(python) is None:
        raise Unavailable(f"{python} is not found; name a Python 3.10 or newer")
    try:
        with shielded_from_sigint():
            process = subprocess.Popen(
                [*_command(python, package, name), "describe"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=_environment(python),
            )
        with process:
            try:
                said, complaint = process.communicate(timeout=_DESCRIBING_SECONDS)
            except BaseException:
                process.kill()
                raise
        described: dict[str, Any] = json.loads(said)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{python} does not start: {error}") from error
    except ValueError:
        last = complaint.strip().splitlines()[-1:] or ["it printed nothing"]
        raise Unavailable(f"{python} cannot run the runtime {name}: {last[0]}") from None
    return described
