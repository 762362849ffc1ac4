"""How a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wasi_nn._abi.guard import CallStats, Failure
from wasi_nn._session.session import GraphUse
from wasi_nn.backend import Generation
from wasi_nn.errors import GuestError


class Timings(NamedTuple):
    """Seconds. ``compile`` is the time for the program. ``bench`` has the spans that a sightglass
    guest marked with ``bench.start`` and ``bench.end``."""

    compile: float
    instantiate: float
    run: float
    bench: tuple[float, ...]


class RunResult(NamedTuple):
    """How a guest ended.

    ``exit_code`` is the guest's own, or that of ``error`` (134 for a trap, 124 for a deadline).
    ``stdout`` and ``stderr`` hold what was captured. ``failures`` are the latest 100 of the
    ``failed`` calls that gave the guest an errno, with their reasons. ``refused`` counts what each
    rule of the policy refused, by the rule's name (see docs/policy.md). ``calls`` is filled with
    ``stats=True``, and ``generation`` if a language model ran. ``values`` are the results of the
    export that ``invoke`` named.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    error: GuestError | None
    timings: Timings
    dialect: str | None
    failures: tuple[Failure, ...]
    failed: int
    calls: Mapping[str, CallStats]
    graphs: tuple[GraphUse, ...]
    generation: Generation | None = None
    values: tuple[int | float, ...] = ()
    refused: Mapping[str, int] = {}

    def check(self) -> RunResult:
        """Return this result. Raises the error that ended the guest, if there was one."""
        if self.error is not None:
            raise self.error
        return self
