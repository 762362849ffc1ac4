"""Calls with any arguments from inside Wasm return an errno."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasi_nn import Host
from wasi_nn._abi.core.common import CoreAbi
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn.errors import GuestError
from wasi_nn_conformance.engine_tests.common import Engine, Wat

PAGE = 65536
VALUES = st.one_of(
    st.integers(0, 3),
    st.integers(PAGE - 40, PAGE + 40),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
)


# One program serves all examples, and several classes inherit the method.
MEANT = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.differing_executors,
]


def functions(host: Host, abi: type[CoreAbi]) -> dict[str, int]:
    table = abi(host.open_session(), DialectNegotiation([DIALECTS["witx"]])).table()
    return {name: count for name, (count, _) in table.items()}


def module(name: str, table: dict[str, int]) -> str:
    """A guest that exports every function that it imports."""
    imports = exports = ""
    for function, count in table.items():
        parameters = "(param" + " i32" * count + ")"
        imports += f'(import "{name}" "{function}" (func ${function} {parameters} (result i32)))'
        gets = "".join(f"(local.get {k})" for k in range(count))
        exports += (
            f'(func (export "{function}") {parameters} (result i32) (call ${function} {gets}))'
        )
    model = "wasi-nn:identity"
    data = f'(data (i32.const 64) "{model}\\00\\00\\00\\00\\40\\00\\00\\00\\10\\00\\00\\00")'
    return f'(module {imports} (memory (export "memory") 1) {data} {exports})'


class Garbage(Engine):
    """Whatever a guest passes, it gets an errno."""

    @pytest.mark.parametrize("abi", [Witx, WamrLegacy])
    @settings(max_examples=60, deadline=None, suppress_health_check=MEANT)
    @given(data=st.data())
    def test_any_call_gives_an_errno(
        self, host: Host, wat: Wat, abi: type[CoreAbi], data: st.DataObject
    ) -> None:
        table = functions(host, abi)
        kept = self.__dict__
        if abi.__name__ not in kept:
            kept[abi.__name__] = host.compile(wat(module(abi.module, table)))
        with kept[abi.__name__].instantiate() as guest:
            if abi is Witx:
                assert guest.call("load", 84, 1, 5, 0, 128) == (0,)
                assert guest.call("init_execution_context", 0, 128) == (0,)
            for _ in range(data.draw(st.integers(1, 10))):
                name = data.draw(st.sampled_from(sorted(table)))
                arguments = data.draw(st.tuples(*[VALUES] * table[name]))
                try:
                    (errno,) = guest.call(name, *map(signed, arguments))
                except GuestError as error:
                    pytest.fail(f"{name}{arguments} ended the guest: {error}")
                assert errno in {0, *range(1, 9), 100, 101, 102, 103}


def signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number
