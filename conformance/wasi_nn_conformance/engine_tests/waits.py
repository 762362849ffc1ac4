"""A guest that sleeps or waits for its standard input."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from wasi_nn import Guest, Host, Limits
from wasi_nn.errors import DeadlineExceeded, Interrupted
from wasi_nn.plugins import Plugins
from wasi_nn_conformance.engine_tests.common import Engine, Wat, ctrl_c

_HOUR = 3600 * 10**9
_MODULE = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  CLOCK
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; A clock's subscription at $at: its userdata is $at, too.
  (func $timer (param $at i32) (param $clock i32) (param $time i64) (param $flags i32)
    (i64.store (local.get $at) (i64.extend_i32_u (local.get $at)))
    (i32.store (i32.add (local.get $at) (i32.const 8)) (i32.const 0))
    (i32.store (i32.add (local.get $at) (i32.const 16)) (local.get $clock))
    (i64.store (i32.add (local.get $at) (i32.const 24)) (local.get $time))
    (i32.store (i32.add (local.get $at) (i32.const 40)) (local.get $flags)))
  ;; A subscription to read from (1) or to write to (2) a descriptor.
  (func $stream (param $at i32) (param $kind i32) (param $descriptor i32)
    (i64.store (local.get $at) (i64.extend_i32_u (local.get $at)))
    (i32.store (i32.add (local.get $at) (i32.const 8)) (local.get $kind))
    (i32.store (i32.add (local.get $at) (i32.const 16)) (local.get $descriptor)))
  ;; Poll the subscriptions from 0 on, and write three events and their number to stdout.
  (func $report (param $count i32)
    (drop (call $poll (i32.const 0) (i32.const 512) (local.get $count) (i32.const 608)))
    (i32.store (i32.const 900) (i32.const 512))
    (i32.store (i32.const 904) (i32.const 100))
    (drop (call $write (i32.const 1) (i32.const 900) (i32.const 1) (i32.const 1024))))
  (func (export "_start") BODY))"""
_SLEEPS = f"(call $timer (i32.const 0) (i32.const 1) (i64.const {_HOUR}) (i32.const 0))"
_BODIES = {
    "sleeps": f"{_SLEEPS} (call $report (i32.const 1))",
    "polls stdin": "(call $stream (i32.const 0) (i32.const 1) (i32.const 0))"
    "(call $report (i32.const 1))",
    "reads stdin": """(i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 9))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32)))
    (i32.store (i32.const 4) (i32.load (i32.const 32)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))""",
}


_CLOCK = """(import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))"""
_NOW = """(func $now (param $clock i32) (result i64)
    (drop (call $clock (local.get $clock) (i64.const 1) (i32.const 1000)))
    (i64.load (i32.const 1000)))"""


def _waits(body: str, clock: bool = False) -> str:
    module = _MODULE.replace("BODY", body)
    if not clock:
        return module.replace("CLOCK", "")
    return module.replace("CLOCK", _CLOCK)[:-1] + _NOW + ")"


class Waits(Engine):
    @pytest.fixture
    def typist(self) -> Iterator[int]:
        """Makes standard input a pipe that nobody writes to; its other end."""
        before = os.dup(0)
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(reader)
        try:
            yield writer
        finally:
            os.dup2(before, 0)
            os.close(before)
            os.close(writer)

    @pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES)
    def test_a_deadline_ends_a_guest_that_waits(
        self, plugins: Plugins, host: Host, wat: Wat, typist: int, body: str
    ) -> None:
        if not host.runtime.features.interrupt:
            self.needs_process()
        with Host(plugins=plugins, runtime=self.runtime, limits=Limits(timeout=0.5)) as limited:
            result = limited.run(wat(_waits(body)), stdin="inherit")
        assert isinstance(result.error, DeadlineExceeded)

    @pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES)
    def test_an_interrupt_ends_a_guest_that_waits(
        self, host: Host, wat: Wat, typist: int, body: str
    ) -> None:
        timers: list[threading.Timer] = []

        def soon(guest: Guest) -> None:
            timers.append(threading.Timer(0.3, guest.interrupt))
            timers[0].start()

        program = host.compile(wat(_waits(body)))
        result = program.run(stdin="inherit", on_start=soon)
        timers[0].join()
        assert isinstance(result.error, Interrupted)
        with ctrl_c(0.3), pytest.raises(KeyboardInterrupt):
            program.run(stdin="inherit")

    def test_a_guest_reads_what_comes_while_it_waits(
        self, host: Host, wat: Wat, typist: int
    ) -> None:
        typing = threading.Timer(0.2, os.write, (typist, b"hello"))
        typing.start()
        result = host.run(wat(_waits(_BODIES["reads stdin"])), stdin="inherit")
        typing.join()
        assert result.stdout == b"hello"

    @pytest.mark.parametrize("clock", [0, 1], ids=["realtime", "monotonic"])
    def test_a_guest_sleeps_for_a_time(self, host: Host, wat: Wat, clock: int) -> None:
        self._sleep(host, wat, clock, absolute=False)

    @pytest.mark.parametrize("clock", [0, 1], ids=["realtime", "monotonic"])
    def test_a_guest_sleeps_until_a_time(self, host: Host, wat: Wat, clock: int) -> None:
        """Python's ``time.sleep`` does, for example."""
        self._sleep(host, wat, clock, absolute=True)

    def _sleep(self, host: Host, wat: Wat, clock: int, absolute: bool) -> None:
        """The guest exits with 1 if it wakes too early. An hour is too late."""
        self.needs(host, "wasi")
        wait = 30_000_000
        start = f"(i64.add (local.get $before) (i64.const {wait}))" if absolute else ""
        body = f"""(local $before i64) (local.set $before (call $now (i32.const {clock})))
            (call $timer (i32.const 0) (i32.const {clock})
              {start or f"(i64.const {wait})"} (i32.const {int(absolute)}))
            (call $timer (i32.const 48) (i32.const 1) (i64.const {_HOUR}) (i32.const 0))
            (if (call $poll (i32.const 0) (i32.const 512) (i32.const 2) (i32.const 1020))
              (then (call $exit (i32.const 2))))
            (if (i32.ne (i32.load (i32.const 1020)) (i32.const 1))
              (then (call $exit (i32.const 3))))
            (call $exit (i64.lt_u (call $now (i32.const {clock}))
              (i64.add (local.get $before) (i64.const {wait}))))"""
        assert host.run(wat(_waits(body, clock=True))).exit_code == 0

    def test_an_output_stream_is_ready_at_once(self, host: Host, wat: Wat) -> None:
        body = f"""{_SLEEPS} (call $stream (i32.const 48) (i32.const 2) (i32.const 1))
            (call $report (i32.const 2))"""
        written = host.run(wat(_waits(body))).stdout
        # The event's userdata, errno and type, and the number of events.
        assert (written[0], written[8], written[10], written[96]) == (48, 0, 2, 1)
