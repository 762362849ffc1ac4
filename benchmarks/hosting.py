"""What the host costs: calls, cycles, start-up, memory. Each figure pairs both sides in one run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import wasmtime

from benchmarks import models
from benchmarks.figures import ROOT, Figure, interleaved, per_call
from wasi_nn import Host
from wasi_nn.runtime import HostFunction

GUESTS = ROOT / "conformance" / "guests"
CYCLE = GUESTS / "cycle" / "cycle.wasm"
HELLO = GUESTS / "hello" / "hello.wasm"
ROUNDS = 9

# A loop in the guest around one host call of three parameters.
_LOOP = """
(module
  (import "bench_empty" "call" (func $call (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "loop") (param $left i32)
    (loop $again
      (drop (call $call (i32.const 1) (i32.const 2) (i32.const 3)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))))
"""


def host_call() -> list[Figure]:
    """An empty host call from a guest's loop, against wasmtime-py's own way."""
    wasm = bytes(wasmtime.wat2wasm(_LOOP))
    calls = 20_000
    empty = HostFunction("bench_empty", "call", 3, True, lambda memory, a, b, c: 0)
    with Host(runtime="wasmtime") as host, host.compile(wasm).instantiate(extra=[empty]) as guest:

        def ours() -> float:
            started = time.perf_counter()
            guest.call("loop", calls)
            return (time.perf_counter() - started) / calls

        store = wasmtime.Store()
        linker = wasmtime.Linker(store.engine)
        i32 = wasmtime.ValType.i32
        kind = wasmtime.FuncType([i32(), i32(), i32()], [i32()])
        linker.define_func("bench_empty", "call", kind, lambda a, b, c: 0)
        loop = linker.instantiate(store, wasmtime.Module(store.engine, wasm)).exports(store)["loop"]
        assert isinstance(loop, wasmtime.Func)

        def theirs() -> float:
            started = time.perf_counter()
            loop(store, calls)
            return (time.perf_counter() - started) / calls

        fast, stock = interleaved(ROUNDS, ours, theirs)
    return [
        Figure("host_call_us", fast * 1e6, "µs", 2.0, note="an empty host call"),
        Figure("host_call_ratio", stock / fast, "×", note="define_func takes so much longer"),
    ]


def _guest_cycle(host: Host, model: str, size: int, calls: int, dims: Any) -> Callable[[], float]:
    program = host.compile(CYCLE)
    arguments = [model, str(size), str(calls), *map(str, dims)]

    def run() -> float:
        result = program.run(arguments).check()
        assert result.exit_code == 0, result.stderr
        return int(result.stdout.split()[0]) * 1e-9 / calls

    return run


def _direct(path: Path, dims: Any, out_dims: Any, calls: int) -> Callable[[], float]:
    """The fastest way to call onnxruntime from Python: buffers bound once, its inner method."""
    from wasi_nn_onnx.providers import session_options

    session = onnxruntime.InferenceSession(
        str(path), session_options({}), providers=["CPUExecutionProvider"]
    )
    x, y = np.zeros(dims, np.float32), np.zeros(out_dims, np.float32)
    x.reshape(-1)[:] = np.arange(x.size) % 251 / 251
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, dims, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, out_dims, y.ctypes.data)
    run, inner = session._sess.run_with_iobinding, binding._iobinding
    keep = (x, y, binding)
    return lambda: per_call(lambda: (run(inner, None), keep), calls)


def cycles(folder: Path) -> list[Figure]:
    """set_input, compute and get_output from a guest, against the direct call."""
    small, large = models.small(folder), models.large(folder)
    echo = folder / "echo.identity"
    echo.write_text("wasi-nn:identity\n")
    with Host() as host:
        host.add_model("small", small)
        host.add_model("large", large)
        host.add_model("echo", echo)
        guest, direct, identity = interleaved(
            ROUNDS,
            _guest_cycle(host, "small", 16, 5000, models.SMALL_DIMS),
            _direct(small, models.SMALL_DIMS, models.SMALL_DIMS, 5000),
            _guest_cycle(host, "echo", 16, 5000, models.SMALL_DIMS),
        )
        large_guest, large_direct = interleaved(
            ROUNDS,
            _guest_cycle(host, "large", 256, 40, models.LARGE_DIMS),
            _direct(large, models.LARGE_DIMS, (1, 64, 1, 1), 40),
        )
    return [
        Figure(
            "cycle_overhead_us/onnx",
            (guest - direct) * 1e6,
            "µs",
            12.0,
            note=f"{guest * 1e6:.1f} µs a cycle, {direct * 1e6:.1f} µs direct",
        ),
        Figure("cycle_us/identity", identity * 1e6, "µs", note="the host alone, 16 bytes"),
        Figure(
            "large_input_ratio/onnx",
            large_guest / large_direct,
            "×",
            1.03,
            note=f"{large_guest * 1e3:.2f} ms, {large_direct * 1e3:.2f} ms direct; 602,112 bytes",
        ),
    ]


def start() -> list[Figure]:
    """`wasi-nn run` of a trivial guest against an empty Python program."""

    def timed(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    timed("-m", "wasi_nn", "run", str(HELLO))
    ours, empty = interleaved(
        2 * ROUNDS,
        lambda: timed("-m", "wasi_nn", "run", str(HELLO)),
        lambda: timed("-c", "pass"),
    )
    note = f"{ours * 1e3:.0f} ms, an empty Python program {empty * 1e3:.0f} ms"
    return [Figure("cli_start_ms", (ours - empty) * 1e3, "ms", 150.0, note=note)]


def memory(folder: Path) -> list[Figure]:
    """What a second guest adds that uses a model of 64 MB which is loaded already."""
    path = models.heavy(folder, 64)
    with Host() as host:
        host.add_model("heavy", path)
        program = host.compile(CYCLE)
        arguments = ["heavy", str(1 << 20), "1", "1", "1024"]
        before = _resident()
        program.run(arguments).check()
        first = _resident()
        program.run(arguments).check()
        second = _resident()
    note = f"the first one added {(first - before) / 2**20:.0f} MB"
    return [Figure("second_guest_mb", (second - first) / 2**20, "MB", 4.0, note=note)]


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
