"""Which ABI and dialect a core module gets: what it imports, and what the user chose."""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn._abi.core.common import CoreAbi
from wasi_nn._abi.core.detection import detect_dialect
from wasi_nn._abi.core.dialects import LEGACY, dialect
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn._session.session import Session
from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import WasmFile


class Selection(NamedTuple):
    """An ABI for all guests of a module. Each one negotiates for itself."""

    abi: type[CoreAbi]
    negotiation: DialectNegotiation

    def for_guest(self, session: Session) -> CoreAbi:
        """The ABI for one guest, whose negotiation begins."""
        return self.abi(session, self.negotiation.begun())


def select_abi(file: WasmFile, name: str | None) -> Selection | None:
    """The ABI of a module, or None if it imports no wasi-nn. ``name`` is a dialect; with None or
    ``auto`` it is detected. Raises ``UsageError`` for a dialect of another ABI."""
    chosen = None if name is None or name == "auto" else dialect(name)
    candidates = detect_dialect(file).candidates
    if not candidates:
        return None
    imported = candidates[0].module
    if chosen is not None:
        if chosen.module != imported:
            raise UsageError(
                f"dialect {name} is for guests that import {chosen.module}; "
                f"this one imports {imported}"
            )
        candidates = (chosen,)
    abi: type[CoreAbi] = WamrLegacy if imported == LEGACY else Witx
    return Selection(abi, DialectNegotiation(candidates))
