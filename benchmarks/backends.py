"""The overhead of a guest's inference over the fastest direct call of the library.

Both sides alternate in one run. A direct call has its input in place. A guest's cycle is set_input,
compute and get_output, with both copies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.figures import ROOT, Figure, interleaved, paired_ratio, per_call
from benchmarks.subjects import ONE_THREAD, SUBJECTS, Call, Network
from wasi_nn import Host, Model, Tensor

CYCLE = ROOT / "conformance" / "guests" / "cycle" / "cycle.wasm"
ROUNDS = 9
PAIRS = 24
THREADS = 4
#: The goals for the overhead, in cycles of the host alone: microseconds depend on the machine.
OVERHEADS = {"onnx": 1.0, "openvino": 1.2, "tflite": 1.2, "pytorch": 1.5}


def cycles(folder: Path) -> list[Figure]:
    """The figures of every backend whose library is installed."""
    figures = _host_alone(folder)
    alone = figures[0].value
    for name, (package, make) in SUBJECTS.items():
        if find_spec(package) is None:
            print(f"{name}: not measured, {package} is not installed")
            continue
        small, large = make(folder)
        with Host() as host:
            host.add_model("small", *small.paths, config=ONE_THREAD)
            host.add_model("large", *large.paths, config=ONE_THREAD)
            figures += _cycle(host, name, small, large, alone)
            figures += _parallel(name, host.model("large"), large)
    return figures


def _host_alone(folder: Path) -> list[Figure]:
    echo = folder / "echo.identity"
    echo.write_text("wasi-nn:identity\n")
    with Host() as host:
        host.add_model("echo", echo)
        run = guest(host, "echo", Network([], (1, 4), 16, lambda: lambda: None), 5000)
        (seconds,) = interleaved(ROUNDS, run)
    return [Figure("cycle_us/identity", seconds * 1e6, "µs", note="the host alone, 16 bytes")]


def _cycle(host: Host, name: str, small: Network, large: Network, alone: float) -> list[Figure]:
    """``alone`` is a cycle of the host alone, in microseconds."""
    direct_small, direct_large = small.direct(), large.direct()
    ours, direct = interleaved(
        ROUNDS, guest(host, "small", small, 3000), lambda: per_call(direct_small, 3000)
    )
    ratio, large_guest, large_direct = paired_ratio(
        PAIRS, guest(host, "large", large, 10), lambda: per_call(direct_large, 10)
    )
    return [
        Figure(
            f"cycle_overhead_us/{name}",
            (ours - direct) * 1e6,
            "µs",
            12.0 if name == "onnx" else 15.0,
            note=f"{ours * 1e6:.1f} µs a cycle, {direct * 1e6:.1f} µs direct",
        ),
        Figure(
            f"cycle_overhead_ratio/{name}",
            (ours - direct) * 1e6 / alone,
            "×",
            OVERHEADS[name],
            note="the overhead over a cycle of the host alone, cycle_us/identity",
        ),
        Figure(
            f"large_input_ratio/{name}",
            ratio,
            "×",
            1.03,
            note=f"{large_guest * 1e3:.2f} ms, {large_direct * 1e3:.2f} ms direct; 602,112 bytes",
        ),
    ]


def guest(host: Host, model: str, network: Network, calls: int) -> Callable[[], float]:
    """Seconds for one cycle in a guest's loop."""
    program = host.compile(CYCLE)
    arguments = [model, str(network.output_bytes), str(calls), *map(str, network.dims)]

    def run() -> float:
        result = program.run(arguments).check()
        if result.exit_code:
            raise RuntimeError(result.stderr.decode())
        return int(result.stdout.split()[0]) * 1e-9 / calls

    return run


def _parallel(name: str, model: Model, network: Network) -> list[Figure]:
    """Four contexts in four threads against four direct sessions in four threads, the inputs of
    both in place."""
    import numpy as np

    tensor = Tensor.of(np.zeros(network.dims, np.float32))

    def ours() -> Call:
        context = model.init_execution_context()
        context.set_input(0, tensor)

        def call() -> None:
            context.compute()
            context.get_output(0)

        return call

    contexts = [ours() for _ in range(THREADS)]
    sessions = [network.direct() for _ in range(THREADS)]
    ratio, theirs, mine = paired_ratio(
        PAIRS, lambda: _together(sessions), lambda: _together(contexts)
    )
    note = f"{1 / mine:.0f} a second, {1 / theirs:.0f} direct; {THREADS} threads"
    return [Figure(f"parallel_ratio/{name}", ratio, "×", 0.97, at_least=True, note=note)]


def _together(calls: list[Call], turns: int = 10) -> float:
    """Seconds for one call, with each call in its own thread."""

    def work(call: Call) -> None:
        for _ in range(turns):
            call()

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / (turns * len(calls))
