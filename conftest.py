"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wasi_nn import Host, Policy
from wasi_nn._abi.core.common import CoreAbi
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn._abi.guard import Observer
from wasi_nn._session.session import Session
from wasi_nn.plugins import Plugins, availability
from wasi_nn.runtime import BufferMemory

# The engines that every step of CI has (Node.js builds the guests that are components, and make
# browser installs a browser), those whose library is named, and those that a step says it has put
# in place.
_CI_ENGINES = {
    "wasmtime",
    "v8",
    "browser",
    *({"wasmer"} if sys.version_info < (3, 11) else ()),
    *(
        name
        for name in ("wasmer", "wamr", "wasmedge")
        if os.environ.get(f"WASI_NN_LIB{'IWASM' if name == 'wamr' else name.upper()}")
    ),
    *os.environ.get("WASI_NN_CI_ENGINES", "").split(),
}


def needs_engine(runtime: str) -> None:
    """Skip the test module, with the reason, if an engine is not available. In CI, fail if it is
    one that CI installs."""
    found = availability(next(r for r in Plugins.installed().runtimes if r.name == runtime))
    if not found.usable:
        if runtime in _CI_ENGINES and os.environ.get("CI"):
            pytest.fail(f"{runtime} must be installed in CI: {found.detail}", pytrace=False)
        pytest.skip(f"{runtime} is unavailable: {found.detail}", allow_module_level=True)


#: The tests of the repositories that ``wasi-nn new`` writes.
collect_ignore_glob = ["core/wasi_nn/_templates/*"]


#: Holds the reason why `make` has left torch out (tools/torch_extra.py).
_NO_TORCH = Path(sys.prefix) / ".no-torch"


def needs(package: str) -> Any:
    """The package. If it is missing, skip with the reason, or fail if CI installs it."""
    # `make test310` installs only some of the extras.
    extras = {"ai_edge_litert", "huggingface_hub", "openvino", "s3fs", "torch"}
    extras |= {"lightgbm", "mypy", "skops"}
    left_out = package in extras and sys.version_info < (3, 11)
    why = ""
    if package == "torch" and _NO_TORCH.exists():
        left_out, why = True, f" ({_NO_TORCH.read_text()})"
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if os.environ.get("CI") and not left_out:
            pytest.fail(f"{package} must be installed in CI: {error}", pytrace=False)
        pytest.skip(f"{package} is not installed: {error}{why}", allow_module_level=True)


def run_python(
    code: str, *arguments: str | Path, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a Python of its own, and return what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


#: What takes long to import, so tests of other things hide it.
LIBRARIES = ("torch", "openvino", "onnxruntime", "ai_edge_litert")


def hide(folder: Path, *modules: str) -> None:
    """Let these modules be missing in each Python that has the folder in its PYTHONPATH."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name in {modules!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )


ROOT = Path(__file__).resolve().parent
IDENTITY = "wasi-nn:identity"
# Copies its standard input to its standard output. Ends with a trap for an empty one.
CAT = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $all i32)
    (loop $next
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (local.set $all (i32.add (local.get $all) (i32.load (i32.const 8))))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br_if $next (i32.load (i32.const 8))))
    (if (i32.eqz (local.get $all)) (then unreachable))))"""


def pytest_configure() -> None:
    # Tests start hundreds of processes. Without byte code, each compiles the package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # The models of whoever runs the tests are not part of them.
    os.environ["WASI_NN_MODELS_FILE"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
        # (The engines' common tests are installed, where no mark is registered.)
        if "leaks_over_many" in item.name:
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _sigint_is_enabled() -> Iterator[None]:
    """Let tests and their processes receive SIGINT. A shell without job control ignores it for
    each job in the background, and processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def guests() -> Path:
    """The folder of the checked-in guests."""
    return ROOT / "conformance" / "guests"


@pytest.fixture
def wat() -> Callable[[str], bytes]:
    """Wasm bytes of a module in the text format."""
    wasmtime = needs("wasmtime")
    return lambda text: bytes(wasmtime.wat2wasm(text))


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """The installed plugins, found once."""
    return Plugins.installed()


@pytest.fixture
def host(plugins: Plugins) -> Iterator[Host]:
    """A host with nothing registered, whose guests may load models of their own."""
    with Host(plugins=plugins, policy=Policy(own_models=True)) as made:
        yield made


@pytest.fixture
def identity_model(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes identity models: ``identity_model("name", stream=3)``."""
    import json

    def make(name: str = "echo", **settings: Any) -> Path:
        path = tmp_path / f"{name}.identity"
        path.write_text(f"{IDENTITY} {json.dumps(settings)}\n")
        return path

    return make


class Caller:
    """Calls an ABI's functions as a guest would, with its own linear memory.

    This is not an engine: the memory is a bytearray, and the functions are called directly, so that
    each rule can be tested alone. The runtimes' tests make the same calls from Wasm.
    """

    def __init__(self, host: Host, dialects: tuple[str, ...], size: int = 1 << 16) -> None:
        self.session: Session = host.open_session()
        self.reading = DialectNegotiation([DIALECTS[name] for name in dialects])
        self.observer = Observer()
        kind: type[CoreAbi] = WamrLegacy if dialects == ("wamr-legacy",) else Witx
        functions = kind(self.session, self.reading).host_functions(self.observer)
        self.functions = {function.name: function.call for function in functions}
        self.bytes = bytearray(size)
        self.memory: BufferMemory | None = BufferMemory(memoryview(self.bytes))
        self._free = 1024

    def __call__(self, function: str, *arguments: int) -> int:
        result: int = self.functions[function](self.memory, *arguments)
        return result

    @property
    def reason(self) -> str:
        """Why the last call failed."""
        return self.observer.failures[-1].reason

    def put(self, data: bytes) -> int:
        """Write bytes to free memory and return their address."""
        at = self._free
        self.bytes[at : at + len(data)] = data
        self._free += (len(data) + 7) & ~7
        return at

    def u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.bytes, at)[0])

    def tensor(self, kind: int, dims: list[int], data: bytes, padding: bytes = b"\0\0\0") -> int:
        """Write a 20-byte tensor record and return its address."""
        dims_at = self.put(struct.pack(f"<{len(dims)}I", *dims))
        data_at = self.put(data)
        head = struct.pack("<IIB", dims_at, len(dims), kind) + padding
        return self.put(head + struct.pack("<II", data_at, len(data)))

    def builders(self, *models: bytes) -> int:
        """Write an array of graph builders and return its address."""
        pairs = b"".join(struct.pack("<II", self.put(model), len(model)) for model in models)
        return self.put(pairs)

    def load(self, model: bytes = IDENTITY.encode(), encoding: int = 5, target: int = 0) -> int:
        """Load a graph from bytes and return its handle. An errno fails the test."""
        out = self.put(b"\xff" * 4)
        assert self("load", self.builders(model), 1, encoding, target, out) == 0, self.reason
        return self.u32(out)

    def context(self, model: bytes = IDENTITY.encode()) -> int:
        """Load a graph and return the handle of a context of it."""
        out = self.put(b"\xff" * 4)
        assert self("init_execution_context", self.load(model), out) == 0, self.reason
        return self.u32(out)

    def output(
        self, context: int, index: int = 0, size: int = 4096, name: str = "get_output"
    ) -> Any:
        """Return the bytes of an output, or the errno."""
        buffer, out = self.put(bytes(size)), self.put(b"\xff" * 4)
        errno = self(name, context, index, buffer, size, out)
        return errno or bytes(self.bytes[buffer : buffer + self.u32(out)])


@pytest.fixture
def caller(host: Host) -> Iterator[Callable[..., Caller]]:
    """A function that makes callers: ``caller("witx")``. Without a name, a plain guest's
    candidates."""
    made: list[Caller] = []

    def make(*dialects: str, size: int = 1 << 16) -> Caller:
        made.append(Caller(host, dialects or ("witx", "witx-2022", "wamr-2.1"), size))
        return made[-1]

    yield make
    for one in made:
        one.session.close()
