"""A component in a process of its own.

The engine's WASI opens files and waits in functions of its own, which the host cannot reach in this
process. A process can be ended while its guest waits, and the system counts its files.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from wasi_nn.errors import GuestTrap
from wasi_nn.runtime import EngineLimits, WasiConfig
from wasi_nn.runtime.component import Component, Interface
from wasi_nn.runtime.process._protocol import CALL, CHECK, RETURN, TRAP, U32, as_json
from wasi_nn.runtime.process._values import functions_of, read_all, write
from wasi_nn.runtime.process.guest import MakeChild, RemoteGuest, compile_once

__all__ = ["RemoteComponent", "RemoteComponentInstance"]

# What a call has besides the bytes in the guest's memory.
_CALL_BYTES = 1 << 20
_MAX_MEMORY = (1 << 32) - 1 - _CALL_BYTES


class RemoteComponent(Component):
    """A component that an engine in another process has compiled. Each of its guests has its own
    process."""

    def __init__(self, engine: str, make_child: MakeChild, wasm: bytes) -> None:
        """Raises ``UsageError`` if ``engine`` cannot compile the component."""
        self._make_child = make_child
        self._wasm = wasm
        compile_once(engine, make_child, wasm, "component")

    def check(self, interfaces: Sequence[Interface]) -> None:
        guest = self.prepare(interfaces, WasiConfig(), EngineLimits())
        try:
            guest.check()
        finally:
            guest.close()

    def prepare(
        self, interfaces: Sequence[Interface], wasi: WasiConfig, limits: EngineLimits
    ) -> RemoteComponentInstance:
        return RemoteComponentInstance(self._make_child, self._wasm, interfaces, wasi, limits)


class RemoteComponentInstance(RemoteGuest):
    """A process with one component in it."""

    def __init__(
        self,
        make_child: MakeChild,
        wasm: bytes,
        interfaces: Sequence[Interface],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__(make_child, wasi, limits)
        self._wasm = wasm
        self._interfaces = pickle.dumps([_described(interface) for interface in interfaces])
        self._functions = functions_of(interfaces)
        self._child.allow_calls(min(limits.memory or _MAX_MEMORY, _MAX_MEMORY) + _CALL_BYTES)

    def check(self) -> None:
        """Check the types of the component's imports."""
        with self._child.in_step():
            self._compile(self._wasm, self._interfaces)
            self._child.send(CHECK)
            self._answer()

    def link(self) -> None:
        self._link(self._wasm, (), self._limits, self._interfaces)

    def start(self) -> int:
        code: int = self.run_guest(self.invoke, "", ())
        return code

    def invoke(self, export: str, arguments: tuple[int, ...]) -> Any:
        with self._child.in_step():
            self._child.send(CALL, as_json({}))
            answer = self._answer()
        with self._understood():
            return int(answer["results"]) & 0xFF

    def _serve(self, data: memoryview) -> None:
        with self._understood():
            (number,) = U32.unpack_from(data)
            if number >= len(self._functions):
                raise ValueError(f"there is no function {number}")
            function = self._functions[number]
            values = read_all(function.parameters, data, U32.size)
        parts: list[bytes | memoryview] = []
        try:
            write(function.result, function.call(*values), parts)
        except LookupError as error:
            # The engine knows a guest's resources. A process that was taken over can name others.
            self.raised = GuestTrap(f"{function.name}: there is no such resource: {error}")
            self._child.send(TRAP)
            return
        except BaseException as raised:
            self.raised = raised
            self._child.send(TRAP)
            return
        self._child.send(RETURN, *parts)


def _described(interface: Interface) -> Interface:
    """An interface for the process, which has its own functions."""
    return interface._replace(
        resources=[resource._replace(drop=_absent) for resource in interface.resources],
        functions=[function._replace(call=_absent) for function in interface.functions],
    )


def _absent(*arguments: Any) -> Any:
    raise GuestTrap("the function belongs to the host")
