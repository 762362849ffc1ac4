"""A trial: one model, and what a guest does with it. Tried in a host of its own process.

``python -m fuzz.trial FD ISOLATION`` is that process. It reads trials from stdin, makes the
calls of a guest through the core ABI, and writes what came of each to the descriptor, one JSON
object a line.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import logging
import os
import re
import resource
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from wasi_nn import Host
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.witx import Witx
from wasi_nn._abi.guard import Observer
from wasi_nn._session import failures
from wasi_nn.limits import Limits
from wasi_nn.policy import Policy
from wasi_nn.runtime import BufferMemory
from wasi_nn.types import TensorInfo, TensorType
from wasi_nn_conformance import graphs

#: WasmEdge's dialect has a number for every encoding, and an errno for every reason.
DIALECT = DIALECTS["wasmedge"]
_NUMBERS = {name: number for number, name in DIALECT.encodings.items()}
_U8 = DIALECT.tensor_types.index(TensorType.U8)
_KNOWN = {0, *DIALECT.errnos.values()}
# Bytes of address space that the host may take: less than what would disturb the machine.
_HOST_MEMORY = 8 << 30
#: What one guest may make the host keep.
_GUEST_MEMORY = 1 << 30
_MAX_TENSOR = 16 << 20
_MAX_TENSORS = 16
_MAX_PIECES = 8
_BUFFER = 1 << 20
_HEADER = struct.Struct("<I")


class Trial(NamedTuple):
    """One model's graph builders, or none for the host's own model of the encoding; and the texts
    for its inputs. Without texts, its inputs are tensors of the types and dimensions that it tells.
    ``made`` says what it was made of."""

    encoding: str
    builders: tuple[bytes, ...]
    texts: tuple[tuple[int, bytes], ...] = ()
    made: str = ""


class Verdict(NamedTuple):
    """What came of a trial.

    ``outcome`` is ``computed``, ``refused``, ``died`` (the host's process) or ``hung`` (past the
    deadline, which ended nothing). ``step`` is the last call of the guest, and ``errno`` its
    result. ``unknown`` are results that the dialect does not have, and what came out of a call as
    an exception. ``unforeseen`` are exceptions of Python that a backend did not turn into an error.
    ``peak`` is the most memory of the host in bytes, and ``late`` whether the deadline passed."""

    outcome: str
    step: str
    errno: int = 0
    reason: str = ""
    unknown: tuple[str, ...] = ()
    unforeseen: tuple[str, ...] = ()
    peak: int = 0
    late: bool = False
    seconds: float = 0.0
    threads: int = 0
    descriptors: int = 0
    resident: int = 0


def send(trial: Trial, seconds: float, pipe: IO[bytes]) -> None:
    """Write a trial, with its deadline."""
    parts = [*trial.builders, *(text for _, text in trial.texts)]
    header = json.dumps(
        {
            "encoding": trial.encoding,
            "sizes": [len(part) for part in parts],
            "texts": [index for index, _ in trial.texts],
            "seconds": seconds,
        }
    ).encode()
    pipe.write(_HEADER.pack(len(header)) + header + b"".join(parts))
    pipe.flush()


def receive(pipe: IO[bytes]) -> Iterator[tuple[Trial, float]]:
    """The trials that are written to the pipe, each with its deadline."""
    while size := pipe.read(_HEADER.size):
        header = json.loads(pipe.read(_HEADER.unpack(size)[0]))
        parts = [pipe.read(length) for length in header["sizes"]]
        split = len(parts) - len(header["texts"])
        texts = tuple(zip(header["texts"], parts[split:], strict=True))
        yield Trial(header["encoding"], tuple(parts[:split]), texts), header["seconds"]


class TrialGuest:
    """The calls of one guest, with a memory of its own, and no engine: the engines have the same
    functions, and ``calls`` makes their calls from Wasm."""

    def __init__(self, host: Host, size: int) -> None:
        self.session = host.open_session()
        self.observer = Observer()
        abi = Witx(self.session, DialectNegotiation([DIALECT]))
        self._functions = {f.name: f.call for f in abi.host_functions(self.observer)}
        self._bytes = bytearray(size)
        self._memory = BufferMemory(memoryview(self._bytes))
        self._free = 64
        self.step = ""
        self.errno = 0
        self.unknown: list[str] = []

    def call(self, name: str, *arguments: int) -> int:
        """Call a function. An errno that no guest knows, and an exception, are noted."""
        self.step = name
        try:
            self.errno = self._functions[name](self._memory, *arguments)
        except Exception as error:
            self.errno = -1
            self.unknown.append(f"{name} raised {type(error).__name__}: {error}"[:300])
        else:
            if self.errno not in _KNOWN:
                self.unknown.append(f"{name} gave {self.errno}")
        return self.errno

    def put(self, data: bytes) -> int:
        """Write bytes to free memory. Returns where."""
        at = self._free
        self._bytes[at : at + len(data)] = data
        self._free += (len(data) + 7) & ~7
        return at

    def number(self, at: int) -> int:
        """The u32 at an address."""
        return int(struct.unpack_from("<I", self._bytes, at)[0])

    def reason(self) -> str:
        """Why the last call failed, in the host's words."""
        failures = self.observer.failures
        return failures[-1].reason if failures else ""

    def play(self, trial: Trial) -> bool:
        """Load the model, compute with it and read it. Returns whether it computed."""
        pairs = [(self.put(part), len(part)) for part in trial.builders]
        if pairs:
            at = self.put(b"".join(struct.pack("<II", *pair) for pair in pairs))
            self.call("load", at, len(pairs), _NUMBERS[trial.encoding], 0, 0)
        else:
            name = trial.encoding.encode()
            self.call("load_by_name", self.put(name), len(name), 0)
        if self.errno or self.call("init_execution_context", self.number(0), 4):
            return False
        graph, context = self.number(0), self.number(4)
        computed = self._texts(context, trial) if trial.texts else self._tensors(context, graph)
        step, errno = self.step, self.errno
        self.call("finalize_execution_context", context)
        self.call("unload", graph)
        self.step, self.errno = step, errno
        return computed

    def _tensor(self, kind: int, dims: tuple[int, ...], data: bytes) -> int:
        at = self.put(struct.pack(f"<{len(dims)}I", *dims))
        head = struct.pack("<IIBxxx", at, len(dims), kind)
        return self.put(head + struct.pack("<II", self.put(data), len(data)))

    def _tensors(self, context: int, graph: int) -> bool:
        loaded = self.session.graphs[graph]
        try:
            inputs, outputs = loaded.inputs, loaded.outputs
        except Exception as error:
            self.unknown.append(f"the inputs raised {type(error).__name__}: {error}"[:300])
            return False
        for index, info in enumerate(inputs[:_MAX_TENSORS]):
            given = _example(info)
            if given is None or self.call("set_input", context, index, self._tensor(*given)):
                return False
        if self.call("compute", context):
            return False
        buffer = self.put(bytes(_BUFFER))
        for index in range(min(len(outputs), _MAX_TENSORS) or 1):
            self.call("get_output", context, index, buffer, _BUFFER, 8)
        return True

    def _texts(self, context: int, trial: Trial) -> bool:
        for index, text in trial.texts:
            self.call("set_input", context, index, self._tensor(_U8, (len(text),), text))
        computed = self.call("compute", context) == 0
        step, errno = self.step, self.errno
        buffer = self.put(bytes(_BUFFER))
        for index in range(2):
            self.call("get_output", context, index, buffer, _BUFFER, 8)
        for _ in range(_MAX_PIECES):
            if self.call("compute_single", context):
                break
            self.call("get_output_single", context, 0, buffer, _BUFFER, 8)
        self.call("fini_single", context)
        self.step, self.errno = step, errno
        return computed


def _example(info: TensorInfo) -> tuple[int, tuple[int, ...], bytes] | None:
    """The number of a type, dimensions and data that fit an input; None if there are none."""
    kind = info.type or TensorType.F32
    dims = tuple(2 if dim < 0 else dim for dim in (info.dims if info.dims is not None else (2, 2)))
    size = kind.size
    for dim in dims:
        size *= dim
    if kind not in DIALECT.tensor_types or size > _MAX_TENSOR or len(dims) > 64:
        return None
    if any(dim >= 1 << 32 for dim in dims):
        return None
    data = (struct.pack("<f", 0.5) if kind is TensorType.F32 else b"\1\0\0\0\0\0\0\0")[: kind.size]
    return DIALECT.tensor_types.index(kind), dims, data * (size // kind.size)


#: What the host says of a worker that has ended.
LOST = re.compile(r"the worker of .*? has ended: (.*)", re.S)


class _Unforeseen(logging.Handler):
    """Collects what the host logs as an error: exceptions that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines = [line.strip() for line in record.getMessage().splitlines() if line.strip()]
        # (The end of a worker is a verdict of its own.)
        if len(self.seen) < 10 and not LOST.search(lines[0]):
            self.seen.append(" | ".join([lines[0], *lines[-3:]])[:400])


def _memory(field: str) -> int:
    """A field of this process's memory, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def attempt(host: Host, trial: Trial, seconds: float, unforeseen: list[str]) -> Verdict:
    """Try a model. The deadline cancels the guest's session, as that of a run does."""
    unforeseen.clear()
    _forget_peak()
    started = time.monotonic()
    needed = sum(map(len, trial.builders)) + sum(len(text) for _, text in trial.texts)
    guest = TrialGuest(host, needed + _MAX_TENSOR * 2 + (4 << 20))
    late = threading.Event()

    def cancel() -> None:
        late.set()
        guest.session.cancel()

    timer = threading.Timer(seconds, cancel)
    timer.daemon = True
    timer.start()
    computed = False
    try:
        computed = guest.play(trial)
    except IndexError:
        pass  # The tensors fill the guest's memory.
    except Exception as error:
        guest.unknown.append(f"{guest.step}: {type(error).__name__}: {error}"[:300])
    timer.cancel()
    step, errno, reason = guest.step, guest.errno, guest.reason()
    try:
        guest.session.close()
    except Exception as error:
        guest.unknown.append(f"close raised {type(error).__name__}: {error}"[:300])
    return Verdict(
        "computed" if computed else "refused",
        step,
        errno,
        reason[:300],
        tuple(guest.unknown),
        tuple(unforeseen),
        _memory("VmHWM"),
        late.is_set(),
        time.monotonic() - started,
        threading.active_count(),
        len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        _memory("VmRSS"),
    )


def main(descriptor: int, isolation: str) -> None:
    """Try what comes, until stdin ends."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_HOST_MEMORY, _HOST_MEMORY))
    handler = _Unforeseen()
    log = logging.getLogger("wasi_nn")
    log.addHandler(handler)
    log.propagate = False
    answers = os.fdopen(descriptor, "w")
    trials = os.fdopen(os.dup(0), "rb")
    policy = Policy(
        own_models=True,
        isolation=isolation,
        unsandboxed_programs=True,
        limits=Limits(host_memory=_GUEST_MEMORY),
    )
    failures.AT_ONCE = sys.maxsize
    with Host(policy=policy) as host:
        if importlib.util.find_spec("xllamacpp") is not None:
            host.add_model("ggml", *graphs.canonical("ggml").files["tiny"])
        for trial, seconds in receive(trials):
            verdict: Any = attempt(host, trial, seconds, handler.seen)
            answers.write(json.dumps(verdict._asdict()) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
