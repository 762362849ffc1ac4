"""Guests that serve, wait for peers and are held to a policy."""

from __future__ import annotations

import http.client
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from wasi_nn import Guest, Host, Limits, Policy, RunResult
from wasi_nn.errors import DeadlineExceeded, Interrupted
from wasi_nn.plugins import Plugins
from wasi_nn_conformance.engine_tests.common import ctrl_c, together
from wasi_nn_conformance.engine_tests.socket_steps import (
    CONNECTED,
    LOOPBACK,
    SOCKETS,
    SocketSteps,
)
from wasi_nn_conformance.places import GUESTS

ECHO = GUESTS / "echo-server" / "echo-server.wasm"
CHAT = GUESTS / "chat-server" / "chat-server.wasm"
# Longer than any of these tests takes.
_HANG = 60
_ACCES, _MFILE = 2, 33
_LISTENER = "open 1 2\nbind 0 127.0.0.1 0\nlisten 0 5\n"
_STEPS = "\n".join(line.split(" -> ")[0] for line in CONNECTED.strip().splitlines()) + "\n"
# Steps whose last one waits.
_WAITS = {
    "accept": _LISTENER + "accept 0",
    "recv": _STEPS + "recv 2 9",
    "read": _STEPS + "read 2 9",
    "recv_from": "open 1 1\nbind 0 127.0.0.1 0\nrecv_from 0 9",
    "send": _STEPS + "fill 1",
    "poll": _LISTENER + "poll r0",
    "poll with a clock": _LISTENER + "poll r0 c3600000",
    "connect": "open 1 2\nconnect 0 127.0.0.1 {port}",
}


class Serving:
    """A guest that runs in a thread, and the lines that it prints."""

    def __init__(self, run: Callable[..., RunResult]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._rest = b""
        self._results: list[RunResult] = []
        self._thread = threading.Thread(target=lambda: self._results.append(run(stdout=self._put)))
        self._thread.start()

    def _put(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._lines.put(line.decode())

    def line(self) -> str:
        """The next line."""
        return self._lines.get(timeout=_HANG)

    def port(self) -> int:
        """The port at the end of the next line."""
        return int(self.line().split()[-1].rpartition(":")[2])

    def end(self) -> RunResult:
        """The result of the guest, which must have come to its end."""
        self._thread.join(_HANG)
        (result,) = self._results
        return result


@contextmanager
def no_answer() -> Iterator[int]:
    """A port whose listener's queue is full: who connects to it waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for each in waiting:
                each.close()


class Servers(SocketSteps):
    @contextmanager
    def serving(self, host: Host, *arguments: Any, **options: Any) -> Iterator[Serving]:
        """A guest in a thread: a path and its arguments."""
        guests: list[Guest] = []
        options.setdefault("policy", LOOPBACK)
        guest, *args = arguments

        def run(**more: Any) -> RunResult:
            return host.run(guest, args, on_start=guests.append, **options, **more)

        serves = Serving(run)
        try:
            yield serves
        finally:
            for each in guests:
                each.interrupt()
            serves.end()

    def test_an_echo_server_serves_many_at_once(self, sockets: Host) -> None:
        with self.serving(sockets, ECHO, "--connections", "17", "127.0.0.1", "0") as server:
            port = server.port()
            good: list[bool] = []

            def ask(size: int) -> None:
                data = os.urandom(size)
                with socket.create_connection(("127.0.0.1", port), timeout=_HANG) as peer:

                    def send() -> None:
                        peer.sendall(data)
                        peer.shutdown(socket.SHUT_WR)

                    sends = threading.Thread(target=send)
                    sends.start()
                    heard = b"".join(iter(lambda: peer.recv(1 << 16), b""))
                    sends.join()
                good.append(heard == data)

            together([partial(ask, size) for size in [0, *[64] * 8, *[50_000] * 8]])
            assert good == [True] * 17
            assert server.end().check().exit_code == 0

    def test_a_server_ends_when_its_input_ends(self, sockets: Host, typist: int) -> None:
        arguments = ["--stdin", "127.0.0.1", "0"]
        with (
            self.serving(sockets, ECHO, *arguments, stdin="inherit") as server,
            socket.create_connection(("127.0.0.1", server.port()), timeout=_HANG) as peer,
        ):
            peer.sendall(b"hello")
            assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
            os.write(typist, b"quit\n")
            assert server.end().check().exit_code == 0
            assert peer.recv(1) == b""

    def test_a_server_for_http(self, sockets: Host) -> None:
        with self.serving(sockets, CHAT, "--requests", "42", "127.0.0.1", "0") as server:
            port = server.port()
            idle = socket.create_connection(("127.0.0.1", port), timeout=_HANG)
            idle.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")

            def ask() -> None:
                peer = http.client.HTTPConnection("127.0.0.1", port, timeout=_HANG)
                for size in range(10):
                    body = bytes(size * 9000)
                    peer.request("POST", "/echo", body)
                    assert peer.getresponse().read() == body
                peer.close()

            together([ask] * 4)
            peer = http.client.HTTPConnection("127.0.0.1", port, timeout=_HANG)
            peer.request("POST", "/v1/chat/completions", '{"messages": []}')
            assert peer.getresponse().status == 500, "there is no model"
            idle.sendall(b" more")
            assert idle.recv(200).endswith(b"\r\n\r\nhalf more")
            assert server.end().check().exit_code == 0
            peer.close()
            idle.close()

    def test_a_peer_that_vanishes(self, sockets: Host) -> None:
        steps = [*_LISTENER.split("\n")[:-1], "local 0", "poll r0", "accept 0", "peer 1"]
        steps += ["poll r1 c30000", "recv 1 9", "send 1 x", "send 1 x", "close 1", "accept 0"]
        steps += ["recv 2 9"]
        with self.serving(sockets, SOCKETS, *steps) as guest:
            assert [guest.line() for _ in range(3)] == ["open 0", "bind 0", "listen 0"]
            port = guest.port()
            for _ in range(2):
                peer = socket.create_connection(("127.0.0.1", port), timeout=_HANG)
                # Closing resets the connection.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(0.05)
                peer.close()
            assert guest.end().check().exit_code == 0
            assert guest.line() == "poll 0 0:0:0"
            assert guest.line() == "accept 0"
            assert guest.line().startswith("peer 0 4 127.0.0.1 ")
            assert guest.line().startswith("poll 0 0:0:")
            assert guest.line() in ("recv 15", "recv 0 0 0 ")
            assert [guest.line() for _ in range(4)] == ["send 64"] * 2 + ["close 0", "accept 0"]
            assert guest.line() in ("recv 15", "recv 0 0 0 ")

    def test_a_slow_reader(self, sockets: Host) -> None:
        steps = [*_LISTENER.split("\n")[:-1], "local 0", "accept 0", "flags 1 4", "fill 1"]
        steps += ["poll w1 c50", "poll w1", "send 1 x", "shutdown 1 2", "recv 1 9"]
        with self.serving(sockets, SOCKETS, *steps) as guest:
            for _ in range(3):
                guest.line()
            with socket.create_connection(("127.0.0.1", guest.port()), timeout=_HANG) as peer:
                assert [guest.line() for _ in range(3)] == ["accept 0", "flags 0", "fill 6"]
                assert guest.line() == "poll 0 1:0:0"
                size = sum(map(len, iter(lambda: peer.recv(1 << 20), b"")))
            assert size > 1000
            assert [guest.line() for _ in range(2)] == ["poll 0 0:0:0", "send 0 1"]
            assert guest.end().check().exit_code == 0

    @pytest.mark.parametrize("steps", _WAITS.values(), ids=_WAITS)
    def test_a_deadline_ends_a_guest_that_waits_for_a_peer(
        self, plugins: Plugins, sockets: Host, steps: str
    ) -> None:
        if not sockets.runtime.features.interrupt:
            self.needs_process()
        waits = steps.split("\n")[-1].split()[0]
        # It must come to the wait, for which a process and a busy machine need longer.
        for timeout in (0.5, 3.0, 9.0) if sockets.runtime.features.interrupt else (3.0,):
            limits = Limits(timeout=timeout)
            with (
                no_answer() as port,
                Host(plugins=plugins, runtime=self.runtime, limits=limits, policy=LOOPBACK) as host,
            ):
                started = time.monotonic()
                result = host.run(SOCKETS, steps.format(port=port).split("\n"))
                seconds = time.monotonic() - started
            assert isinstance(result.error, DeadlineExceeded), result.stdout
            last = result.stdout.decode().split("\n")[-1]
            # (A process that is ended takes with it what it has not told.)
            if last in ("", waits):
                break
        assert last in ("", waits)
        assert seconds < timeout + 9

    @pytest.mark.parametrize("steps", _WAITS.values(), ids=_WAITS)
    def test_an_interrupt_ends_a_guest_that_waits_for_a_peer(
        self, sockets: Host, steps: str
    ) -> None:
        timers: list[threading.Timer] = []

        def soon(guest: Guest) -> None:
            timers.append(threading.Timer(0.3, guest.interrupt))
            timers[0].start()

        with no_answer() as port:
            program, arguments = sockets.compile(SOCKETS), steps.format(port=port).split("\n")
            result = program.run(arguments, on_start=soon, policy=LOOPBACK)
            timers[0].join()
            assert isinstance(result.error, Interrupted), result.stdout
            with ctrl_c(0.3), pytest.raises(KeyboardInterrupt):
                program.run(arguments, policy=LOOPBACK)

    def test_a_guest_has_no_network_unless_it_is_given(
        self, sockets: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("WARNING", "wasi_nn"):
            result = self.steps(
                sockets,
                f"""
                open 1 2 -> 0
                bind 0 127.0.0.1 8080 -> {_ACCES}
                listen 0 5 -> {_ACCES}
                connect 0 10.1.2.3 80 -> {_ACCES}
                open 1 1 -> 0
                send_to 1 127.0.0.1 53 x -> {_ACCES}
                resolve example.org 80 4 1 -> {_ACCES}
                open 2 2 -> 0
                bind_v2 2 ::1 8080 -> {_ACCES}
                """,
                policy=Policy(),
            )
        assert result.refused == {"listen": 3, "connect": 3}
        for option in (
            "--listen 127.0.0.1:8080",
            "--listen [::1]:8080",
            "--connect 10.1.2.3:80",
            "--connect 127.0.0.1:53",
            "--connect example.org:",
        ):
            assert option in caplog.text

    @pytest.mark.parametrize(
        ("policy", "bind", "connect"),
        [
            (Policy(listen=("127.0.0.1:0",)), 0, _ACCES),
            (Policy(listen=("127.0.0.1:1",)), _ACCES, _ACCES),
            (Policy(listen=("127.0.0.2:0",)), _ACCES, _ACCES),
            (Policy(connect=("127.0.0.1:{port}",)), _ACCES, 0),
            (Policy(connect=("127.0.0.0/8",)), _ACCES, 0),
            (Policy(connect=("localhost:{port}",)), _ACCES, 0),
            (Policy(connect=("*",)), _ACCES, 0),
            (Policy(connect=("127.0.0.1:1", "10.0.0.0/8")), _ACCES, _ACCES),
            (Policy(inherit_network=True), 0, 0),
        ],
    )
    def test_the_rules_of_a_policy(
        self, sockets: Host, policy: Policy, bind: int, connect: int
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert policy.connect is None or isinstance(policy.connect, tuple)
            if policy.connect is not None:
                rules = tuple(str(rule).format(port=port) for rule in policy.connect)
                policy = policy._replace(connect=rules)
            result = self.steps(
                sockets,
                f"""
                open 1 2 -> 0
                bind 0 127.0.0.1 0 -> {bind}
                open 1 2 -> 0
                connect 1 127.0.0.1 {port} -> {connect}
                open 1 1 -> 0
                send_to 2 127.0.0.1 {port} x -> {"0 1" if connect == 0 else connect}
                """,
                policy=policy,
            )
            assert result.refused.get("listen", 0) == (bind == _ACCES)
            assert result.refused.get("connect", 0) == 2 * (connect == _ACCES)

    def test_a_policy_over_another_allows_no_more(self, plugins: Plugins, sockets: Host) -> None:
        outer = Policy(listen=("127.0.0.1:0",))
        with Host(plugins=plugins, runtime=self.runtime, policy=outer) as host:
            script = f"open 1 2 -> 0\nbind 0 127.0.0.1 0 -> 0\nconnect 0 127.0.0.1 1 -> {_ACCES}"
            self.steps(host, script, policy=None)
            script = script.replace("bind 0 127.0.0.1 0 -> 0", f"bind 0 127.0.0.1 0 -> {_ACCES}")
            self.steps(host, script, policy=Policy(listen=("127.0.0.1:1",)))
            self.steps(host, script, policy=Policy(listen=()))

    def test_sockets_are_limited(self, sockets: Host) -> None:
        result = self.steps(
            sockets,
            f"""{CONNECTED}
            open 1 1 -> {_MFILE}
            close 1 -> 0
            open 1 2 -> 0
            connect 3 127.0.0.1 @0 -> 0
            accept 0 -> {_MFILE}
            close 2 -> 0
            accept 0 -> 0
            """,
            limits=Limits(sockets=3),
        )
        assert result.refused == {"sockets": 2}

    def test_a_server_goes_on_at_the_limit_of_its_sockets(self, sockets: Host) -> None:
        limits = Limits(sockets=4)
        arguments = ["--connections", "20", "127.0.0.1", "0"]
        with self.serving(sockets, ECHO, *arguments, limits=limits) as server:
            port = server.port()

            def ask() -> None:
                with socket.create_connection(("127.0.0.1", port), timeout=_HANG) as peer:
                    peer.sendall(b"hello")
                    assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
                    time.sleep(0.05)

            together([ask] * 20)
            result = server.end().check()
            assert result.exit_code == 0
            assert result.refused["sockets"] > 0

    def test_the_sockets_of_a_guest_end_with_it(self, sockets: Host) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            self.steps(sockets, f"open 1 2 -> 0\nconnect 0 127.0.0.1 {port} -> 0")
            peer, _ = server.accept()
            with peer:
                peer.settimeout(_HANG)
                assert peer.recv(1) == b""
