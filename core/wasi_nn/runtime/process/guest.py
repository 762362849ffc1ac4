"""A guest in a process of its own: the part that modules and components share."""

from __future__ import annotations

import json
from abc import abstractmethod
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
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import EngineInstance, GuestExit
from wasi_nn.runtime.open_files import warn
from wasi_nn.runtime.process._protocol import (
    FAILED,
    GARBLED,
    HOST_CALL,
    INTERFACES,
    LINK,
    OK,
    PREPARE,
    as_json,
)
from wasi_nn.runtime.process.child import Child
from wasi_nn.runtime.streams import Streams

__all__ = ["MakeChild", "RemoteGuest", "compile_once"]

log = logger("wasi_nn")
# Descriptors that an engine needs for a guest besides its files: on the way to a path, for example.
_ENGINE_FILES = 16

#: Makes the process of a guest with these standard streams.
MakeChild = Callable[[Sequence[int]], Child]


def compile_once(engine: str, make_child: MakeChild, wasm: bytes, what: str) -> None:
    """Compile a guest in a process that ends then. Raises ``UsageError`` if ``engine`` cannot
    compile this ``what``."""
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
        raise UsageError(f"{engine} cannot compile this {what}: {text}")


class RemoteGuest(EngineInstance):
    """A process with one guest in it."""

    def __init__(self, make_child: MakeChild, wasi: WasiConfig, limits: EngineLimits) -> None:
        super().__init__()
        # The size of the guest's memory when it last answered.
        self._size = 0
        # Why the memory cannot be reached between calls.
        self._unreachable: str | None = None
        self._wasi = wasi
        self._limits = limits
        self._streams = Streams(wasi, self.output_failures)
        try:
            streams = (self._streams.stdin, self._streams.stdout, self._streams.stderr)
            self._child = make_child(streams)
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

    def _link(
        self,
        wasm: bytes,
        functions: Sequence[HostFunction],
        limits: EngineLimits,
        interfaces: bytes = b"",
    ) -> None:
        """Make the process compile and link the guest, with the functions of a module or the
        pickled interfaces of a component."""
        wasi = self._wasi
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
                for f in functions
            ],
            **limits._asdict(),
        }
        with self._child.in_step():
            self._compile(wasm, interfaces)
            if limits.files is not None:
                self._child.limit_files(limits.files + len(wasi.preopens) + _ENGINE_FILES)
            self._child.send(LINK, as_json(wanted))
            self._unreachable = self._answer().get("unreachable")

    def _compile(self, wasm: bytes, interfaces: bytes = b"") -> None:
        # The guest's process compiles the guest again.
        with waiting.get()():
            self._child.send(PREPARE, wasm)
            self._answer()
        if interfaces:
            self._child.send(INTERFACES, interfaces)

    @abstractmethod
    def _serve(self, data: memoryview) -> None:
        """Serve one HOST_CALL."""

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
                # (Messages have 32 bits for a pointer.)
                self._size = min(int(answer["size"]), 0xFFFFFFFF)
                self._count_refused(int(answer.get("refused", 0)))
                if kind != OK:
                    failure = _failure(answer) if kind == FAILED else self._child.nonsense()
            if failure is not None:
                raise failure
            return answer

    def _count_refused(self, files: int) -> None:
        if not files:
            return
        if not self.refusals["files"]:
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
