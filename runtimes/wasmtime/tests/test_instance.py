"""Guests on real wasmtime: how they end, what they may use, and what stops them."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import (
    DeadlineExceeded,
    GuestTrap,
    Interrupted,
    LimitExceeded,
    OutOfFuel,
    UsageError,
)
from wasi_nn.runtime import HostFunction, WasiConfig

WRITE = """
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


@pytest.mark.parametrize("code", [0, 1, 42, 125, 126, 255])
def test_exit_codes(host, wat, code):
    wasm = wat(f'(module {WRITE} (func (export "_start") (call $exit (i32.const {code}))))')
    result = host.run(wasm)
    assert (result.exit_code, result.error) == (code, None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 0xfffffff0)))", "out of bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    ],
)
def test_traps_are_results_and_not_exceptions(host, wat, body, says):
    result = host.run(wat(COMMAND.format(body)))
    assert isinstance(result.error, GuestTrap)
    assert says in str(result.error)
    assert result.exit_code == 134


def test_endless_recursion_is_a_trap(host, wat):
    wasm = wat('(module (func $f (export "_start") (call $f)))')
    assert "stack" in str(host.run(wasm).error)


def test_no_start(host, wat):
    with pytest.raises(UsageError, match="no _start"):
        host.run(wat("(module)"))
    with pytest.raises(UsageError, match="no _start"):
        host.run(wat('(module (memory (export "_start") 1))'))


def test_what_wasmtime_cannot_compile_is_a_usage_error(host, wat):
    valid = wat('(module (func (export "_start")))')
    with pytest.raises(UsageError, match="cannot compile"):
        host.run(valid.replace(b"\x00\x0b", b"\x00\x1a"))


def test_exports_can_be_called(host, wat):
    wasm = wat(
        """(module
        (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func (export "two") (result i32 i64) (i32.const 1) (i64.const 2))
        (func (export "none"))
        (func (export "trap") unreachable))"""
    )
    with host.compile(wasm).instantiate() as guest:
        assert guest.call("add", 2, 3) == (5,)
        assert guest.call("two") == (1, 2)
        assert guest.call("none") == ()
        with pytest.raises(GuestTrap):
            guest.call("trap")
        with pytest.raises(UsageError, match="no function 'sub'"):
            guest.call("sub")


def test_stdio_is_captured_or_goes_where_it_is_told(host, wat):
    # Copies three bytes of stdin to stdout and writes "out" to stderr.
    wasm = wat(
        f"""(module {WRITE} (func (export "_start")
        (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
        (drop (call $write (i32.const 1) (i32.const 12) (i32.const 1) (i32.const 100)))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 100)))))"""
    )
    result = host.run(wasm, stdin=b"xyz and more")
    assert (result.stdout, result.stderr) == (b"xyz", b"out")
    pieces: list[bytes] = []
    result = host.run(wasm, stdin=b"abc", stdout=pieces.append, capture=False)
    assert (pieces, result.stdout, result.stderr) == ([b"abc"], b"", b"")


def test_no_stdin_is_an_empty_one(host, wat):
    # The exit code is the number of bytes read.
    wasm = wat(
        f"""(module {WRITE} (func (export "_start")
        (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
        (call $exit (i32.load (i32.const 100)))))"""
    )
    assert host.run(wasm).exit_code == 0
    assert host.run(wasm, stdin=b"ab").exit_code == 2


class TestLimits:
    def test_deadline(self, host, wat):
        started = time.monotonic()
        result = host.run(wat(COMMAND.format(LOOP)), limits=Limits(timeout=0.2))
        assert isinstance(result.error, DeadlineExceeded)
        assert result.exit_code == 124
        assert time.monotonic() - started < 10

    def test_deadline_of_one_guest_stops_no_other(self, host, wat):
        # The other one counts for a while, in the same engine.
        wasm = wat(
            """(module (memory (export "memory") 1) (func (export "_start") (local i64)
            (loop $l (local.set 0 (i64.add (local.get 0) (i64.const 1)))
              (br_if $l (i64.lt_u (local.get 0) (i64.const 1000000000))))))"""
        )
        results = []
        other = threading.Thread(target=lambda: results.append(host.run(wasm)))
        other.start()
        for _ in range(4):
            limited = host.run(wat(COMMAND.format(LOOP)), limits=Limits(timeout=0.05))
            assert isinstance(limited.error, DeadlineExceeded)
        other.join()
        assert (results[0].exit_code, results[0].error) == (0, None)

    def test_interrupt_from_another_thread(self, host, wat):
        def soon(guest):
            threading.Timer(0.1, guest.interrupt).start()

        result = host.compile(wat(COMMAND.format(LOOP))).run(on_start=soon)
        assert isinstance(result.error, Interrupted)
        assert result.exit_code == 130

    def test_interrupt_before_the_start(self, host, wat):
        result = host.compile(wat(COMMAND.format(""))).run(on_start=lambda guest: guest.interrupt())
        assert isinstance(result.error, Interrupted)

    def test_fuel(self, plugins, wat):
        with Host(plugins=plugins, limits=Limits(fuel=10_000)) as host:
            assert host.run(wat(COMMAND.format(""))).exit_code == 0
            assert isinstance(host.run(wat(COMMAND.format(LOOP))).error, OutOfFuel)

    def test_memory(self, host, wat):
        grows = wat(
            f"""(module {WRITE} (func (export "_start")
            (call $exit (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))))"""
        )
        assert host.run(grows).exit_code == 0
        assert host.run(grows, limits=Limits(memory=8 << 16)).exit_code == 1
        result = host.run(grows, limits=Limits(memory=65535))
        assert isinstance(result.error, LimitExceeded)
        assert "65535 bytes" in str(result.error)

    def test_a_memory_limit_holds_for_tables_and_further_memories(self, host, wat):
        wasm = wat(
            """(module (table $t 1 funcref) (memory (export "memory") 1)
            (func (export "grow") (result i32)
              (table.grow $t (ref.null func) (i32.const 1000000))))"""
        )
        program = host.compile(wasm)
        with program.instantiate() as guest:
            assert guest.call("grow") == (1,)
        with program.instantiate(limits=Limits(memory=1 << 20)) as guest:
            assert guest.call("grow") == (-1,)
        many = wat('(module (memory 1) (memory 1) (func (export "_start")))')
        result = host.run(many, limits=Limits(memory=1 << 20))
        assert isinstance(result.error, LimitExceeded)

    def test_no_limit_on_fuel_where_the_host_has_one(self, plugins, wat):
        with Host(plugins=plugins, limits=Limits(fuel=10)) as host:
            turns = """(local i32) (loop $l (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get 0) (i32.const 1000))))"""
            program = host.compile(wat(COMMAND.format(turns)))
            assert isinstance(program.run().error, OutOfFuel)
            assert program.run(limits=Limits()).error is None


class TestStartFunctions:
    """What runs while the module is instantiated is the guest, too."""

    WASM = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func $s {}) (start $s) (func (export "_start")))"""

    def test_a_deadline_reaches_it(self, host, wat):
        result = host.run(wat(self.WASM.format(LOOP)), limits=Limits(timeout=0.2))
        assert isinstance(result.error, DeadlineExceeded)

    def test_it_may_exit(self, host, wat):
        result = host.run(wat(self.WASM.format("(call $exit (i32.const 3))")))
        assert (result.exit_code, result.error) == (3, None)

    def test_its_trap_is_a_result(self, host, wat):
        program = host.compile(wat(self.WASM.format("unreachable")))
        assert isinstance(program.run().error, GuestTrap)
        with pytest.raises(GuestTrap):
            program.instantiate()


def test_a_callback_for_output_that_fails(host, guests):
    def fail(piece):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        host.run(guests / "hello/hello.wasm", stdout=fail)


@pytest.mark.parametrize("options", [{"stdin": "hello"}, {"stdout": "/path"}, {"stderr": 3}])
def test_streams_that_are_none(host, guests, options):
    with pytest.raises(UsageError, match="is to be None"):
        host.run(guests / "hello/hello.wasm", **options)


class TestMemory:
    def test_it_follows_growth_between_and_during_calls(self, host, wat):
        seen: list[tuple[int, bytes]] = []

        def look(memory, at):
            seen.append((memory.size, bytes(memory.read(at, 4))))
            memory.write(at, b"back")
            return 0

        wasm = wat(
            """(module (import "test" "look" (func $look (param i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "fore")
            (func (export "run") (result i32)
              (drop (call $look (i32.const 16)))
              (drop (memory.grow (i32.const 200)))
              (i32.store (i32.const 13000000) (i32.const 0x74736c61))
              (drop (call $look (i32.const 13000000)))
              (i32.and
                (i32.eq (i32.load (i32.const 13000000)) (i32.const 0x6b636162))
                (i32.eq (i32.load (i32.const 16)) (i32.const 0x6b636162)))))"""
        )
        extra = [HostFunction("test", "look", 1, True, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            assert guest.call("run") == (1,)
        assert seen == [(65536, b"fore"), (201 * 65536, b"alst")]

    def test_a_memory_that_was_empty_at_the_first_call(self, host, wat):
        sizes: list[int] = []
        extra = [HostFunction("test", "look", 0, False, lambda memory: sizes.append(memory.size))]
        wasm = wat(
            """(module (import "test" "look" (func $look)) (memory (export "memory") 0)
            (func (export "run") (call $look) (drop (memory.grow (i32.const 1))) (call $look)))"""
        )
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert sizes == [0, 65536]

    @pytest.mark.parametrize("memory", ["", '(memory (export "other") 1)', "(memory 1)"])
    def test_without_an_exported_memory_the_errno_is_missing_memory(self, host, wat, memory):
        wasm = wat(
            f"""(module (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            {memory} (func (export "run") (result i32) (call $f (i32.const 0))))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("run") == (3,)

    def test_a_start_function_may_call_before_there_are_exports(self, host, wat):
        wasm = wat(
            """(module (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (global $errno (mut i32) (i32.const -1))
            (func $init (global.set $errno (call $f (i32.const 5)))) (start $init)
            (func (export "errno") (result i32) (global.get $errno)))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("errno") == (1,)


class TestExceptions:
    WASM = """(module (import "test" "fail" (func $fail)) (memory (export "memory") 1)
        (func (export "_start") (call $fail)))"""

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
    def test_what_a_host_function_raises_comes_out_as_it_was(self, host, wat, kind):
        raised = kind("from within")

        def fail(memory):
            raise raised

        program = host.compile(wat(self.WASM))
        with program.instantiate(extra=[HostFunction("test", "fail", 0, False, fail)]) as guest:
            with pytest.raises(kind) as caught:
                guest.call("_start")
            assert caught.value is raised

    def test_each_thread_gets_its_own(self, host, wat):
        program = host.compile(wat(self.WASM))
        wrong: list[object] = []

        def work(number: int) -> None:
            for turn in range(100):
                error = ValueError(number, turn)

                def fail(memory, error=error):
                    raise error

                extra = [HostFunction("test", "fail", 0, False, fail)]
                with program.instantiate(extra=extra) as guest:
                    try:
                        guest.call("_start")
                    except ValueError as caught:
                        if caught is not error:
                            wrong.append(caught)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_nothing_leaks_over_many_runs(host, guests, identity_model):
    host.add_model("stream", identity_model("stream", stream=3))
    program = host.compile(guests / "echo/echo.wasm")

    def run(times: int) -> None:
        for _ in range(times):
            assert program.run(["--stream", "stream", "hello"]).stdout == b"hello"
        gc.collect()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    run(100)
    before, open_before = resident(), descriptors()
    run(500)
    assert resident() - before < 4 << 20
    assert descriptors() == open_before


def test_a_guest_that_was_never_closed_is_collected(host, wat):
    program = host.compile(wat(COMMAND.format("")))
    guest = program.instantiate(wasi=WasiConfig(stdout=None, stderr=None))
    guest.call("_start")
    del guest
    gc.collect()
