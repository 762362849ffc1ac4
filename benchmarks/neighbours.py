"""A small inference beside guests that misbehave.

Many guests share one host and one named model. The figures are the waits of one small inference,
alone and beside each neighbour, in rounds that alternate. A neighbour runs in the same process, as
in a service; the time that it takes from the processor is part of the figure.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from benchmarks.figures import ROOT, Figure
from wasi_nn import ExecutionTarget, Host, Policy
from wasi_nn.errors import WasiNnError
from wasi_nn.types import Tensor, TensorType

GRAPHS = ROOT / "conformance" / "graphs"
ROUNDS, CYCLES = 6, 400
_SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'

Neighbour = Callable[[Host, Callable[[], bool]], None]


def figures(folder: Path) -> list[Figure]:
    """p50 and p99 of a small inference alone and beside each neighbour, and the ratio of p99."""
    if find_spec("onnxruntime") is None:
        print("neighbours: not measured, onnxruntime is not installed")
        return []
    with Host(policy=Policy(own_models=True)) as host:
        host.add_model("small", GRAPHS / "onnx" / "add.onnx", config={"threads": 1})
        found: list[Figure] = []
        for name, neighbour in _neighbours(host, folder):
            alone: list[float] = []
            beside: list[float] = []
            for _ in range(ROUNDS):
                alone += _waits(host)
                with _running(host, neighbour):
                    beside += _waits(host)
            found += _described(name, sorted(alone), sorted(beside))
        return found


def _described(name: str, alone: list[float], beside: list[float]) -> list[Figure]:
    def at(values: list[float], share: float) -> float:
        return values[int(share * (len(values) - 1))] * 1e3

    note = (
        f"p50 {at(beside, 0.5):.3f} ms, p99 {at(beside, 0.99):.3f} ms; "
        f"alone {at(alone, 0.5):.3f} ms, {at(alone, 0.99):.3f} ms"
    )
    ratio = at(beside, 0.99) / at(alone, 0.99)
    return [Figure(f"neighbour_p99_ratio/{name}", ratio, "×", 1.3, note=note)]


def _waits(host: Host) -> list[float]:
    tensor = Tensor(TensorType.F32, (1, 4), memoryview(bytes(16)))
    waits = []
    with host.open_session() as session:
        context = session.contexts[session.init_execution_context(session.load_by_name("small"))]
        for _ in range(CYCLES):
            started = time.perf_counter()
            context.set_input(0, tensor)
            context.set_input(1, tensor)
            context.compute()
            context.get_output(0)
            waits.append(time.perf_counter() - started)
            # A service answers one request after the other, and others run meanwhile.
            time.sleep(0.0005)
    return waits


@contextmanager
def _running(host: Host, neighbour: Neighbour) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=neighbour, args=(host, ended.is_set))
    thread.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        ended.set()
        thread.join()


def _neighbours(host: Host, folder: Path) -> Iterator[tuple[str, Neighbour]]:
    if find_spec("wasmtime") is not None:
        import wasmtime

        program = host.compile(wasmtime.wat2wasm(_SPIN))

        def spin(host: Host, ended: Callable[[], bool]) -> None:
            while not ended():
                _tolerated(lambda: program.run(timeout=1))

        yield "spin", spin
    hostile = bytearray((GRAPHS / "tensorflowlite" / "add.tflite").read_bytes())
    hostile[60:64] = b"\xff" * 4

    def load(host: Host, ended: Callable[[], bool]) -> None:
        while not ended():
            with host.open_session() as session:
                _tolerated(lambda: _infer(session, bytes(hostile), "tensorflowlite"))

    if find_spec("ai_edge_litert") is not None:
        yield "hostile-loads", load
    if find_spec("torch") is not None:
        endless = _endless()

        def compute(host: Host, ended: Callable[[], bool]) -> None:
            while not ended():
                with host.open_session() as session:
                    timer = threading.Timer(1, session.cancel)
                    timer.start()
                    _tolerated(lambda: _infer(session, endless, "pytorch"))
                    timer.cancel()

        yield "endless-compute", compute
    if find_spec("xllamacpp") is not None or find_spec("llama_cpp") is not None:
        host.add_model("llm", GRAPHS / "ggml" / "tiny.gguf")

        def stream(host: Host, ended: Callable[[], bool]) -> None:
            while not ended():
                # The text ends when the model's context is full.
                with (
                    suppress(WasiNnError),
                    host.model("llm").init_execution_context() as context,
                ):
                    context.set_input("prompt", "a b c")
                    for _ in context.stream():
                        if ended():
                            break

        yield "text-stream", stream


def _tolerated(work: Callable[[], object]) -> None:
    # That the neighbour fails is the point.
    with suppress(WasiNnError):
        work()


def _infer(session: object, model: bytes, encoding: str) -> None:
    from wasi_nn._session.session import Session

    assert isinstance(session, Session)
    graph = session.load([memoryview(model)], encoding, ExecutionTarget.CPU)
    context = session.contexts[session.init_execution_context(graph)]
    context.set_input(0, Tensor(TensorType.F32, (1, 4), memoryview(bytes(16))))
    context.compute()


def _endless() -> bytes:
    import torch

    class Endless(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while bool(x.sum() < 1):
                x = x * 1
            return x

    data = io.BytesIO()
    torch.jit.save(torch.jit.script(Endless()), data)
    return data.getvalue()
