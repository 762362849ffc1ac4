"""One guest in one WasmEdge store, with its own executor."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from wasi_nn.errors import GuestTrap, LinkError, OutOfFuel, UsageError
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, WasiConfig, values
from wasi_nn.runtime.engine import (
    PAGE,
    WASI_MODULES,
    EngineInstance,
    GuestExit,
    before,
    check_start_memory,
    missing_export,
    refuse_read_only,
)
from wasi_nn.runtime.library import POINTER, strings, view_at
from wasi_nn.runtime.process import in_own_process
from wasi_nn.runtime.streams import Streams
from wasi_nn.runtime.wasi_streams import Preview1, may_wait
from wasi_nn.wasm.arguments import KINDS
from wasi_nn.wasm.deferred_start import START
from wasi_nn.wasm.forwarding import GUEST
from wasi_nn_wasmedge.api import HOST_FUNCTION, Api, String, Value

if TYPE_CHECKING:
    from wasi_nn_wasmedge.module import WasmEdgeModule

# enum_errcode.h. The codes of linking errors are 0x03__.
_TERMINATED, _COST_LIMIT, _LINKING = 0x01, 0x03, 0x03
# Our own result, in the category of user-level errors.
_HOST_FAILED = 0x01000001
_MEMORY = String.of("memory")
# WASI's errnos "fault" and "notsup".
_FAULT, _NOTSUP = 21, 58
#: The module from which a guest with sockets imports the functions that the host puts before
#: WasmEdge's.
FIRST = "wasi-nn:first"


class WasmEdgeInstance(EngineInstance):
    """A store. ``close`` frees everything in it, in the order that WasmEdge requires."""

    def __init__(
        self,
        api: Api,
        module: WasmEdgeModule,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__()
        self._api = api
        self._module = module
        self._limits = limits
        self._owned: list[tuple[str, int]] = []
        self._callbacks: list[Any] = []
        self._instance: int | None = None
        self._gate = 0
        self._memory = BufferMemory()
        self._memory_at = 0
        # Held while another thread uses the executor, and while it is cleared.
        self._alive = threading.Lock()
        # Through a directory below a read-only one, WasmEdge 0.14 lets a guest write.
        refuse_read_only("WasmEdge", wasi.preopens)
        for preopen in wasi.preopens:
            if ":" in f"{preopen.guest}{preopen.host}":
                raise UsageError(f"WasmEdge takes no colon in a directory's name: {preopen.host}")
        self._streams = Streams(wasi, self.output_failures)
        try:
            self._executor: int | None = self._make_executor(limits)
            self._store = self._own("Store", api.store())
            self._wasi = self._register_wasi(wasi) if module.imports_wasi else 0
            self._register([self._first(function) for function in functions])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._alive:
            self._executor = None
        for kind, handle in reversed(self._owned):
            self._api.delete[kind](handle)
        self._owned.clear()
        self._callbacks.clear()
        self._instance = None
        self._memory.replace(memoryview(b""))
        self._streams.close()

    def flush_output(self) -> None:
        self._streams.flush()

    def stop_guest(self) -> None:
        """Stop the executor. The C API does this only through the handle of an asynchronous call,
        and such a call would run the guest and its host functions on a thread that Python does not
        know. So the guest runs synchronously. To stop it, we make an asynchronous call that fails
        at once because of wrong arguments. Its handle stops everything that the executor runs."""
        api = self._api
        with self._alive:
            if self._executor is None:
                return
            call = api.invoke_async(self._executor, self._stopper, None, 0)
            api.async_wait(call)
            api.async_cancel(call)
            api.delete["Async"](call)
        # If a host function called the guest, that inner call consumes the stop, and the outer one
        # goes on. Or no thread could be created for the asynchronous call.
        self.stop_guest_again()

    def link(self) -> None:
        limit = self._limits.memory
        check_start_memory(self._module.file, limit)
        found = POINTER()
        given = self._executor, ctypes.byref(found), self._store
        with self._module.within(limit) as module:
            if self._module.passed_on:
                result = self._api.register(*given, module, String.of(GUEST))
            else:
                result = self._api.instantiate(*given, module)
        if result:
            self._fail(result)
        self._instance = self._own("ModuleInstance", found.value)
        if self._module.passed_on and ("memory", "memory") in self._module.file.exports:
            self._open_gate()
        if self._module.deferred:
            self.invoke(START, ())

    def _open_gate(self) -> None:
        """Make what calls WasmEdge's WASI with the guest's memory."""
        found = POINTER()
        module = self._module.forwarder()
        try:
            result = self._api.instantiate(self._executor, ctypes.byref(found), self._store, module)
        finally:
            self._api.delete["ASTModule"](module)
        if result:
            self._fail(result)
        self._gate = self._own("ModuleInstance", found.value)

    def _first(self, function: HostFunction) -> HostFunction:
        """The host's function of WASI, which the guest imports from a module of its own."""
        if function.module not in WASI_MODULES:
            return function
        own = partial(self._theirs, function.name)
        return before(function, own)._replace(module=FIRST)

    def _theirs(self, name: str, memory: object, *arguments: int) -> int:
        """Call a function of WasmEdge's WASI."""
        if not self._gate:
            return _FAULT
        (errno,) = self._call(self._api.find_function(self._gate, String.of(name)), arguments)
        return int(errno)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        api = self._api
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        function = api.find_function(self._instance, String.of(export))
        if not function:
            raise missing_export(export)
        return self._call(function, arguments)

    def _call(self, function: int, arguments: Sequence[int]) -> tuple[Any, ...]:
        api = self._api
        kind = api.type_of(function)
        given = self._values(api.parameters(kind), arguments)
        results = (Value * len(api.results(kind)))()
        result = api.invoke(
            self._executor,
            function,
            ctypes.addressof(given),
            len(given),
            ctypes.addressof(results),
            len(results),
        )
        if result:
            self._fail(result)
        return tuple(values.from_raw(api.kind_of(r.kind), r.raw) for r in results)

    def _values(self, kinds: Sequence[int], arguments: Sequence[int]) -> Any:
        names = [self._api.kind_of(kind) for kind in kinds]
        packed = values.pack(names, arguments)
        return (Value * len(kinds))(
            *(Value(one.raw, 0, kind) for one, kind in zip(packed, kinds, strict=True))
        )

    def _fail(self, result: int) -> None:
        code = result & 0xFFFFFF
        if result == _TERMINATED and self._wasi:
            raise GuestExit(self._api.exit_code(self._wasi))
        text = self._api.message(result).decode(errors="replace")
        error: Exception = GuestTrap(text)
        if code == _COST_LIMIT:
            error = OutOfFuel("the guest used up its fuel")
        elif code >> 8 == _LINKING:
            error = LinkError(f"the guest cannot start: {text}")
        raise error

    # Content of the store

    def _own(self, kind: str, handle: int | None) -> int:
        if not handle:
            raise MemoryError(f"WasmEdge could not create a {kind}")
        self._owned.append((kind, handle))
        return handle

    def _make_executor(self, limits: EngineLimits) -> int:
        api = self._api
        configure = self._own("Configure", api.configure())
        statistics = None
        if limits.memory is not None:
            api.set_max_pages(configure, limits.memory // PAGE)
        if limits.fuel is not None:
            api.measure_cost(configure, True)
            statistics = self._own("Statistics", api.statistics())
        executor = self._own("Executor", api.executor(configure, statistics))
        if limits.fuel is not None:
            # Creating the executor resets the limit.
            api.set_cost_limit(statistics, min(limits.fuel, (1 << 64) - 1))
        self._stopper = self._own(
            "FunctionInstance", self._function(HostFunction("", "", 1, False, lambda *_: None))
        )
        return executor

    def _register_wasi(self, wasi: WasiConfig) -> int:
        lists = [
            strings(wasi.args),
            strings([f"{name}={value}" for name, value in wasi.env]),
            strings([f"{p.guest}:{p.host}" for p in wasi.preopens]),
        ]
        counted = [item for array in lists for item in (ctypes.addressof(array), len(array))]
        streams = self._streams
        made = self._api.wasi(*counted, streams.stdin, streams.stdout, streams.stderr)
        handle = self._own("ModuleInstance", made)
        # WasmEdge's own proc_raise raises the signal in this process. (The last function of a name
        # wins.)
        self._add(handle, HostFunction("", "proc_raise", 1, True, lambda memory, signal: _NOTSUP))
        if not in_own_process():
            self._replace_waiting(handle, wasi)
        self._import(handle)
        return handle

    def _replace_waiting(self, handle: int, wasi: WasiConfig) -> None:
        """Replace the functions in which a guest could wait past its deadline."""
        imported = {item.name for item in self._module.file.imports if item.module in WASI_MODULES}
        if imported.isdisjoint({"poll_oneoff", "fd_read"}):
            return
        preview1 = Preview1(wasi, self.output_failures, self.pause)
        for function in preview1.waiting_functions(""):
            if function.name == "poll_oneoff" or may_wait(wasi.stdin):
                self._add(handle, function)

    def _register(self, functions: Sequence[HostFunction]) -> None:
        modules: dict[str, list[HostFunction]] = defaultdict(list)
        for function in functions:
            modules[function.module].append(function)
        for name, members in modules.items():
            handle = self._own("ModuleInstance", self._api.module(String.of(name)))
            for function in members:
                self._add(handle, function)
            self._import(handle)

    def _add(self, handle: int, function: HostFunction) -> None:
        # (The module instance then owns the function.)
        if not self._api.add_function(handle, function.name, self._function(function)):
            raise LinkError(f"WasmEdge does not take the host function {function.name}")

    def _import(self, handle: int) -> None:
        result = self._api.register_import(self._executor, self._store, handle)
        if result:
            text = self._api.message(result).decode()
            raise LinkError(f"WasmEdge refuses a module of host functions: {text}")

    def _function(self, function: HostFunction) -> int:
        api = self._api
        parameters, results = (
            (ctypes.c_uint64 * len(each))(*(api.kinds[KINDS[kind]] for kind in each))
            for each in function.types
        )
        kind = api.function_type(
            *(ctypes.addressof(parameters), len(parameters)),
            *(ctypes.addressof(results), len(results)),
        )
        callback = HOST_FUNCTION(self._trampoline(function))
        self._callbacks.append(callback)
        made: int = api.function(kind, callback, None, 0)
        api.delete["FunctionType"](kind)
        return made

    def _trampoline(self, function: HostFunction) -> Callable[..., int]:
        call = function.call
        # Values are 32 bytes apart.
        stop = 8 * function.parameters
        has_result = function.has_result
        memory_now = self._memory_now

        def trampoline(data: int, frame: int, parameters: Any, results: Any) -> int:
            try:
                # (ctypes gives one element for the empty slice 0:0:8.)
                numbers = parameters[0:stop:8] if stop else ()
                result = call(memory_now(frame), *numbers)
                if self.stopped:
                    self.check_stopped()
                if has_result:
                    results[0] = result
                return 0
            except BaseException as exception:
                self.raised = exception
                return _HOST_FAILED

        return trampoline

    @property
    def memory(self) -> BufferMemory | None:
        return None if self._instance is None else self._memory_of(self._instance)

    def refresh_memory(self) -> None:
        if self._memory_at:
            self._memory_of(0)

    def _memory_now(self, frame: int) -> BufferMemory | None:
        """The guest's memory, for a host call."""
        return self._memory_of(0 if self._memory_at else self._api.frame_module(frame))

    def _memory_of(self, instance: int) -> BufferMemory | None:
        """The guest's memory at its current size and address, without a copy."""
        api = self._api
        if not self._memory_at:
            self._memory_at = api.find_memory(instance, _MEMORY) or 0
            if not self._memory_at:
                return None
        size = api.memory_pages(self._memory_at) * PAGE
        if size != self._memory.size:
            self._memory.replace(view_at(api.memory_pointer(self._memory_at, 0, 1), size))
        return self._memory
