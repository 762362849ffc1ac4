"""Capturing a guest's output streams for the result of its run."""

from __future__ import annotations

from collections import defaultdict

from wasi_nn._host.output import Output, runtime_output
from wasi_nn.escaping import logger
from wasi_nn.limits import Limits
from wasi_nn.runtime import Stdout

log = logger("wasi_nn")


class Capture:
    """Collects output streams up to the limit. Drops the rest, and logs that once per stream."""

    def __init__(self, enabled: bool, limits: Limits) -> None:
        self._enabled = enabled
        self._limit = limits.output
        self._pieces: dict[str, bytearray] = {}
        self._cut: set[str] = set()
        #: How many streams the limit has cut, by the name of the rule.
        self.refused: defaultdict[str, int] = defaultdict(int)

    def stream(self, name: str, given: Output) -> Stdout:
        """Where the guest writes a stream: the place that the user gave, or this."""
        if given is not None or not self._enabled:
            return runtime_output(given)
        collected = self._pieces[name] = bytearray()

        def collect(piece: bytes) -> None:
            room = self._limit - len(collected)
            if len(piece) > room and name not in self._cut:
                self._cut.add(name)
                self.refused["output"] += 1
                log.warning("quota output: the guest's %s is cut at %d bytes", name, self._limit)
            collected.extend(piece[: max(0, room)])

        return collect

    def bytes(self, name: str) -> bytes:
        """What was captured of a stream."""
        return bytes(self._pieces.get(name, b""))
