"""Guests through the standard C API, wasm.h (github.com/WebAssembly/wasm-c-api).

The part of a runtime that is the same for every library with wasm.h. A runtime derives from
``CApiModule`` and ``CApiInstance``, and adds what wasm.h lacks: WASI, and a way to stop or limit a
guest.

Each module has its own engine, and each instance a store of that engine. These libraries let stores
of one engine share a module, in any number of threads. An engine may keep the code of its modules
while it exists (wasmer's does), so one engine for the whole process would grow with every program.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from wasi_nn.errors import GuestTrap, LinkError, UsageError
from wasi_nn.runtime import BufferMemory, HostFunction, Module, values
from wasi_nn.runtime.engine import HOST_TRAP, EngineInstance, missing_export
from wasi_nn.runtime.library import POINTER, holding_gil, lean, view_at
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.arguments import I32, KINDS, check_results
from wasi_nn.wasm.deferred_start import START, defer_start

__all__ = ["CALLBACK", "CApi", "CApiInstance", "CApiModule", "Vector", "bytes_vector"]

_SIZE = ctypes.c_size_t

#: The C type of a host function. It is
#: ``wasm_trap_t *(*)(const wasm_val_vec_t *, wasm_val_vec_t *)``; a vector is a size and a pointer.
CALLBACK = ctypes.CFUNCTYPE(POINTER, *(ctypes.POINTER(ctypes.POINTER(ctypes.c_uint32)),) * 2)


class Vector(ctypes.Structure):
    """Every ``wasm_…_vec_t``."""

    _fields_ = [("size", ctypes.c_size_t), ("data", ctypes.c_void_p)]


class CApi:
    """The functions of wasm.h in a library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        slow, quick = partial(lean, library), partial(lean, holding_gil(library))
        vector = ctypes.POINTER(Vector)
        self.engine = quick("wasm_engine_new", POINTER)
        self.store = quick("wasm_store_new", POINTER, POINTER)
        self.compile = slow("wasm_module_new", POINTER, POINTER, vector)
        self.bytes_delete = quick("wasm_byte_vec_delete", None, vector)
        self.extern_vector = quick("wasm_extern_vec_new", None, vector, _SIZE, POINTER)
        self.extern_vector_delete = quick("wasm_extern_vec_delete", None, vector)
        self.extern_copy = quick("wasm_extern_copy", POINTER, POINTER)
        self.instantiate = slow("wasm_instance_new", POINTER, POINTER, POINTER, vector, POINTER)
        self.exports = quick("wasm_instance_exports", None, POINTER, vector)
        self.as_func = quick("wasm_extern_as_func", POINTER, POINTER)
        self.as_memory = quick("wasm_extern_as_memory", POINTER, POINTER)
        self.func_as_extern = quick("wasm_func_as_extern", POINTER, POINTER)
        self.func = quick("wasm_func_new", POINTER, POINTER, POINTER, CALLBACK)
        self.call = slow("wasm_func_call", POINTER, POINTER, vector, vector)
        self.func_type = quick("wasm_func_type", POINTER, POINTER)
        self.type_params = quick("wasm_functype_params", vector, POINTER)
        self.type_results = quick("wasm_functype_results", vector, POINTER)
        self.type_new = quick("wasm_functype_new", POINTER, vector, vector)
        self.valtype_vector = quick("wasm_valtype_vec_new", None, vector, _SIZE, POINTER)
        self.valtype = quick("wasm_valtype_new", POINTER, ctypes.c_uint8)
        self.valtype_kind = quick("wasm_valtype_kind", ctypes.c_uint8, POINTER)
        self.memory_data = quick("wasm_memory_data", POINTER, POINTER)
        self.memory_size = quick("wasm_memory_data_size", _SIZE, POINTER)
        self.trap = quick("wasm_trap_new", POINTER, POINTER, vector)
        self.trap_message = quick("wasm_trap_message", None, POINTER, vector)
        self.delete = {
            kind: slow(f"wasm_{kind}_delete", None, POINTER)
            for kind in (
                *("engine", "store", "module", "instance"),
                *("func", "functype", "trap", "extern"),
            )
        }

    def trap_text(self, trap: int) -> str:
        """What a trap says; deletes it."""
        message = Vector()
        self.trap_message(trap, ctypes.byref(message))
        text = ctypes.string_at(message.data, message.size) if message.data else b""
        self.bytes_delete(ctypes.byref(message))
        self.delete["trap"](trap)
        return text.rstrip(b"\0").decode(errors="replace")


def bytes_vector(data: bytes) -> Vector:
    """A vector that refers to ``data``, which has to stay alive."""
    return Vector(len(data), ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p))


class CApiModule(Module):
    """A compiled module and its engine, which every thread can instantiate."""

    def __init__(self, api: CApi, wasm: bytes, engine: str) -> None:
        self.api = api
        # Within wasm.h's instantiation there is no memory that a host function could see.
        changed = defer_start(wasm)
        self.deferred = changed is not wasm
        self.file = wasm_module.parse(changed)
        self.engine = api.engine()
        # When the program ends, threads of it may be instantiating the module still.
        weakref.finalize(self, api.delete["engine"], self.engine).atexit = False
        store = api.store(self.engine)
        try:
            self.handle = api.compile(store, ctypes.byref(bytes_vector(changed)))
        finally:
            api.delete["store"](store)
        if not self.handle:
            raise UsageError(f"{engine} cannot compile the module")
        # (The latest finalizer runs first.)
        weakref.finalize(self, api.delete["module"], self.handle).atexit = False


class CApiInstance(EngineInstance):
    """An instance in a store of its own. ``functions`` may hold more than the module imports."""

    def __init__(self, module: CApiModule, functions: Sequence[HostFunction]) -> None:
        super().__init__()
        self.api = module.api
        self._module = module
        self._functions = {(f.module, f.name): f for f in functions}
        self._owned: list[tuple[str, int]] = []
        self._callbacks: list[Any] = []
        self._exported = Vector()
        self._instance = 0
        self._memory = BufferMemory()
        self._memory_at = 0
        self.store = self._own("store", self.api.store(module.engine))

    def foreign(self, module: int) -> Mapping[tuple[str, str], int]:
        """The library's own ``wasm_extern_t`` for imports, by module and name: its WASI. They stay
        its property. ``module`` is the ``wasm_module_t``."""
        return {}

    def instantiated(self, instance: int) -> None:
        """The ``wasm_instance_t`` is there; its start function comes next."""

    def close(self) -> None:
        self.api.extern_vector_delete(ctypes.byref(self._exported))
        self._exported = Vector()
        for kind, handle in reversed(self._owned):
            self.api.delete[kind](handle)
        self._owned.clear()
        self._callbacks.clear()
        self._instance = self._memory_at = 0
        self._memory.replace(memoryview(b""))

    def _own(self, kind: str, handle: int | None) -> int:
        if not handle:
            raise MemoryError(f"the engine made no {kind}")
        self._owned.append((kind, handle))
        return handle

    def link(self) -> None:
        api = self.api
        module = self._module.handle
        imports = Vector()
        items = self._imports(self.foreign(module))
        api.extern_vector(ctypes.byref(imports), len(items), ctypes.addressof(items))
        trap = POINTER()
        made = api.instantiate(self.store, module, ctypes.byref(imports), ctypes.addressof(trap))
        api.extern_vector_delete(ctypes.byref(imports))
        if trap.value:
            raise GuestTrap(api.trap_text(trap.value))
        if not made:
            raise LinkError("the guest cannot start: the engine refuses its imports")
        self._instance = self._own("instance", made)
        api.exports(made, ctypes.byref(self._exported))
        memory = self._export("memory", "memory")
        self._memory_at = (api.as_memory(memory) or 0) if memory else 0
        self.instantiated(made)
        if self._module.deferred:
            self.invoke(START, ())

    def _imports(self, foreign: Mapping[tuple[str, str], int]) -> Any:
        wanted = [(item.module, item.name) for item in self._module.file.imports]
        for key in wanted:
            if key not in self._functions and key not in foreign:
                raise LinkError(f"the guest cannot start: nothing here provides {'.'.join(key)}")
        items = (ctypes.c_void_p * max(1, len(wanted)))()
        for number, key in enumerate(wanted):
            extern = foreign.get(key)
            if key in self._functions:
                function = self._own("func", self._function(self._functions[key]))
                extern = self.api.func_as_extern(function)
            # The vector owns its items.
            items[number] = self.api.extern_copy(extern)
        return (ctypes.c_void_p * len(wanted)).from_buffer(items)

    def _export(self, name: str, kind: str) -> int:
        for number, export in enumerate(self._module.file.exports):
            if export == (name, kind) and number < self._exported.size:
                found = ctypes.c_void_p.from_address(self._exported.data + 8 * number).value
                return found or 0
        return 0

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        if not self._instance:
            raise UsageError("the guest was not instantiated")
        extern = self._export(export, "func")
        if not extern:
            raise missing_export(export)
        return self.enter(self.api.as_func(extern), arguments)

    def enter(self, function: int, arguments: Sequence[int]) -> tuple[Any, ...]:
        """Call a ``wasm_func_t``. Raises ``GuestTrap``."""
        api = self.api
        kind = api.func_type(function)
        kinds = [self._kinds(types(kind)) for types in (api.type_params, api.type_results)]
        api.delete["functype"](kind)
        # A reference comes back as a pointer that nobody would own.
        check_results(kinds[1])
        given = values.pack(kinds[0], arguments)
        results = (values.Value * len(kinds[1]))()
        for result, one in zip(results, kinds[1], strict=True):
            result.kind = one
        trap = api.call(
            function,
            ctypes.byref(Vector(len(given), ctypes.addressof(given))),
            ctypes.byref(Vector(len(results), ctypes.addressof(results))),
        )
        if trap:
            raise GuestTrap(api.trap_text(trap))
        return tuple(values.from_raw(result.kind, result.raw) for result in results)

    def _kinds(self, types: Any) -> list[int]:
        vector = types.contents
        items = (ctypes.c_void_p * vector.size).from_address(vector.data) if vector.size else []
        return [self.api.valtype_kind(item) for item in items]

    def _function(self, function: HostFunction) -> int:
        parameters, results = ([KINDS[kind] for kind in each] for each in function.types)
        return self.make_function(parameters, results, self._trampoline(function))

    def make_function(
        self, parameters: Sequence[int], results: Sequence[int], trampoline: Callable[..., Any]
    ) -> int:
        """A ``wasm_func_t`` of these kinds of numbers, for its caller to free. ``trampoline`` is as
        in ``CALLBACK``."""
        api = self.api
        kind = api.type_new(
            ctypes.byref(self._kinds_of(parameters)), ctypes.byref(self._kinds_of(results))
        )
        callback = CALLBACK(trampoline)
        self._callbacks.append(callback)
        made: int = api.func(self.store, kind, callback)
        api.delete["functype"](kind)
        return made

    def _kinds_of(self, kinds: Sequence[int]) -> Vector:
        items = (ctypes.c_void_p * max(1, len(kinds)))(*map(self.api.valtype, kinds))
        vector = Vector()
        self.api.valtype_vector(ctypes.byref(vector), len(kinds), ctypes.addressof(items))
        return vector

    def _trampoline(self, function: HostFunction) -> Callable[..., int | None]:
        call = function.call
        # A value is 16 bytes: a kind, and a number at 8.
        stop = 4 * function.parameters
        has_result = function.has_result
        memory_now = self.memory_now

        def trampoline(arguments: Any, results: Any) -> int | None:
            try:
                self.check_stopped()
                # (ctypes gives one element for an empty slice.)
                numbers = arguments[1][2:stop:4] if stop else ()
                result = call(memory_now(), *numbers)
                if has_result:
                    slots = results[1]
                    slots[0] = I32
                    slots[2] = result
                return None
            except BaseException as exception:
                return self.host_trap(exception)

        return trampoline

    def host_trap(self, exception: BaseException) -> int:
        """A ``wasm_trap_t`` for a trampoline, which ends the guest with the exception."""
        self.raised = exception
        message = HOST_TRAP.encode() + b"\0"
        trap: int = self.api.trap(self.store, ctypes.byref(bytes_vector(message)))
        return trap

    @property
    def memory(self) -> BufferMemory | None:
        return self.memory_now()

    def refresh_memory(self) -> None:
        self.memory_now()

    def memory_now(self) -> BufferMemory | None:
        """The guest's memory at its present size and place, without a copy; None before the
        instance has exports."""
        if not self._memory_at:
            return None
        size = self.api.memory_size(self._memory_at)
        if size != self._memory.size:
            self._memory.replace(view_at(self.api.memory_data(self._memory_at), size))
        return self._memory
