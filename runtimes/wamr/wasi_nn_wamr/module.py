"""A loaded module, whose imports are linked to its own callbacks.

WAMR has one list of native symbols for the whole process. It searches the list by name when it
loads a module. So each module registers callbacks for its imports, is loaded, and removes them from
the list. If two modules, or two hosts, import the same name, each gets its own callback. All
instances of a module share its callbacks: a callback asks the thread which instance it runs.

Callbacks use the raw calling convention. It needs no signature strings, and so WAMR does not
translate pointers: the ABI layer checks them itself. Our callbacks come first in the list, so
guests run on our backends even if libiwasm has a wasi-nn of its own.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, WasiConfig
from wasi_nn.runtime.engine import HOST_TRAP, WASI_MODULES, socket_functions
from wasi_nn.runtime.open_files import opens_files
from wasi_nn.runtime.process import in_own_process
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.deferred_start import defer_start, rename_exports
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wamr.api import NATIVE, Api, NativeSymbol
from wasi_nn_wamr.instance import WamrInstance, own_wasi, running

_ERROR_SIZE = 512
_ELEMENT = 8
_MAX_SMALL_TABLE = 1024
#: Exports that WAMR calls while it instantiates a module, where nothing can stop them and nothing
#: counts their fuel. No other engine calls them.
HIDDEN = {
    name: f"wasi-nn:{name}" for name in ("_initialize", "__post_instantiate", "__wasm_call_ctors")
}


class WamrModule(Module):
    """A module that every thread can instantiate."""

    def __init__(self, api: Api, wasm: bytes, isolated: Module) -> None:
        """``isolated`` is the same module for guests in their own processes."""
        self._api = api
        self._isolated = isolated
        file = wasm_module.parse(wasm)
        self.file = file
        #: Bytes of its tables. WAMR allocates a table for the size that it may grow to.
        self.table_bytes = sum(map(_table_bytes, file.tables))
        self.exports_memory = ("memory", "memory") in file.exports
        #: Held while an instance is created: WAMR keeps the WASI arguments in the module.
        self.instantiating = threading.RLock()
        # WAMR changes these bytes, and uses them for as long as the module lives.
        named = rename_exports(wasm, HIDDEN)
        data = defer_start(named)
        self.deferred = data is not named
        self._bytes = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        self._callbacks: list[Any] = []
        #: The imports that host functions serve. A callback has an index into this list.
        self.served: list[tuple[str, str]] = []
        tables = [self._symbols(module, names) for module, names in _callable_imports(file).items()]
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        api.prepare_thread()
        with api.linking:
            for name, symbols in tables:
                api.register(name, symbols, len(symbols))
            try:
                handle = api.load(ctypes.addressof(self._bytes), len(data), error, _ERROR_SIZE)
            finally:
                for name, symbols in tables:
                    api.unregister(name, symbols)
        if not handle:
            reason = error.value.decode(errors="replace")
            raise UsageError(f"WAMR cannot load the module: {reason}")
        self.handle: int = handle
        kept = self._bytes, self._callbacks, tables
        finalizer = weakref.finalize(self, _unload, api, handle, *kept)
        # When the program ends, threads may still run the module.
        finalizer.atexit = False

    def name_of(self, export: str) -> bytes:
        """The name under which WAMR knows an export."""
        return HIDDEN.get(export, export).encode()

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        # WAMR does not limit files, and a process does.
        if opens_files(self.file, wasi) and not in_own_process():
            return self._isolated.prepare(functions, wasi, limits)
        return WamrInstance(self._api, self, functions, wasi, limits)

    def _symbols(self, module: str, names: dict[str, tuple[int, bool]]) -> tuple[bytes, Any]:
        symbols = (NativeSymbol * len(names))()
        for symbol, (name, (parameters, has_result)) in zip(symbols, names.items(), strict=True):
            trampoline = _trampoline(self._api, len(self.served), parameters, has_result)
            self.served.append((module, name))
            callback = NATIVE(trampoline)
            self._callbacks.append(callback)
            symbol.symbol = name.encode()
            symbol.function = ctypes.cast(callback, ctypes.c_void_p)
        return module.encode(), symbols


def _unload(api: Api, handle: int, *kept: Any) -> None:
    api.unload(handle)


def _table_bytes(table: wasm_module.Extent) -> int:
    # WAMR's loader lets a table grow to twice its size, or to 1,024 elements.
    size = max(2 * table.minimum, _MAX_SMALL_TABLE)
    if table.maximum is not None:
        size = min(size, table.maximum)
    return _ELEMENT * size


def _callable_imports(file: wasm_module.WasmFile) -> dict[str, dict[str, tuple[int, bool]]]:
    """The imports that a host function can serve, by module and name: the number of parameters, and
    whether there is a result. WAMR serves most of WASI itself."""
    found: dict[str, dict[str, tuple[int, bool]]] = {}
    own = own_wasi() | {name for _, name in socket_functions(file.imports)}
    for item in file.imports:
        signature = item.signature
        theirs = item.module in WASI_MODULES and item.name in SIGNATURES and item.name not in own
        if signature is not None and not theirs:
            shape = (len(signature.parameters), bool(signature.results))
            found.setdefault(item.module, {})[item.name] = shape
    return found


def _trampoline(
    api: Api, number: int, parameters: int, has_result: bool
) -> Callable[[int, Any], None]:
    stop = 2 * parameters

    def trampoline(exec_env: int, slots: Any) -> None:
        instance = running.instance
        try:
            if instance is None:
                raise RuntimeError("WAMR calls from a thread that runs no guest")
            if instance.stopped:
                instance.check_stopped()
            # (ctypes gives one element for the empty slice 0:0:2.)
            values = slots[0:stop:2] if stop else ()
            result = instance.functions[number](instance.memory_now(exec_env), *values)
            # If the host function called the guest, that call cleared the request to stop.
            if instance.stopped:
                instance.check_stopped()
            if has_result:
                slots[0] = result
        except BaseException as exception:
            if instance is not None:
                instance.raised = exception
            api.set_exception(api.instance_of(exec_env), HOST_TRAP.encode())

    return trampoline
