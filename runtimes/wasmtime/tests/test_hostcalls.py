"""Host functions that are defined with wasmtime's C API."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

wasmtime = pytest.importorskip("wasmtime")

from wasi_nn.runtime import HostFunction  # noqa: E402
from wasi_nn_wasmtime import hostcalls  # noqa: E402

WASM = """(module
  (import "t" "five" (func $five (param i32 i32 i32 i32 i32) (result i32)))
  (import "t" "none" (func $none))
  (import "t" "fail" (func $fail (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "data")
  (func (export "five") (result i32)
    (call $five (i32.const 0) (i32.const -1) (i32.const 8) (i32.const 4) (i32.const 0x80000000)))
  (func (export "none") (call $none))
  (func (export "fail") (result i32) (call $fail (i32.const 1))))"""


def test_host_functions_get_unsigned_values_and_the_memory():
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    linker = wasmtime.Linker(engine)
    owner = SimpleNamespace(raised=None)
    calls = hostcalls.HostCalls(linker, owner)
    seen: list[object] = []

    def five(memory, *values):
        seen.append((values, bytes(memory.read(8, 4)), memory.size))
        memory.write(16, b"\x2a\0\0\0")
        return 0xFFFFFFFE

    def fail(memory, value):
        raise KeyError("lost")

    calls.define(HostFunction("t", "five", 5, True, five))
    calls.define(HostFunction("t", "none", 0, False, lambda memory: seen.append("none")))
    calls.define(HostFunction("t", "fail", 1, True, fail))
    instance = linker.instantiate(store, wasmtime.Module(engine, WASM))
    exports = instance.exports(store)
    assert exports["five"](store) == -2
    exports["none"](store)
    assert seen == [((0, 0xFFFFFFFF, 8, 4, 0x80000000), b"data", 65536), "none"]
    assert exports["memory"].read(store, 16, 17) == b"\x2a"
    with pytest.raises((wasmtime.Trap, wasmtime.WasmtimeError)):
        exports["fail"](store)
    assert isinstance(owner.raised, KeyError)
