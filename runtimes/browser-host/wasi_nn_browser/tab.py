"""The page in which guests run: its browser, its server, and the orders that it gets."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from wasi_nn.errors import Unavailable
from wasi_nn_browser.browser import Browser, Window
from wasi_nn_browser.server import Answer, Server

_START_SECONDS = 60.0
# How long the page waits for orders in one request, and when it counts as lost.
_WAIT_SECONDS = 2.0
_SILENCE_SECONDS = 30.0


class Served(Protocol):
    """A guest, as its worker in the page sees it."""

    def serve(self, names: list[str], body: bytes) -> Answer:
        """Answer what the worker posts."""

    def lost(self, reason: str) -> None:
        """The page has ended."""


class Tab:
    """One browser with one page. Thread-safe."""

    def __init__(self, browser: Browser, pages: Path) -> None:
        """Opens the page. Raises ``Unavailable`` if that fails."""
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._orders: list[Mapping[str, Any]] = []
        self._guests: dict[int, Served] = {}
        self._newest = 0
        self._heard: float | None = None
        #: Why it cannot be used any more; None as long as it can.
        self.lost: str | None = None
        self._server = Server(pages, self._serve)
        try:
            self._browser = Window(browser, self._server.url("guests.html"), self._ended)
            try:
                self._await()
            except BaseException:
                self._browser.close()
                raise
        except BaseException:
            self._server.close()
            raise

    def _await(self) -> None:
        end = time.monotonic() + _START_SECONDS
        with self._changed:
            while self._heard is None and self.lost is None and time.monotonic() < end:
                self._changed.wait(0.5)
            started = self._heard is not None
        if not started:
            raise Unavailable(f"the browser does not open its page: {self._browser.said}")

    def add(self, guest: Served) -> int:
        """Give a guest its number."""
        with self._changed:
            self._newest += 1
            self._guests[self._newest] = guest
            return self._newest

    def order(self, guest: int, command: Mapping[str, Any]) -> None:
        """Have a guest's worker do something; the first order makes the worker."""
        with self._changed:
            self._orders.append({"guest": guest, "command": command})
            self._changed.notify_all()

    def remove(self, guest: int) -> None:
        """End a guest's worker."""
        with self._changed:
            if self._guests.pop(guest, None) is None:
                return
        self.order(guest, {"do": "end"})

    def check(self) -> None:
        """Notice that the page has been silent for too long."""
        if self._heard is not None and time.monotonic() - self._heard > _SILENCE_SECONDS:
            self._lose("the page does not answer any more")

    def close(self) -> None:
        """End the browser and the server. Can be called more than once."""
        if os.getpid() != self._process:
            return  # (It belongs to the process that forked this one.)
        self._lose("the host was closed")
        self._browser.close()
        self._server.close()

    def _ended(self) -> None:
        self._lose("the browser has ended")

    def _lose(self, reason: str) -> None:
        with self._changed:
            if self.lost is not None:
                return
            self.lost = reason
            guests = list(self._guests.values())
            self._changed.notify_all()
        for guest in guests:
            guest.lost(reason)

    def _serve(self, names: list[str], body: bytes) -> Answer:
        if names == ["orders"]:
            return Answer(200, json.dumps(self._next_orders()).encode())
        if len(names) >= 3 and names[0] == "guest" and names[1].isdecimal():
            guest = self._guests.get(int(names[1]))
            if guest is not None:
                return guest.serve(names[2:], body)
        return Answer(404)

    def _next_orders(self) -> list[Mapping[str, Any]]:
        with self._changed:
            self._heard = time.monotonic()
            self._changed.notify_all()
            end = self._heard + _WAIT_SECONDS
            while not self._orders and self.lost is None and time.monotonic() < end:
                self._changed.wait(_WAIT_SECONDS)
            self._heard = time.monotonic()
            orders, self._orders = self._orders, []
            return orders
