"""Standard input from a file, an iterable or a callable."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from wasi_nn import Host
from wasi_nn.errors import DeadlineExceeded, Interrupted, UsageError
from wasi_nn_conformance.engine_tests.common import Engine, Wat

# Writes what it reads, until there is no more, with one call for each read.
CAT = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (block $end (loop $next
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 60000))
    (br_if $end (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
    (br_if $end (i32.eqz (i32.load (i32.const 4))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (br $next)))))"""


class Feeds(Engine):
    def test_stdin_comes_from_files_iterables_and_callables(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(CAT))
        many = bytes(range(256)) * 1200
        pieces = [b"one ", bytearray(b"two "), memoryview(b"three")]
        left: list[Any] = [b"from ", "a call", b""]
        asked: list[int] = []

        def call(size: int) -> bytes:
            asked.append(size)
            return left.pop(0)  # type: ignore[no-any-return]

        for stdin, written in (
            (io.BytesIO(many), many),
            (io.StringIO("gr\u00fc\u00df"), "gr\u00fc\u00df".encode()),
            ([many, many], 2 * many),
            (iter(pieces), b"one two three"),
            ([b"", b"after nothing", b""], b"after nothing"),
            (call, b"from a call"),
            ([], b""),
        ):
            assert program.run(stdin=stdin).check().stdout == written  # type: ignore[arg-type]
        assert min(asked) > 0
        assert not left

    def test_a_source_is_asked_when_the_guest_has_read(self, host: Host, wat: Wat) -> None:
        """A question may follow from the answer before it."""
        written = threading.Condition()
        seen = bytearray()

        def take(piece: bytes) -> None:
            with written:
                seen.extend(piece)
                written.notify_all()

        def talk() -> Iterator[bytes]:
            for number in range(3):
                question = b"question %d " % number
                yield question
                with written:
                    assert written.wait_for(lambda: seen.endswith(question), 30)  # noqa: B023

        host.run(wat(CAT), stdin=talk(), stdout=take).check()
        assert seen == b"question 0 question 1 question 2 "

    def test_a_guest_that_waits_for_a_source_can_be_stopped(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        program = host.compile(wat(CAT))
        released = threading.Event()

        def wait(size: int) -> bytes:
            released.wait(60)
            return b""

        begun = time.monotonic()
        result = program.run(stdin=wait, timeout=3)
        assert isinstance(result.error, DeadlineExceeded)
        timers: list[threading.Timer] = []

        def soon(guest: Any) -> None:
            timers.append(threading.Timer(0.3, guest.interrupt))
            timers[0].start()

        result = program.run(stdin=wait, on_start=soon)
        timers[0].join()
        assert isinstance(result.error, Interrupted)
        assert time.monotonic() - begun < 50
        released.set()

    def test_what_a_source_raises_ends_the_guest(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(CAT))

        def fail() -> Iterator[bytes]:
            yield b"first"
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            program.run(stdin=fail())
        with pytest.raises(TypeError, match="stdin gave 7, and must give bytes"):
            program.run(stdin=[7])  # type: ignore[list-item]
        for wrong in ("text", 7, object()):
            with pytest.raises(UsageError, match="stdin must be"):
                program.run(stdin=wrong)  # type: ignore[arg-type]

    def test_a_guest_need_not_read_its_input(self, host: Host, wat: Wat) -> None:
        ended = threading.Event()

        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(100_000)
            finally:
                ended.set()

        program = host.compile(
            wat('(module (memory (export "memory") 1) (func (export "_start")))')
        )
        assert program.run(stdin=endless()).exit_code == 0
        # The thread lets go of the source.
        assert ended.wait(30)
