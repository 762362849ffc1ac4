"""Requests that a worker still serves, and whose answers nobody waits for any more."""

from __future__ import annotations

import threading

from wasi_nn._worker.messages import Channel


class Unawaited:
    """The channels of these requests, by subject: a later one about the same subject waits for the
    earlier one. Thread-safe."""

    def __init__(self) -> None:
        self._channels: dict[int, Channel] = {}
        self._lock = threading.Lock()

    def add(self, subject: int, channel: Channel) -> int:
        """Leave a request to the worker. Returns how many it serves now."""
        channel.give_up()
        with self._lock:
            for about, one in list(self._channels.items()):
                if one.left or about == subject:
                    self._channels.pop(about).close()
            self._channels[subject] = channel
            return len(self._channels)

    def close(self) -> None:
        """Close them all. Waits for nothing."""
        while self._channels:
            self._channels.popitem()[1].close()
