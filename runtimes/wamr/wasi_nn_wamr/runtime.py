"""The adapter for WAMR, through libiwasm's own C API (wasm_export.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasi_nn.errors import Unavailable
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from wasi_nn_wamr.api import Api


class WamrRuntime(Runtime):
    """WAMR: small, an interpreter or what else the library was built with."""

    name = "wamr"
    wasi_modules = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})

    @property
    def features(self) -> RuntimeFeatures:
        """Deadlines and fuel depend on how the library was built."""
        try:
            library = _api()
        except Unavailable:
            return RuntimeFeatures(memory_limit=True)
        return RuntimeFeatures(memory_limit=True, interrupt=library.interrupts, fuel=library.meters)

    def availability(self) -> Availability:
        try:
            return Availability(True, f"WAMR {_api().version}", ("cpu",))
        except Unavailable as reason:
            return Availability(False, str(reason))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn_wamr.module import WamrModule

        return WamrModule(_api(), wasm)


def _api() -> Api:
    # (ctypes is not part of a program's start.)
    from wasi_nn_wamr.api import api

    return api()
