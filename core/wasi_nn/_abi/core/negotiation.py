"""Interpret a guest's numbers while its dialect is uncertain.

A number that means the same in every candidate dialect needs no decision. If the candidates differ,
the data decides: a tensor's length tells its element size, and a model's first bytes tell its
encoding. Once a tensor is accepted, the candidates that it contradicts are dropped for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wasi_nn._abi.core.dialects import DIALECTS, TARGETS, Dialect
from wasi_nn.encodings import AUTODETECT
from wasi_nn.errors import InvalidArgument, InvalidEncoding
from wasi_nn.escaping import logger
from wasi_nn.types import ExecutionTarget, TensorType, byte_size

log = logger("wasi_nn")


class DialectNegotiation:
    """The candidate dialects of one guest. A single candidate is not questioned."""

    def __init__(self, candidates: Sequence[Dialect]) -> None:
        if not candidates:
            raise ValueError("a guest has at least one candidate dialect")
        self._keep(tuple(candidates))
        #: The candidates that fit the newest tensor, until that tensor is accepted.
        self.pending: tuple[Dialect, ...] | None = None

    def begun(self) -> DialectNegotiation:
        """The same candidates for another guest."""
        made = DialectNegotiation.__new__(DialectNegotiation)
        made.__dict__.update(self.__dict__)
        return made

    @property
    def dialect(self) -> Dialect:
        """The most likely dialect so far."""
        return self.candidates[0]

    def _keep(self, candidates: tuple[Dialect, ...]) -> None:
        self.candidates = candidates
        self._guessing = len(candidates) > 1
        tables = [dialect.tensor_types for dialect in candidates]
        #: The types whose numbers all candidates agree on.
        self._agreed = {
            number: kind
            for number, kind in enumerate(tables[0])
            if all(table[number : number + 1] == (kind,) for table in tables)
        }

    def tensor_type(self, number: int, dims: Sequence[int], length: int) -> TensorType:
        """The tensor type that ``number`` means. Where the candidates differ, it is one that fits
        a tensor with ``length`` bytes of data, if there is one.

        Raises ``InvalidArgument`` if no candidate has the number."""
        self.pending = None
        kind = self._agreed.get(number)
        if kind is not None:
            return kind
        fitting = tuple(
            dialect
            for dialect in self.candidates
            if number < len(dialect.tensor_types)
            and byte_size(dialect.tensor_types[number], dims) == length
        )
        if fitting and fitting[0] is not self.dialect:
            self.pending = fitting
        types = (fitting or self.candidates)[0].tensor_types
        if number >= len(types):
            raise InvalidArgument(
                f"tensor type {number} is unknown in the dialect {self.dialect.name}"
            )
        return types[number]

    def byte_type(self, number: int) -> TensorType:
        """The tensor type of untyped bytes, whose length does not follow from the dimensions."""
        self.pending = None
        types = self.candidates[0].tensor_types
        return types[number] if number < len(types) else TensorType.U8

    def commit(self) -> None:
        """Keep only the candidates that fit the newest tensor: it was accepted."""
        if self.pending is not None:
            log.info("the guest's dialect is %s, as its tensor shows", self.pending[0].name)
            self._keep(self.pending)
            self.pending = None

    def encoding(self, number: int, sniff: Callable[[], str | None]) -> str:
        """The encoding that ``number`` means for a model whose first bytes ``sniff`` recognises.

        A number that some dialect reads otherwise (1, 2, 3, 5, 6) is read as what the model shows
        it to be, so that an old guest's onnx is not taken for tensorflow. With a single candidate
        dialect its own table counts alone. Raises ``InvalidEncoding``."""
        own = self.dialect.encodings.get(number)
        if not self._guessing and own is not None:
            return own
        meanings = {
            dialect.encodings[number]
            for dialect in DIALECTS.values()
            if number in dialect.encodings and dialect.module == self.dialect.module
        }
        shown = sniff() if len(meanings) > 1 else None
        if shown is not None and (shown in meanings or AUTODETECT in meanings):
            if shown != own:
                log.info("graph encoding %d is read as %s, as the model shows", number, shown)
            return shown
        if own is not None:
            return own
        raise InvalidEncoding(
            f"graph encoding {number} is unknown in the dialect {self.dialect.name}"
        )

    def target(self, number: int) -> ExecutionTarget:
        """The execution target of a number. Raises ``InvalidArgument``."""
        if number < len(TARGETS):
            return TARGETS[number]
        raise InvalidArgument(f"execution target {number} is unknown")
