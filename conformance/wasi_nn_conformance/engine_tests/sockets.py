"""WasmEdge's sockets: each call, with its errno and results."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from functools import partial

import pytest

from wasi_nn import Host, Policy
from wasi_nn_conformance.engine_tests.common import assert_flat
from wasi_nn_conformance.engine_tests.socket_steps import CONNECTED, SocketSteps, needs_family

_BOTH = pytest.mark.parametrize(
    ("family", "host_name"), [(1, "127.0.0.1"), (2, "::1")], ids=["IPv4", "IPv6"]
)
_VERSIONS = pytest.mark.parametrize("version", ["", "_v2"], ids=["version 1", "version 2"])
# Errnos of preview 1.
_ACCES, _BADF, _NOT_SOCKET, _NOT_SUPPORTED = 2, 8, 57, 58


class Sockets(SocketSteps):
    @_BOTH
    @_VERSIONS
    def test_a_connection(self, sockets: Host, family: int, host_name: str, version: str) -> None:
        needs_family(family)
        # Version 1 says 4 or 6, version 2 the family.
        said = family if version else 2 * family + 2
        name = re.escape(host_name if family == 1 else "0:0:0:0:0:0:0:1")
        self.steps(
            sockets,
            f"""
            open{version} {family} 2 -> 0
            bind{version} 0 {host_name} 0 -> 0
            listen{version} 0 5 -> 0
            local{version} 0 -> 0 {said} {name} [1-9][0-9]*
            peer{version} 0 -> 53
            open{version} {family} 2 -> 0
            connect{version} 1 {host_name} @0 -> 0
            accept{version} 0 -> 0
            peer{version} 2 -> 0 {said} {name} [1-9][0-9]*
            send{version} 1 hello -> 0 5
            recv{version} 2 3 1 -> 0 3 0 hel
            recv{version} 2 100 -> 0 5 0 hello
            write 2 abc -> 0 3
            read 1 2 -> 0 2 0 ab
            send{version} 2 d -> 0 1
            recv{version} 1 2 2 -> 0 2 0 cd
            shutdown 1 2 -> 0
            recv{version} 2 9 -> 0 0 0
            send{version} 1 x -> 64
            close 1 -> 0
            close 2 -> 0
            """,
        )

    @_BOTH
    @_VERSIONS
    def test_datagrams(self, sockets: Host, family: int, host_name: str, version: str) -> None:
        needs_family(family)
        name = re.escape(host_name if family == 1 else "0:0:0:0:0:0:0:1")
        if family == 2 and not version:
            name = ".*"  # The guest prints 4 bytes: version 1 does not say the family.
        result = self.steps(
            sockets,
            f"""
            open{version} {family} 1 -> 0
            bind{version} 0 {host_name} 0 -> 0
            open{version} {family} 1 -> 0
            bind{version} 1 {host_name} 0 -> 0
            local_v2 1 -> 0 {family} .*
            send_to{version} 1 {host_name} @0 first -> 0 5
            send_to{version} 1 {host_name} @0 second -> 0 6
            recv_from{version} 0 100 -> 0 5 0 first {name}{f" {family} [0-9]+" * bool(version)}
            recv_from{version} 0 2 -> 0 2 1 se .*
            send{version} 1 nobody -> 17
            connect{version} 1 {host_name} @0 -> 0
            send{version} 1 third -> 0 5
            recv{version} 0 100 -> 0 5 0 third
            send_to{version} 0 {host_name} @1 - -> 0 1
            recv{version} 1 0 -> 0 0 1
            """,
        )
        lines = result.stdout.decode().splitlines()
        if version:
            assert lines[7].split()[-1] == lines[4].split()[-1], "the port is in host order"

    def test_a_server_of_datagrams_answers_who_asks(self, sockets: Host) -> None:
        """It may listen and reach nobody, so another address is refused."""
        datagrams = partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with datagrams() as free, datagrams() as peer:
            free.bind(("127.0.0.1", 0))
            place = free.getsockname()
            free.close()
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(0.1)
            answers = []

            def ask() -> None:
                for _ in range(200):
                    try:
                        peer.sendto(b"hello", place)
                        answers.append(peer.recv(9))
                        return
                    except OSError:
                        time.sleep(0.1)  # the guest has not bound its socket

            thread = threading.Thread(target=ask)
            thread.start()
            port = peer.getsockname()[1]
            self.steps(
                sockets,
                f"""
                open 1 1 -> 0
                bind 0 127.0.0.1 {place[1]} -> 0
                send_to 0 127.0.0.1 {port} early -> {_ACCES}
                recv_from 0 9 -> 0 5 0 hello .*
                send_to 0 127.0.0.1 {port} world -> 0 5
                send_to 0 127.0.0.1 {place[1]} other -> {_ACCES}
                """,
                policy=Policy(listen=(f"127.0.0.1:{place[1]}",)),
            )
            thread.join()
        assert answers == [b"world"]

    def test_what_would_block_gives_an_errno(self, sockets: Host) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            self.steps(
                sockets,
                f"""
                open 1 2 -> 0
                bind 0 127.0.0.1 0 -> 0
                listen 0 5 -> 0
                flags 0 4 -> 0
                accept 0 -> 6
                open 1 2 -> 0
                flags 1 4 -> 0
                connect 1 127.0.0.1 @0 -> (0|26)
                poll w1 c5000 -> 0 0:0:0
                get 1 2 4 -> 0 4 00000000
                poll r0 c5000 -> 0 0:0:0
                accept 0 -> 0
                recv 1 9 -> 6
                read 1 9 -> 6
                stat 2 -> 0 6 0 1 1
                accept_v2 0 4 -> 6
                open 1 2 -> 0
                connect 3 127.0.0.1 @0 -> 0
                poll r0 c5000 -> 0 0:0:0
                accept_v2 0 4 -> 0
                stat 4 -> 0 6 4 1 1
                recv 4 1 -> 6
                fill 1 -> 6
                poll w1 c20 -> 0 1:0:0
                open 1 2 -> 0
                flags 5 4 -> 0
                connect 5 127.0.0.1 {closed.getsockname()[1]} -> (14|26)
                """,
            )

    def test_a_connection_that_is_refused(self, sockets: Host) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            self.steps(
                sockets,
                f"""
                open 1 2 -> 0
                connect 0 127.0.0.1 {port} -> 14
                get 0 2 4 -> 0 4 00000000
                peer 0 -> 53
                open 1 2 -> 0
                recv 1 9 -> 53
                send 1 x -> 64
                """,
            )

    def test_states_and_numbers(self, sockets: Host) -> None:
        result = self.steps(
            sockets,
            f"""{CONNECTED}
            open 1 1 -> 0
            stat 0 -> 0 6 0 1 1
            stat 3 -> 0 5 0 1 1
            flags 0 4 -> 0
            stat 0 -> 0 6 4 1 1
            flags 0 32 -> 28
            number 0 -> [0-9]+
            number 3 -> [0-9]+
            tell 0 -> (8|70|76)
            bind 0 127.0.0.1 0 -> 28
            open 1 2 -> 0
            bind 4 127.0.0.1 @0 -> 3
            shutdown 4 3 -> 53
            close 0 -> 0
            close 0 -> 8
            accept 0 -> 8
            send 0 x -> 8
            stat 0 -> 8
            poll r0 -> 0 0:8:0
            flags 0 0 -> 8
            """,
        )
        numbers = re.findall(r"^number ([0-9]+)$", result.stdout.decode(), re.MULTILINE)
        assert all(65536 <= int(number) < 1 << 31 for number in numbers)

    def test_a_socket_gets_another_number(self, sockets: Host) -> None:
        self.steps(
            sockets,
            f"""{CONNECTED}
            open 1 1 -> 0
            renumber 1 3 -> 0
            send 1 x -> 8
            send 3 hello -> 0 5
            stat 3 -> 0 6 0 1 1
            recv 2 9 -> 0 5 0 hello
            renumber 3 3 -> 0
            renumber 1 3 -> 8
            close 3 -> 0
            recv 2 9 -> 0 0 0
            """,
        )

    def test_options(self, sockets: Host) -> None:
        second = "00" * 8
        self.steps(
            sockets,
            f"""
            open 1 2 -> 0
            get 0 0 4 -> 0 4 00000000
            set 0 0 01000000 -> 0
            get 0 0 4 -> 0 4 01000000
            set 0 7 01000000 -> 0
            get 0 7 4 -> 0 4 01000000
            get 0 1 4 -> 0 4 02000000
            get 0 2 4 -> 0 4 00000000
            get 0 5 4 -> 0 4 .{{8}}
            get 0 9 8 -> 0 8 0{{16}}
            set 0 9 0100000005000000 -> 0
            get 0 9 8 -> 0 8 0100000005000000
            get 0 13 4 -> 0 4 00000000
            set 0 11 {second}20a1070000000000 -> 0
            get 0 11 16 -> 0 16 {second}20a1070000000000
            set 0 11 {second}{second} -> 0
            get 0 11 16 -> 0 16 {second}{second}
            set 0 0 01 -> 28
            set 0 1 01000000 -> 50
            set 0 15 01000000 -> 28
            get 0 15 4 -> 28
            get 0 1 0 -> 0 0
            bind 0 127.0.0.1 0 -> 0
            listen 0 1 -> 0
            get 0 13 4 -> 0 4 01000000
            set 0 11 {second}1027000000000000 -> 0
            accept 0 -> 6
            open 1 1 -> 0
            get 1 1 4 -> 0 4 01000000
            bind 1 127.0.0.1 0 -> 0
            set 1 11 {second}1027000000000000 -> 0
            recv 1 9 -> 6
            """,
        )

    def test_values_that_no_call_takes(self, sockets: Host) -> None:
        self.steps(
            sockets,
            f"""{CONNECTED}
            open 0 2 -> 28
            open 1 0 -> 28
            open 4 2 -> 28
            open 1 3 -> 28
            open 3 2 -> 52
            bind 0 x01 0 -> 28
            bind 0 x 0 -> 28
            connect 1 x010203 80 -> 28
            shutdown 1 4 -> 28
            send 1 x 1 -> 28
            recv 1 9 4 -> 28
            accept_v2 0 32 -> 28
            poll -> 28
            resolve - - 4 1 -> 84
            resolve 127.0.0.1 - 0 1 -> 82
            resolve 127.0.0.1 - 4 9 -> 81
            resolve a..b - 4 1 -> (2|84)
            """,
        )

    def test_names(self, sockets: Host) -> None:
        self.steps(
            sockets,
            """
            resolve localhost 80 4 1 -> 0 1 1 127.0.0.1 80
            resolve localhost - 4 2 -> 0 1 2 0:0:0:0:0:0:0:1 0
            resolve localhost 80 4 0 -> 0 2 1 127.0.0.1 80 2 0:0:0:0:0:0:0:1 80
            resolve localhost 80 1 0 -> 0 1 [12] .* 80
            resolve 127.0.0.1 8080 4 0 -> 0 1 1 127.0.0.1 8080
            resolve ::1 8080 4 0 -> 0 1 2 0:0:0:0:0:0:0:1 8080
            """,
        )

    def test_poll_hears_sockets_standard_input_and_clocks(self, sockets: Host, typist: int) -> None:
        def poll(before: str, expected: str) -> None:
            script = f"{CONNECTED}{before}poll r0 r=0 r2 c100 -> 0 {expected}"
            self.steps(sockets, script, stdin="inherit")

        poll("", "3:0:0")
        poll("open 1 2 -> 0\nconnect 3 127.0.0.1 @0 -> 0\n", "0:0:0")
        poll("send 1 x -> 0 1\npoll r2 -> 0 0:0:0\n", "2:0:0")
        os.write(typist, b"hello")
        poll("", "1:0:0")
        poll("send 1 x -> 0 1\npoll r2 -> 0 0:0:0\n", "1:0:0 2:0:0")

    def test_poll_tells_what_happened_to_each(self, sockets: Host) -> None:
        self.steps(
            sockets,
            f"""{CONNECTED}
            poll w1 r1 w2 -> 0 0:0:0 2:0:0
            send 1 x -> 0 1
            poll r2 r2 c5000 -> 0 0:0:0 1:0:0
            poll r=70000 r1 -> 0 0:8:0
            poll r=70000 w=70001 -> 0 0:8:0 1:8:0
            poll c1 c60000 r1 -> 0 0:0:0
            recv 2 1 -> 0 1 0 x
            shutdown 1 2 -> 0
            poll r2 c5000 -> 0 0:0:0
            shutdown 2 2 -> 0
            poll r2 c5000 -> 0 0:0:1
            """,
        )

    def test_no_descriptor_of_the_host_is_reachable(self, sockets: Host) -> None:
        ours, other = socket.socketpair()
        with ours, other:
            numbers = [*range(3, max(40, ours.fileno() + 5)), 65536, 65537, (1 << 31) - 1]
            errnos = f"({_BADF}|{_NOT_SOCKET}|{_NOT_SUPPORTED})"
            steps = [
                f"{step} ={number}{rest} -> {errnos}"
                for number in numbers
                for step, rest in [
                    ("send", " x"),
                    ("recv", " 1 1"),
                    ("local", ""),
                    ("shutdown", " 3"),
                    ("listen", " 1"),
                    ("accept", ""),
                    ("get", " 1 4"),
                ]
            ]
            steps += [f"local ={number} -> {_NOT_SOCKET}" for number in range(3)]
            # An engine may have a directory of its own.
            steps += [f"write ={number} x -> [1-9][0-9]*" for number in numbers]
            self.steps(sockets, "\n".join(steps))
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(1)

    def test_many_guests_leave_nothing(self, sockets: Host) -> None:
        def run(times: int) -> None:
            for _ in range(times):
                self.steps(sockets, f"{CONNECTED}send 1 hello -> 0 5\nrecv 2 9 -> 0 5 0 hello")

        assert_flat(run, self.times(60))
