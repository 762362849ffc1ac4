"""Guests in a headless browser, as a wasi-nn plugin. Importing this module starts nothing."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_browser.runtime import BrowserRuntime, FirefoxRuntime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [BrowserRuntime(), FirefoxRuntime()]
