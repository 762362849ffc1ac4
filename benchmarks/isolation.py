"""What it costs to run a model in a worker.

The same guest computes with the same model in the host's process and in its own worker, both in
one run. A load is that of a guest's own model by a new guest: it starts a worker.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.backends import ROUNDS, guest
from benchmarks.figures import ROOT, Figure, interleaved, paired_ratio
from benchmarks.subjects import ONE_THREAD, SUBJECTS
from wasi_nn import ExecutionTarget, Host, Policy

GRAPHS = ROOT / "conformance" / "graphs"
PAIRS = 24
LOADS = 7
#: The files of a small model, by the name of its backend.
MODELS = {
    "onnx": ["onnx/add.onnx"],
    "openvino": ["openvino/add.xml", "openvino/add.bin"],
    "tflite": ["tensorflowlite/add.tflite"],
    "pytorch": ["pytorch/add.pt"],
    "identity": [],
}


def figures(folder: Path) -> list[Figure]:
    """The figures of a cycle on onnxruntime, and of a load of every encoding."""
    found = []
    package, make = SUBJECTS["onnx"]
    if find_spec(package) is not None:
        small, large = make(folder)
        with Host() as host:
            for isolation in ("none", "guest"):
                host.add_model(
                    f"small-{isolation}", *small.paths, config=ONE_THREAD, isolation=isolation
                )
                host.add_model(
                    f"large-{isolation}", *large.paths, config=ONE_THREAD, isolation=isolation
                )
            apart, within, bare = interleaved(
                ROUNDS,
                guest(host, "small-guest", small, 2000),
                guest(host, "small-none", small, 2000),
                _bare_round_trip,
            )
            found.append(
                Figure(
                    "isolation_cycle_us",
                    (apart - within) * 1e6,
                    "µs",
                    60.0,
                    note=f"{apart * 1e6:.1f} µs in a worker, {within * 1e6:.1f} µs without",
                )
            )
            note = "64 bytes there and back, between two Python processes that sleep"
            found.append(Figure("isolation_floor_us", bare * 1e6, "µs", note=note))
            ratio, apart, within = paired_ratio(
                PAIRS,
                guest(host, "large-guest", large, 20),
                guest(host, "large-none", large, 20),
            )
            note = f"{apart * 1e3:.2f} ms in a worker, {within * 1e3:.2f} ms without; 602,112 bytes"
            found.append(Figure("isolation_large_ratio", ratio, "×", 1.05, note=note))
    return found + [load for name in MODELS for load in _load(name)]


def _bare_round_trip(turns: int = 2000) -> float:
    """Seconds for a message to another process and back."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        while data := theirs.recv(64):
            theirs.send(data)
        os._exit(0)
    theirs.close()
    message = bytes(64)
    started = time.perf_counter()
    for _ in range(turns):
        ours.send(message)
        ours.recv(64)
    seconds = time.perf_counter() - started
    ours.close()
    os.waitpid(child, 0)
    return seconds / turns


def _load(name: str) -> list[Figure]:
    if name in SUBJECTS and find_spec(SUBJECTS[name][0]) is None:
        return []
    model = [memoryview((GRAPHS / file).read_bytes()) for file in MODELS[name]]
    model = model or [memoryview(b"wasi-nn:identity")]
    encoding = "tensorflowlite" if name == "tflite" else name
    times = []
    with Host(policy=Policy(own_models=True)) as host:
        for _ in range(1 + LOADS):
            with host.open_session() as session:
                started = time.perf_counter()
                session.load(model, encoding, ExecutionTarget.CPU)
                times.append(time.perf_counter() - started)
    first, *later = times
    note = f"the first takes {first * 1e3:.0f} ms"
    median = statistics.median(later)
    return [Figure(f"isolation_load_ms/{encoding}", median * 1e3, "ms", 150.0, note=note)]
