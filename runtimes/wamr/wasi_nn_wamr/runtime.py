"""The runtime that drives WAMR, through libiwasm's own C API (wasm_export.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasi_nn.errors import Unavailable
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from wasi_nn_wamr.api import Api


class WamrRuntime(Runtime):
    """WAMR: small, an interpreter or whatever else the library was built with."""

    name = "wamr"
    wasi_modules = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})

    @property
    def features(self) -> RuntimeFeatures:
        """Deadlines and fuel depend on how the library was built."""
        try:
            if isolated := self._isolated():
                return isolated.features
            library = _api()
        except Unavailable:
            return RuntimeFeatures(memory_limit=True)
        return RuntimeFeatures(memory_limit=True, interrupt=library.interrupts, fuel=library.meters)

    def availability(self) -> Availability:
        if isolated := self._isolated():
            return isolated.availability()
        return Availability(True, f"WAMR {_api().version}", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        if isolated := self._isolated():
            return isolated.compile(wasm, limits)
        from wasi_nn.runtime.process.isolated import Isolated
        from wasi_nn_wamr.module import WamrModule

        return WamrModule(_api(), wasm, Isolated(self, wasm, limits))

    def _isolated(self) -> Runtime | None:
        """This runtime in a process of its own, if libiwasm needs one. Raises ``Unavailable``."""
        from wasi_nn_wamr.api import needs_own_process

        if not needs_own_process():
            return None
        from wasi_nn.runtime.process.runtime import ProcessRuntime

        return ProcessRuntime(self, "")


def _api() -> Api:
    # (ctypes is not part of a program's start.)
    from wasi_nn_wamr.api import api

    return api()
