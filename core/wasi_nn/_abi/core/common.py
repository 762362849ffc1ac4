"""What the core-module ABIs have in common: functions, builders, and the way to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import ClassVar

from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.guard import Observer, guard, read_text
from wasi_nn._session.session import Session
from wasi_nn.errors import InvalidArgument
from wasi_nn.runtime import GuestMemory, HostFunction

U32 = Struct("<I")
PAIR = Struct("<II")
#: A rank above this is a mistake: no library takes as many (numpy stops at 64).
MAX_RANK = 64
#: Models come in a handful of builders; a count above this is a mistake.
MAX_BUILDERS = 1024


class CoreAbi(ABC):
    """One import module's functions for one session."""

    module: ClassVar[str]

    def __init__(self, session: Session, reading: DialectNegotiation) -> None:
        self.session = session
        self.reading = reading

    @abstractmethod
    def table(self) -> dict[str, tuple[int, Callable[..., None]]]:
        """Every function by name, with its number of parameters."""

    def host_functions(self, observer: Observer) -> list[HostFunction]:
        """The functions, each behind its guard."""
        return [
            HostFunction(
                self.module, name, parameters, True, guard(name, call, self.reading, observer)
            )
            for name, (parameters, call) in self.table().items()
        ]

    def open_graph(
        self, memory: GuestMemory, builders: int, count: int, encoding: int, target: int
    ) -> int:
        """Load from an array of ``count`` pairs ``{u32 pointer, u32 length}``; gives the handle."""
        wanted = self.reading.target(target)
        if count > MAX_BUILDERS:
            raise InvalidArgument(f"{count} graph builders: at most {MAX_BUILDERS} are allowed")
        # (A list: an iterator over a view, left in the frame of an exception, is what CPython's
        # collector of cycles crashes on.)
        pairs = list(PAIR.iter_unpack(memory.read(builders, 8 * count)))
        parts = [memory.read(at, length) for at, length in pairs]
        return self.session.load(parts, partial(self.reading.encoding, encoding), wanted)

    def load_by_name(self, memory: GuestMemory, name: int, length: int, out: int) -> None:
        memory.check(out, 4)
        handle = self.session.load_by_name(read_text(memory, name, length, "name"))
        memory.write(out, U32.pack(handle))

    def init_execution_context(self, memory: GuestMemory, graph: int, out: int) -> None:
        memory.check(out, 4)
        memory.write(out, U32.pack(self.session.init_execution_context(graph)))

    def compute(self, memory: GuestMemory, context: int) -> None:
        self.session.contexts[context].compute()
