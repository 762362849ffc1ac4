"""One guest in one WAMR module instance."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from wasi_nn.errors import (
    GuestError,
    GuestTrap,
    Interrupted,
    LimitExceeded,
    LinkError,
    OutOfFuel,
    UsageError,
)
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, WasiConfig, values
from wasi_nn.runtime.engine import (
    BESIDE_SOCKETS,
    PAGE,
    WASI_MODULES,
    EngineInstance,
    before,
    check_start_memory,
    missing_export,
    proc_exit,
    refuse_read_only,
)
from wasi_nn.runtime.library import strings, view_at
from wasi_nn.runtime.process import in_own_process
from wasi_nn.runtime.streams import Streams
from wasi_nn.runtime.wasi_streams import Preview1
from wasi_nn.wasm.deferred_start import START
from wasi_nn_wamr.api import Api, InstantiationArgs

if TYPE_CHECKING:
    from wasi_nn_wamr.module import WamrModule

_STACK = 1 << 20
_ERROR_SIZE = 512
# WASI's errno "notsup".
_NOTSUP = 58
# WAMR counts in a C int. A negative number means no limit.
_MAX_FUEL = (1 << 31) - 1


def own_wasi() -> set[str]:
    """The functions of WASI that we serve, and WAMR does not."""
    # (A process that runs nothing else can be ended while WAMR waits.)
    waiting = {"poll_oneoff", "fd_read", "fd_renumber"}
    return {"proc_exit"} if in_own_process() else {"proc_exit", *waiting}


class _Running(threading.local):
    """The instance that this thread runs."""

    instance: WamrInstance | None = None


running = _Running()


class WamrInstance(EngineInstance):
    """A module instance, created and run by one thread at a time."""

    def __init__(
        self,
        api: Api,
        module: WamrModule,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__()
        self._api = api
        self._module = module
        self._limits = limits
        self._wasi = wasi
        own = {(f.module, f.name): f.call for f in self._own_wasi(module, wasi)}
        given = {(function.module, function.name): function for function in functions}
        #: The host functions that the module's callbacks call, by the module's numbers for them.
        self.functions = [self._function(key, given.get(key), own) for key in module.served]
        self._handle: int | None = None
        self._exec_env = 0
        self._memory = BufferMemory()
        self._memory_at = 0
        self._pages = -1
        # Held while another thread uses the handle, and while the handle is cleared.
        self._alive = threading.Lock()
        refuse_read_only("WAMR", wasi.preopens)
        for preopen in wasi.preopens:
            # WAMR gets "guest::host", and splits it at the first "::".
            if "::" in f"{preopen.guest}:":
                raise UsageError(f"WAMR takes no '::' in a directory's name: {preopen.guest}")
        self._streams = Streams(wasi, self.output_failures)

    def _own_wasi(self, module: WamrModule, wasi: WasiConfig) -> Iterator[HostFunction]:
        yield from map(proc_exit, WASI_MODULES)
        if any(name != "proc_exit" and where in WASI_MODULES for where, name in module.served):
            preview1 = Preview1(wasi, self.output_failures, self.pause)
            for name in WASI_MODULES:
                yield from preview1.waiting_functions(name)
                # WAMR's own one waits forever for a lock that it holds.
                yield HostFunction(name, "fd_renumber", 2, True, lambda *_: _NOTSUP)

    def _function(
        self,
        key: tuple[str, str],
        given: HostFunction | None,
        own: dict[tuple[str, str], Callable[..., Any]],
    ) -> Callable[..., Any]:
        if given is not None and key[0] not in WASI_MODULES:
            return given.call
        call = own.get(key)
        if call is None and key[1] in BESIDE_SOCKETS:
            theirs = self._api.own_wasi(key[1])

            def call(memory: BufferMemory | None, *arguments: int) -> int:
                size = 0 if memory is None else memory.size
                base = self._api.memory_base(self._memory_at) if self._memory_at else 0
                errno: int = theirs(self._exec_env, base, size, *arguments)
                return errno

        if given is None:
            assert call is not None
            return call
        return given.call if call is None else before(given, call).call

    def memory_now(self, exec_env: int) -> BufferMemory | None:
        """The guest's memory at its current size and address, without a copy. None if the guest
        exports none."""
        if not self._memory_at:
            # (WAMR finds the first memory, exported or not.)
            if not self._module.exports_memory:
                return None
            self._memory_at = self._api.memory_of(self._api.instance_of(exec_env))
        pages = self._api.memory_pages(self._memory_at)
        if pages != self._pages:
            self._pages = pages
            # (WAMR counts a memory that its module never grows as one large page.)
            size = pages * self._api.page_bytes(self._memory_at)
            self._memory.replace(view_at(self._api.memory_base(self._memory_at), size))
        return self._memory

    @property
    def memory(self) -> BufferMemory | None:
        return self.memory_now(self._exec_env) if self._handle is not None else None

    def refresh_memory(self) -> None:
        if self._memory_at:
            self.memory_now(self._exec_env)

    def close(self) -> None:
        with self._alive:
            handle, self._handle = self._handle, None
        if handle is not None:
            self._api.prepare_thread()
            self._api.deinstantiate(handle)
        self._streams.close()
        self._memory.replace(memoryview(b""))

    def flush_output(self) -> None:
        self._streams.flush()

    def stop_guest(self) -> None:
        if not self._api.interrupts:
            return
        self._api.prepare_thread()
        with self._alive:
            if self._handle is not None:
                self._api.terminate(self._handle)

    def link(self) -> None:
        pages = self._max_pages()
        arguments = InstantiationArgs(_STACK, 0, pages)
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        wasi = self._wasi
        lists = [
            strings([]),
            strings([f"{preopen.guest}::{preopen.host}" for preopen in wasi.preopens]),
            strings([f"{name}={value}" for name, value in wasi.env]),
            strings(wasi.args),
        ]
        counted = [item for array in lists for item in (ctypes.addressof(array), len(array))]
        streams = self._streams
        with self._entered(), self._module.instantiating:
            self._api.set_wasi_args(
                self._module.handle, *counted, streams.stdin, streams.stdout, streams.stderr
            )
            handle = self._api.instantiate(
                self._module.handle, ctypes.byref(arguments), error, _ERROR_SIZE
            )
        if not handle:
            raise _instantiation_error(error.value.decode(errors="replace"))
        with self._alive:
            self._handle = handle
        self._exec_env = self._api.exec_env(handle)
        if self._module.deferred:
            self.invoke(START, ())

    def _max_pages(self) -> int:
        """The maximum of memory in pages, for WAMR: 0 means no limit. Raises ``LimitExceeded``."""
        limit, module = self._limits.memory, self._module
        check_start_memory(module.file, limit, module.table_bytes)
        if limit is None:
            return 0
        if limit < PAGE and module.file.memories:
            # WAMR would let an empty memory grow.
            raise LimitExceeded(f"WAMR limits memory to a page at least, not to {limit} bytes")
        return max(1, limit // PAGE)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        api, handle = self._api, self._handle
        if handle is None:
            raise UsageError("the guest was not instantiated")
        function = api.lookup(handle, self._module.name_of(export))
        if not function:
            raise missing_export(export)
        given = values.pack(self._kinds(function, api.param_count, api.param_types), arguments)
        kinds = self._kinds(function, api.result_count, api.result_types)
        results = (values.Value * max(1, len(kinds)))()
        with self._entered():
            api.clear_exception(handle)
            # That also cleared an interrupt that came before.
            if self.stopped:
                raise Interrupted("the guest was interrupted")
            if self._limits.fuel is not None:
                fuel = min(self._limits.fuel, _MAX_FUEL)
                api.set_fuel(self._exec_env, fuel)
            done = api.call(self._exec_env, function, len(kinds), results, len(given), given)
            if not done:
                error = _trap(api.get_exception(handle))
                # A host function may have made this call, and may catch the error. If WAMR kept its
                # exception, the outer call of the guest would end too.
                api.clear_exception(handle)
                # That also cleared a request to stop.
                if self.stopped:
                    api.terminate(handle)
                raise error
        return tuple(
            values.from_raw(kind, result.raw) for kind, result in zip(kinds, results, strict=False)
        )

    def _kinds(self, function: int, count: Any, types: Any) -> bytes:
        kinds = ctypes.create_string_buffer(max(1, count(function, self._handle)))
        types(function, self._handle, ctypes.addressof(kinds))
        return kinds.raw[: count(function, self._handle)]

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """This thread runs this instance."""
        self._api.prepare_thread()
        before, running.instance = running.instance, self
        try:
            yield
        finally:
            running.instance = before


def _trap(text: bytes | None) -> GuestError:
    reason = (text or b"").decode(errors="replace").removeprefix("Exception: ")
    if "instruction limit exceeded" in reason:
        return OutOfFuel("the guest used up its fuel")
    return GuestTrap(reason or "the guest trapped")


def _instantiation_error(reason: str) -> Exception:
    if "pre-opening" in reason:
        return UsageError(f"WAMR cannot open a directory: {reason.strip()}")
    if "failed to link import" in reason:
        return LinkError(f"the guest cannot start: {reason}")
    return GuestTrap(reason)
