"""A guest that is a core module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wasi_nn._abi import bench
from wasi_nn._abi.core.selection import Selection, select_abi
from wasi_nn._abi.guard import Observer
from wasi_nn._host.imports import link
from wasi_nn._host.linkable import Linked, checked
from wasi_nn._session.session import Session
from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Module, Runtime
from wasi_nn.runtime.engine import socket_functions
from wasi_nn.wasm import module as wasm_module

if TYPE_CHECKING:
    from wasi_nn._abi.logging import GuestLog
    from wasi_nn._sockets.sockets import Sockets

_LOGGING = "wasi:logging/logging"


class GuestModule:
    """A core module. Its imports decide its ABI, and its dialect as far as they can."""

    def __init__(self, wasm: bytes) -> None:
        """Raises ``UsageError`` for bytes that are not a core module."""
        self.file = wasm_module.parse(wasm)
        #: The signatures of the exports; None for one that is unreadable.
        self.signatures = self.file.signatures
        #: Whether it has a start section, which runs when it is instantiated.
        self.has_start = self.file.has_start
        # What guests of a dialect share: its ABI and, once one was linked, what they import.
        self._selected: dict[str | None, Selection | None] = {}
        self._uses_sockets = bool(socket_functions(self.file.imports))
        modules = {item.module for item in self.file.imports}
        self._logs, self._marks = _LOGGING in modules, bench.MODULE in modules
        self._imported: dict[tuple[Runtime, str | None], set[tuple[str, str]]] = {}
        self._is_command = self.file.is_command

    def compile(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> Any:
        """The engine's code of the binary, whose bytes are ``wasm``. Raises ``UsageError`` if the
        engine refuses it."""
        return checked(runtime, "compile", runtime.compile(wasm, limits), Module)

    def check_command(self) -> None:
        """Raise ``UsageError`` if it does not run by itself."""
        if not self._is_command:
            raise UsageError(f"this is not a command: {wasm_module.no_command(self.file)}")

    def check_export(self, name: str | None) -> None:
        """Raise ``UsageError`` if the export cannot be called, or if no export can be."""
        known = self.file.functions
        if name is not None and name not in known:
            hint = did_you_mean(name, known)
            listed = ", ".join(known) or "none"
            raise UsageError(f"the guest exports no function {name!r}{hint}; it exports: {listed}")

    def link(
        self,
        session: Session,
        runtime: Runtime,
        observer: Observer,
        dialect: str | None = None,
        extra: Sequence[HostFunction] = (),
        stand_ins: bool = False,
    ) -> Linked:
        """Meet every import, with ``stand_ins`` for what nothing provides. Raises ``LinkError``,
        and ``UsageError`` for a dialect that the binary cannot have."""
        if dialect not in self._selected:
            self._selected[dialect] = select_abi(self.file, dialect)
        selection = self._selected[dialect]
        abi = None if selection is None else selection.for_guest(session)
        special = bool(extra) or stand_ins
        imported = None if special else self._imported.get((runtime, dialect))
        offered = [] if abi is None else abi.host_functions(observer, imported)
        timer = bench.BenchTimer() if self._marks else None
        if timer is not None:
            offered += timer.host_functions()
        sockets = self._sockets(session, observer) if self._uses_sockets else None
        if sockets is not None:
            offered += sockets.functions(self.file.imports)
        log = self._log() if self._logs else None
        if log is not None:
            offered += log.functions(_LOGGING)
        offered += extra
        if imported is None:
            needed = link(self.file, offered, runtime, stand_ins)
            if not special:
                imported = {function[:2] for function in needed}
                self._imported[runtime, dialect] = imported
        if imported is not None:
            # (In one order for all guests, so that an engine can link them once.)
            needed = [function for function in offered if function[:2] in imported]
        return Linked(
            needed,
            lambda: abi.negotiation.dialect.name if abi is not None else None,
            timer,
            sockets,
            log,
            () if selection is None else selection.negotiation.candidates,
        )

    @staticmethod
    def _log() -> GuestLog:
        # (Few guests log.)
        from wasi_nn._abi.logging import GuestLog

        return GuestLog()

    @staticmethod
    def _sockets(session: Session, observer: Observer) -> Sockets:
        # (Few guests have sockets.)
        from wasi_nn._sockets.sockets import Sockets

        return Sockets(session.policy, observer)

    def check_link(self, linked: Linked, code: Callable[[], Any]) -> None:
        """``link`` has compared the types already."""
