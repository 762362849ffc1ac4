"""Sixteen guests of one model, with batching and without.

The guests are threads that set an input, compute and read the output, one request after the other.
The library's own gain is that of direct calls with 16 rows over direct calls with one row. All
sides alternate in one run, and the library has all cores, as by default.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.figures import Figure, per_call
from wasi_nn import Host, Model, Tensor

GUESTS = 16
DELAY_MS = 2.0
BATCHING = {"batching": {"max_batch_size": GUESTS, "max_queue_delay_ms": DELAY_MS}}
ROUNDS = 7
#: Requests of each guest in a round, by the network.
REQUESTS = {"perceptron": 20, "convolution": 3}
ROWS = {"perceptron": (models.PERCEPTRON[0],), "convolution": models.LARGE_DIMS[1:]}

Direct = Callable[[Path], Callable[[Any], object]]


def figures(folder: Path) -> list[Figure]:
    """The gain of each network on each library that is installed, and the p99 of one request."""
    found = []
    for name, (package, direct) in _LIBRARIES.items():
        if find_spec(package) is None:
            print(f"batching: {name} is not measured, {package} is not installed")
            continue
        for network, make in (
            ("perceptron", models.perceptron),
            ("convolution", models.convolution),
        ):
            found += _figures(name, network, make(folder), direct)
    return found


def _onnx(path: Path) -> Callable[[Any], object]:
    import onnxruntime

    from wasi_nn_onnx.providers import session_options

    session = onnxruntime.InferenceSession(
        str(path), session_options({}), providers=["CPUExecutionProvider"]
    )
    return lambda rows: session.run(None, {"x": rows})


def _openvino(path: Path) -> Callable[[Any], object]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda rows: request.infer([rows], share_inputs=True, share_outputs=True)


_LIBRARIES: dict[str, tuple[str, Direct]] = {
    "onnx": ("onnxruntime", _onnx),
    "openvino": ("openvino", _openvino),
}


def _figures(name: str, network: str, path: Path, direct: Direct) -> list[Figure]:
    call, requests = direct(path), REQUESTS[network]
    one, many = (np.full((n, *ROWS[network]), 0.5, np.float32) for n in (1, GUESTS))
    call(one), call(many)
    gains, own, waits, batches = [], [], [], []
    with Host() as host:
        host.add_model("plain", path, encoding=name)
        host.add_model("batched", path, encoding=name, config=BATCHING)
        plain, batched = host.model("plain"), host.model("batched")
        for turn in range(ROUNDS + 1):
            single = per_call(lambda: call(one), requests)
            batch = per_call(lambda: call(many), requests)
            without, _ = _guests(plain, one, requests)
            with_batches, each = _guests(batched, one, requests)
            if turn:
                # (The first round warms up.)
                gains.append(without / with_batches)
                own.append(single * GUESTS / batch)
                batches.append(batch)
                waits += each
    gain, library = statistics.median(gains), statistics.median(own)
    batch_ms = statistics.median(batches) * 1e3
    waits.sort()
    p50, p99 = (waits[int(share * (len(waits) - 1))] * 1e3 for share in (0.5, 0.99))
    memory_bound = network == "perceptron"
    title = f"{name}-{GUESTS}" + ("" if memory_bound else f"-{network}")
    return [
        Figure(
            f"batch_ratio/{title}",
            gain,
            "×",
            0.8 * library if memory_bound else 0.95,
            at_least=True,
            note=f"{library:.2f} × by the library's own batch; {network}",
        ),
        Figure(
            f"batch_p99_ms/{title}",
            p99,
            "ms",
            2 * DELAY_MS + batch_ms,
            note=f"p50 {p50:.1f} ms; a batch of {GUESTS} takes the library {batch_ms:.1f} ms",
        ),
    ]


def _guests(model: Model, rows: Any, requests: int) -> tuple[float, list[float]]:
    """Seconds for one request, and the wait of each, with all guests at the same time."""
    tensor = Tensor.of(rows)
    waits: list[float] = []
    ready = threading.Barrier(GUESTS + 1)

    def guest() -> None:
        with model.init_execution_context() as context:
            own = []
            ready.wait()
            for _ in range(requests):
                started = time.perf_counter()
                context.set_input(0, tensor)
                context.compute()
                context.get_output(0)
                own.append(time.perf_counter() - started)
            waits.extend(own)

    threads = [threading.Thread(target=guest) for _ in range(GUESTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / (GUESTS * requests), waits
