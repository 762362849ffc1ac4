"""What the core-module ABIs have in common: their functions, and how they load graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from functools import partial
from struct import Struct
from typing import ClassVar

from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.guard import MAX_NAME, Observer, guard, read_text
from wasi_nn._session.session import Session
from wasi_nn.errors import InvalidArgument
from wasi_nn.runtime import GuestMemory, HostFunction

U32 = Struct("<I")
PAIR = Struct("<II")
#: A larger rank is a mistake: no library takes more dimensions (numpy takes 64).
MAX_RANK = 64
#: A larger number of builders is a mistake: models have a few.
MAX_BUILDERS = 1024


class CoreAbi(ABC):
    """One import module's functions for one session."""

    module: ClassVar[str]

    def __init__(self, session: Session, negotiation: DialectNegotiation) -> None:
        self.session = session
        self.negotiation = negotiation

    @abstractmethod
    def table(self) -> dict[str, tuple[int, Callable[..., None]]]:
        """Every function by name, with its number of parameters."""

    def host_functions(
        self, observer: Observer, imported: Container[tuple[str, str]] | None = None
    ) -> list[HostFunction]:
        """The functions, or those that are imported, each behind its guard."""
        return [
            HostFunction(
                self.module, name, parameters, True, guard(name, call, self.negotiation, observer)
            )
            for name, (parameters, call) in self.table().items()
            if imported is None or (self.module, name) in imported
        ]

    def open_graph(
        self, memory: GuestMemory, builders: int, count: int, encoding: int, target: int
    ) -> int:
        """Load a graph from an array of ``count`` pairs ``{u32 pointer, u32 length}``. Returns its
        handle."""
        wanted = self.negotiation.target(target)
        if count > MAX_BUILDERS:
            raise InvalidArgument(f"{count} graph builders: at most {MAX_BUILDERS} are allowed")
        # A list, because CPython's cycle collector crashes on an iterator over a view that an
        # exception keeps in its frame.
        pairs = list(PAIR.iter_unpack(memory.read(builders, 8 * count)))
        parts = [memory.read(at, length) for at, length in pairs]
        return self.session.load(parts, partial(self.negotiation.encoding, encoding), wanted)

    def load_by_name(self, memory: GuestMemory, name: int, length: int, out: int) -> None:
        memory.check(out, 4)
        handle = self.session.load_by_name(read_text(memory, name, length, "name", MAX_NAME))
        memory.write(out, U32.pack(handle))

    def init_execution_context(self, memory: GuestMemory, graph: int, out: int) -> None:
        memory.check(out, 4)
        memory.write(out, U32.pack(self.session.init_execution_context(graph)))

    def compute(self, memory: GuestMemory, context: int) -> None:
        self.session.contexts[context].compute()
