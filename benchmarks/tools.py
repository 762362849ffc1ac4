"""A tool's call beside a Python process that prints one line, as agents start for their tools.

``python -m benchmarks.tools`` prints only these figures.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.figures import OUTPUT, ROOT, Figure, paired_ratio, per_call, report
from wasi_nn import Host
from wasi_nn.tools import Tool

ROUNDS = 11
CALLS = 50
GUEST = ROOT / "conformance" / "guests" / "hello" / "hello.wasm"
PYTHON = [sys.executable, "-I", "-c", "print('hello, wasi-nn')"]


def figures() -> list[Figure]:
    """The first call, with its host and compiling, and a later one: each is a fresh guest."""
    made = [_figure("tool_first_call_ratio", _first, 1.0)]
    with Host(runtime="wasmtime") as host:
        tool = Tool(host, GUEST, input="arguments")
        tool.prepare()
        later = _figure("tool_call_ratio", lambda: per_call(lambda: _called(tool), CALLS), 0.1)
    return [*made, later]


def _figure(name: str, ours: Callable[[], float], goal: float) -> Figure:
    ratio, one, other = paired_ratio(ROUNDS, ours, _python)
    note = f"{one * 1e3:.2f} ms; a Python process takes {other * 1e3:.1f} ms"
    return Figure(name, ratio, "×", goal, note=note)


def _first() -> float:
    started = time.perf_counter()
    with Host(runtime="wasmtime") as host:
        _called(Tool(host, GUEST, input="arguments"))
    return time.perf_counter() - started


def _called(tool: Tool) -> None:
    if tool.call().check().text != "hello, wasi-nn":
        raise RuntimeError("the guest says something else")


def _python() -> float:
    started = time.perf_counter()
    subprocess.run(PYTHON, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    report(figures(), OUTPUT.with_name("bench-tools.json"))
