"""What a type checker says of calls: ``test_typing.py`` gives this file to mypy.

Each wrong call has a comment that ignores its error. mypy reports a comment that ignores nothing.
"""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wasi_nn import (
    Call,
    ExecutionTarget,
    Guest,
    Host,
    Limits,
    Model,
    Policy,
    Preopen,
    Program,
    RunResult,
)


def pieces() -> Iterator[bytes]:
    yield b"text"


async def pieces_in_time() -> AsyncIterator[bytes]:
    yield b"text"


def right(host: Host, path: Path) -> None:
    host.add_model("net", path, "weights.bin", encoding="openvino", target="cpu", digest="sha256:0")
    host.add_model("net", path, target=ExecutionTarget.CPU, config={"threads": 1}, replace=True)
    host.remove_model("net")
    names: tuple[str, ...] = host.models
    program: Program = host.compile(path, timeout=1)
    result: RunResult = program.run(["a", *names], env={"A": "b"}, dirs={"/": path}, timeout=1.5)
    text: bytes = result.stdout
    program.run(stdin=text, stdout=sys.stdout, stderr=lambda piece: None, dirs=[Preopen(path, "/")])
    program.run(stdin=pieces(), stdout=io.BytesIO(), invoke=Call("add", (1, 2)), request="7")
    program.run(stdin=lambda most: b"", limits=Limits(timeout=1), policy=Policy(own_models=False))
    host.run(b"\0asm", dialect="auto", on_start=lambda guest: guest.interrupt(), stats=True)
    for run in program.run_many([b"one", b"two"], jobs=2):
        code: int | None = run.result.exit_code if run.result else None
        print(code)


async def right_async(host: Host, program: Program) -> RunResult:
    await host.run_async("guest.wasm", ["a"], stdin=pieces_in_time())
    return await program.run_async(timeout=1)


def right_exports(guest: Guest, model: Model) -> dict[str, np.ndarray[Any, Any]]:
    guest.call("count", *guest.put("to be or not", "malloc"))
    return model.run(np.zeros(4, np.float32))


def wrong(host: Host, program: Program, path: Path) -> None:
    host.run(path, time_out=1)  # type: ignore[call-arg]
    host.run(path, timeout="1")  # type: ignore[arg-type]
    host.run(path, "one argument", 2)  # type: ignore[call-arg, arg-type]
    host.run(path, stdin=7)  # type: ignore[arg-type]
    host.run(7)  # type: ignore[arg-type]
    program.run(env={"A": 1})  # type: ignore[dict-item]
    program.run(dirs=path)  # type: ignore[arg-type]
    program.run(limits={"timeout": 1})  # type: ignore[arg-type]
    program.run(limits=Limits(seconds=1))  # type: ignore[call-arg]
    program.run(policy=Policy(own_models="no"))  # type: ignore[arg-type]
    program.run(stdout=7)  # type: ignore[arg-type]
    program.run(invoke="add")  # type: ignore[arg-type]
    program.run(on_start=lambda: None)  # type: ignore[arg-type, misc]
    host.compile(path, 1)  # type: ignore[call-arg]
    host.add_model("net", 7)  # type: ignore[arg-type]
    host.add_model("net", path, isolation=True)  # type: ignore[arg-type]
    host.add_model("net", path, thread=1)  # type: ignore[call-arg]
    host.instantiate(path, stdin=b"")  # type: ignore[call-arg]
    host.run(path).stdout + "text"  # type: ignore[operator]


async def wrong_async(host: Host) -> None:
    await host.run_async("guest.wasm", time_out=1)  # type: ignore[call-arg]
    print(host.run_async("guest.wasm").stdout)  # type: ignore[attr-defined]
