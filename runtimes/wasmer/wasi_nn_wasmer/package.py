"""Guests on the PyPI package `wasmer` 1.1.0, which is for Python 3.10 and older.

Its objects belong to the thread that created them: it panics if another thread uses them. Its
guests hold the GIL while they run. It cannot stop or limit a guest, or redirect its standard
streams, which it also buffers. So Python provides streams, arguments and variables
(wasi_nn.runtime.wasi_streams). wasmer provides files: a guest's fd_write to a file calls wasmer's
function. That function uses the memory that its importer exports, so a small module of ours imports
the guest's memory and exports it again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import wasmer
from wasmer import engine
from wasmer import wasi as wasmer_wasi
from wasmer_compiler_cranelift import Compiler

from wasi_nn.errors import GuestTrap, LinkError, UsageError
from wasi_nn.runtime import (
    BufferMemory,
    EngineLimits,
    HostFunction,
    Instance,
    Module,
    WasiConfig,
    values,
)
from wasi_nn.runtime.engine import (
    BESIDE_SOCKETS,
    HOST_TRAP,
    PAGE,
    WASI_MODULES,
    EngineInstance,
    before,
    missing_export,
)
from wasi_nn.runtime.library import view_at
from wasi_nn.runtime.wasi_streams import OF_FILES, Preview1
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.deferred_start import START, defer_start
from wasi_nn.wasm.forwarding import GUEST, forwarder

# (What waits comes from us.)
_FILES = forwarder("wasi", [name for name in BESIDE_SOCKETS if name != "poll_oneoff"])
# WASI's errno of a guest without memory.
_FAULT = 21
_TYPES = {
    "i32": wasmer.Type.I32,
    "i64": wasmer.Type.I64,
    "f32": wasmer.Type.F32,
    "f64": wasmer.Type.F64,
}
_VERSIONS = {
    "wasi_snapshot_preview1": wasmer_wasi.Version.SNAPSHOT1,
    "wasi_unstable": wasmer_wasi.Version.SNAPSHOT0,
}


class _Compiled(threading.local):
    """A thread's own objects of a module."""

    store: Any = None
    module: Any = None
    files: Any = None


class PackageModule(Module):
    """A compiled module. Threads other than the first get theirs from its serialised code."""

    def __init__(self, wasm: bytes) -> None:
        self._compiled = _Compiled()
        store = wasmer.Store(engine.Universal(Compiler))
        # While wasmer instantiates a module, a host function cannot see its memory.
        deferred = defer_start(wasm)
        self.deferred = deferred is not wasm
        try:
            module = wasmer.Module(store, deferred)
        except RuntimeError as error:
            raise UsageError(f"wasmer cannot compile the module: {error}") from None
        files = wasmer.Module(store, _FILES)
        self._code, self._files_code = module.serialize(), files.serialize()
        self._keep(store, module, files)
        file = wasm_module.parse(wasm)
        names = {item.module for item in file.imports}
        #: The WASI that the guest imports, if any. (No known guest imports both.)
        self.wasi = next((name for name in WASI_MODULES if name in names), None)
        self.own = {(item.module, item.name) for item in file.imports}

    def compiled(self) -> _Compiled:
        """The module for this thread."""
        if self._compiled.module is None:
            store = wasmer.Store(engine.Universal(Compiler))
            self._keep(
                store,
                wasmer.Module.deserialize(store, self._code),
                wasmer.Module.deserialize(store, self._files_code),
            )
        return self._compiled

    def _keep(self, store: Any, module: Any, files: Any) -> None:
        self._compiled.store, self._compiled.module, self._compiled.files = store, module, files

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        return PackageInstance(self, functions, wasi)


class PackageInstance(EngineInstance):
    """An instance, for the thread that creates it."""

    def __init__(
        self, module: PackageModule, functions: Sequence[HostFunction], wasi: WasiConfig
    ) -> None:
        super().__init__()
        self._module = module
        self._functions = list(functions)
        self._wasi = wasi
        self._thread = 0
        self._store: Any = None
        self._instance: Any = None
        self._files: Any = None
        self._exported: Any = None
        self._memory = BufferMemory()
        for preopen in wasi.preopens:
            # An absolute path, or a symbolic link, leads wherever it says.
            raise UsageError(
                f"the wasmer package cannot give {preopen.host} to a guest, which could leave that "
                "directory; use libwasmer or another runtime"
            )
        self._streams = Preview1(wasi, self.output_failures, self.pause)

    def close(self) -> None:
        self._instance = self._files = self._exported = self._store = None
        self._memory.replace(memoryview(b""))
        self._streams.files.clear()

    def link(self) -> None:
        module = self._module
        self._thread = threading.get_ident()
        compiled = module.compiled()
        self._store = compiled.store
        imports: dict[str, dict[str, Any]] = {}
        functions = self._functions
        own: dict[str, Any] = {}
        if module.wasi is not None:
            own = self._own_wasi(module.wasi)
            imports[module.wasi] = dict(own)
            functions = self._with_wasi(module.wasi, functions)
        for function in functions:
            if (function.module, function.name) in module.own:
                members = imports.setdefault(function.module, {})
                members[function.name] = self._function(function)
        self._instance = self._entered(wasmer.Instance, compiled.module, imports)
        self._exported = self._export("memory", wasmer.Memory)
        if own and self._exported is not None:
            given = {GUEST: {"memory": self._exported}, "wasi": own}
            self._files = wasmer.Instance(compiled.files, given)
            self._streams.files = {
                name: _unsigned(getattr(self._files.exports, name)) for name in OF_FILES
            }
        if module.deferred:
            self.invoke(START, ())

    def _with_wasi(self, name: str, functions: list[HostFunction]) -> list[HostFunction]:
        """The functions with ours of WASI, which those that the host put before them replace."""
        ours = {function.name: function for function in self._streams.functions(name)}
        first = {function.name: function for function in functions if function.module == name}
        for one, function in first.items():
            own = ours[one].call if one in ours else partial(self._theirs, one)
            ours[one] = before(function, own)
        return [*(f for f in functions if f.module != name), *ours.values()]

    def _theirs(self, name: str, memory: object, *arguments: int) -> int:
        """Call a function of wasmer's WASI."""
        if self._files is None:
            return _FAULT
        return _unsigned(getattr(self._files.exports, name))(*arguments)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        if threading.get_ident() != self._thread:
            # wasmer would panic.
            raise UsageError("wasmer runs a guest only on the thread that instantiated it")
        function = self._export(export, wasmer.Function)
        if function is None:
            raise missing_export(export)
        # wasmer's kinds start at 1, and its numbers are signed.
        kinds = [int(kind) - 1 for kind in function.type.params]
        packed = values.pack(kinds, arguments)
        given = [values.from_raw(kind, one.raw) for kind, one in zip(kinds, packed, strict=True)]
        result = self._entered(function, *given)
        if result is None:
            return ()
        return result if isinstance(result, tuple) else (result,)

    def _export(self, name: str, kind: Any) -> Any:
        try:
            found = getattr(self._instance.exports, name)
        except LookupError:
            return None
        return found if isinstance(found, kind) else None

    def _entered(self, enter: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return enter(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # wasmer's WASI panics on a pointer outside the guest's memory, and on a function that
            # it lacks. A panic is an exception that derives only from BaseException.
            if self.raised is None:
                text = str(error)
                if "importing" in text or "incompatible import" in text:
                    raise LinkError(f"the guest cannot start: {text}") from None
            raise GuestTrap(str(error)) from None

    def _own_wasi(self, version: str) -> dict[str, Any]:
        wasi = self._wasi
        builder = wasmer_wasi.StateBuilder("guest")
        try:
            for preopen in wasi.preopens:
                builder.map_directory(preopen.guest, str(preopen.host))
            state = builder.finalize()
        except RuntimeError as error:
            raise UsageError(f"wasmer refuses the guest's WASI: {error}") from None
        made: dict[str, Any] = state.generate_imports(self._store, _VERSIONS[version])
        return dict(made[version])

    def _function(self, function: HostFunction) -> Any:
        call = function.call
        memory_now = self._memory_now
        kind = wasmer.FunctionType(*([_TYPES[one] for one in each] for each in function.types))

        count = function.parameters

        def trampoline(*given: int) -> Any:
            try:
                numbers = given[:count]
                self.check_stopped()
                result = call(memory_now(), *[number & 0xFFFFFFFF for number in numbers])
                if result is None:
                    return None
                return result if result < 0x80000000 else result - 0x100000000
            except BaseException as exception:
                self.raised = exception
                # wasmer could turn another exception into anything.
                raise RuntimeError(HOST_TRAP) from None

        return wasmer.Function(self._store, trampoline, kind)

    @property
    def memory(self) -> BufferMemory | None:
        return self._memory_now()

    def refresh_memory(self) -> None:
        self._memory_now()

    def _memory_now(self) -> BufferMemory | None:
        """The guest's memory at its current size and address, without a copy."""
        exported = self._exported
        if exported is None:
            return None
        size = exported.size * PAGE
        if size != self._memory.size:
            self._memory.replace(view_at(_address(exported.buffer), size))
        return self._memory


def _address(buffer: Any) -> int:
    """The address of a buffer. A view of the buffer itself would panic if another thread freed it,
    as can happen to objects that a traceback refers to."""
    with memoryview(buffer) as view:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _unsigned(function: Any) -> Callable[..., int]:
    """Call a function of wasmer, whose numbers are signed, with unsigned ones."""

    def call(*numbers: int) -> int:
        errno: int = function(*[n if n < 0x80000000 else n - 0x100000000 for n in numbers])
        return errno

    return call
