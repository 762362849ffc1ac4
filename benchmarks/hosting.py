"""The cost of the host: calls, start-up, memory. Each figure pairs both sides in one run."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import wasmtime

from benchmarks import models
from benchmarks.figures import ROOT, Figure, interleaved, paired_ratio, per_call, resident
from wasi_nn import Host, Policy, RunInput
from wasi_nn._session.execution import call
from wasi_nn.runtime import HostFunction
from wasi_nn.types import ExecutionTarget, Tensor, TensorType

GUESTS = ROOT / "conformance" / "guests"
GRAPHS = ROOT / "conformance" / "graphs"
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


def run_many() -> list[Figure]:
    """Runs of a small guest in eight threads, against a pool of eight threads by hand. CPU time."""
    jobs, runs = 8, 200
    with Host(runtime="wasmtime") as host:
        program = host.compile(HELLO)
        nothing: RunInput = {}

        def ours() -> float:
            started = time.process_time()
            for outcome in program.run_many(repeat(nothing, runs), jobs=jobs):
                outcome.check()
            return (time.process_time() - started) / runs

        def theirs() -> float:
            started = time.process_time()
            with ThreadPoolExecutor(jobs) as pool:
                for future in [pool.submit(program.run) for _ in range(runs)]:
                    future.result().check()
            return (time.process_time() - started) / runs

        ours()
        ratio, many, pool = paired_ratio(ROUNDS, ours, theirs)
    note = f"run_many: {many * 1e6:.0f} µs of CPU for a run, a pool by hand {pool * 1e6:.0f}"
    return [Figure(f"many_ratio/{jobs}", ratio, "×", 1.1, note=note)]


def output_check() -> list[Figure]:
    """`get_output` of a session, against the same steps without the check of the output."""
    calls = 20_000
    policy = Policy(own_models=True, isolation="none")
    with Host(policy=policy) as host, host.open_session() as session:
        part = memoryview((GRAPHS / "onnx" / "identity.onnx").read_bytes())
        handle = session.load([part], "onnx", ExecutionTarget.CPU)
        number = session.init_execution_context(handle)
        tensor = Tensor(TensorType.F32, (1, 4), memoryview(bytes(16)))
        session.contexts[number].set_input(0, tensor)
        session.contexts[number].compute()

        def unchecked() -> Tensor:
            execution = session.contexts[number]
            get = execution.context.get_output
            return call(execution.loaded, execution._stopped, get, 0)

        ratio, checked, plain = paired_ratio(
            4 * ROUNDS,
            lambda: per_call(lambda: session.contexts[number].get_output(0), calls),
            lambda: per_call(unchecked, calls),
        )
    note = f"{checked * 1e9:.0f} ns, without the check {plain * 1e9:.0f} ns"
    return [Figure("output_check_ratio", ratio, "×", note=note)]


def attending() -> list[Figure]:
    """`Context.compute` in the main thread, which first looks for signal handlers, against the same
    without that look."""
    calls, rounds = 300, 1000
    with Host() as host, host.load(b"wasi-nn:identity").init_execution_context() as context:
        context.set_input(0, bytes(16))
        # The minimum of many, because other load on the machine takes longer than this.
        attended, plain = (
            min(per_call(way, calls) for _ in range(rounds))
            for way in (context.compute, context._execution.compute)
        )
    note = f"× {attended / plain:.2f}: {attended * 1e6:.2f} µs, without {plain * 1e6:.2f} µs"
    return [Figure("signal_look_us", (attended - plain) * 1e6, "µs", 1.0, note=note)]


def start() -> list[Figure]:
    """An import with a list of the plugins, in CPU time, and `wasi-nn run` of a trivial guest, in
    wall-clock time: both against an empty Python program."""

    # An installed program has compiled byte code. Here it goes to a temporary folder.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(ROOT / "build" / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def spent(clock: Callable[[], float], *command: str) -> float:
        started = clock()
        subprocess.run(
            [sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment
        )
        return clock() - started

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def figures(
        name: str, clock: Callable[[], float], goal: float, command: Sequence[str]
    ) -> list[Figure]:
        spent(clock, *command)
        ours, empty = interleaved(
            2 * ROUNDS, lambda: spent(clock, *command), lambda: spent(clock, "-c", "pass")
        )
        note = f"{ours * 1e3:.0f} ms, an empty Python program {empty * 1e3:.0f} ms"
        return [
            Figure(f"{name}_ms", (ours - empty) * 1e3, "ms", goal, note=note),
            Figure(f"{name}_ratio", ours / empty, "×", 4.0 if name == "cli_start" else None),
        ]

    listing = "import wasi_nn; from wasi_nn.plugins import Plugins; Plugins.installed()"
    run = ("-m", "wasi_nn", "run", str(HELLO))
    return [
        *figures("import", cpu, 40.0, ("-c", listing)),
        *figures("cli_start", time.perf_counter, 90.0, run),
    ]


def memory(folder: Path) -> list[Figure]:
    """What a second guest adds that uses a model of 64 MB which is loaded already."""
    path = models.heavy(folder, 64)
    with Host() as host:
        host.add_model("heavy", path)
        program = host.compile(CYCLE)
        arguments = ["heavy", str(1 << 20), "1", "1", "1024"]
        before = resident()
        program.run(arguments).check()
        first = resident()
        program.run(arguments).check()
        second = resident()
    note = f"the first one added {(first - before) / 2**20:.0f} MB"
    return [Figure("second_guest_mb", (second - first) / 2**20, "MB", 4.0, note=note)]
