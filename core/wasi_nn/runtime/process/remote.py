"""A module in a process of its own, driven by the protocol of ``child``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Module, WasiConfig
from wasi_nn.runtime.engine import missing_export
from wasi_nn.runtime.process._protocol import (
    CALL,
    CALL_HEAD,
    RETURN,
    TRAP,
    as_json,
    from_raws,
    to_raws,
)
from wasi_nn.runtime.process.child import ProcessEnded, RemoteMemory
from wasi_nn.runtime.process.guest import MakeChild, RemoteGuest, compile_once
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.memory_bound import bounded

__all__ = ["RemoteInstance", "RemoteModule"]


class RemoteModule(Module):
    """A module that an engine in another process has compiled. Each of its guests has its own
    process."""

    def __init__(
        self,
        engine: str,
        make_child: MakeChild,
        wasm: bytes,
        *,
        limits_memory: bool,
        start: str | None = None,
    ) -> None:
        """``limits_memory`` says whether the engine can. ``start`` is an export to call first, in
        place of a start function. Raises ``UsageError`` if ``engine`` cannot compile the module."""
        self.make_child = make_child
        self.wasm = wasm
        file = wasm_module.parse(wasm)
        self.signatures = file.signatures
        self.exports_memory = ("memory", "memory") in file.exports
        self.limits_memory = limits_memory
        self.start = start
        compile_once(engine, make_child, wasm, "module")

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> RemoteInstance:
        return RemoteInstance(self, functions, wasi, limits)


class RemoteInstance(RemoteGuest):
    """A process with one instance of a module in it."""

    def __init__(
        self,
        module: RemoteModule,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__(module.make_child, wasi, limits)
        self._module = module
        self._functions = functions
        # The memory between calls, and those of the current host calls, the innermost last.
        self._memories: list[RemoteMemory] = []

    @property
    def memory(self) -> RemoteMemory | None:
        if self._unreachable is not None:
            raise UsageError(str(self._unreachable))
        return self._memories[-1] if self._memories else None

    def link(self) -> None:
        wasm, limits = self._module.wasm, self._limits
        if limits.memory is not None and not self._module.limits_memory:
            wasm, limits = bounded(wasm, limits.memory), limits._replace(memory=None)
        self._link(wasm, self._functions, limits)
        if self._module.exports_memory and self._unreachable is None:
            self._memories.append(RemoteMemory(self._child, self._size, []))
        if self._module.start is not None:
            self.invoke(self._module.start, ())

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        signature = self._module.signatures.get(export)
        if signature is None:
            raise missing_export(export)
        values = to_raws(signature.parameters, arguments)
        call = as_json({"name": export, **signature._asdict(), "values": values})
        # A host function may call back into the guest.
        with self._child.in_step():
            for memory in self._memories:
                memory.flush()
            self._child.send(CALL, call)
            try:
                answer = self._answer()
            finally:
                for memory in self._memories:
                    memory.follow(self._size)
        with self._understood():
            return from_raws(signature.results, answer["results"])

    def _serve(self, data: memoryview) -> None:
        with self._understood():
            number, size, has_memory = CALL_HEAD.unpack_from(data)
            if number >= len(self._functions):
                raise ValueError(f"there is no function {number}")
            function = self._functions[number]
            heads = data[CALL_HEAD.size : CALL_HEAD.size + 8 * function.parameters].cast("I")
            values, lengths = heads[::2].tolist(), heads[1::2].tolist()
            if len(values) != function.parameters:
                raise ValueError("a call has too few arguments")
            at = CALL_HEAD.size + 8 * function.parameters
            peeks = []
            for value, length in zip(values, lengths, strict=True):
                peeks.append((value, data[at : at + length]))
                at += length
        memory = RemoteMemory(self._child, size, peeks) if has_memory else None
        if memory is not None:
            self._memories.append(memory)
        ended: str | None = None
        try:
            result = function.call(memory, *values)
        except ProcessEnded as error:
            # The process has ended, maybe because the guest was stopped: the host function did not
            # fail. Raise it again without its frames: a result would keep their views of memory.
            ended = str(error)
        except BaseException as raised:
            self.raised = raised
            self._child.send(TRAP)
            return
        finally:
            if memory is not None:
                self._memories.pop()
        if ended is not None:
            raise ProcessEnded(ended)
        if memory is not None:
            memory.flush()
        answer = (int(result) & 0xFFFFFFFF).to_bytes(4, "little") if function.has_result else b""
        self._child.send(RETURN, answer)
