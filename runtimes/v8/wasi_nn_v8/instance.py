"""Guests in Node.js processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import as_file, files

from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import refuse_read_only
from wasi_nn.runtime.process.child import Child
from wasi_nn.runtime.process.remote import RemoteInstance, RemoteModule
from wasi_nn.wasm.deferred_start import START, defer_start


class V8Module(RemoteModule):
    """A module that V8 has compiled."""

    def __init__(self, node: str, wasm: bytes) -> None:
        def make_child(streams: Sequence[int]) -> Child:
            with as_file(files("wasi_nn_v8").joinpath("guest.cjs")) as script:
                command = [node, "--no-warnings", str(script)]
                return Child(command, streams, adopts=False, environment=_environment())

        # A start function would run before node:wasi gets the instance and its memory.
        deferred = defer_start(wasm)
        start = None if deferred is wasm else START
        super().__init__("V8", make_child, deferred, limits_memory=False, start=start)

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> RemoteInstance:
        refuse_read_only("node:wasi", wasi.preopens)
        return super().prepare(functions, wasi, limits)


def _environment() -> dict[str, str]:
    """This process's environment, without the options for the user's own Node.js programs: these
    can load other code and write files, and NODE_EXTRA_CA_CERTS costs more than the start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
