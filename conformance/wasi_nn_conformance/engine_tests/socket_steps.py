"""What the tests of sockets share: the guest ``sockets``, its steps, and a policy."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from wasi_nn import Host, Policy, RunResult
from wasi_nn_conformance.engine_tests.common import Engine
from wasi_nn_conformance.places import GUESTS

SOCKETS = GUESTS / "sockets" / "sockets.wasm"
#: What most of the tests need.
LOOPBACK = Policy(
    listen=("127.0.0.1:*", "[::1]:*"), connect=("127.0.0.1:*", "[::1]:*", "localhost:*")
)

#: A listener (0), a client (1) and the connection that the listener accepted (2).
CONNECTED = """
open 1 2 -> 0
bind 0 127.0.0.1 0 -> 0
listen 0 5 -> 0
open 1 2 -> 0
connect 1 127.0.0.1 @0 -> 0
accept 0 -> 0
"""


def needs_family(family: int) -> None:
    """Skip the test if it is about IPv6, and the system has none."""
    if family == 2:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as reason:
            pytest.skip(f"this system has no IPv6: {reason}")


class SocketSteps(Engine):
    @pytest.fixture
    def sockets(self, host: Host) -> Host:
        """The host, if its runtime has WASI, beside which sockets are."""
        self.needs(host, "wasi")
        return host

    def steps(self, host: Host, script: str, **options: Any) -> RunResult:
        """Run the steps of a script, each with what it must say (a regular expression)."""
        options.setdefault("policy", LOOPBACK)
        pairs = [line.split(" -> ") for line in script.splitlines() if line.strip()]
        result = host.run(SOCKETS, [step.strip() for step, _ in pairs], **options).check()
        lines = result.stdout.decode().splitlines()
        assert len(lines) == len(pairs)
        for line, (step, expected) in zip(lines, pairs, strict=True):
            wanted = f"{step.split()[0]} {expected.strip()}"
            assert re.fullmatch(wanted, line.rstrip()), f"{step}: {line!r}, expected {wanted!r}"
        return result
