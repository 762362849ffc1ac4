"""Guests in Node.js processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wasi_nn.runtime.process.child import Child
from wasi_nn.runtime.process.remote import RemoteModule
from wasi_nn.wasm.deferred_start import START, defer_start

_SCRIPTS = Path(__file__).parent


class V8Module(RemoteModule):
    """A module that V8 has compiled."""

    def __init__(self, node: str, wasm: bytes) -> None:
        def make_child(streams: Sequence[int]) -> Child:
            command = [node, "--no-warnings", str(_SCRIPTS / "guest.cjs")]
            return Child(command, streams, adopts=False, environment=_environment())

        # A start function would run before node:wasi gets the instance and its memory.
        deferred = defer_start(wasm)
        start = None if deferred is wasm else START
        super().__init__("V8", make_child, deferred, limits_memory=False, start=start)


def _environment() -> dict[str, str]:
    """This process's environment, without the options for the user's own Node.js programs: these
    can load other code and write files, and NODE_EXTRA_CA_CERTS costs more than the start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
