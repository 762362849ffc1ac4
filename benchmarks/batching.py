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
from typing import Any, NamedTuple

import numpy as np

from benchmarks import models
from benchmarks.figures import Figure, per_call
from wasi_nn import Host, Model, Tensor

GUESTS = 16
DELAY_MS = 2.0
ROUNDS = 7


class Network(NamedTuple):
    """A model, the dimensions of a row, the rows of a batch, and the requests of each guest in a
    round. A convolution is computed in small batches: those of many images do not fit a cache."""

    make: Callable[[Path], Path]
    row: tuple[int, ...]
    batch: int
    requests: int


NETWORKS = {
    "perceptron": Network(models.perceptron, (models.PERCEPTRON[0],), GUESTS, 20),
    "convolution": Network(models.convolution, models.LARGE_DIMS[1:], 4, 2),
}

Direct = Callable[[Path], Callable[[Any], object]]


def figures(folder: Path) -> list[Figure]:
    """The gain of each network on each library that is installed, and the p99 of one request."""
    found = []
    for name, (package, direct) in _LIBRARIES.items():
        if find_spec(package) is None:
            print(f"batching: {name} is not measured, {package} is not installed")
            continue
        for network in NETWORKS:
            found += _figures(name, network, direct, folder)
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


def _figures(name: str, network: str, direct: Direct, folder: Path) -> list[Figure]:
    make, row, rows, requests = NETWORKS[network]
    path = make(folder)
    call = direct(path)
    one, many = (np.full((count, *row), 0.5, np.float32) for count in (1, rows))
    call(many)
    batching = {"max_batch_size": rows, "max_queue_delay_ms": DELAY_MS}
    gains, own, waits, batches = [], [], [], []
    with Host() as host:
        plain = host.load(path, encoding=name)
        batched = host.load(path, encoding=name, config={"batching": batching})
        for turn in range(ROUNDS + 1):
            single = per_call(lambda: call(one), requests)
            batch = per_call(lambda: call(many), requests)
            without, _ = _guests(plain, one, requests)
            with_batches, each = _guests(batched, one, requests)
            if turn:
                # (The first round warms up.)
                gains.append(without / with_batches)
                own.append(single * rows / batch)
                batches.append(batch)
                waits += each
    gain, library = statistics.median(gains), statistics.median(own)
    note = f"{library:.2f} × by the library's own batches of {rows}; {network}"
    if network != "perceptron":
        title = f"batch_ratio/{name}-{GUESTS}-{network}"
        return [Figure(title, gain, "×", 0.95, at_least=True, note=note)]
    batch_ms = statistics.median(batches) * 1e3
    waits.sort()
    p50, p99 = (waits[int(share * (len(waits) - 1))] * 1e3 for share in (0.5, 0.99))
    waited = f"p50 {p50:.1f} ms; a batch of {rows} takes the library {batch_ms:.1f} ms"
    return [
        Figure(f"batch_ratio/{name}-{GUESTS}", gain, "×", 0.8 * library, at_least=True, note=note),
        Figure(f"batch_p99_ms/{name}-{GUESTS}", p99, "ms", 2 * DELAY_MS + batch_ms, note=waited),
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
            # (The first one finds no guest that has computed before.)
            waits.extend(own[1:])

    threads = [threading.Thread(target=guest) for _ in range(GUESTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) / (GUESTS * requests), waits
