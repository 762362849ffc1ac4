"""What a worker's thread asks and tells the host while it serves a request."""

from __future__ import annotations

import logging
import threading

from wasi_nn._worker.messages import (
    I64,
    JOURNAL,
    LOG,
    OK,
    OUTPUT,
    RESERVE,
    Channel,
    as_json,
    from_json,
)
from wasi_nn.backend import Journal
from wasi_nn.errors import RuntimeFailure
from wasi_nn.escaping import MAX_LINES

#: Bytes that a context reserves ahead: about a thousand tokens of text.
BLOCK = 4096
_MAX_OUTPUT = 1 << 20


class _Here(threading.local):
    #: The channel of the request that this thread serves.
    channel: Channel | None = None
    #: What the request is about.
    subject = 0


here = _Here()


class Account:
    """What a context takes, for the host to count. Used by one thread at a time.

    It asks for a block more than the context needs, and gives back what is more than two, so that a
    language model does not ask for each token. The context never has more than the host counts,
    and the host never counts more than two blocks too many."""

    def __init__(self) -> None:
        #: The bytes that the host counts and the context does not take.
        self._spare = 0

    def reserve(self, size: int) -> None:
        """The ``backend.Reserve`` of the context."""
        spare = self._spare - size
        if spare < 0:
            try:
                _ask(BLOCK - spare)
                spare = BLOCK
            except RuntimeFailure:
                # There may be room for what the context needs.
                _ask(-spare)
                spare = 0
        elif spare > 2 * BLOCK:
            _ask(BLOCK - spare)
            spare = BLOCK
        self._spare = spare


def _ask(size: int) -> None:
    channel = here.channel
    if channel is None:
        raise RuntimeFailure("only the thread that was called can reserve memory")
    channel.send(RESERVE, here.subject, I64.pack(size))
    kind, _, answer = channel.receive()
    if kind != OK:
        raise RuntimeFailure(from_json(answer))


class Forward(logging.Handler):
    """Sends what is logged during a request to the host."""

    def emit(self, record: logging.LogRecord) -> None:
        if here.channel is not None and record.name.startswith("wasi_nn"):
            level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
            text = record.getMessage()[:MAX_LINES]
            said = {"name": record.name, "level": level, "text": text}
            here.channel.send(LOG, here.subject, as_json(said))


def tell_journal(journal: Journal) -> None:
    """Tell the host what it must keep of the present text."""
    if here.channel is not None:
        here.channel.send(JOURNAL, here.subject, bytes([journal.begins]) + journal.data)


def write_out(data: bytes) -> None:
    """The ``stdout`` of the contexts in a worker: the host writes."""
    if here.channel is not None:
        for start in range(0, len(data), _MAX_OUTPUT):
            here.channel.send(OUTPUT, here.subject, data[start : start + _MAX_OUTPUT])
