"""A guest in a page of the browser."""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn.errors import GuestTrap, LinkError, UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, OwnNn, WasiConfig
from wasi_nn.runtime.engine import EngineInstance, GuestExit, missing_export
from wasi_nn.runtime.open_files import warn
from wasi_nn.runtime.streams import Streams
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.deferred_start import START, defer_start
from wasi_nn.wasm.memory_bound import bounded
from wasi_nn_browser.order import order_of
from wasi_nn_browser.runtime import Tabs
from wasi_nn_browser.server import Answer
from wasi_nn_browser.tab import Tab

# How often a thread that waits looks whether it must stop.
_LOOK_SECONDS = 0.2
_PIECE = 4096
_GONE = Answer(410)


class BrowserModule(Module):
    """A module, which each guest's worker compiles for itself."""

    def __init__(self, tabs: Tabs, wasm: bytes) -> None:
        self.tabs = tabs
        # A start function would run outside ``promising``, where no call can wait.
        self.wasm = defer_start(wasm)
        self.start = None if self.wasm is wasm else START
        self.signatures = wasm_module.parse(self.wasm).signatures

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        raise UsageError("a guest in the browser has the wasi-nn of the page (prepare_own)")

    def prepare_own(
        self,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
        nn: OwnNn,
    ) -> Instance:
        files: list[Path] = []
        order = order_of(functions, wasi, limits, nn, files)
        return BrowserInstance(self, {**order, "start": self.start}, files, wasi, limits, nn)


class BrowserInstance(EngineInstance):
    """A guest's worker, seen from here."""

    def __init__(
        self,
        module: BrowserModule,
        order: Mapping[str, Any],
        files: Sequence[Path],
        wasi: WasiConfig,
        limits: EngineLimits,
        nn: OwnNn,
    ) -> None:
        super().__init__()
        self._module = module
        self._order = order
        self._files = files
        self._limits = limits
        self._nn = nn
        self._tab: Tab | None = None
        self._number = 0
        self._changed = threading.Condition()
        self._answer: Mapping[str, Any] | None = None
        self._closed = False
        # A stream's descriptor is not closed while a request uses it.
        self._using = threading.Lock()
        self._wasm = b""
        self._streams = Streams(wasi, self.output_failures)

    def link(self) -> None:
        memory = self._limits.memory
        self._wasm = self._module.wasm if memory is None else bounded(self._module.wasm, memory)
        self._tab = self._module.tabs.get()
        self._number = self._tab.add(self)
        self._do({"do": "link", "computes": bool(self._order["dialects"])})

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        signature = self._module.signatures.get(export)
        if signature is None:
            raise missing_export(export)
        values = [
            repr(float(value)) if kind[0] == "f" else str(_signed(int(value), kind))
            for value, kind in zip(arguments, signature.parameters, strict=True)
        ]
        texts = [text.replace("inf", "Infinity").replace("nan", "NaN") for text in values]
        command = {"do": "call", "export": export, "values": texts, "kinds": signature.parameters}
        answer = self._do(command)
        return tuple(
            float(text) if kind[0] == "f" else int(text)
            for text, kind in zip(answer.get("values", ()), signature.results, strict=True)
        )

    def stop_guest(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._tab is not None:
            self._tab.remove(self._number)

    def flush_output(self) -> None:
        self._streams.flush()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tab is not None:
            self._tab.remove(self._number)
        with self._using:
            self._streams.close()

    def _do(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have the worker do something, and wait for it. Raises the kinds of ``GuestError``."""
        assert self._tab is not None
        with self._changed:
            self._answer = None
        self._tab.order(self._number, command)
        with self._changed:
            while self._answer is None and not self.stopped:
                self._changed.wait(_LOOK_SECONDS)
                if self._tab.lost is not None:
                    raise GuestTrap(self._tab.lost)
                self._tab.check()
            answer = self._answer
        if answer is None:
            raise GuestTrap("the guest was stopped")
        text = str(answer.get("text", ""))
        match answer.get("kind"):
            case "ok":
                return answer
            case "exit":
                raise GuestExit(int(answer["code"]))
            case "link":
                raise LinkError(f"the guest cannot start: {text}")
        raise GuestTrap(text)

    # What the worker asks for, on the server's threads.

    def lost(self, reason: str) -> None:
        with self._changed:
            self._changed.notify_all()

    def serve(self, names: list[str], body: bytes) -> Answer:
        match names:
            case ["order"]:
                return Answer(200, json.dumps(self._order).encode())
            case ["wasm"]:
                return Answer(200, self._wasm)
            case ["file", number] if number.isdecimal() and int(number) < len(self._files):
                path = self._files[int(number)]
                return Answer(200, path) if path.is_file() else Answer(404)
            case ["stdin", size] if size.isdecimal():
                return self._read(min(int(size), 1 << 20))
            case ["stdout" | "stderr" as name]:
                return self._write(name, memoryview(body))
            case ["refused"]:
                self.refusals["files"] += 1
                if self.refusals["files"] == 1:
                    warn(self._limits.files or 0)
                return Answer()
            case ["failed"]:
                said = json.loads(body)
                self._nn.failed(said["name"], said["args"], said["errno"], said["reason"])
                return Answer()
            case ["done"]:
                with self._changed:
                    self._answer = json.loads(body)
                    self._changed.notify_all()
                return Answer()
        return Answer(404)

    def _over(self) -> bool:
        return self._closed or self.stopped

    def _read(self, size: int) -> Answer:
        while not self._over():
            with self._using:
                if self._closed:
                    break
                ready, _, _ = select.select([self._streams.stdin], [], [], 0)
                if ready:
                    return Answer(200, os.read(self._streams.stdin, size))
            with self._changed:
                self._changed.wait(0.02)
        return _GONE

    def _write(self, name: str, data: memoryview) -> Answer:
        while data:
            with self._using:
                if self._over():
                    return _GONE
                stream = self._streams.stdout if name == "stdout" else self._streams.stderr
                _, ready, _ = select.select([], [stream], [], _LOOK_SECONDS)
                if ready:
                    try:
                        data = data[os.write(stream, data[:_PIECE]) :]
                    except BrokenPipeError:
                        return _GONE
        return Answer()


def _signed(value: int, kind: str) -> int:
    bits = int(kind[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
