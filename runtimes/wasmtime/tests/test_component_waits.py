"""Components that sleep, poll, or wait for their standard input."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from wasi_nn import Host
from wasi_nn.errors import DeadlineExceeded, GuestTrap, Interrupted, LimitExceeded
from wasi_nn_conformance.engine_tests.common import ctrl_c

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")

from wasi_nn_wasmtime import strand  # noqa: E402

_COMPONENT = """(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type $e (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (alias outer 1 $error-type (type $ee)) (export "error" (type $er (eq $ee)))
    (type $v (variant (case "last-operation-failed" (own $er)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $v)))
    (export "[method]input-stream.blocking-read" (func (param "self" (borrow $in))
      (param "len" u64) (result (result (list u8) (error $stream-error)))))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $out))
      (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "input-stream" (type $input))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input (type $i)) (export "input-stream" (type $in (eq $i)))
    (export "get-stdin" (func (result (own $in))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $o)) (export "output-stream" (type $out (eq $o)))
    (export "get-stdout" (func (result (own $out))))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $q)) (export "pollable" (type $p (eq $q)))
    (type $n u64) (export "duration" (type $d (eq $n)))
    (export "subscribe-duration" (func (param "when" $d) (result (own $p))))))
  (core module $memory
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
  (core instance $libc (instantiate $memory))
  (alias core export $libc "memory" (core memory $bytes))
  (alias core export $libc "realloc" (core func $realloc))
  (alias export $poll "[method]pollable.block" (func $block))
  (alias export $poll "poll" (func $poll-all))
  (alias export $streams "[method]input-stream.blocking-read" (func $read))
  (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
  (alias export $stdin "get-stdin" (func $get-stdin))
  (alias export $stdout "get-stdout" (func $get-stdout))
  (alias export $clock "subscribe-duration" (func $sleep))
  (core func $block (canon lower (func $block)))
  (core func $poll (canon lower (func $poll-all) (memory $bytes) (realloc $realloc)))
  (core func $read (canon lower (func $read) (memory $bytes) (realloc $realloc)))
  (core func $write (canon lower (func $write) (memory $bytes)))
  (core func $stdin (canon lower (func $get-stdin)))
  (core func $stdout (canon lower (func $get-stdout)))
  (core func $sleep (canon lower (func $sleep)))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "wasi" "block" (func $block (param i32)))
    (import "wasi" "poll" (func $poll (param i32 i32 i32)))
    (import "wasi" "read" (func $read (param i32 i64 i32)))
    (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
    (import "wasi" "stdin" (func $stdin (result i32)))
    (import "wasi" "stdout" (func $stdout (result i32)))
    (import "wasi" "sleep" (func $sleep (param i64) (result i32)))
    (data (i32.const 64) "awake")
    START
    (func $say (param i32 i32)
      (call $write (call $stdout) (local.get 0) (local.get 1) (i32.const 128)))
    (func (export "run") (result i32) RUN (i32.const 0)))
  (core instance $m (instantiate $main (with "libc" (instance $libc))
    (with "wasi" (instance (export "block" (func $block)) (export "poll" (func $poll))
      (export "read" (func $read)) (export "write" (func $write)) (export "stdin" (func $stdin))
      (export "stdout" (func $stdout)) (export "sleep" (func $sleep))))))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))"""
_HOUR = 3600 * 10**9
_AWAKE = "(call $say (i32.const 64) (i32.const 5))"
_READS = """(call $read (call $stdin) (i64.const 100) (i32.const 32))
  (call $say (i32.load (i32.const 36)) (i32.load (i32.const 40)))"""
_WAITS = {
    "sleeps": f"(call $block (call $sleep (i64.const {_HOUR}))) {_AWAKE}",
    "polls": f"""(i32.store (i32.const 0) (call $sleep (i64.const {_HOUR})))
      (call $poll (i32.const 0) (i32.const 1) (i32.const 32)) {_AWAKE}""",
}


def component(run: str, start: str = "") -> str:
    return _COMPONENT.replace("RUN", run).replace("START", start)


def compiled(host: Host, run: str, start: str = ""):
    return host.compile(bytes(wasmtime.wat2wasm(component(run, start))))


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(runtime="wasmtime") as host:
        yield host


def python(program: str, text: str) -> subprocess.Popen[str]:
    """A program that runs the component ``text``, as ``wasm``, and whose input nobody writes.
    (wasmtime has one standard input for all guests: a guest that was left still reads there.)"""
    start = (
        "import os, sys, wasmtime; from wasi_nn import Host\n"
        "wasm = bytes(wasmtime.wat2wasm(sys.argv[1])); host = Host(runtime='wasmtime')\n"
        "run = host.compile(wasm).run; print('ready', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start + program, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def settle() -> None:
    """Wait until what was left behind has ended."""
    until = time.monotonic() + 10
    while any(thread.is_alive() for thread in strand._left) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guests that sleep for an hour are not the next test's."""
    monkeypatch.setattr(strand, "_left", set())


@pytest.mark.parametrize("body", _WAITS.values(), ids=_WAITS)
def test_a_deadline_ends_a_component_that_waits(host: Host, body: str) -> None:
    program = compiled(host, body)
    result = program.run(timeout=0.3)
    assert isinstance(result.error, DeadlineExceeded)
    assert result.stdout == b""


@pytest.mark.parametrize("body", _WAITS.values(), ids=_WAITS)
def test_an_interrupt_ends_a_component_that_waits(host: Host, body: str) -> None:
    program = compiled(host, body)
    timers: list[threading.Timer] = []

    def soon(guest) -> None:
        timers.append(threading.Timer(0.3, guest.interrupt))
        timers[0].start()

    result = program.run(on_start=soon)
    timers[0].join()
    assert isinstance(result.error, Interrupted)
    with ctrl_c(0.3), pytest.raises(KeyboardInterrupt):
        program.run()


def test_a_component_that_waits_when_it_starts_ends_at_its_deadline(host: Host) -> None:
    start = f"(func $start (call $block (call $sleep (i64.const {_HOUR})))) (start $start)"
    result = compiled(host, "", start).run(timeout=0.3)
    assert isinstance(result.error, DeadlineExceeded)


def test_a_deadline_ends_a_component_that_reads_its_input() -> None:
    program = "print(type(run(stdin='inherit', timeout=0.3).error).__name__)"
    with python(program, component(_READS)) as process:
        assert process.stdout.read() == "DeadlineExceeded\n"
        assert process.wait(10) == 0


def test_a_component_reads_what_comes_while_it_waits() -> None:
    program = "print(run(stdin='inherit', timeout=60).stdout)"
    with python(program, component(_READS)) as process:
        time.sleep(0.2)
        assert process.communicate("hello", timeout=60)[0] == "b'hello'\n"


def test_a_component_reads_what_an_iterator_gives(host: Host) -> None:
    assert compiled(host, _READS).run(stdin=iter([b"hello"])).check().stdout == b"hello"


def test_a_deadline_ends_a_component_that_waits_for_a_callable(host: Host) -> None:
    released = threading.Event()

    def wait(size: int) -> bytes:
        released.wait(60)
        return b""

    # (Components of other tests may still sleep.)
    before = threading.enumerate()
    result = compiled(host, _READS).run(stdin=wait, timeout=0.5)
    assert isinstance(result.error, DeadlineExceeded)
    left = [each for each in threading.enumerate() if each not in before]
    released.set()
    # The pipe ends, and with it the wait of the component that was left.
    for thread in [each for each in left if each.name == "wasi-nn component"]:
        thread.join(30)
        assert not thread.is_alive()


def test_a_program_ends_although_a_component_still_sleeps() -> None:
    program = "print(type(run(stdin=b'', timeout=0.3).error).__name__); host.close()"
    with python(program, component(_WAITS["sleeps"])) as process:
        assert process.stdout.read() == "DeadlineExceeded\n"
        assert process.wait(10) == 0


def test_a_component_sleeps_as_long_as_it_likes_before_its_deadline(host: Host) -> None:
    started = time.monotonic()
    body = f"(call $block (call $sleep (i64.const 200000000))) {_AWAKE}"
    assert compiled(host, body).run(timeout=60).stdout == b"awake"
    assert time.monotonic() - started >= 0.2


def test_a_component_that_traps_or_never_waits_ends_as_it_did(host: Host) -> None:
    assert isinstance(compiled(host, "unreachable").run(timeout=60).error, GuestTrap)
    result = compiled(host, "(loop (br 0))").run(timeout=0.3)
    assert isinstance(result.error, DeadlineExceeded)
    assert not strand._left


_SLEEPS = f"(call $block (call $sleep (i64.const {4 * 10**9}))) {_AWAKE}"


def test_a_component_that_wakes_after_its_end_does_nothing_more(host: Host) -> None:
    output: list[bytes] = []
    result = compiled(host, _SLEEPS).run(stdout=output.append, timeout=0.2)
    assert isinstance(result.error, DeadlineExceeded)
    (thread,) = strand._left
    thread.join(10)
    assert not thread.is_alive()
    # Its store was closed by its own thread.
    gc.collect()
    assert output == []


def test_few_components_may_wait_after_their_end(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strand, "_MAX_LEFT", 2)
    program = compiled(host, _SLEEPS)
    for _ in range(2):
        assert isinstance(program.run(timeout=0.05).error, DeadlineExceeded)
    result = compiled(host, _AWAKE).run(timeout=60)
    assert isinstance(result.error, LimitExceeded)
    assert "2 components still wait although they were stopped" in str(result.error)
    settle()
    assert compiled(host, _AWAKE).run(timeout=60).stdout == b"awake"


def test_a_guest_is_not_left_in_the_middle_of_a_host_function() -> None:
    one = strand.Strand()
    inside, gate = threading.Event(), threading.Event()
    events: list[str] = []

    def function() -> None:
        inside.set()
        gate.wait(10)
        events.append("the host function ends")

    def stop() -> None:
        inside.wait(10)
        one.stop()
        time.sleep(0.5)
        gate.set()

    def guest() -> None:
        one.within(function)()
        # It does not notice that it must stop.
        waiting.wait(10)

    waiting = threading.Event()
    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(Interrupted):
        one.call(guest)
    events.append("the call ends")
    stopping.join()
    one.after(lambda: events.append("it is closed"))
    with pytest.raises(Interrupted):
        one.within(function)()
    waiting.set()
    settle()
    assert events == ["the host function ends", "the call ends", "it is closed"]
