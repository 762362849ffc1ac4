"""Calls of sockets with any arguments from inside Wasm return an errno."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasi_nn import Host, Limits
from wasi_nn.errors import GuestError, LinkError
from wasi_nn_conformance.engine_tests.common import Wat
from wasi_nn_conformance.engine_tests.garbage import MEANT, PAGE, VALUES, signed
from wasi_nn_conformance.engine_tests.socket_steps import LOOPBACK, SocketSteps

# Errnos of preview 1.
_MISALIGNED, _BADF, _FAULT, _INVAL, _NOT_CONNECTED = 4, 8, 21, 28, 53

# By name: its parameters, as wasi-libc's or WasmEdge's guests import them.
_PARAMETERS = {
    "sock_open": 3,
    "sock_bind": 3,
    "sock_listen": 2,
    "sock_accept": 2,
    "sock_connect": 3,
    "sock_recv": 6,
    "sock_recv_from": 7,
    "sock_send": 5,
    "sock_send_to": 7,
    "sock_shutdown": 2,
    "sock_getsockopt": 5,
    "sock_setsockopt": 5,
    "sock_getlocaladdr": 4,
    "sock_getpeeraddr": 4,
    "sock_getaddrinfo": 8,
}
_PARAMETERS_2 = {
    "sock_accept": 3,
    "sock_recv_from": 8,
    "sock_getlocaladdr": 3,
    "sock_getpeeraddr": 3,
}


def module(functions: dict[str, int], data: str = "") -> str:
    """A guest that exports the functions of sockets that it imports."""
    imports = exports = ""
    for name, count in functions.items():
        kind = f"(param{' i32' * count}) (result i32)"
        imports += f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {kind}))'
        values = "".join(f"(local.get {i})" for i in range(count))
        exports += f'(func (export "{name}") {kind} (call ${name} {values}))'
    return f"""(module {imports} (memory (export "memory") 1) {data} {exports}
        (func (export "word") (param i32) (result i32) (i32.load (local.get 0))))"""


class SocketGarbage(SocketSteps):
    """Whatever a guest passes, it gets an errno."""

    def test_the_imports_signature_says_the_version(self, sockets: Host, wat: Wat) -> None:
        names = {"sock_open": 3, "sock_bind": 3, "sock_listen": 2}
        # At 0 an address of 4 bytes that are at 16, at 32 one of 128 bytes that are at 64.
        data = r"""(data (i32.const 0) "\10\00\00\00\04\00\00\00")
            (data (i32.const 16) "\7f\00\00\01") (data (i32.const 32) "\40\00\00\00\80\00\00\00")"""
        program = sockets.compile(wat(module(names | _PARAMETERS_2, data)))
        with program.instantiate(policy=LOOPBACK) as guest:
            assert guest.call("sock_open", 1, 2, 256) == (0,)
            (number,) = guest.call("word", 256)
            assert guest.call("sock_bind", number, 0, 0) == (0,)
            assert guest.call("sock_listen", number, 1) == (0,)
            assert guest.call("sock_getlocaladdr", number, 0, 260) == (_INVAL,)
            assert guest.call("sock_getlocaladdr", number, 32, 260) == (0,)
            assert [guest.call("word", at) for at in (64, 68)] == [(0x007F0001,), (0x100,)]
            assert guest.call("sock_getpeeraddr", number, 32, 260) == (_NOT_CONNECTED,)
        with pytest.raises(LinkError, match=r"sock_accept as \(i32, i32, i32, i32\)"):
            sockets.run(wat(module({"sock_accept": 4})), policy=LOOPBACK)

    @pytest.mark.parametrize(
        ("name", "arguments", "errno"),
        [
            ("sock_open", [1, 2, PAGE], _FAULT),
            ("sock_open", [1, 2, PAGE - 3], _MISALIGNED),
            ("sock_bind", [-1, PAGE - 4, 0], _FAULT),
            ("sock_bind", [-1, 2, 0], _MISALIGNED),
            ("sock_bind", [-1, 0, 0], _BADF),
            ("sock_bind", [-1, 8, 0], _FAULT),
            ("sock_connect", [-1, 8, 0], _FAULT),
            ("sock_accept", [-1, PAGE], _FAULT),
            ("sock_accept", [-1, 6], _MISALIGNED),
            ("sock_recv", [-1, PAGE, 1, 0, 64, 68], _FAULT),
            ("sock_recv", [-1, 8, 1, 0, 64, 68], _FAULT),
            ("sock_recv", [-1, 0, 1025, 0, 64, 68], _INVAL),
            ("sock_recv", [-1, 0, 1, 0, PAGE, 68], _FAULT),
            ("sock_recv", [-1, 0, 1, 0, 64, PAGE], _FAULT),
            ("sock_recv", [-1, 0, 1, 0, 64, 69], _MISALIGNED),
            ("sock_send", [-1, 8, 1, 0, 64], _FAULT),
            ("sock_send", [-1, 0, -1, 0, 64], _INVAL),
            ("sock_send_to", [-1, 0, 1, 8, 80, 0, 64], _FAULT),
            ("sock_getsockopt", [-1, 0, 1, PAGE - 2, 16], _FAULT),
            ("sock_getsockopt", [-1, 0, 1, 64, PAGE], _FAULT),
            ("sock_setsockopt", [-1, 0, 0, 64, -1], _FAULT),
            ("sock_getlocaladdr", [-1, 0, PAGE, 64], _FAULT),
            ("sock_getlocaladdr", [-1, 0, 64, 66], _MISALIGNED),
            ("sock_getaddrinfo", [PAGE, 1, 0, 0, 64, 96, 1, 100], _FAULT),
            ("sock_getaddrinfo", [0, 4, 0, 0, PAGE - 4, 96, 1, 100], _FAULT),
            ("sock_getaddrinfo", [24, 9, 0, 0, 64, 96, -1, 100], _FAULT),
        ],
    )
    def test_pointers_and_lengths_are_checked(
        self, sockets: Host, wat: Wat, name: str, arguments: list[int], errno: int
    ) -> None:
        # At 0 an address of 4 bytes, at 8 one outside of memory, at 16 the size 4, at 96 a result.
        data = r"""(data (i32.const 0) "\10\00\00\00\04\00\00\00\00\00\00\00\ff\ff\ff\ff\04")
            (data (i32.const 24) "127.0.0.1") (data (i32.const 96) "\f0\ff\00\00")"""
        program = sockets.compile(wat(module({name: _PARAMETERS[name]}, data)))
        with program.instantiate(policy=LOOPBACK) as guest:
            assert guest.call(name, *arguments) == (errno,)

    @settings(max_examples=60, deadline=None, suppress_health_check=MEANT)
    @given(data=st.data())
    def test_any_call_of_a_socket_gives_an_errno(
        self, sockets: Host, wat: Wat, data: st.DataObject
    ) -> None:
        names = {f"{name}_v2": n for name, n in (_PARAMETERS | _PARAMETERS_2).items() if n != 5}
        for lacks in ("sock_shutdown_v2", "sock_getaddrinfo_v2"):
            del names[lacks]
        table = _PARAMETERS | names | {"poll_oneoff": 4, "fd_renumber": 2, "fd_close": 1}
        kept = self.__dict__
        if "garbage of sockets" not in kept:
            kept["garbage of sockets"] = sockets.compile(wat(module(table)))
        # No call waits: nothing would end it.
        values = st.one_of(VALUES, st.integers(65536, 65539))
        limits = Limits(sockets=4)
        with kept["garbage of sockets"].instantiate(policy=LOOPBACK, limits=limits) as guest:
            for kind in (1, 2):
                assert guest.call("sock_open", 1, kind, 128) == (0,)
            waits = {"sock_recv", "sock_recv_from", "sock_accept", "poll_oneoff"}
            for _ in range(data.draw(st.integers(1, 12))):
                name = data.draw(st.sampled_from(sorted(table)))
                arguments = list(data.draw(st.tuples(*[values] * table[name])))
                if name.removesuffix("_v2") in waits and 65536 <= arguments[0] < 65540:
                    continue
                try:
                    (errno,) = guest.call(name, *map(signed, arguments))
                except GuestError as error:
                    pytest.fail(f"{name}{arguments} ended the guest: {error}")
                assert 0 <= errno <= 87
