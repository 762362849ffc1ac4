"""The cost of a component's host calls, each paired with wasmtime-py's own conversion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import wasmtime
import wasmtime.component

from benchmarks.figures import Figure, paired_ratio
from wasi_nn import Host
from wasi_nn.runtime import EngineLimits, WasiConfig
from wasi_nn.runtime.component import U32, Bytes, Function, Interface

SIZE = 602_112
_ROUNDS = 5
_CALLS = 2_000

# A loop around one lowered function: $call is its core type, $invoke calls it.
_COMPONENT = """(component
  (import "bench:host/calls" (instance $calls (export "call" (func {type}))))
  (alias export $calls "call" (func $call))
  (core module $memory (memory (export "memory") 20)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (core instance $libc (instantiate $memory))
  (alias core export $libc "memory" (core memory $bytes))
  (alias core export $libc "realloc" (core func $realloc))
  (core func $lowered (canon lower (func $call) (memory $bytes) (realloc $realloc)))
  (core module $main
    (import "host" "call" (func $call {core}))
    (func (export "run") (result i32) (local $n i32)
      (loop $again
        {invoke}
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const {calls}))))
      (i32.const 0)))
  (core instance $main (instantiate $main
    (with "host" (instance (export "call" (func $lowered))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))"""


def calls() -> list[Figure]:
    """`list<u8>` of 602,112 bytes in and out, and a call of one number."""
    payload = bytes(range(256)) * (SIZE // 256)
    cases: list[tuple[str, str, float, float, int, Function, str, str, str]] = [
        (
            "component_list_in_ms",
            "ms",
            1e3,
            2,
            1,
            Function("call", (Bytes(),), None, lambda data: None),
            '(param "data" (list u8))',
            "(param i32 i32)",
            f"(call $call (i32.const 65536) (i32.const {SIZE}))",
        ),
        (
            "component_list_out_ms",
            "ms",
            1e3,
            2,
            1,
            Function("call", (), Bytes(), lambda: payload),
            "(result (list u8))",
            "(param i32)",
            "(call $call (i32.const 64))",
        ),
        (
            "component_call_us",
            "µs",
            1e6,
            25,
            _CALLS,
            Function("call", (U32(),), U32(), lambda number: number),
            '(param "number" u32) (result u32)',
            "(param i32) (result i32)",
            "(drop (call $call (local.get $n)))",
        ),
    ]
    figures = []
    with Host(runtime="wasmtime") as host:
        for name, unit, scale, goal, times, function, kind, core, invoke in cases:
            wasm = bytes(
                wasmtime.wat2wasm(
                    _COMPONENT.format(type=kind, core=core, invoke=invoke, calls=times)
                )
            )
            ours, close = _ours(host, wasm, function, times)
            theirs = _theirs(wasm, function, times)
            ratio, fast, slow = paired_ratio(_ROUNDS, theirs, ours)
            close()
            note = f"wasmtime-py's own takes {fast * scale:.1f} {unit}, {ratio:.1f} times as long"
            figures.append(Figure(name, slow * scale, unit, goal, note=note))
    return figures


def _ours(
    host: Host, wasm: bytes, function: Function, times: int
) -> tuple[Callable[[], float], Callable[[], None]]:
    component = host.runtime.compile_component(wasm, EngineLimits())
    interface = Interface("bench:host/calls", [], [function])
    instance = component.prepare([interface], WasiConfig(), EngineLimits())
    instance.instantiate()

    def measure() -> float:
        started = time.perf_counter()
        instance.start()
        return (time.perf_counter() - started) / times

    return measure, instance.close


def _theirs(wasm: bytes, function: Function, times: int) -> Callable[[], float]:
    store = wasmtime.Store()
    store.set_wasi(wasmtime.WasiConfig())
    linker = wasmtime.component.Linker(store.engine)
    linker.add_wasip2()

    def call(context: Any, *values: Any) -> Any:
        return function.call(*values)

    with linker.root() as root, root.add_instance("bench:host/calls") as calls:
        calls.add_func("call", call)
    component = wasmtime.component.Component(store.engine, wasm)
    instance = linker.instantiate(store, component)
    inside = instance.get_export_index(store, "wasi:cli/run@0.2.0")
    index = instance.get_export_index(store, "run", inside)
    assert index is not None
    run = instance.get_func(store, index)
    assert run is not None

    def measure() -> float:
        started = time.perf_counter()
        run(store)
        return (time.perf_counter() - started) / times

    return measure
