"""A fresh guest for each request: the CPU time of a whole run of a small guest with one inference,
beside the inference itself and what the engine alone takes for the same guest.

``python -m benchmarks.fresh`` prints only these figures.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import wasmtime

from benchmarks.backends import CYCLE
from benchmarks.figures import OUTPUT, Figure, paired_ratio, report
from benchmarks.subjects import ONE_THREAD, Call, Network, onnx
from wasi_nn import Host
from wasi_nn.errors import Unavailable
from wasi_nn.plugins import Plugins

ROUNDS = 7
RUNS = 50
PAIRS = 3
GUESTS = 64
INFERENCES = 4
#: Engines whose guests have processes of their own: fewer runs, and no goal.
PROCESSES = ("v8",)


def figures(folder: Path) -> list[Figure]:
    """The figures of every engine that is installed, if onnxruntime is."""
    if find_spec("onnxruntime") is None:
        print("fresh guests: not measured, onnxruntime is not installed")
        return []
    small, large = onnx(folder)
    made = []
    plugins = Plugins.installed()
    for runtime in plugins.runtimes:
        if runtime.own_encodings:
            # A browser: what it takes is not this process's.
            continue
        try:
            with Host(plugins=plugins, runtime=runtime.name) as host:
                made += _fresh(host, runtime.name, small)
        except Unavailable as reason:
            print(f"{runtime.name}: not measured, {reason}")
    with Host(runtime="wasmtime") as host:
        return made + _together(host, large)


def _fresh(host: Host, engine: str, network: Network) -> list[Figure]:
    """CPU time per run, without the inference, from the second run on."""
    run, direct = _runner(host, network, 1), network.direct()
    run()
    runs = RUNS // 10 if engine in PROCESSES else RUNS
    measures: list[Callable[[], float]] = [
        lambda: _cpu(run, runs),
        lambda: _cpu(direct, 10 * runs),
    ]
    if engine == "wasmtime":
        alone = _engine_alone()
        measures.append(lambda: _cpu(alone, runs))
    turns = [[measure() for measure in measures] for _ in range(ROUNDS)]
    values = zip(*turns, strict=True)
    ours, inference, *native = [statistics.median(value) * 1e6 for value in values]
    goal = None if engine in PROCESSES else 400.0
    note = f"a run takes {ours:.0f} µs of CPU, its inference {inference:.0f} µs"
    made = [Figure(f"fresh_guest_us/{engine}", ours - inference, "µs", goal, note=note)]
    if native:
        over = statistics.median(one - two - three for one, two, three in turns) * 1e6
        note = f"the engine alone takes {native[0]:.0f} µs for the guest"
        made.append(Figure("fresh_guest_over_native_us", over, "µs", 300.0, note=note))
    return made


def _runner(host: Host, network: Network, inferences: int) -> Call:
    if "net" not in host.models:
        host.add_model("net", *network.paths, config=ONE_THREAD)
    program = host.compile(CYCLE)
    arguments = ["net", str(network.output_bytes), str(inferences), *map(str, network.dims)]

    def run() -> None:
        result = program.run(arguments).check()
        if result.exit_code:
            raise RuntimeError(result.stderr.decode())

    return run


def _engine_alone() -> Call:
    """The same guest on wasmtime-py, linked once, with functions of wasi-nn that do nothing."""
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, str(CYCLE))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    for item in module.imports:
        if item.module == "wasi_ephemeral_nn":
            assert item.name is not None
            assert isinstance(item.type, wasmtime.FuncType)
            linker.define_func(item.module, item.name, item.type, lambda *values: 0)
    linked = linker.instantiate_pre(module)

    def run() -> None:
        store = wasmtime.Store(engine)
        config = wasmtime.WasiConfig()
        config.argv = ["cycle", "net", "16", "1", "1", "4"]
        store.set_wasi(config)
        start = linked.instantiate(store).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        store.close()

    return run


def _cpu(call: Call, calls: int) -> float:
    """Seconds of CPU for one call, with those of the processes that it has ended."""
    started = _used()
    for _ in range(calls):
        call()
    return (_used() - started) / calls


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _together(host: Host, network: Network) -> list[Figure]:
    """Many guests at once, each in its own thread, against direct calls in as many threads."""
    return [
        _throughput(host, network, "guests", INFERENCES, 0.95),
        _throughput(host, network, "fresh_guests", 1, None),
    ]


def _throughput(
    host: Host, network: Network, kind: str, inferences: int, goal: float | None
) -> Figure:
    run = _runner(host, network, inferences)
    run()
    calls = [network.direct() for _ in range(GUESTS)]

    def repeated(call: Call) -> Call:
        return lambda: [call() for _ in range(inferences)]

    ratio, theirs, ours = paired_ratio(
        PAIRS,
        lambda: _at_once([repeated(call) for call in calls]),
        lambda: _at_once([run] * GUESTS),
    )
    done = inferences * GUESTS
    note = (
        f"{done / ours:.0f} inferences a second, {done / theirs:.0f} direct; {inferences} a guest"
    )
    name = f"{kind}_throughput_ratio/{GUESTS}"
    return Figure(name, ratio, "×", goal, at_least=True, note=note)


def _at_once(calls: list[Call]) -> float:
    """Seconds until every call has returned, each in its own thread."""
    threads = [threading.Thread(target=call) for call in calls]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report(figures(Path(scratch)), OUTPUT.with_name("bench-fresh.json"))
