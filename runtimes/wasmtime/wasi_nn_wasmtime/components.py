"""One component in one wasmtime store, and the host functions that it imports."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import wasmtime
import wasmtime.component

from wasi_nn.errors import GuestError, GuestTrap, LimitExceeded, OutOfFuel, UsageError
from wasi_nn.escaping import logger
from wasi_nn.runtime import EngineLimits, Instance, WasiConfig
from wasi_nn.runtime.component import Component, Function, Interface, is_wasi
from wasi_nn.runtime.engine import HOST_TRAP, GuestExit
from wasi_nn.wasm.component import RUN, parse
from wasi_nn_wasmtime.bytes_through_memory.component_types import NotRewritable
from wasi_nn_wasmtime.bytes_through_memory.memories import SUPPORTED, LinearMemory, memories_into
from wasi_nn_wasmtime.bytes_through_memory.rewriting import ASK_LENGTH, lower_bytes_through_memory
from wasi_nn_wasmtime.capi import POINTER, lean
from wasi_nn_wasmtime.declarations import Declarations
from wasi_nn_wasmtime.engine import Engine
from wasi_nn_wasmtime.failures import Trap, WasmtimeError, new_error, raise_error
from wasi_nn_wasmtime.package import address, engine_of, ours, store_of
from wasi_nn_wasmtime.store import StoreInstance
from wasi_nn_wasmtime.strand import Strand, can_wait
from wasi_nn_wasmtime.streams import OutputStream
from wasi_nn_wasmtime.values import SIZE, Reader, read_u32, reader, write_place, writer
from wasi_nn_wasmtime.wasi import configured

log = logger("wasi_nn")

_CALLBACK: Any = ctypes.CFUNCTYPE(
    POINTER, POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t, POINTER, ctypes.c_size_t
)
_DROP: Any = ctypes.CFUNCTYPE(POINTER, POINTER, POINTER, ctypes.c_uint32)
_add_function = lean(
    "wasmtime_component_linker_instance_add_func",
    POINTER,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_size_t,
    _CALLBACK,
    POINTER,
    POINTER,
)
_add_resource = lean(
    "wasmtime_component_linker_instance_add_resource",
    POINTER,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_size_t,
    POINTER,
    _DROP,
    POINTER,
    POINTER,
)

# A component has several core instances, each with its own tables and memories. The limit on memory
# applies to each memory.
_MAX_INSTANCES, _MAX_TABLES, _MAX_MEMORIES = 1000, 100, 4


class _Compiled(NamedTuple):
    """Code, with the engine that compiled it."""

    engine: Engine
    theirs: wasmtime.Engine
    component: wasmtime.component.Component
    declarations: Declarations
    can_wait: bool
    opens_files: bool


class WasmtimeComponent(Component):
    """A compiled component, which any thread may use."""

    def __init__(
        self,
        engine: Callable[..., Engine],
        wasm: bytes,
        all_fuel: int | None,
        isolated: Component,
    ) -> None:
        """``engine(memories=True)`` returns an engine whose memories we allocate. ``isolated`` is
        the same component for guests whose files must be counted: wasmtime's WASI does not."""
        self._all_fuel = all_fuel
        self._isolated = isolated
        self._compiled = _compile(engine, wasm)
        self._run = self._compiled.declarations.command(RUN)

    def check(self, interfaces: Sequence[Interface]) -> None:
        self._compiled.declarations.check(interfaces)
        if self._run is None:
            raise UsageError(
                f"this is not a command: it exports no {RUN} with a run: func() -> result"
            )

    def prepare(
        self, interfaces: Sequence[Interface], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        self.check(interfaces)
        assert self._run is not None
        if limits.files is not None and wasi.preopens and self._compiled.opens_files:
            return self._isolated.prepare(interfaces, wasi, limits)
        if limits.fuel is None:
            limits = limits._replace(fuel=self._all_fuel)
        return WasmtimeComponentInstance(self._compiled, self._run, interfaces, wasi, limits)


def _compile(engine: Callable[..., Engine], wasm: bytes) -> _Compiled:
    imports = parse(wasm).imports
    opens = any(name.startswith("wasi:filesystem/") for name in imports)
    abilities = (can_wait(imports), opens)
    if SUPPORTED:
        creating = engine(memories=True)
        theirs = engine_of(creating)
        try:
            lowered = lower_bytes_through_memory(wasm, is_wasi)
            component = wasmtime.component.Component(theirs, lowered.wasm)
            declarations = Declarations(theirs, component, lowered.returns_bytes, memory=True)
            return _Compiled(creating, theirs, component, declarations, *abilities)
        except (NotRewritable, wasmtime.WasmtimeError) as error:
            # If the component itself is wrong, the next compilation raises that error.
            log.debug("lists of bytes go through wasmtime's C API: %s", error)
    plain = engine()
    theirs = engine_of(plain)
    component = wasmtime.component.Component(theirs, wasm)
    declarations = Declarations(theirs, component, frozenset(), memory=False)
    return _Compiled(plain, theirs, component, declarations, *abilities)


class WasmtimeComponentInstance(StoreInstance):
    """A store with one component in it."""

    def __init__(
        self,
        compiled: _Compiled,
        run: str,
        interfaces: Sequence[Interface],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__(compiled.engine, limits)
        self._linker = wasmtime.component.Linker(compiled.theirs)
        self._streams: list[OutputStream] = []
        self._component = compiled.component
        self._strand = Strand() if compiled.can_wait else None
        self._returns_bytes = compiled.declarations.returns_bytes
        self._memories: list[LinearMemory] = []
        self._run_export = run
        self._kept: list[Any] = []
        self._instance: wasmtime.component.Instance | None = None
        try:
            self._bound(_MAX_TABLES, _MAX_MEMORIES, _MAX_INSTANCES)
            config = configured(wasi)
            for name, stream in (("stdout", wasi.stdout), ("stderr", wasi.stderr)):
                if callable(stream):
                    self._streams.append(OutputStream(stream, self.output_failures))
                    self._streams[-1].attach(config, name)
            self._store.give_wasi(config)
            self._linker.add_wasip2()
            self._define(interfaces)
        except BaseException:
            self.close()
            raise

    def start(self) -> int:
        try:
            (result,) = self.run_guest(self.invoke, self._run_export, ())
        except GuestExit as exit:
            return exit.code
        return 1 if getattr(result, "tag", "ok") == "err" else 0

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        raise UsageError("a component is run as a command")

    def close(self) -> None:
        if self._strand is None:
            self._close()
        else:
            self._strand.after(self._close)

    def _close(self) -> None:
        super().close()
        self._linker.close()
        self._kept.clear()
        for stream in self._streams:
            stream.wait()

    def stop_guest(self) -> None:
        super().stop_guest()
        if self._strand is not None:
            self._strand.stop()

    def _translate(self, error: Trap | WasmtimeError) -> GuestError | GuestExit:
        if "fuel allocated for hostcalls" in str(error):
            # 128 MiB of values, at 32 bytes for each byte. The C API cannot raise that bound.
            return LimitExceeded(
                "the guest passed more than about 4 MiB in one call, the most that wasmtime's C "
                "API takes from a component; name the model (--graph, or Host.add_model), or use a "
                "core module"
            )
        if "all fuel consumed by WebAssembly" in str(error):
            # (A core module raises a Trap with a code here.)
            return OutOfFuel("the guest used up its fuel")
        return super()._translate(error)

    def link(self) -> None:
        self._endable(self._link)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        return (self._endable(partial(self._call, export)),)

    def _endable(self, work: Callable[[], Any]) -> Any:
        return work() if self._strand is None else self._strand.call(work)

    def _link(self) -> None:
        try:
            with memories_into(self._memories):
                store = store_of(self._store.context)
                self._instance = self._linker.instantiate(store, self._component)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._not_started(ours(error)) from None

    def _call(self, export: str) -> Any:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        store = store_of(self._store.context)
        inside = self._instance.get_export_index(store, export)
        index = self._instance.get_export_index(store, "run", inside)
        function = None if index is None else self._instance.get_func(store, index)
        if function is None:
            raise UsageError(f"{RUN} has no function run")
        try:
            return function(store)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._translate(ours(error)) from None

    def _define(self, interfaces: Sequence[Interface]) -> None:
        names = [resource.name for interface in interfaces for resource in interface.resources]
        numbers = {name: number for number, name in enumerate(names, 1)}
        if not interfaces:
            return
        with self._linker.root() as root:
            for interface in interfaces:
                with root.add_instance(interface.name) as linker:
                    at = address(linker.ptr())
                    for resource in interface.resources:
                        kind = wasmtime.component.ResourceType.host(numbers[resource.name])
                        drop = _DROP(self._dropper(resource.drop))
                        self._kept += (drop, kind)
                        name = resource.name.encode()
                        type_at = address(kind.ptr())
                        raise_error(_add_resource(at, name, len(name), type_at, drop, None, None))
                    for function in interface.functions:
                        call = self._trampoline(function, numbers)
                        if (interface.name, function.name) in self._returns_bytes:
                            call = self._bytes_function(function)
                        callback = _CALLBACK(call)
                        self._kept.append(callback)
                        name = function.name.encode()
                        raise_error(_add_function(at, name, len(name), callback, None, None))

    def _trampoline(self, function: Function, numbers: dict[str, int]) -> Callable[..., int | None]:
        call = self._within(function.call)
        readers = self._readers(function)
        write = None if function.result is None else writer(function.result, numbers)

        def trampoline(
            data: int, context: int, kind: int, values: int, count: int, results: int, given: int
        ) -> int | None:
            try:
                if count != len(readers):
                    raise GuestTrap(f"{function.name} is called with {count} parameters")
                result = call(*[read(context, values + offset) for offset, read in readers])
                if write is not None:
                    write(context, results, result)
                return None
            except BaseException as exception:
                return self._fail(exception)

        return trampoline

    def _bytes_function(self, function: Function) -> Callable[..., int | None]:
        """A function that returns bytes through a shim. The shim first asks for their number, and
        then passes the address where they must go."""
        call = self._within(function.call)
        readers = self._readers(function)
        last = SIZE * len(readers)
        pending: bytes | None = None

        def bytes_function(
            data: int, context: int, kind: int, values: int, count: int, results: int, size: int
        ) -> int | None:
            nonlocal pending
            try:
                arguments = [read(context, values + offset) for offset, read in readers]
                place = read_u32(values + last)
                if (place == ASK_LENGTH) != (pending is None):
                    raise GuestTrap("the guest's realloc calls imports")
                if pending is None:
                    pending = call(*arguments)
                    write_place(results, place, len(pending))
                else:
                    ready, pending = pending, None
                    self._view(place, len(ready))[:] = ready
                    write_place(results, place, len(ready))
                return None
            except BaseException as exception:
                return self._fail(exception)

        return bytes_function

    def _readers(self, function: Function) -> list[tuple[int, Reader]]:
        kinds = enumerate(function.parameters)
        return [(SIZE * i, reader(kind, self._view)) for i, kind in kinds]

    def _view(self, pointer: int, length: int) -> memoryview:
        return self._memories[0].view(pointer, length)

    def _within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self._strand is None else self._strand.within(function)

    def _dropper(self, drop: Callable[[int], None]) -> Callable[..., int | None]:
        drop = self._within(drop)

        def dropped(data: int, context: int, number: int) -> int | None:
            try:
                drop(number)
                return None
            except BaseException as exception:
                return self._fail(exception)

        return dropped

    def _fail(self, exception: BaseException) -> int:
        """Keep the exception, which must not leave a callback, and end the guest."""
        self.raised = exception
        return new_error(HOST_TRAP)
