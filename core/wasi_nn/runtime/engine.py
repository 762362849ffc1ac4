"""``EngineInstance``: how a guest starts and ends, the same for every engine."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wasi_nn.errors import (
    GuestError,
    GuestExited,
    Interrupted,
    LimitExceeded,
    UsageError,
)
from wasi_nn.runtime import PASS_ON, GuestMemory, HostFunction, Instance, Preopen
from wasi_nn.runtime.pause import Pause
from wasi_nn.wasm.module import PAGE, Import, WasmFile

__all__ = [
    "BESIDE_SOCKETS",
    "HOST_TRAP",
    "PAGE",
    "WASI_MODULES",
    "EngineInstance",
    "GuestExit",
    "before",
    "check_start_memory",
    "missing_export",
    "proc_exit",
    "refuse_read_only",
    "socket_functions",
]

#: The import modules of WASI preview 1, and of snapshot 0, which has the same functions.
WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")
#: The functions of WASI that take the descriptors of sockets too, and how many parameters they
#: have. The host's come before an engine's own for a guest that has ``socket_functions``.
BESIDE_SOCKETS = {
    "fd_close": 1,
    "fd_fdstat_get": 2,
    "fd_fdstat_set_flags": 2,
    "fd_filestat_get": 2,
    "fd_read": 4,
    "fd_renumber": 2,
    "fd_write": 4,
    "poll_oneoff": 4,
}
#: The text of the trap that ends a guest whose host function raised; the exception is kept.
HOST_TRAP = "a host function ended the guest"
# Until a guest that may have missed its stop is stopped again.
_STOP_AGAIN_SECONDS = 0.02


class GuestExit(BaseException):
    """The guest called ``proc_exit``. Raised by a host function, or by ``link`` and ``invoke`` of
    an engine with a ``proc_exit`` of its own. ``EngineInstance`` catches it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & 0xFF


def proc_exit(module: str) -> HostFunction:
    """A ``proc_exit`` that takes every exit code, for engines whose own does not."""
    return HostFunction(module, "proc_exit", 1, False, _leave)


def _leave(memory: GuestMemory | None, code: int) -> None:
    raise GuestExit(code)


def socket_functions(imports: Iterable[Import]) -> set[tuple[str, str]]:
    """The functions of WASI that the host provides to a guest with sockets, by module and name: of
    sockets, and ``BESIDE_SOCKETS``. Empty for a guest that imports none of sockets."""
    found = {(item.module, item.name) for item in imports if item.module in WASI_MODULES}
    if not any(name.startswith("sock_") for _, name in found):
        return set()
    return {each for each in found if each[1].startswith("sock_") or each[1] in BESIDE_SOCKETS}


def before(function: HostFunction, own: Callable[..., Any]) -> HostFunction:
    """A host function of WASI, with the runtime's ``own`` one for the calls that it passes on.
    ``own`` gets the same parameters."""
    call = function.call

    def first(memory: GuestMemory | None, *arguments: int) -> Any:
        result = call(memory, *arguments)
        return own(memory, *arguments) if result == PASS_ON else result

    return function._replace(call=first)


def missing_export(export: str) -> UsageError:
    """The error for a function that the guest does not export."""
    if export == "_start":
        return UsageError("this is not a command: it exports no _start")
    return UsageError(f"the guest exports no function {export!r}")


def check_start_memory(file: WasmFile, limit: int | None, table_bytes: int = 0) -> None:
    """Raise ``LimitExceeded`` if the module's initial memory, or its tables (of ``table_bytes``
    at most), are above the limit of ``limit`` bytes. For engines that would raise the limit
    instead. Also if there are several memories: the engine would apply the limit to each."""
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
    """Raise ``UsageError`` for a directory that must be read-only, for engines whose WASI would
    let the guest write to it."""
    for preopen in preopens:
        if not preopen.writable:
            raise UsageError(f"{engine} cannot give {preopen.host} to a guest for reading only")


class EngineInstance(Instance):
    """An instance that handles exits, interrupts and exceptions, so that a runtime need not.

    Subclasses define ``link``, ``invoke`` and ``close``, and may override ``stop_guest``,
    ``flush_output`` and ``refresh_memory``. This class calls all of them but ``close``. Unless
    stated otherwise, the calls come on the thread that runs the guest.

    When the guest does not return normally, ``link`` and ``invoke`` raise a kind of ``GuestError``,
    or ``GuestExit`` for an exit. When a host function raises, its trampoline stores the exception
    in ``raised`` and traps. When an output callback raises, its exception goes to
    ``output_failures``. ``instantiate``, ``start`` and ``call`` raise these exceptions unchanged,
    in place of the trap. ``close`` may be called more than once."""

    def __init__(self) -> None:
        #: Whether ``interrupt`` was called. It stays set: the guest must not run again.
        self.stopped = False
        #: Lets host functions wait until the guest is stopped.
        self.pause = Pause()
        #: Whether a thread is in the guest.
        self.inside = False
        #: What a host function raised, until it is raised again.
        self.raised: BaseException | None = None
        #: What ``refused`` returns.
        self.refusals: defaultdict[str, int] = defaultdict(int)
        #: What output callbacks raised, until the guest returns.
        self.output_failures: list[BaseException] = []

    def __del__(self) -> None:
        # A guest that nobody closed. (If the constructor failed, close may miss attributes.)
        with contextlib.suppress(AttributeError):
            self.close()

    @property
    def refused(self) -> Mapping[str, int]:
        return self.refusals

    @abstractmethod
    def link(self) -> None:
        """Instantiate the module and run its start function. Called once, by ``instantiate``.
        Raises ``LinkError``, the kinds of ``GuestError``, and ``GuestExit``."""

    @abstractmethod
    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        """Call an exported function, and return its results. Called by ``start`` and ``call``, and
        again by ``call`` while a host function of the same guest runs. Raises
        ``missing_export(export)`` if there is no such function, the kinds of ``GuestError``, and
        ``GuestExit``."""

    def stop_guest(self) -> None:
        """Make the engine stop the guest. Called by ``interrupt``, on any thread and at any time,
        also before the guest runs and after ``close``. ``stopped`` is already set. Raises nothing.

        Without it, only host calls stop the guest: the engine's trampoline calls
        ``check_stopped``."""

    def stop_guest_again(self) -> None:
        """Call ``stop_guest`` again soon, unless no thread is in the guest. For ``stop_guest`` of
        engines where a stop has an effect only once, and can be missed."""
        if self.inside:
            again = threading.Timer(_STOP_AGAIN_SECONDS, self.stop_guest)
            again.daemon = True
            again.start()

    def refresh_memory(self) -> None:
        """Update the view in the ``GuestMemory`` of the host call in progress. Called when a host
        function has called back into the guest, whose memory may have grown. Raises nothing."""

    def flush_output(self) -> None:
        """Deliver what the output streams still hold. Called each time that ``link`` or ``invoke``
        has ended, by an exception too. What a callback raises goes to ``output_failures``."""

    def check_stopped(self) -> None:
        """Raise ``Interrupted`` if the guest must stop. For host calls of engines that cannot be
        stopped otherwise."""
        if self.stopped:
            raise Interrupted("the guest was interrupted")

    def instantiate(self) -> int | None:
        try:
            self.run_guest(self.link)
        except GuestExit as exit:
            return exit.code
        return None

    def start(self) -> int:
        try:
            self.run_guest(self.invoke, "_start", ())
        except GuestExit as exit:
            return exit.code
        return 0

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        try:
            result: tuple[int | float, ...] = self.run_guest(self.invoke, export, arguments)
        except GuestExit as exit:
            raise GuestExited(exit.code) from None
        return result

    def interrupt(self) -> None:
        self.stopped = True
        self.pause.stop()
        self.stop_guest()

    def run_guest(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``link`` or ``invoke``. Raises what a host function or an output callback raised,
        in place of the trap, and ``Interrupted`` for a guest that was stopped. A subclass needs
        this only if it overrides ``start`` or ``call``."""
        outside = not self.inside
        # In this order: whoever interrupts finds us inside, or we find that we are stopped.
        self.inside = True
        try:
            if self.stopped:
                raise Interrupted("the guest was interrupted before it ran")
            return self._result(hook, *arguments)
        finally:
            if outside:
                self.inside = False
            else:
                self.refresh_memory()

    def _result(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        try:
            result = hook(*arguments)
        except (GuestError, GuestExit) as error:
            self.flush_output()
            raised, self.raised = self.raised, None
            if isinstance(error, GuestExit):
                raised = error
            if self.output_failures and (raised is None or isinstance(raised, GuestExit)):
                raised = self.output_failures.pop()
            if raised is not None:
                try:
                    raise raised from None
                finally:
                    # Its traceback refers to this frame: a cycle would keep the guest alive.
                    del raised
            if self.stopped:
                raise Interrupted("the guest was interrupted") from None
            raise
        self.flush_output()
        # A guest may catch the trap (JavaScript engines allow that).
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised
        if self.output_failures:
            raise self.output_failures.pop()
        return result
