"""A guest that is a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wasi_nn._abi.component.interfaces import Wit
from wasi_nn._abi.component.versions import DIALECTS, PACKAGE, version_of
from wasi_nn._abi.guard import Observer
from wasi_nn._host.linkable import Linked, checked
from wasi_nn._session.session import Session
from wasi_nn.errors import LinkError, UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Runtime
from wasi_nn.runtime.component import Component, is_wasi_0_2
from wasi_nn.wasm import component as wasm_component
from wasi_nn.wasm.module import Signature

_INTERFACES = frozenset(f"{PACKAGE}{name}" for name in ("errors", "tensor", "inference", "graph"))


class GuestComponent:
    """A component, with the methods of ``GuestModule``. Its dialect is the version of `wasi:nn`
    that it imports."""

    def __init__(self, wasm: bytes) -> None:
        """Raises ``UsageError`` for a damaged component."""
        self.file = wasm_component.parse(wasm)
        self.signatures: Mapping[str, Signature | None] = {}
        self.has_start = False

    def compile(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> Any:
        code = runtime.compile_component(wasm, limits)
        return checked(runtime, "compile_component", code, Component)

    def check_command(self) -> None:
        if not self.file.is_command:
            raise UsageError(f"this is not a command: {wasm_component.no_command(self.file)}")

    def check_export(self, name: str | None) -> None:
        raise UsageError(
            "a component is run as a command; only the exports of core modules can be called "
            "(--invoke, or Program.instantiate)"
        )

    def link(
        self,
        session: Session,
        runtime: Runtime,
        observer: Observer,
        dialect: str | None = None,
        extra: Sequence[HostFunction] = (),
        stand_ins: bool = False,
    ) -> Linked:
        version = self._version()
        chosen = DIALECTS[0] if dialect in (None, "auto") else dialect
        if chosen not in DIALECTS:
            raise UsageError(
                f"dialect {chosen} is for core modules; components have {', '.join(DIALECTS)}"
            )
        if version is None:
            return Linked((), lambda: None)
        quirks = "" if chosen == DIALECTS[0] else f" ({chosen})"
        title = f"{PACKAGE[:-1]}{'@' + version if version else ''}{quirks}"
        interfaces = Wit(session, observer, chosen).interfaces(version)
        return Linked(interfaces, lambda: title)

    def check_link(self, linked: Linked, code: Callable[[], Any]) -> None:
        code().check(linked.imports)

    def _version(self) -> str | None:
        """The version of `wasi:nn` that it imports. Raises ``LinkError`` that names every import
        that nothing here provides."""
        imports = self.file.imports
        problems = []
        version = None
        try:
            version = version_of(tuple(imports))
        except UsageError as error:
            problems.append(str(error))
        for name, sort in imports.items():
            # (Nobody has to provide a type.)
            known = name.partition("@")[0] in _INTERFACES or is_wasi_0_2(name)
            if not known and sort != "type":
                what = name if sort == "instance" else f"the {sort} {name}"
                problems.append(f"it imports {what}, which nothing here provides")
        if problems:
            raise LinkError(f"the guest cannot start: {'; '.join(problems)}")
        return version
