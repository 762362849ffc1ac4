"""What the engines' tests share: little guests, and the host with the engine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from wasi_nn import Host
from wasi_nn.errors import (
    UsageError,
)
from wasi_nn.plugins import Plugins

Wat = Callable[[str], bytes]

GUESTS = Path(__file__).resolve().parent.parent / "guests"
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
# Bytes that a round of `assert_flat` may take. Of three rounds the best took 88 KiB at most, on any
# engine; 3 KiB lost in each of 200 guests are above it.
_FLAT = 512 << 10


FAIL = """(module (import "test" "fail" (func $fail)) (memory (export "memory") 1)
    (func (export "_start") (call $fail)))"""


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Engine:
    """The engine under test; ``runtime`` names it."""

    runtime: ClassVar[str]
    #: How many guests a test of many runs, for an engine that starts a process for each: a part.
    share: ClassVar[float] = 1.0
    #: Whether a process of its own can find it; a stand-in that lives in a test's module cannot.
    installed: ClassVar[bool] = True

    def times(self, many: int) -> int:
        """As many as the engine's share of it."""
        return max(8, int(many * self.share))

    @pytest.fixture
    def host(self, plugins: Plugins) -> Iterator[Host]:
        with Host(plugins=plugins, runtime=self.runtime) as made:
            yield made

    def needs(self, host: Host, feature: str) -> None:
        if not getattr(host.runtime.features, feature):
            pytest.skip(f"{self.runtime}, as it is installed here, has no {feature}")


def assert_flat(run: Callable[[int], None], times: int) -> None:
    """Memory and open files stay as they are. An allocator may take a piece once in a while; a leak
    takes one in every round."""
    run(times // 4)
    grown: list[tuple[int, int]] = []
    for _ in range(3):
        before, open_before = resident(), descriptors()
        run(times)
        grown.append((resident() - before, descriptors() - open_before))
        if grown[-1][0] < _FLAT and grown[-1][1] <= 0:
            return
    pytest.fail(f"bytes and open files grew by {grown}")


@contextlib.contextmanager
def may_refuse(says: str) -> Iterator[None]:
    """What an engine cannot do, its adapter has to refuse in so many words."""
    try:
        yield
    except UsageError as refused:
        if says not in str(refused):
            raise


@contextlib.contextmanager
def pressed(seconds: float) -> Iterator[None]:
    """Ctrl-C, after a while, as the main thread hears it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
