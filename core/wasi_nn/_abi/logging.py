"""``wasi:logging/logging`` for core modules, with which WasmEdge's newer servers log.

``log(level, context, message)`` writes a line to the guest's standard output or, if the context
says so, to its standard error (wasmedge plugins/wasi_logging). WasmEdge takes any other context for
the name of a file to write. Here, it comes before the message.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from wasi_nn.errors import InvalidArgument
from wasi_nn.escaping import logger
from wasi_nn.runtime import GuestMemory, HostFunction

_LEVELS = ("trace", "debug", "info", "warning", "error", "critical")
_STDERR, _STDOUT = "stderr", ("", "stdout")
_MOST = 1 << 20

log = logger("wasi_nn")


class GuestLog:
    """The log of one guest."""

    def __init__(self) -> None:
        #: Where it goes: the guest's standard output, and its standard error.
        self.outputs: tuple[Callable[[bytes], None], Callable[[bytes], None]] | None = None

    def functions(self, module: str) -> list[HostFunction]:
        """The function, for imports from ``module``."""
        return [HostFunction(module, "log", 5, False, self.log)]

    def log(
        self,
        memory: GuestMemory | None,
        level: int,
        context: int,
        context_size: int,
        message: int,
        message_size: int,
    ) -> None:
        """Write a line. Nothing comes back, so a mistake of the guest is only logged."""
        if memory is None or self.outputs is None:
            return
        try:
            if max(context_size, message_size) > _MOST:
                raise InvalidArgument(f"a text has more than {_MOST} bytes")
            where = bytes(memory.read(context, context_size)).decode(errors="replace")
            text = bytes(memory.read(message, message_size))
        except InvalidArgument as error:
            log.warning("log: %s", error)
            return
        name = _LEVELS[level] if level < len(_LEVELS) else str(level)
        now = datetime.now().isoformat(" ", "milliseconds")
        known = where in (*_STDOUT, _STDERR)
        head = f"[{now}] [{name}] {'' if known else f'{where}: '}"
        self.outputs[where == _STDERR](head.encode() + text + b"\n")
