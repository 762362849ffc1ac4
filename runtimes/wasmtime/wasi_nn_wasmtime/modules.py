"""A compiled core module, and what its guests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES
from wasi_nn.wasm.module import WasmFile
from wasi_nn_wasmtime.engine import Compiled, Engine
from wasi_nn_wasmtime.functions import Kinds
from wasi_nn_wasmtime.hostcalls import Imported, LinkedModule
from wasi_nn_wasmtime.linker import Linker
from wasi_nn_wasmtime.pool import Slots


class Code:
    """Compiled code, with what was made of it once. Any thread may use it."""

    def __init__(
        self, engine: Engine, module: Compiled, file: WasmFile, slots: Slots | None = None
    ) -> None:
        """``slots`` are those of the engine, if each guest takes one."""
        self.engine = engine
        self.slots = slots
        self._module = module
        self._file = file
        imported = {module: file.imported(module) for module in WASI_MODULES}
        #: The names of the functions of WASI that guests import, by WASI's module.
        self.wasi = {module: frozenset(names) for module, names in imported.items() if names}
        # By the signatures of the functions that come from us: guests with directories, or with
        # outputs that go to Python, have more of them.
        self._linked: dict[tuple[Imported, ...], LinkedModule] = {}
        #: The kinds of the exported functions that were called before.
        self.kinds: dict[str, Kinds] = {}

    def on(self, engine: Engine) -> Code:
        """The same code for another engine, which has no slots."""
        return Code(engine, self._module.on(engine), self._file)

    def linked(self, signatures: tuple[Imported, ...]) -> LinkedModule:
        """The module, linked with host functions of these signatures. Raises ``WasmtimeError`` for
        an import that nothing meets."""
        linked = self._linked.get(signatures)
        if linked is None:
            linked = LinkedModule(Linker(self.engine), self._module, signatures)
            # (Two threads may link at once. Both results are right, and each keeps its own.)
            self._linked[signatures] = linked
        return linked


class WasmtimeModule(Module):
    """A compiled module, which any thread may use."""

    def __init__(self, code: Code, unpooled: Callable[[], Engine], fuel: int | None) -> None:
        """``unpooled`` gives the engine of the guests that come when all slots are taken. ``fuel``
        is what a guest without a limit gets, of code that counts it."""
        self._code = code
        self._unpooled = unpooled
        self._unpooled_code: Code | None = None
        self._lock = Lock()
        self._all_fuel = fuel

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        from wasi_nn_wasmtime.instance import WasmtimeInstance

        if limits.fuel is None and self._all_fuel is not None:
            limits = limits._replace(fuel=self._all_fuel)
        code, slots = self._code, self._code.slots
        if slots is not None and not slots.take():
            code = self._without_slot()
        return WasmtimeInstance(code, functions, wasi, limits)

    def _without_slot(self) -> Code:
        with self._lock:
            if self._unpooled_code is None:
                self._unpooled_code = self._code.on(self._unpooled())
            return self._unpooled_code
