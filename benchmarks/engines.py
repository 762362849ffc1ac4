"""The cost of a host call on every installed engine, compared with wasmtime in one run.

``python -m benchmarks.engines`` prints only these figures. Another Python (3.10, for the wasmer
package) measures the engines installed there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import wasmtime

from benchmarks.figures import OUTPUT, Figure, paired_ratio, report
from wasi_nn import Host, Policy
from wasi_nn._host.guest import Guest
from wasi_nn.errors import Unavailable
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import HostFunction
from wasi_nn.runtime.name import RuntimeName

PAIRS = 15
CALLS = 5000
INPUTS = 200
REFERENCE = "wasmtime"
#: The goal for each engine: at most this multiple of wasmtime's time.
GOALS = {"wasmer": 1.5, "wamr": 4.0, "wasmedge": 4.0}
#: The goal in microseconds for a call from a guest in another process.
ROUND_TRIP = {"v8": 90.0, "wasmtime@": None}

# Loops around an empty host call with five parameters, and around set_input of 602,112 bytes on a
# context that the guest has opened. The tensor is u8, with dimensions at 16 and data at 64 KiB.
_GUEST = """
(module
  (import "bench_empty" "call" (func $call (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context"
    (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
  (memory (export "memory") 11)
  (data (i32.const 16) "\\00\\30\\09\\00")
  (data (i32.const 32) "\\10\\00\\00\\00\\01\\00\\00\\00\\02\\00\\00\\00")
  (data (i32.const 44) "\\00\\00\\01\\00\\00\\30\\09\\00")
  (data (i32.const 64) "wasi-nn:identity")
  (data (i32.const 96) "\\40\\00\\00\\00\\10\\00\\00\\00")
  (func (export "open") (result i32)
    (i32.or
      (call $load (i32.const 96) (i32.const 1) (i32.const 5) (i32.const 0) (i32.const 128))
      (call $init (i32.const 0) (i32.const 128))))
  (func (export "empty") (param $left i32)
    (loop $again
      (drop (call $call
        (i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4) (i32.const 5)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left))))
  (func (export "input") (param $left i32) (result i32) (local $errno i32)
    (loop $again
      (local.set $errno (i32.or (local.get $errno)
        (call $set (i32.const 0) (i32.const 0) (i32.const 32))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (local.get $errno)))
"""


def overhead() -> list[Figure]:
    """Both figures of every engine except wasmtime."""
    figures = []
    plugins = Plugins.installed()
    reference = _guest(plugins, REFERENCE)
    # And the reference in a process of its own.
    for engine in (
        *(runtime.name for runtime in plugins.runtimes if not runtime.own_encodings),
        str(RuntimeName(REFERENCE).isolated()),
    ):
        if engine == REFERENCE:
            continue
        part = 10 if engine in ROUND_TRIP else 1
        try:
            guest = _guest(plugins, engine)
        except Unavailable as reason:
            print(f"{engine}: not measured, {reason}")
            continue
        for what, export, calls in (("host_call", "empty", CALLS), ("set_input", "input", INPUTS)):
            ratio, theirs, ours = paired_ratio(
                PAIRS, _timed(guest, export, calls // part), _timed(reference, export, calls)
            )
            note = f"{theirs * 1e6:.2f} µs, wasmtime {ours * 1e6:.2f} µs"
            name = f"engine_{what}_ratio/{engine}"
            figures.append(Figure(name, ratio, "×", GOALS.get(engine), note=note))
            if what == "host_call" and engine in ROUND_TRIP:
                goal = ROUND_TRIP[engine]
                name = f"round_trip_us/{engine}"
                figures.append(Figure(name, theirs * 1e6, "µs", goal, note="one host call"))
        guest.close()
    reference.close()
    return figures


def _guest(plugins: Plugins, runtime: str) -> Guest:
    empty = HostFunction("bench_empty", "call", 5, True, lambda memory, a, b, c, d, e: 0)
    # The engine is what is measured, not the way to a worker.
    policy = Policy(own_models=True, isolation="none")
    host = Host(plugins=plugins, runtime=runtime, policy=policy)
    guest = host.compile(bytes(wasmtime.wat2wasm(_GUEST))).instantiate(extra=[empty])
    if guest.call("open") != (0,) or guest.call("input", 1) != (0,):
        raise RuntimeError(f"{runtime}: {list(guest.observer.failures)}")
    return guest


def _timed(guest: Guest, export: str, calls: int) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        guest.call(export, calls)
        return (time.perf_counter() - started) / calls

    return measure


if __name__ == "__main__":
    report(overhead(), OUTPUT.with_name(f"bench-engines-{sys.version_info[1]}.json"))
