"""A program's own signal handlers while a guest runs in the main thread, and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from wasi_nn import Host
from wasi_nn.errors import DeadlineExceeded, Interrupted
from wasi_nn.runtime import HostFunction
from wasi_nn_conformance.engine_tests.common import (
    COMMAND,
    LOOP,
    Engine,
    Wat,
    signalled,
    skip_if_refused,
)
from wasi_nn_conformance.places import GUESTS

# A bound against a hang, in seconds.
_HANG = 60
FORK = """
import gc, os, signal, sys
from wasi_nn import Host
from wasi_nn.errors import ForkedProcess
from wasi_nn.runtime import WasiConfig

name, wasm = sys.argv[1:]
host = Host(runtime=name)
program = host.compile(wasm)
guest = program.instantiate(wasi=WasiConfig(stdout=None))

def attempt(work):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            print(work().stdout)
        except ForkedProcess:
            print("refused")
        gc.collect()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0

def close():
    global guest, program, host
    guest.close()
    guest = program = host = None
    return Host(runtime=name).run(wasm)

assert program.run().stdout == b"hello, wasi-nn\\n"
attempt(program.run)
attempt(lambda: host.run(wasm))
attempt(lambda: Host(runtime=name).run(wasm))
attempt(lambda: guest.run())
attempt(close)
# Those of the parent still work.
assert guest.run() == 0
assert program.run().stdout == b"hello, wasi-nn\\n"
"""
FORK_FIRST = """
import os, sys
from wasi_nn import Host

host = Host(runtime=sys.argv[1])
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
print(host.run(sys.argv[2]).stdout, flush=True)
"""
# Guests in daemon threads.
END = """
import sys, threading
from wasi_nn import Host

host = Host(runtime=sys.argv[1])
program = host.compile(sys.argv[2])

def run(output):
    program.run(stdout=output)

def heard(data):
    begun.set()

for output in (heard, heard):
    begun = threading.Event()
    threading.Thread(target=run, args=(output,), daemon=True).start()
    begun.wait()
"""
# Writes a character again and again.
WRITES = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\01\\00\\00\\00x")
  (func (export "_start") (loop $again
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (br $again))))"""


class Loss(Exception):
    """What a handler raises."""


def leave(number: int, frame: object) -> None:
    sys.exit(7)


def lose(number: int, frame: object) -> None:
    raise Loss


class Signals(Engine):
    @pytest.mark.parametrize(
        ("number", "handler", "kind"),
        [
            (signal.SIGTERM, leave, SystemExit),
            (signal.SIGALRM, lose, Loss),
            (signal.SIGUSR1, lose, Loss),
            (signal.SIGINT, lose, Loss),
        ],
    )
    def test_a_handler_that_raises_ends_the_guest(
        self,
        host: Host,
        wat: Wat,
        number: int,
        handler: Callable[..., object],
        kind: type[BaseException],
    ) -> None:
        self.needs(host, "interrupt")
        program = host.compile(wat(COMMAND.format(LOOP)))
        with pytest.raises(kind), signalled(number, handler):
            program.run()
        with program.instantiate() as guest, pytest.raises(kind), signalled(number, handler):
            guest.call("_start")
        assert host.run(wat(COMMAND.format(""))).exit_code == 0

    def test_a_handler_that_returns_lets_the_guest_go_on(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        heard: list[object] = []
        program = host.compile(wat(COMMAND.format(LOOP)))
        with (
            signalled(signal.SIGTERM, lambda *a: heard.append(threading.current_thread())),
            pytest.raises(Loss),
            signalled(signal.SIGALRM, lose, 1.0),
        ):
            program.run()
        assert heard == [threading.main_thread()]

    def test_a_handler_that_raises_between_host_calls_ends_the_guest(
        self, host: Host, wat: Wat
    ) -> None:
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (func (export "run")
              (loop $l (br_if $l (call $f (i32.const 1))))))"""
        )
        extra = [HostFunction("test", "f", 1, True, lambda memory, value: value)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            with pytest.raises(Loss), signalled(signal.SIGALRM, lose, 0.1):
                guest.call("run")
            # If a guest holds the GIL, the handler runs inside the host call.
            if host.runtime.features.threads:
                with pytest.raises(Interrupted):
                    guest.call("run")

    def test_an_interrupt_reaches_a_guest_that_a_host_function_runs(
        self, host: Host, wat: Wat
    ) -> None:
        self.needs(host, "interrupt")
        inner = host.compile(wat(COMMAND.format(LOOP)))
        outer = host.compile(
            wat(
                """(module (import "test" "f" (func $f (param i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "run") (drop (call $f (i32.const 1)))))"""
            )
        )

        def nest(memory: object, value: int) -> int:
            return inner.run().exit_code

        extra = [HostFunction("test", "f", 1, True, nest)]
        with outer.instantiate(extra=extra, timeout=2) as guest:
            with skip_if_refused("within a host function"), pytest.raises(DeadlineExceeded):
                guest.call("run")
            assert guest.interrupted
        with (
            outer.instantiate(extra=extra) as guest,
            pytest.raises(SystemExit),
            signalled(signal.SIGTERM, leave),
        ):
            guest.call("run")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_child_works_or_gets_a_clear_error(self, host: Host) -> None:
        """An engine in this process is refused in the child; one in its own process works."""
        self.needs_process()
        said = "b'hello, wasi-nn\\n'" if host.runtime.survives_fork else "refused"
        assert self._python(FORK) == [said, said, said, "refused", said]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_host_that_was_not_used_before_the_fork_works(self, host: Host) -> None:
        self.needs_process()
        assert self._python(FORK_FIRST) == ["b'hello, wasi-nn\\n'"] * 2

    def test_python_exits_cleanly_while_threads_run_guests(
        self, host: Host, wat: Wat, tmp_path: Path
    ) -> None:
        self.needs_process()
        path = tmp_path / "writes.wasm"
        path.write_bytes(wat(WRITES))
        for _ in range(3):
            assert self._python(END, path) == []

    def _python(
        self, script: str, guest: Path = Path(GUESTS) / "hello" / "hello.wasm"
    ) -> list[str]:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, self.runtime, str(guest)],
            capture_output=True,
            text=True,
            timeout=_HANG,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout.splitlines()
