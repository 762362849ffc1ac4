"""The readers that `python -m fuzz decoders` gives bytes to."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from wasi_nn.errors import NnError, UsageError
from wasi_nn_conformance import graphs
from wasi_nn_conformance.places import GUESTS

Read = Callable[[bytes], object]
_MESSAGE = Struct("<BII")


class Target(NamedTuple):
    """A reader. ``make`` imports it. ``allowed`` is what it may raise, and ``package`` what it
    needs."""

    make: Callable[[], Read]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...] = (NnError, UsageError)
    package: str = ""

    def missing(self) -> str:
        """Why it cannot be tried; empty if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return ""

    def prepare(self) -> None:
        """Import the reader."""
        if self.make not in _made:
            _made[self.make] = self.make()

    def __call__(self, data: bytes) -> None:
        """Read bytes. Raises what the reader must not raise."""
        self.prepare()
        with contextlib.suppress(*self.allowed):
            _made[self.make](data)


_made: dict[Any, Read] = {}


def _guests() -> list[bytes]:
    return [path.read_bytes()[:20000] for path in sorted(GUESTS.glob("*/*.wasm"))]


def _models() -> list[bytes]:
    found = [path for encoding in graphs.SUFFIXES for path in _files(encoding)]
    return [path.read_bytes()[:4096] for path in found]


def _files(encoding: str) -> list[Path]:
    return [path for files in graphs.canonical(encoding).files.values() for path in files]


def _of(encoding: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes()[:8192] for path in _files(encoding)]


def _module() -> Read:
    from wasi_nn._abi.core.detection import detect_dialect
    from wasi_nn.wasm import module

    def read(data: bytes) -> None:
        found = module.parse(data)
        detect_dialect(found)
        module.no_command(found)

    return read


def _component() -> Read:
    from wasi_nn.wasm import component

    def read(data: bytes) -> None:
        component.no_command(component.parse(data))

    return read


def _recognition() -> Read:
    from wasi_nn._models import recognition
    from wasi_nn.encodings import recognise

    def read(data: bytes) -> None:
        recognise(data)
        view = memoryview(data)
        recognition.undetected([view])
        recognition.model([view], ("onnx",))
        recognition.guest(view)

    return read


def _config() -> Read:
    from wasi_nn.backend import config

    return lambda data: config.parse(data.decode(errors="replace"))


def _policy() -> Read:
    from wasi_nn.policy import Policy

    def read(data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            Policy.read(file.name)

    return read


def _policies() -> list[bytes]:
    return [
        b'own-models = true\nencodings = ["onnx", "ggml"]\nmodels = ["net"]\ntargets = ["cpu"]\n',
        b'isolation = "guest"\n[pins]\nnet = "sha256:' + b"0" * 64 + b'"\n',
        b'[isolation]\nonnx = "shared"\nnet = "none"\n',
        b'[limits]\nmemory = "1 GiB"\ntimeout = "10 s"\ngraphs = 4\nfuel = 1\noutput = 99\n',
    ]


def _onnx_files() -> Read:
    from wasi_nn.backend import onnx_files

    return onnx_files.has_external_data


def _external() -> list[bytes]:
    """ONNX models, some with a tensor in a file (the word and the field are what is looked for)."""
    tensor = b"\x0a\x08location\x12\x05w.bin"
    entry = b"\x6a" + bytes([len(tensor)]) + tensor
    held = b"\x2a" + bytes([len(entry)]) + entry
    graph = b"\x3a" + bytes([len(held)]) + held
    return [*_of("onnx")(), b"\x08\x08" + graph]


def _layout() -> Read:
    from wasi_nn_tflite.layout import layout

    return lambda data: [layout(data, subgraph) for subgraph in (0, 1)]


def _gguf() -> Read:
    from wasi_nn_ggml.guard import gguf

    def read(data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            gguf.check(file.fileno())

    return read


def _worker() -> Read:
    """What the host reads from a worker: messages, and what is in them."""
    from wasi_nn._worker import description, messages
    from wasi_nn._worker.process import GARBLED

    memory = {1: memoryview(bytes(9000))}

    def body(data: memoryview) -> None:
        for parse in (
            lambda: messages.unpack_outputs(data, memory.get),
            lambda: description.read(data),
            lambda: description.generation(messages.GENERATION.unpack_from(data)),
        ):
            # The host ends a worker for these.
            with contextlib.suppress(*GARBLED):
                parse()

    def read(data: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(data[:65536])
            theirs.close()
            channel = messages.Channel(ours)
            # The end of the connection ends this.
            while True:
                body(channel.receive()[2])

    return read


def _messages() -> list[bytes]:
    info = {
        "name": "x",
        "type": "F32",
        "dims": [1, 4],
        "native_type": "",
        "quantization": None,
        "aliases": [],
    }
    described = {
        "inputs": [info],
        "outputs": [info],
        "concurrent_contexts": True,
        "untyped_bytes": False,
        "choices": {"signature": ["a"]},
        "memory": None,
    }
    bodies = [
        json.dumps(described).encode(),
        json.dumps({"error": "RuntimeFailure", "text": "no"}).encode(),
        Struct("<IBBQ2Q").pack(0, 1, 2, 16, 1, 4) + bytes(16),
        Struct("<IBBQ").pack(1, 4, 0, 5000),
    ]
    return [_MESSAGE.pack(32, 0, len(body)) + body for body in bodies]


TARGETS = {
    "module": Target(_module, _guests),
    "component": Target(_component, _guests),
    "recognition": Target(_recognition, _models),
    "config": Target(_config, lambda: [b'{"threads": 2, "a": [1, {"b": null}]}', b"", b"[1e999]"]),
    "policy": Target(_policy, _policies),
    "onnx-files": Target(_onnx_files, _external),
    "tflite-layout": Target(_layout, _of("tensorflowlite")),
    "gguf": Target(_gguf, _of("ggml")),
    "worker": Target(_worker, _messages, (EOFError, ValueError)),
}
