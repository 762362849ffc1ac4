"""Guests in Node.js processes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files

from wasi_nn.adapter.child import Child
from wasi_nn.adapter.instance import refuse_read_only
from wasi_nn.adapter.remote import RemoteInstance, RemoteModule
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig


class V8Module(RemoteModule):
    """A module that V8 has taken."""

    def __init__(self, node: str, wasm: bytes) -> None:
        def make_child(streams: Sequence[int]) -> Child:
            with as_file(files("wasi_nn_v8").joinpath("guest.cjs")) as script:
                return Child([node, "--no-warnings", str(script)], streams, adopts=False)

        super().__init__("V8", make_child, wasm)

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> RemoteInstance:
        refuse_read_only("node:wasi", wasi.preopens)
        return super().prepare(functions, wasi, limits)
