"""What every engine has to do, as tests that each runtime adapter's own tests inherit::

    need("wamr")

    class TestWamr(EngineSuite):
        runtime = "wamr"

``need`` skips them, with the reason, where the engine is not installed; it fails where that is one
that CI installs. Limits that an engine cannot hold have to be refused.
"""

from __future__ import annotations

import os
import sys

import pytest

from enginetests.common import GUESTS
from enginetests.garbage import Garbage
from enginetests.hostcalls import HostCalls
from enginetests.limits import Limited
from enginetests.memory import Memory
from enginetests.programs import Programs
from enginetests.signals import Signals
from enginetests.starts import Starts
from enginetests.streams import StandardStreams
from enginetests.tasks import Tasks
from enginetests.wasi import Wasi
from wasi_nn.plugins import Plugins, availability

__all__ = ["GUESTS", "EngineSuite", "need"]

# Those of every step of CI (Node.js builds the guests that are components), those that have been
# named with a library of their own, and those that a step says it has put in place.
_IN_CI = {
    "wasmtime",
    "v8",
    *({"wasmer"} if sys.version_info < (3, 11) else ()),
    *(
        name
        for name in ("wasmer", "wamr", "wasmedge")
        if os.environ.get(f"WASI_NN_LIB{'IWASM' if name == 'wamr' else name.upper()}")
    ),
    *os.environ.get("WASI_NN_CI_ENGINES", "").split(),
}


def need(runtime: str) -> None:
    """Skip the test module, with the reason, where an engine is not installed. Fails in CI for one
    that CI installs."""
    adapter = next(r for r in Plugins.installed().runtimes if r.name == runtime)
    found = availability(adapter)
    if not found.usable:
        if runtime in _IN_CI and os.environ.get("CI"):
            pytest.fail(f"{runtime} must be installed in CI: {found.detail}", pytrace=False)
        pytest.skip(f"{runtime} is unavailable: {found.detail}", allow_module_level=True)


class EngineSuite(
    Programs, Starts, StandardStreams, Wasi, Limited, Tasks, Signals, Memory, HostCalls, Garbage
):
    """Everything."""
