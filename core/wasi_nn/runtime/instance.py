"""How a guest ends, the same for every engine."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from wasi_nn.errors import (
    GuestError,
    GuestExited,
    Interrupted,
    LimitExceeded,
    UsageError,
)
from wasi_nn.runtime import GuestMemory, HostFunction, Instance, Preopen
from wasi_nn.wasm.module import WasmFile

WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")
PAGE = 65536
#: The text of the trap that ends a guest whose host function raised; the exception is kept.
HOST_TRAP = "a host function ended the guest"
# Seconds until a guest that may have missed its stop is stopped again.
_AGAIN = 0.02


class GuestExit(BaseException):
    """The guest called proc_exit. Raised by a host function, and caught by ``EngineInstance``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & 0xFF


def proc_exit(module: str) -> HostFunction:
    """A ``proc_exit`` that takes every exit code, for engines whose own one does not."""

    def leave(memory: GuestMemory | None, code: int) -> None:
        raise GuestExit(code)

    return HostFunction(module, "proc_exit", 1, False, leave)


def check_start_memory(file: WasmFile, limit: int | None, table_bytes: int = 0) -> None:
    """Raise ``LimitExceeded`` for a module whose initial memory is above the limit, or whose
    tables, which may take ``table_bytes``, are, for engines that would raise the limit instead; and
    for one with several memories, each of which would have the limit for itself."""
    if limit is None:
        return
    if len(file.memories) > 1:
        raise LimitExceeded(
            f"the memory limit supports one memory; the guest has {len(file.memories)}"
        )
    size = file.memory_pages * PAGE
    if size > limit:
        raise LimitExceeded(
            f"the guest needs more memory to start than its {limit} bytes: {size} bytes"
        )
    if table_bytes > limit:
        raise LimitExceeded(
            f"the guest's tables may take more memory than its {limit} bytes: {table_bytes} bytes"
        )


def refuse_read_only(engine: str, preopens: Sequence[Preopen]) -> None:
    """Raise ``UsageError`` for a directory that is to be read only, for engines whose WASI would
    let the guest write."""
    for preopen in preopens:
        if not preopen.writable:
            raise UsageError(f"{engine} cannot give {preopen.host} to a guest for reading only")


class EngineInstance(Instance):
    """An instance whose adapter gives ``_link``, ``_invoke`` and ``_stop_guest``.

    Whatever enters the guest raises a kind of ``GuestError`` when the guest did not come back, or
    ``GuestExit`` where the engine itself knows of an exit. A
    host function's trampoline catches every exception, keeps it in ``raised`` and traps; an output
    stream's callback puts what it raised into ``output_failures``. From there they come out of
    ``instantiate``, ``start`` and ``call`` as they were. ``close`` can come more than once."""

    def __init__(self) -> None:
        self.stopped = False
        self.inside = False
        self.raised: BaseException | None = None
        self.output_failures: list[BaseException] = []

    def __del__(self) -> None:
        # A guest that nobody closed. (One whose making failed may lack what closing needs.)
        with contextlib.suppress(AttributeError):
            self.close()

    @abstractmethod
    def _link(self) -> None:
        """Instantiate the module, its start function included. Raises ``LinkError`` and the kinds
        of ``GuestError``."""

    @abstractmethod
    def _invoke(self, export: str, otherwise: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        """Call an export. Raises ``UsageError`` with the text ``otherwise`` where there is no such
        function, and the kinds of ``GuestError``."""

    def _stop_guest(self) -> None:
        """Make an engine that runs the guest stop; ``stopped`` is set, and ``inside`` is until the
        guest has been left. Called from any thread."""

    def _stop_again(self) -> None:
        """Come back with ``_stop_guest`` soon, unless the guest has been left: for engines where a
        stop is heard once, and can be missed."""
        if self.inside:
            again = threading.Timer(_AGAIN, self._stop_guest)
            again.daemon = True
            again.start()

    def _follow_memory(self) -> None:
        """A host function has called back into the guest: the memory that it was given may have
        grown."""

    def check_stopped(self) -> None:
        """Raise ``Interrupted`` for a guest that is to stop: in the host calls of an engine that
        cannot be stopped otherwise."""
        if self.stopped:
            raise Interrupted("the guest was interrupted")

    def _settle(self) -> None:
        """The guest has come back: deliver what its output streams still hold."""

    def instantiate(self) -> int | None:
        try:
            self._run(self._link)
        except GuestExit as exit:
            return exit.code
        return None

    def start(self) -> int:
        try:
            self._run(self._invoke, "_start", "this is not a command: it exports no _start", ())
        except GuestExit as exit:
            return exit.code
        return 0

    def call(self, export: str, *arguments: int) -> tuple[int | float, ...]:
        try:
            result: tuple[int | float, ...] = self._run(
                self._invoke, export, f"the guest exports no function {export!r}", arguments
            )
        except GuestExit as exit:
            raise GuestExited(exit.code) from None
        return result

    def interrupt(self) -> None:
        self.stopped = True
        self._stop_guest()

    def _run(self, enter: Callable[..., Any], *arguments: Any) -> Any:
        """Enter the guest. An exception of a host function, or of an output stream, comes out in
        the place of the trap that it was turned into."""
        outside = not self.inside
        # In this order: whoever interrupts finds us inside, or we find that we are stopped.
        self.inside = True
        try:
            if self.stopped:
                raise Interrupted("the guest was interrupted before it ran")
            return self._come_back(enter, *arguments)
        finally:
            if outside:
                self.inside = False
            else:
                self._follow_memory()

    def _come_back(self, enter: Callable[..., Any], *arguments: Any) -> Any:
        try:
            result = enter(*arguments)
        except (GuestError, GuestExit) as error:
            self._settle()
            raised, self.raised = self.raised, None
            if isinstance(error, GuestExit):
                raised = error
            if self.output_failures and (raised is None or isinstance(raised, GuestExit)):
                raised = self.output_failures.pop()
            if raised is not None:
                try:
                    raise raised from None
                finally:
                    # Its traceback refers to this frame: no cycle is to keep the guest alive.
                    del raised
            if self.stopped:
                raise Interrupted("the guest was interrupted") from None
            raise
        self._settle()
        # A guest may catch what was to end it (JavaScript's engines let it).
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised
        if self.output_failures:
            raise self.output_failures.pop()
        return result
