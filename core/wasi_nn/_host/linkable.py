"""What a program links: a core module or a component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

from wasi_nn.errors import Unavailable

if TYPE_CHECKING:
    from wasi_nn._abi.bench import BenchTimer
    from wasi_nn._abi.core.dialects import Dialect
    from wasi_nn._abi.logging import GuestLog
    from wasi_nn._host.guest_component import GuestComponent
    from wasi_nn._host.guest_module import GuestModule
    from wasi_nn._sockets.sockets import Sockets
    from wasi_nn.runtime import Runtime

T = TypeVar("T")
#: A guest's binary. It knows its ABI; it is compiled, and runs, elsewhere.
Linkable = Union["GuestModule", "GuestComponent"]


class Linked(NamedTuple):
    """The imports of one guest: what its engine is given, and what the host knows of the guest."""

    #: Host functions for a core module, interfaces for a component.
    imports: Sequence[Any]
    #: The dialect as far as it is known; None for a guest without wasi-nn.
    dialect: Callable[[], str | None]
    #: The spans that a guest marks that imports ``bench``.
    bench: BenchTimer | None = None
    #: Those of a guest that imports functions of sockets.
    sockets: Sockets | None = None
    #: The log of a guest that imports one.
    log: GuestLog | None = None
    #: The dialects that a core module can have, the most likely one first.
    candidates: Sequence[Dialect] = ()


def checked(runtime: Runtime, method: str, made: T, kind: type) -> T:
    """Return what a runtime's plugin made. Raises ``Unavailable`` if it breaks its contract."""
    if not isinstance(made, kind):
        raise Unavailable(
            f"runtime {runtime.name} is unavailable: the plugin is broken: {method} gave "
            f"{made!r}, and must give {kind.__module__}.{kind.__name__}"
        )
    return made
