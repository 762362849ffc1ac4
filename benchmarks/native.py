"""Guests with OpenVINO models, here and on wasmtime's own command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from benchmarks.backends import CYCLE
from benchmarks.figures import ROOT, Figure, paired_ratio
from wasi_nn import Host
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.wasmtime import Wasmtime
from wasi_nn_conformance.places import guest

_DIMS = (1, 3, 224, 224)
_SIZE = 602_112
_FEW, _MANY = 5, 205
_ROUNDS = 5
_PROCESSES = 12
#: A layer with 14 MB of weights, as in the models that guests of OpenVINO bring.
_WIDE = (1, 1900), (1900, 1900)


def components() -> list[Figure]:
    """The time of one turn (602,112 bytes in, compute, 602,112 bytes out) of the component
    interpreter: the difference between runs with many turns and with few."""
    native = Wasmtime()
    if native.unavailable() is not None:
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = _graphs(folder, {"large": _DIMS})
        module = guest("interpreter-wit")

        def ours(turns: int) -> float:
            model = f"large=openvino:{graphs.files['large'][0]}"
            line = [sys.executable, "-m", "wasi_nn", "run", "--graph", model, str(module)]
            return _seconds(line, _script(turns))

        def theirs(turns: int) -> float:
            job = Job(module, b"")
            line = [*native.line(job, graphs, folder)]
            return _seconds(line, _script(turns), dict(native.environment(folder)))

        ratio, here, there = paired_ratio(_ROUNDS, _turn(ours), _turn(theirs))
    note = f"a turn takes {here * 1e3:.2f} ms here, {there * 1e3:.2f} ms on wasmtime's command line"
    return [Figure("component_turn_ratio/native-wasmtime", ratio, "", note=note)]


def cycles() -> list[Figure]:
    """The time of one cycle (set_input, compute, get_output) of a core module, on 4 floats and on
    602,112 bytes."""
    native = Wasmtime()
    if native.unavailable() is not None:
        return []
    figures = []
    sizes: dict[str, tuple[tuple[int, ...], int, float]] = {
        "small": ((1, 4), 3000, 2.0),
        "large": (_DIMS, 200, 0.95),
    }
    with tempfile.TemporaryDirectory() as name, Host(runtime="wasmtime") as host:
        folder = Path(name)
        graphs = _graphs(folder, {size: dims for size, (dims, _, _) in sizes.items()})
        program = host.compile(CYCLE)
        for size, (dims, turns, goal) in sizes.items():
            host.add_model(size, *graphs.files[size])
            arguments = [size, str(4 * prod(dims)), str(turns), *map(str, dims)]

            def ours(arguments: list[str] = arguments) -> bytes:
                return program.run(arguments).check().stdout

            def theirs(arguments: list[str] = arguments) -> bytes:
                line = [*native.line(Job(CYCLE, b"", args=tuple(arguments)), graphs, folder)]
                environment = {**os.environ, **native.environment(folder)}
                return subprocess.run(
                    line, check=True, stdout=subprocess.PIPE, env=environment
                ).stdout

            def cycle(run: Callable[[], bytes], turns: int = turns) -> Callable[[], float]:
                return lambda: int(run().split()[0]) * 1e-9 / turns

            ratio, here, there = paired_ratio(_ROUNDS, cycle(ours), cycle(theirs))
            note = f"{here * 1e6:.1f} µs here, {there * 1e6:.1f} µs on wasmtime's command line"
            figures.append(
                Figure(f"cycle_ratio/native-openvino-{size}", ratio, "×", goal, note=note)
            )
    return figures


def processes() -> list[Figure]:
    """The whole process, from start to exit, of a core module that loads a model of 14 MB and
    computes twice. Compiled modules are cached on both sides."""
    native = Wasmtime()
    if native.unavailable() is not None:
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = GraphSet("openvino", folder, {"wide": _perceptron(folder)})
        arguments = ["wide", str(4 * _WIDE[0][1]), "1", *map(str, _WIDE[0])]
        theirs = [*native.line(Job(CYCLE, b"", args=tuple(arguments)), graphs, folder)]
        environment = {**os.environ, **native.environment(folder)}
        model = f"wide=openvino:{graphs.files['wide'][0]}"
        command = [str(Path(sys.executable).with_name("wasi-nn")), "run", "--runtime", "wasmtime"]
        ours = [*command, "--graph", model, str(CYCLE), *arguments]
        ratio, here, there = paired_ratio(
            _PROCESSES, _process(ours, dict(os.environ)), _process(theirs, environment)
        )
    note = f"{here * 1e3:.0f} ms here, {there * 1e3:.0f} ms for wasmtime -S nn; a model of 14 MB"
    return [Figure("process_ratio/openvino", ratio, "×", 1.5, note=note)]


def _process(line: list[str], environment: dict[str, str]) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - started

    seconds()  # What is cached is cached now.
    return seconds


def _perceptron(folder: Path) -> tuple[Path, Path]:
    """y = tanh(x w), with the weights in a file of their own."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    weights = np.random.default_rng(1).standard_normal(_WIDE[1], np.float32)
    x = ops.parameter(list(_WIDE[0]), openvino.Type.f32, "x")
    x.output(0).set_names({"x"})
    y = ops.tanh(ops.matmul(x, ops.constant(weights), False, False))
    y.output(0).set_names({"y"})
    paths = folder / "wide.xml", folder / "wide.bin"
    openvino.serialize(openvino.Model([ops.result(y)], [x], "wide"), *paths)
    return paths


def _turn(run: Callable[[int], float]) -> Callable[[], float]:
    return lambda: (run(_MANY) - run(_FEW)) / (_MANY - _FEW)


def _seconds(line: list[str], script: bytes, environment: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    ended = subprocess.run(
        line,
        input=script,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    seconds = time.perf_counter() - started
    if ended.returncode or not ended.stdout.endswith(b"end\n"):
        raise RuntimeError(f"{line[0]} did not run the component: {ended.stderr.decode()[-500:]}")
    return seconds


def _script(turns: int) -> bytes:
    """A script for the interpreter (docs/conformance.md)."""
    dims = b"".join(number.to_bytes(4, "little") for number in _DIMS).hex()
    begin = [
        "buf name 5", f"put name 0 {b'large'.hex()}", "buf g 4", "buf c 4",
        "call load_by_name &name #name &g", "call init_execution_context *g &c",
        "buf x 1", f"put x 0 {b'x'.hex()}", f"buf data {_SIZE}", f"buf out {_SIZE}", "buf size 4",
        "buf dims 16", f"put dims 0 {dims}", "buf tensor 20", "ptr tensor 0 &dims",
        "ptr tensor 4 4", "put tensor 8 01000000", "ptr tensor 12 &data", f"ptr tensor 16 {_SIZE}",
    ]  # fmt: skip
    turn = [
        "call set_input *c &x #x &tensor",
        "call compute *c",
        f"call get_output *c 0 &out {_SIZE} &size",
    ]
    return ("\n".join(begin + turn * turns) + "\n").encode()


def _graphs(folder: Path, sizes: Mapping[str, tuple[int, ...]]) -> GraphSet:
    """y = x + x, for each name with its dimensions."""
    import openvino
    from openvino import opset13 as ops

    files = {}
    for name, dims in sizes.items():
        x = ops.parameter(list(dims), openvino.Type.f32, "x")
        x.output(0).set_names({"x"})
        y = ops.add(x, x)
        y.output(0).set_names({"y"})
        paths = files[name] = (folder / f"{name}.xml", folder / f"{name}.bin")
        openvino.serialize(openvino.Model([ops.result(y)], [x], name), *paths)
    return GraphSet("openvino", folder, files)
