"""One guest in one WAMR module instance."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
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
from wasi_nn.runtime.instance import (
    PAGE,
    WASI_MODULES,
    EngineInstance,
    check_start_memory,
    missing_export,
    proc_exit,
    refuse_read_only,
)
from wasi_nn.runtime.library import strings, view_at
from wasi_nn.runtime.streams import Streams
from wasi_nn.wasm.deferred_start import START
from wasi_nn_wamr.api import Api, InstantiationArgs

if TYPE_CHECKING:
    from wasi_nn_wamr.module import WamrModule

_STACK = 1 << 20
_ERROR_SIZE = 512
# WAMR counts in a C int, and takes a negative number for no limit.
_MOST_FUEL = (1 << 31) - 1


class _Running(threading.local):
    """The instance that the thread runs."""

    instance: WamrInstance | None = None


running = _Running()


class WamrInstance(EngineInstance):
    """A module instance, made and run by one thread at a time."""

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
        given: dict[tuple[str, str], Callable[..., Any]] = {
            (function.module, function.name): function.call
            for function in (*functions, *map(proc_exit, WASI_MODULES))
        }
        #: What the module's callbacks call, by its numbers.
        self.functions = [given[key] for key in module.served]
        self._handle: int | None = None
        self._exec_env = 0
        self._memory: BufferMemory | None = None
        self._memory_at = 0
        self._pages = -1
        # Held while the handle is used by another thread, or goes away.
        self._alive = threading.Lock()
        refuse_read_only("WAMR", wasi.preopens)
        for preopen in wasi.preopens:
            # Which is where WAMR sees the host's path begin.
            if "::" in f"{preopen.guest}:":
                raise UsageError(f"WAMR takes no '::' in a directory's name: {preopen.guest}")
        self._streams = Streams(wasi, self.output_failures)

    def memory_now(self, exec_env: int) -> BufferMemory | None:
        """The guest's memory at its present size and place, without a copy."""
        if not self._memory_at:
            # (WAMR finds the first memory, whatever its name.)
            if not self._module.exports_memory:
                return None
            self._memory_at = self._api.memory_of(self._api.instance_of(exec_env))
        pages = self._api.memory_pages(self._memory_at)
        if pages != self._pages:
            self._pages = pages
            # (A memory that its module never grows is one large page to WAMR.)
            size = pages * self._api.page_bytes(self._memory_at)
            view = view_at(self._api.memory_base(self._memory_at), size)
            if self._memory is None:
                self._memory = BufferMemory(view)
            else:
                self._memory.replace(view)
        return self._memory

    def refresh_memory(self) -> None:
        if self._memory_at:
            self.memory_now(self._exec_env)

    def close(self) -> None:
        with self._alive:
            handle, self._handle = self._handle, None
        if handle is not None:
            with self._api.thread():
                self._api.deinstantiate(handle)
        self._streams.close()
        self._memory = None

    def flush_output(self) -> None:
        self._streams.flush()

    def stop_guest(self) -> None:
        if not self._api.interrupts:
            return
        with self._alive, self._api.thread():
            if self._handle is not None:
                self._api.terminate(self._handle)

    def link(self) -> None:
        pages = self._most_pages()
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

    def _most_pages(self) -> int:
        """The most pages of memory; 0 is no limit. Raises ``LimitExceeded``."""
        limit, module = self._limits.memory, self._module
        check_start_memory(module.file, limit, module.table_bytes)
        if limit is None:
            return 0
        if limit < PAGE and module.file.memories:
            # An empty one, which WAMR would let grow.
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
            # An interrupt that came before would be cleared with it.
            if self.stopped:
                raise Interrupted("the guest was interrupted")
            if self._limits.fuel is not None:
                fuel = min(self._limits.fuel, _MOST_FUEL)
                api.set_fuel(self._exec_env, fuel)
            done = api.call(self._exec_env, function, len(kinds), results, len(given), given)
            if not done:
                error = _trap(api.get_exception(handle))
                # It would end the guest around this call too, whose host function may catch it ...
                api.clear_exception(handle)
                # ... unless the guest was to stop, which is cleared with it.
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

    def _entered(self) -> _Entered:
        return _Entered(self._api, self)


class _Entered:
    """The thread runs this instance."""

    def __init__(self, api: Api, instance: WamrInstance) -> None:
        self._thread = api.thread()
        self._instance = instance
        self._before: WamrInstance | None = None

    def __enter__(self) -> None:
        self._before = running.instance
        if self._before not in (None, self._instance):
            # It would answer 'invalid exec env'.
            raise UsageError(
                "WAMR cannot run a guest within a host function of another; use another thread"
            )
        self._thread.__enter__()
        running.instance = self._instance

    def __exit__(self, *raised: Any) -> None:
        running.instance = self._before
        self._thread.__exit__(*raised)


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
