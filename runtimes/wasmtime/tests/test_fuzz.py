"""Garbage arguments from inside Wasm, on the real engine: every call gives an errno."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasi_nn.abi.common import CoreAbi
from wasi_nn.abi.dialects import DIALECTS
from wasi_nn.abi.reading import Reading
from wasi_nn.abi.wamr_legacy import WamrLegacy
from wasi_nn.abi.witx import Witx
from wasi_nn.errors import GuestError

PAGE = 65536
VALUES = st.one_of(
    st.integers(0, 3),
    st.integers(PAGE - 40, PAGE + 40),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
)


def functions(host, abi: type[CoreAbi]) -> dict[str, int]:
    table = abi(host.open_session(), Reading([DIALECTS["witx"]])).table()
    return {name: count for name, (count, _) in table.items()}


def module(name: str, table: dict[str, int]) -> str:
    """A guest that offers every import as an export of its own."""
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


@pytest.mark.parametrize("abi", [Witx, WamrLegacy])
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_call(host, wat, abi, data):
    table = functions(host, abi)
    if not hasattr(test_any_call, abi.__name__):
        program = host.compile(wat(module(abi.module, table)))
        setattr(test_any_call, abi.__name__, program)
    with getattr(test_any_call, abi.__name__).instantiate() as guest:
        if abi is Witx:
            assert guest.call("load", 84, 1, 5, 0, 128) == (0,)
            assert guest.call("init_execution_context", 0, 128) == (0,)
        for _ in range(data.draw(st.integers(1, 10))):
            name = data.draw(st.sampled_from(sorted(table)))
            arguments = data.draw(st.tuples(*[VALUES] * table[name]))
            try:
                (errno,) = guest.call(name, *(a - (1 << 32) if a >> 31 else a for a in arguments))
            except GuestError as error:
                pytest.fail(f"{name}{arguments} ended the guest: {error}")
            assert errno in {0, *range(1, 9), 100, 101, 102, 103}
