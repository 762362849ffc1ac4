"""What a program links: a core module or a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from wasi_nn.errors import Unavailable

if TYPE_CHECKING:
    from wasi_nn._abi.bench import BenchTimer
    from wasi_nn._abi.guard import Observer
    from wasi_nn._session.session import Session
    from wasi_nn.runtime import EngineLimits, HostFunction, Runtime
    from wasi_nn.wasm.component import ComponentFile
    from wasi_nn.wasm.module import Signature, WasmFile

T = TypeVar("T")


class Linked(NamedTuple):
    """The imports of one guest: what its engine is given, and what the host knows of the guest."""

    #: Host functions for a core module, interfaces for a component.
    imports: Sequence[Any]
    #: The dialect as far as it is known; None for a guest without wasi-nn.
    dialect: Callable[[], str | None]
    bench: BenchTimer


def checked(runtime: Runtime, method: str, made: T, kind: type) -> T:
    """Return what a runtime's plugin made. Raises ``Unavailable`` if it breaks its contract."""
    if not isinstance(made, kind):
        raise Unavailable(
            f"runtime {runtime.name} is unavailable: the plugin is broken: {method} gave "
            f"{made!r}, and must give {kind.__module__}.{kind.__name__}"
        )
    return made


class Linkable(Protocol):
    """A guest's binary. It knows its ABI; it is compiled, and runs, elsewhere."""

    #: The signatures of the exports that can be called; None for one that is unreadable.
    signatures: Mapping[str, Signature | None]
    #: Whether it has a start section, which runs when it is instantiated.
    has_start: bool

    @property
    def file(self) -> WasmFile | ComponentFile:
        """What the binary says of itself."""

    def compile(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> Any:
        """The engine's code of the binary, whose bytes are ``wasm``. Raises ``UsageError`` if the
        engine refuses it."""

    def check_command(self) -> None:
        """Raise ``UsageError`` if it does not run by itself."""

    def check_export(self, name: str | None) -> None:
        """Raise ``UsageError`` if the export cannot be called, or if no export can be."""

    def link(
        self,
        session: Session,
        runtime: Runtime,
        observer: Observer,
        dialect: str | None = None,
        extra: Sequence[HostFunction] = (),
    ) -> Linked:
        """Meet every import. Raises ``LinkError``, and ``UsageError`` for a dialect that the binary
        cannot have."""

    def check_link(self, linked: Linked, code: Callable[[], Any]) -> None:
        """Raise ``LinkError`` if the compiled ``code`` declares its imports with other types."""
