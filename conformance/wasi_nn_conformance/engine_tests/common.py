"""What the engines' tests share: fixtures, small guests and helpers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from wasi_nn import Host, Policy
from wasi_nn.errors import Unavailable, UsageError
from wasi_nn.plugins import Plugins

Wat = Callable[[str], bytes]

WASI = """
(import "wasi_snapshot_preview1" "fd_write"
  (func $write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read"
  (func $read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
(memory (export "memory") 1)
(data (i32.const 0) "\\08\\00\\00\\00\\03\\00\\00\\00out\\0a\\40\\00\\00\\00\\03\\00\\00\\00")
"""
COMMAND = '(module (memory (export "memory") 1) (func (export "_start") {}))'
LOOP = "(loop $l (br $l))"
# Bytes that a round of `assert_flat` may take. On every engine the best of the rounds took 88 KiB
# at most. A leak of 3 KiB in each of 200 guests is above it.
_MAX_GROWTH = 512 << 10
_ROUNDS = 10


FAIL = """(module (import "test" "fail" (func $fail)) (memory (export "memory") 1)
    (func (export "_start") (call $fail)))"""


def resident() -> int:
    """Bytes of memory that this process holds. What is free goes back to the system first: compiler
    threads come and go, and each leaves the allocator a few free pieces."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Engine:
    """The engine under test, and the fixtures of its tests."""

    #: The name of the runtime, as in ``Host(runtime=…)``.
    runtime: ClassVar[str]
    #: The part of the usual number of guests that the tests of many guests run. For engines that
    #: need long to start one.
    share: ClassVar[float] = 1.0
    #: Whether another process finds the runtime. An object that a test registers by hand is not
    #: found there.
    installed: ClassVar[bool] = True

    _installed: ClassVar[list[Plugins]]

    @classmethod
    def setup_class(cls) -> None:
        cls._installed = [Plugins.installed()]

    @classmethod
    def teardown_class(cls) -> None:
        cls._installed.clear()

    @pytest.fixture
    def plugins(self) -> Plugins:
        """The installed plugins."""
        return self._installed[0]

    @pytest.fixture
    def host(self, plugins: Plugins) -> Iterator[Host]:
        """A host with the runtime. Skips the test if its engine is not available."""
        try:
            plugins.runtime(self.runtime)
        except Unavailable as reason:
            pytest.skip(str(reason))
        policy = Policy(own_models=True)
        with Host(plugins=plugins, runtime=self.runtime, policy=policy) as made:
            yield made

    @pytest.fixture
    def wat(self) -> Wat:
        """Gives the bytes of a module in the text format."""
        wasmtime = pytest.importorskip("wasmtime", reason="wasmtime assembles the guests")
        return lambda text: bytes(wasmtime.wat2wasm(text))

    @pytest.fixture
    def identity_model(self, tmp_path: Path) -> Callable[..., Path]:
        """Makes models whose outputs are their inputs: ``identity_model("name", stream=3)``."""

        def make(name: str, **settings: object) -> Path:
            path = tmp_path / f"{name}.identity"
            path.write_text(f"wasi-nn:identity {json.dumps(settings)}\n")
            return path

        return make

    def times(self, many: int) -> int:
        """The engine's share of ``many`` guests."""
        return max(8, int(many * self.share))

    def needs(self, host: Host, feature: str) -> None:
        """Skip the test unless the runtime declares the feature."""
        if not getattr(host.runtime.features, feature):
            pytest.skip(f"{self.runtime}, as it is installed here, has no {feature}")

    def needs_process(self) -> None:
        """Skip the test unless another process finds the runtime."""
        if not self.installed:
            pytest.skip("another process does not find the runtime")


def assert_flat(run: Callable[[int], None], times: int) -> None:
    """Fail if memory or open files grow in each of many rounds. An allocator takes pieces in the
    first few; a leak takes one in every round."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory a process has")
    run(times // 4)
    grown: list[tuple[int, int]] = []
    for _ in range(_ROUNDS):
        before, open_before = resident(), descriptors()
        run(times)
        grown.append((resident() - before, descriptors() - open_before))
        if grown[-1][0] < _MAX_GROWTH and grown[-1][1] <= 0:
            return
    pytest.fail(f"memory (in bytes) and open files grew by {grown}")


@contextlib.contextmanager
def may_refuse(says: str) -> Iterator[None]:
    """A runtime may refuse what its engine cannot do, with a ``UsageError`` that says so."""
    try:
        yield
    except UsageError as refused:
        if says not in str(refused):
            raise


@contextlib.contextmanager
def skip_if_refused(says: str = "") -> Iterator[None]:
    """Skip the test if the runtime refuses what its engine cannot do."""
    try:
        yield
    except UsageError as refused:
        if says not in str(refused):
            raise
        pytest.skip(str(refused))


@contextlib.contextmanager
def signalled(number: int, handler: Callable[..., object], seconds: float = 0.2) -> Iterator[None]:
    """Handle a signal with ``handler``, and send it to this process after ``seconds``."""
    before = signal.signal(number, handler)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(number, before)


def ctrl_c(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Ctrl-C after ``seconds``."""
    return signalled(signal.SIGINT, signal.default_int_handler, seconds)


def together(works: list[Callable[[], None]]) -> None:
    """Run each function in a thread of its own, and wait for them."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
