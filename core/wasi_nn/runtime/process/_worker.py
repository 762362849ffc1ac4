"""The other side of ``child`` in Python: a runtime that is driven by messages.

It runs in the Python that has the engine's library, and needs nothing else there. ``_boot`` starts
it.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

from wasi_nn.errors import GuestExited, LimitExceeded, LinkError, OutOfFuel, UsageError
from wasi_nn.runtime import (
    EngineLimits,
    GuestMemory,
    HostFunction,
    Instance,
    Module,
    Preopen,
    Runtime,
    WasiConfig,
)
from wasi_nn.runtime.component import Component, Function, Interface
from wasi_nn.runtime.process._protocol import (
    CALL,
    CALL_HEAD,
    CHECK,
    DATA,
    FAILED,
    HOST_CALL,
    INTERFACES,
    LINK,
    OK,
    PAIR,
    PEEK,
    PREPARE,
    READ,
    RETURN,
    TO_GUEST,
    U32,
    WRITE,
    Channel,
    as_json,
    from_raws,
    to_raws,
)
from wasi_nn.runtime.process._values import functions_of, read_all, write
from wasi_nn.wasm.module import Signature, is_component

_LINK_PREFIX = "the guest cannot start: "


class Stopped(Exception):
    """The host has asked the guest to end."""


class _Exit(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


class Worker:
    """Answers the host until the host has gone."""

    def __init__(self, runtime: Runtime, channel: Channel, counts_fuel: bool) -> None:
        self._runtime = runtime
        self._channel = channel
        self._limits = EngineLimits(fuel=1 if counts_fuel else None)
        # Set by PREPARE, INTERFACES and LINK, which come first.
        self._module: Module | Component
        self._interfaces: Sequence[Interface] = ()
        self._instance: Instance
        self._refused: Mapping[str, int] = {}
        # Of the latest host call.
        self._memory: GuestMemory | None = None
        # Whether the engine reaches the memory between calls.
        self._reaches = False
        # The most bytes in one call of a component.
        self._most: int | None = None

    def run(self) -> None:
        """Serve messages. Raises ``EOFError`` when the host has gone."""
        while True:
            kind, body = self._channel.receive()
            if kind == PREPARE:
                self._guarded(self._prepare, bytes(body))
            elif kind == INTERFACES:
                self._interfaces = self._served(pickle.loads(bytes(body)))
            elif kind == CHECK:
                self._guarded(self._check, None)
            elif kind == LINK:
                self._guarded(self._link, json.loads(bytes(body)))
            elif kind == CALL:
                self._guarded(self._call, json.loads(bytes(body)))
            elif (memory := self._instance.memory) is not None:
                self._access(memory, kind, body)

    def _access(self, memory: GuestMemory, kind: int, body: memoryview) -> None:
        if kind == READ:
            self._channel.send(DATA, memory.read(*PAIR.unpack(body)))
        elif kind == WRITE:
            (pointer,) = U32.unpack_from(body)
            memory.write(pointer, body[U32.size :])
        else:
            raise Stopped

    def _prepare(self, wasm: bytes) -> dict[str, Any]:
        # Warnings go to sys.stderr, since this process has no handler for them.
        with redirect_stderr(io.StringIO()) as warnings:
            if is_component(wasm):
                self._module = self._runtime.compile_component(wasm, self._limits)
            else:
                self._module = self._runtime.compile(wasm, self._limits)
        return {"warnings": warnings.getvalue().splitlines()}

    def _link(self, options: dict[str, Any]) -> dict[str, Any]:
        wasi = WasiConfig(
            args=options["args"],
            env=tuple(options["env"].items()),
            preopens=[
                Preopen(Path(host), guest, writable)
                for guest, host, writable in options["preopens"]
            ],
            stdin="inherit",
        )
        functions = [
            HostFunction(
                one["module"],
                one["name"],
                one["parameters"],
                one["hasResult"],
                self._host_function(number, one["hasResult"]),
                one["signature"] and Signature(*map(tuple, one["signature"])),
            )
            for number, one in enumerate(options["functions"])
        ]
        limits = EngineLimits(options["memory"], options["fuel"], options["files"])
        if isinstance(self._module, Component):
            self._most = limits.memory
            # The system counts this process's files.
            limits = limits._replace(files=None)
            self._instance = self._module.prepare(self._interfaces, wasi, limits)
        else:
            self._instance = self._module.prepare(functions, wasi, limits)
        self._refused = self._instance.refused
        code = self._instance.instantiate()
        if code is not None:
            raise _Exit(code)
        try:
            self._memory = self._instance.memory
        except UsageError as error:
            return {"unreachable": str(error)}
        self._reaches = True
        return {}

    def _check(self, nothing: None) -> dict[str, Any]:
        assert isinstance(self._module, Component)
        self._module.check(self._interfaces)
        return {}

    def _call(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self._module, Component):
            return {"results": self._instance.start()}
        values = from_raws(wanted["parameters"], wanted["values"])
        results = self._instance.call(wanted["name"], *values)
        return {"results": to_raws(wanted["results"], results)}

    def _host_function(self, number: int, has_result: bool) -> Callable[..., int | None]:
        channel = self._channel

        def ask(memory: GuestMemory | None, *values: int) -> int | None:
            self._memory = memory
            size = 0xFFFFFFFF if memory is None else memory.size
            heads, peeks = [], []
            for value in values:
                length = 0 if memory is None else max(0, min(PEEK, size - value))
                heads.append(PAIR.pack(value, length))
                if memory is not None and length:
                    peeks.append(memory.read(value, length))
            head = CALL_HEAD.pack(number, min(size, 0xFFFFFFFF), memory is not None)
            channel.send(HOST_CALL, head, *heads, *peeks)
            while True:
                kind, body = channel.receive()
                if kind == RETURN:
                    return int.from_bytes(body, "little") if has_result else None
                if kind == CALL:
                    self._guarded(self._call, json.loads(bytes(body)))
                elif memory is not None:
                    self._access(memory, kind, body)
                else:
                    raise Stopped

        return ask

    def _served(self, interfaces: Sequence[Interface]) -> list[Interface]:
        """Interfaces whose functions ask the host."""
        numbers = iter(range(len(functions_of(interfaces))))
        return [
            interface._replace(
                resources=[
                    resource._replace(drop=self._component_function(next(numbers), drop))
                    for resource, drop in zip(
                        interface.resources, functions_of([interface]), strict=False
                    )
                ],
                functions=[
                    function._replace(call=self._component_function(next(numbers), function))
                    for function in interface.functions
                ],
            )
            for interface in interfaces
        ]

    def _component_function(self, number: int, function: Function) -> Callable[..., Any]:
        channel = self._channel

        def ask(*values: Any) -> Any:
            parts: list[bytes | memoryview] = [U32.pack(number)]
            for kind, value in zip(function.parameters, values, strict=True):
                write(kind, value, parts)
            if self._most is not None and sum(map(len, parts)) > self._most:
                raise LimitExceeded("the guest passed more than its memory in one call")
            channel.send(HOST_CALL, *parts)
            answer, body = channel.receive()
            if answer != RETURN:
                raise Stopped
            return read_all([function.result], body)[0]

        return ask

    def _guarded(self, work: Callable[[Any], dict[str, Any]], given: Any) -> None:
        try:
            kind, answer = OK, work(given)
        except EOFError:
            raise
        except BaseException as error:
            text = str(error).removeprefix(_LINK_PREFIX)
            kind = FAILED
            answer = {"kind": _kind(error), "text": text, "code": getattr(error, "code", None)}
        memory = self._instance.memory if self._reaches else self._memory
        size = 0 if memory is None else memory.size
        refused = self._refused.get("files", 0)
        self._channel.send(kind, as_json({**answer, "size": size, "refused": refused}))


def _kind(error: BaseException) -> str:
    kinds = (
        ((_Exit, GuestExited), "exit"),
        (Stopped, "stopped"),
        (LinkError, "link"),
        (LimitExceeded, "limit"),
        (OutOfFuel, "fuel"),
        (UsageError, "usage"),
    )
    return next((word for kind, word in kinds if isinstance(error, kind)), "trap")


def main(package: str, name: str, what: str, *ends: str) -> None:
    """Describe the runtime of a plugin's package as JSON (``describe``), or run a guest on it
    (``fuel`` or ``plain``, then the descriptors of the two pipes)."""
    found = import_module(package).wasi_nn_runtimes()
    runtime = next(runtime for runtime in found if runtime.name == name)
    if what == "describe":
        from wasi_nn.plugins import availability

        usable = availability(runtime)
        print(
            json.dumps(
                {
                    "usable": usable.usable,
                    "detail": usable.detail,
                    "features": runtime.features._asdict(),
                    "wasi": sorted(runtime.wasi_modules),
                }
            )
        )
        return
    # The standard streams are the guest's.
    sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115
    try:
        reader, writer = map(int, ends)
        Worker(runtime, Channel(reader, writer, TO_GUEST), what == "fuel").run()
    except EOFError:
        pass
