"""A guest in a process of its own, driven by the protocol of ``child``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from wasi_nn._process.compilation import here, waiting
from wasi_nn.errors import (
    GuestTrap,
    Interrupted,
    LimitExceeded,
    LinkError,
    OutOfFuel,
    UsageError,
)
from wasi_nn.escaping import logger
from wasi_nn.runtime import EngineLimits, HostFunction, Module, WasiConfig
from wasi_nn.runtime.engine import EngineInstance, GuestExit, missing_export
from wasi_nn.runtime.open_files import warn
from wasi_nn.runtime.process._protocol import (
    CALL,
    CALL_HEAD,
    FAILED,
    GARBLED,
    HOST_CALL,
    LINK,
    OK,
    PREPARE,
    RETURN,
    TRAP,
    as_json,
    from_raws,
    to_raws,
)
from wasi_nn.runtime.process.child import Child, ProcessEnded, RemoteMemory
from wasi_nn.runtime.streams import Streams
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.memory_bound import bounded

__all__ = ["MakeChild", "RemoteInstance", "RemoteModule"]

log = logger("wasi_nn")
# Descriptors that an engine needs for a guest besides its files: on the way to a path, for example.
_ENGINE_FILES = 16

#: Makes the process of a guest with these standard streams.
MakeChild = Callable[[Sequence[int]], Child]


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
        self.signatures = wasm_module.parse(wasm).signatures
        self.limits_memory = limits_memory
        self.start = start
        try:
            child = make_child(())
            child.limit_memory(None)
            try:
                with here.endable(child.kill):
                    child.send(PREPARE, wasm)
                    kind, data = child.receive()
            finally:
                child.close()
        except GuestTrap as error:
            raise UsageError(str(error)) from error
        try:
            answer = json.loads(bytes(data))
            for warning in answer.get("warnings", ()):
                _warn_once(engine, warning)
            text = None if kind == OK else answer["text"]
        except GARBLED:
            text = "its process does not keep to the protocol"
        if text is not None:
            raise UsageError(f"{engine} cannot compile this module: {text}")

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> RemoteInstance:
        return RemoteInstance(self, functions, wasi, limits)


class RemoteInstance(EngineInstance):
    """A process with one instance in it."""

    def __init__(
        self,
        module: RemoteModule,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__()
        self._module = module
        self._functions = functions
        # The memories of the current host calls, the innermost last.
        self._memories: list[RemoteMemory] = []
        # The size of the guest's memory when it last answered.
        self._size = 0
        self._wasi = wasi
        self._limits = limits
        self._streams = Streams(wasi, self.output_failures)
        try:
            streams = (self._streams.stdin, self._streams.stdout, self._streams.stderr)
            self._child = module.make_child(streams)
            self._child.limit_memory(limits.memory)
        except BaseException:
            self._streams.close()
            raise

    def close(self) -> None:
        self._child.close()
        self._streams.close()

    def flush_output(self) -> None:
        self._streams.flush()

    def stop_guest(self) -> None:
        self._child.kill()

    def link(self) -> None:
        wasm, wasi, limits = self._module.wasm, self._wasi, self._limits
        if limits.memory is not None and not self._module.limits_memory:
            wasm, limits = bounded(wasm, limits.memory), limits._replace(memory=None)
        wanted = {
            "args": list(wasi.args),
            "env": dict(wasi.env),
            "preopens": [(p.guest, str(p.host.resolve()), p.writable) for p in wasi.preopens],
            "functions": [
                {
                    "module": f.module,
                    "name": f.name,
                    "parameters": f.parameters,
                    "hasResult": f.has_result,
                    "signature": f.signature,
                }
                for f in self._functions
            ],
            **limits._asdict(),
        }
        with self._child.in_step():
            # The guest's process compiles the module again.
            with waiting.get()():
                self._child.send(PREPARE, wasm)
                self._answer()
            if limits.files is not None:
                self._child.limit_files(limits.files + len(wasi.preopens) + _ENGINE_FILES)
            self._child.send(LINK, as_json(wanted))
            self._answer()
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

    def _answer(self) -> dict[str, Any]:
        """Serve the guest's calls until it answers. Raises the kinds of ``GuestError``."""
        while True:
            kind, data = self._receive()
            if kind == HOST_CALL:
                self._serve(data)
                continue
            failure: BaseException | None = None
            with self._understood():
                answer: dict[str, Any] = dict(json.loads(bytes(data)))
                self._size = int(answer["size"])
                self._count_refused(int(answer.get("refused", 0)))
                if kind != OK:
                    failure = _failure(answer) if kind == FAILED else self._child.nonsense()
            if failure is not None:
                raise failure
            return answer

    def _count_refused(self, files: int) -> None:
        if files and not self.refusals["files"]:
            warn(self._limits.files or 0)
        self.refusals["files"] = files

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Kill the process if its message cannot be read: a guest has taken it over."""
        try:
            yield
        except GARBLED:
            raise self._child.nonsense() from None

    def _receive(self) -> tuple[int, memoryview]:
        try:
            return self._child.receive()
        except GuestTrap:
            if self.stopped:
                raise Interrupted("the guest was interrupted") from None
            raise

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


@lru_cache(maxsize=32)
def _warn_once(engine: str, warning: object) -> None:
    log.warning("%s: %s", engine, warning)


def _failure(answer: dict[str, Any]) -> BaseException:
    kind, text = answer["kind"], str(answer["text"])
    if kind == "exit":
        return GuestExit(int(answer["code"]))
    if kind == "link":
        return LinkError(f"the guest cannot start: {text}")
    return _FAILURES.get(kind, GuestTrap)(text)


_FAILURES: dict[str, type[Exception]] = {
    "fuel": OutOfFuel,
    "limit": LimitExceeded,
    "usage": UsageError,
}
