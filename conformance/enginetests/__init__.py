"""What every engine has to do, as tests that each runtime adapter's own tests inherit::

    need("wamr")

    class TestWamr(EngineSuite):
        runtime = "wamr"

``need`` skips them, with the reason, where the engine is not installed. Limits that an engine
cannot hold have to be refused.
"""

from __future__ import annotations

import pytest

from enginetests.common import GUESTS
from enginetests.garbage import Garbage
from enginetests.hostcalls import HostCalls
from enginetests.limits import Limited
from enginetests.memory import Memory
from enginetests.programs import Programs
from enginetests.streams import StandardStreams
from wasi_nn.plugins import Plugins, availability

__all__ = ["GUESTS", "EngineSuite", "need"]


def need(runtime: str) -> None:
    """Skip the test module, with the reason, where an engine is not installed."""
    adapter = next(r for r in Plugins.installed().runtimes if r.name == runtime)
    found = availability(adapter)
    if not found.usable:
        pytest.skip(f"{runtime} is unavailable: {found.detail}", allow_module_level=True)


class EngineSuite(Programs, StandardStreams, Limited, Memory, HostCalls, Garbage):
    """Everything."""
