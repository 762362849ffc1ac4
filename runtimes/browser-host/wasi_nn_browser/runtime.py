"""The runtimes that run guests in a headless browser, with their models."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from wasi_nn_browser.browser import Browser
    from wasi_nn_browser.tab import Tab


def _chromium() -> Browser:
    from wasi_nn_browser.chromium import Chromium

    return Chromium()


def _firefox() -> Browser:
    from wasi_nn_browser.firefox import Firefox

    return Firefox()


class BrowserRuntime(Runtime):
    """A headless Chromium, started for the first guest. Each guest has a worker of its own."""

    name = "browser"
    _browser = staticmethod(_chromium)
    features = RuntimeFeatures(zero_copy_memory=False, interrupt=True, memory_limit=True)
    own_encodings = frozenset({"onnx"})

    def __init__(self) -> None:
        self._tabs = Tabs(self._browser)

    def availability(self) -> Availability:
        from wasi_nn_browser import pages

        pages.folder()
        return Availability(True, self._browser().version(), ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn_browser.instance import BrowserModule

        return BrowserModule(self._tabs, wasm)


class FirefoxRuntime(BrowserRuntime):
    """The same in a headless Firefox."""

    name = "browser-firefox"
    _browser = staticmethod(_firefox)


class Tabs:
    """The page of one host, opened for the first guest, and again if its browser has ended."""

    def __init__(self, browser: Callable[[], Browser]) -> None:
        self._browser = browser
        self._lock = threading.Lock()
        self._tab: Tab | None = None

    def get(self) -> Tab:
        """The page. Raises ``Unavailable``."""
        from wasi_nn_browser import pages
        from wasi_nn_browser.tab import Tab

        with self._lock:
            if self._tab is None or self._tab.lost is not None:
                tab = Tab(self._browser(), pages.folder())
                # (Its threads refer to the tab alone, so that it ends with its host.)
                weakref.finalize(self, tab.close)
                self._tab = tab
            return self._tab
