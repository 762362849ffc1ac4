"""A guest program that is a component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wasi_nn._abi.bench import BenchTimer
from wasi_nn._abi.component.interfaces import Wit
from wasi_nn._abi.component.versions import DIALECTS, PACKAGE, version_of
from wasi_nn._abi.guard import Observer
from wasi_nn._host.compiling import Code, Waiter, instance_of
from wasi_nn._host.guest import Guest
from wasi_nn._host.program import Call, Made, Program
from wasi_nn._session.session import Session
from wasi_nn.errors import LinkError, UsageError
from wasi_nn.limits import Limits
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.component import Component, is_wasi_0_2
from wasi_nn.wasm.component import ComponentFile, no_command
from wasi_nn.wasm.module import WasmFile

if TYPE_CHECKING:
    from wasi_nn._host.host import Host

_INTERFACES = frozenset(f"{PACKAGE}{name}" for name in ("errors", "tensor", "inference", "graph"))


class ComponentProgram(Program):
    """A guest that is a component. Its dialect is the version of `wasi:nn`."""

    def __init__(
        self, host: Host, name: str, code: Code[Component], component: ComponentFile
    ) -> None:
        super().__init__(host, name, code, WasmFile((), (), ()))
        self.component = component

    def _check_entry(self, invoke: Call | None) -> None:
        if invoke is not None:
            raise UsageError(
                "--invoke calls exports of core modules; a component is run as a command"
            )
        if not self.component.is_command:
            raise UsageError(f"this is not a command: {no_command(self.component)}")

    def link(self) -> None:
        version = self._version()
        self.compile()
        with self._host.open_session() as session:
            wit = Wit(session, Observer())
            interfaces = [] if version is None else wit.interfaces(version)
            self._code.get(Waiter()).check(interfaces)

    def instantiate(self, **options: object) -> Guest:
        raise UsageError("a component is run as a command; only core modules are instantiated")

    def _version(self) -> str | None:
        """The version of `wasi:nn` that it imports. Raises ``LinkError`` naming every import that
        nothing here provides."""
        imports = self.component.imports
        problems = []
        version = None
        try:
            version = version_of(tuple(imports))
        except UsageError as error:
            problems.append(str(error))
        for name, sort in imports.items():
            # (Types alone need nobody.)
            known = name.partition("@")[0] in _INTERFACES or is_wasi_0_2(name)
            if not known and sort != "type":
                what = name if sort == "instance" else f"the {sort} {name}"
                problems.append(f"it imports {what}, which nothing here provides")
        if problems:
            raise LinkError(f"the guest cannot start: {'; '.join(problems)}")
        return version

    def _make(
        self,
        session: Session,
        observer: Observer,
        dialect: str | None,
        extra: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: Limits,
    ) -> Made:
        version = self._version()
        chosen = DIALECTS[0] if dialect in (None, "auto") else dialect
        if chosen not in DIALECTS:
            raise UsageError(
                f"dialect {chosen} is for core modules; components have {', '.join(DIALECTS)}"
            )
        interfaces = [] if version is None else Wit(session, observer, chosen).interfaces(version)
        engine_limits = EngineLimits(limits.memory, limits.fuel)
        instance = instance_of(
            self._code, lambda code: code.prepare(interfaces, wasi, engine_limits)
        )
        name = None
        if version is not None:
            quirks = "" if chosen == DIALECTS[0] else f" ({chosen})"
            name = f"{PACKAGE[:-1]}{'@' + version if version else ''}{quirks}"
        return Made(instance, lambda: name, BenchTimer())
