"""What every engine has to do, as tests that each runtime adapter's own tests inherit::

    need("wamr")

    class TestWamr(EngineSuite):
        runtime = "wamr"

``need`` skips them, with the reason, where the engine is not installed. Limits that an engine
cannot hold have to be refused.
"""

from __future__ import annotations

import contextlib
import gc
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import (
    DeadlineExceeded,
    GuestTrap,
    Interrupted,
    LimitExceeded,
    LinkError,
    OutOfFuel,
    UsageError,
)
from wasi_nn.plugins import Plugins, availability
from wasi_nn.runtime import HostFunction, Preopen, WasiConfig

Wat = Callable[[str], bytes]

GUESTS = Path(__file__).resolve().parent / "guests"
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


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def need(runtime: str) -> None:
    """Skip the test module, with the reason, where an engine is not installed."""
    adapter = next(r for r in Plugins.installed().runtimes if r.name == runtime)
    found = availability(adapter)
    if not found.usable:
        pytest.skip(f"{runtime} is unavailable: {found.detail}", allow_module_level=True)


class EngineSuite:
    """The tests; ``runtime`` names the engine."""

    runtime: ClassVar[str]

    @pytest.fixture
    def host(self, plugins: Plugins) -> Iterator[Host]:
        with Host(plugins=plugins, runtime=self.runtime) as made:
            yield made

    # Programs

    def test_hello(self, host: Host) -> None:
        result = host.run(GUESTS / "hello/hello.wasm")
        assert (result.exit_code, result.stdout, result.error) == (0, b"hello, wasi-nn\n", None)

    def test_echo(self, host: Host, identity_model: Callable[..., Path]) -> None:
        host.add_model("stream", identity_model("stream", stream=3))
        result = host.run(GUESTS / "echo/echo.wasm", ["--stream", "stream", "hello"])
        assert (result.exit_code, result.stdout) == (0, b"hello")
        result = host.run(GUESTS / "echo/echo.wasm", ["nothing", "hello"])
        assert result.stderr == b"echo: load_by_name: not_found\n"
        assert result.exit_code == 1

    def test_classify(
        self, host: Host, tmp_path: Path, identity_model: Callable[..., Path]
    ) -> None:
        identity_model("model")
        scores = [0.125, 0.5, 0.25, 0.0625]
        (tmp_path / "input.raw").write_bytes(struct.pack("<4f", *scores))
        arguments = ["/data/model.identity", "/data/input.raw", "1,4"]
        result = host.run(GUESTS / "classify/classify.wasm", arguments, dirs={"/data": tmp_path})
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.decode().split("\n")
        assert [line.split()[0] for line in lines if line] == ["1", "2", "0", "3"], lines

    def test_arguments_and_variables(self, host: Host, wat: Wat) -> None:
        # Writes the strings of argv and of the environment, as they lie in memory.
        wasm = wat(
            """(module
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get"
              (func $args_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get"
              (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get"
              (func $environ_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write"
              (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
              (drop (call $args_sizes (i32.const 100) (i32.const 4)))
              (drop (call $args (i32.const 200) (i32.const 1000)))
              (i32.store (i32.const 0) (i32.const 1000))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
              (drop (call $environ_sizes (i32.const 100) (i32.const 4)))
              (drop (call $environ (i32.const 200) (i32.const 1000)))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))"""
        )
        host_result = host.run(wasm, ["one", "zwölf", ""], env={"KEY": "a=b", "LEER": ""})
        assert host_result.stdout == "guest.wasm\0one\0zwölf\0\0KEY=a=b\0LEER=\0".encode()

    @pytest.mark.parametrize("code", [0, 1, 3, 42, 125, 126, 255])
    def test_exit_codes(self, host: Host, wat: Wat, code: int) -> None:
        wasm = wat(f'(module {WASI} (func (export "_start") (call $exit (i32.const {code}))))')
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
    def test_traps_are_results(self, host: Host, wat: Wat, body: str, says: str) -> None:
        result = host.run(wat(COMMAND.format(body)))
        assert isinstance(result.error, GuestTrap)
        assert says in str(result.error)
        assert result.exit_code == 134

    def test_endless_recursion_is_a_trap(self, host: Host, wat: Wat) -> None:
        result = host.run(
            wat('(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))')
        )
        assert isinstance(result.error, GuestTrap)
        assert any(word in str(result.error) for word in ("stack", "recursion"))

    def test_no_start(self, host: Host, wat: Wat) -> None:
        with pytest.raises(UsageError, match="no _start"):
            host.run(wat("(module)"))
        with pytest.raises(UsageError, match="no _start"):
            host.run(wat('(module (memory (export "_start") 1))'))

    def test_what_cannot_be_compiled(self, host: Host, wat: Wat) -> None:
        valid = wat('(module (func (export "_start")))')
        with pytest.raises(UsageError, match=r"cannot (compile|load)"):
            host.run(valid.replace(b"\x00\x0b", b"\x00\x1a"))

    def test_import_mismatches_are_explained_before_the_start(self, host: Host, wat: Wat) -> None:
        with pytest.raises(LinkError, match="nothing that this host knows"):
            host.run(wat('(module (import "x" "y" (func)) (memory (export "memory") 1))'))
        wrong = '(module (import "wasi_ephemeral_nn" "compute" (func (param i64) (result i32))))'
        with pytest.raises(LinkError, match="this host has"):
            host.run(wat(wrong))

    def test_exports_can_be_called(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module
            (func (export "add") (param i32 i32) (result i32)
              (i32.add (local.get 0) (local.get 1)))
            (func (export "kinds") (param i64 f32 f64) (result f64)
              (f64.add (f64.convert_i64_s (local.get 0))
                (f64.add (f64.promote_f32 (local.get 1)) (local.get 2))))
            (func (export "two") (result i32 i64) (i32.const 1) (i64.const -2))
            (func (export "none"))
            (func (export "trap") unreachable))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("add", 2, 3) == (5,)
            assert guest.call("add", -2, 1) == (-1,)
            assert guest.call("two") == (1, -2)
            assert guest.call("none") == ()
            assert guest.call("kinds", -(1 << 40), 1, 2) == (3.0 - (1 << 40),)
            with pytest.raises(GuestTrap):
                guest.call("trap")
            assert guest.call("add", 2, 3) == (5,)
            with pytest.raises(UsageError, match="no function 'sub'"):
                guest.call("sub")

    # Standard streams

    def test_streams_are_captured_or_go_where_they_are_told(self, host: Host, wat: Wat) -> None:
        # Copies three bytes of stdin to stdout and writes "out" to stderr.
        wasm = wat(
            f"""(module {WASI} (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
            (drop (call $write (i32.const 1) (i32.const 12) (i32.const 1) (i32.const 100)))
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 100)))))"""
        )
        result = host.run(wasm, stdin=b"xyz and more")
        assert (result.stdout, result.stderr) == (b"xyz", b"out")
        pieces: list[bytes] = []
        result = host.run(wasm, stdin=b"abc", stdout=pieces.append, capture=False)
        assert (b"".join(pieces), result.stdout, result.stderr) == (b"abc", b"", b"")

    def test_inherited_streams(self, host: Host, capfd: pytest.CaptureFixture[str]) -> None:
        print("before", end=" ")
        host.run(GUESTS / "hello/hello.wasm", stdout="inherit")
        assert capfd.readouterr().out == "before hello, wasi-nn\n"

    def test_no_stdin_is_an_empty_one(self, host: Host, wat: Wat) -> None:
        # The exit code is the number of bytes read.
        wasm = wat(
            f"""(module {WASI} (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
            (call $exit (i32.load (i32.const 100)))))"""
        )
        assert host.run(wasm).exit_code == 0
        assert host.run(wasm, stdin=b"ab").exit_code == 2

    def test_much_output(self, host: Host, wat: Wat) -> None:
        # 300 times 4,096 bytes: more than any pipe holds.
        wasm = wat(
            f"""(module {WASI} (func (export "_start") (local i32)
            (i32.store (i32.const 200) (i32.const 1024))
            (i32.store (i32.const 204) (i32.const 4096))
            (loop $l
              (drop (call $write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 100)))
              (local.set 0 (i32.add (local.get 0) (i32.const 1)))
              (br_if $l (i32.lt_u (local.get 0) (i32.const 300))))))"""
        )
        assert host.run(wasm).stdout == bytes(300 * 4096)

    def test_a_callback_for_output_that_fails(self, host: Host) -> None:
        def fail(piece: bytes) -> None:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            host.run(GUESTS / "hello/hello.wasm", stdout=fail)

    def test_a_directory_for_reading_only(self, host: Host, tmp_path: Path) -> None:
        (tmp_path / "m.identity").write_text("wasi-nn:identity\n")
        (tmp_path / "input.raw").write_bytes(bytes(16))
        arguments = ["/data/m.identity", "/data/input.raw", "1,4"]
        guest, preopen = GUESTS / "classify/classify.wasm", Preopen(tmp_path, "/data", False)
        with _may_refuse("reading only"):
            result = host.run(guest, arguments, dirs=[preopen])
            assert result.exit_code == 0, result.stderr

    # Limits

    def test_deadline(self, host: Host, wat: Wat) -> None:
        wasm = wat(COMMAND.format(LOOP))
        if not host.runtime.features.interrupt:
            with pytest.raises(UsageError, match="cannot stop a guest at a deadline"):
                host.run(wasm, limits=Limits(timeout=0.2))
            return
        started = time.monotonic()
        result = host.run(wasm, limits=Limits(timeout=0.2))
        assert isinstance(result.error, DeadlineExceeded)
        assert result.exit_code == 124
        assert time.monotonic() - started < 20
        assert host.run(wat(COMMAND.format("")), limits=Limits(timeout=20)).exit_code == 0

    def test_deadline_of_one_guest_stops_no_other(self, host: Host, wat: Wat) -> None:
        self._needs(host, "interrupt")
        # The other one counts for a while, in the same engine.
        wasm = wat(
            """(module (memory (export "memory") 1) (func (export "_start") (local i64)
            (loop $l (local.set 0 (i64.add (local.get 0) (i64.const 1)))
              (br_if $l (i64.lt_u (local.get 0) (i64.const 5000000))))))"""
        )
        results = []
        other = threading.Thread(target=lambda: results.append(host.run(wasm)))
        other.start()
        for _ in range(4):
            limited = host.run(wat(COMMAND.format(LOOP)), limits=Limits(timeout=0.05))
            assert isinstance(limited.error, DeadlineExceeded)
        other.join()
        assert (results[0].exit_code, results[0].error) == (0, None)

    def test_interrupt_from_another_thread(self, host: Host, wat: Wat) -> None:
        self._needs(host, "interrupt")
        timers = []

        def soon(guest: object) -> None:
            timers.append(threading.Timer(0.1, guest.interrupt))  # type: ignore[attr-defined]
            timers[0].start()

        result = host.compile(wat(COMMAND.format(LOOP))).run(on_start=soon)
        timers[0].join()
        assert isinstance(result.error, Interrupted)
        assert result.exit_code == 130

    def test_interrupt_before_the_start(self, host: Host, wat: Wat) -> None:
        result = host.compile(wat(COMMAND.format(""))).run(on_start=lambda guest: guest.interrupt())
        assert isinstance(result.error, Interrupted)

    def test_an_interrupt_after_the_end_does_nothing(self, host: Host, wat: Wat) -> None:
        with host.compile(wat(COMMAND.format(""))).instantiate() as guest:
            guest.call("_start")
        guest.interrupt()

    def test_fuel(self, plugins: Plugins, host: Host, wat: Wat) -> None:
        with Host(plugins=plugins, runtime=self.runtime, limits=Limits(fuel=10_000)) as limited:
            if not host.runtime.features.fuel:
                with pytest.raises(UsageError, match="cannot count fuel"):
                    limited.run(wat(COMMAND.format("")))
                return
            assert limited.run(wat(COMMAND.format(""))).exit_code == 0
            assert isinstance(limited.run(wat(COMMAND.format(LOOP))).error, OutOfFuel)

    def test_memory_limit(self, host: Host, wat: Wat) -> None:
        grows = wat(
            f"""(module {WASI} (func (export "_start")
            (call $exit (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))))"""
        )
        assert host.run(grows).exit_code == 0
        if not host.runtime.features.memory_limit:
            with pytest.raises(UsageError, match="cannot limit a guest's memory"):
                host.run(grows, limits=Limits(memory=8 << 16))
            return
        assert host.run(grows, limits=Limits(memory=8 << 16)).exit_code == 1
        result = host.run(grows, limits=Limits(memory=65535))
        assert isinstance(result.error, LimitExceeded)
        assert "65535 bytes" in str(result.error)

    # Start functions are the guest, too

    START = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func $s {}) (start $s) (func (export "_start")))"""

    def test_a_deadline_reaches_a_start_function(self, host: Host, wat: Wat) -> None:
        self._needs(host, "interrupt")
        result = host.run(wat(self.START.format(LOOP)), limits=Limits(timeout=0.2))
        assert isinstance(result.error, DeadlineExceeded)

    def test_a_start_function_may_exit(self, host: Host, wat: Wat) -> None:
        result = host.run(wat(self.START.format("(call $exit (i32.const 3))")))
        assert (result.exit_code, result.error) == (3, None)

    def test_the_trap_of_a_start_function_is_a_result(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(self.START.format("unreachable")))
        assert isinstance(program.run().error, GuestTrap)
        with pytest.raises(GuestTrap):
            program.instantiate()

    def test_a_start_function_may_call_the_host(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (global $errno (mut i32) (i32.const -1))
            (func $init (global.set $errno (call $f (i32.const 5)))) (start $init)
            (func (export "errno") (result i32) (global.get $errno)))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("errno") in {(1,), (3,)}

    # Memory

    def test_memory_follows_growth(self, host: Host, wat: Wat) -> None:
        seen: list[tuple[int, bytes]] = []

        def look(memory: object, at: int) -> int:
            seen.append((memory.size, bytes(memory.read(at, 4))))  # type: ignore[attr-defined]
            memory.write(at, b"back")  # type: ignore[attr-defined]
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

    def test_a_memory_of_several_pages_that_never_grows(self, host: Host, wat: Wat) -> None:
        seen: list[tuple[int, bytes]] = []

        def look(memory: object) -> None:
            seen.append((memory.size, bytes(memory.read(720890, 6))))  # type: ignore[attr-defined]

        wasm = wat(
            """(module (import "test" "look" (func $look)) (memory (export "memory") 11)
            (data (i32.const 720890) "at end") (func (export "run") (call $look)))"""
        )
        extra = [HostFunction("test", "look", 0, False, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert seen == [(11 * 65536, b"at end")]

    def test_a_guest_may_grow_its_memory_during_a_host_call(self, host: Host, wat: Wat) -> None:
        sizes: list[int] = []
        wasm = wat(
            """(module (import "test" "look" (func $look)) (memory (export "memory") 1)
            (func (export "grow") (result i32) (memory.grow (i32.const 300)))
            (func (export "run") (call $look) (call $look)))"""
        )

        def look(memory: object) -> None:
            sizes.append(memory.size)  # type: ignore[attr-defined]
            if len(sizes) == 1:
                assert guest.call("grow") == (1,)

        extra = [HostFunction("test", "look", 0, False, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert sizes == [65536, 301 * 65536]

    def test_a_memory_that_was_empty_at_the_first_call(self, host: Host, wat: Wat) -> None:
        sizes: list[int] = []

        def look(memory: object) -> None:
            sizes.append(memory.size)  # type: ignore[attr-defined]

        wasm = wat(
            """(module (import "test" "look" (func $look)) (memory (export "memory") 0)
            (func (export "run") (call $look) (drop (memory.grow (i32.const 1))) (call $look)))"""
        )
        extra = [HostFunction("test", "look", 0, False, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert sizes == [0, 65536]

    @pytest.mark.parametrize("memory", ["", '(memory (export "other") 1)', "(memory 1)"])
    def test_without_an_exported_memory(self, host: Host, wat: Wat, memory: str) -> None:
        wasm = wat(
            f"""(module (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            {memory} (func (export "run") (result i32) (call $f (i32.const 0))))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("run") == (3,)

    # Host functions

    def test_values_arrive_unsigned(self, host: Host, wat: Wat) -> None:
        seen: list[tuple[int, ...]] = []

        def five(memory: object, *values: int) -> int:
            seen.append(values)
            return 0xFFFFFFFE

        wasm = wat(
            """(module
            (import "t" "five" (func $five (param i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "five") (result i32) (call $five (i32.const 0) (i32.const -1)
              (i32.const 8) (i32.const 4) (i32.const 0x80000000))))"""
        )
        extra = [HostFunction("t", "five", 5, True, five)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            assert guest.call("five") == (-2,)
        assert seen == [(0, 0xFFFFFFFF, 8, 4, 0x80000000)]

    FAIL = """(module (import "test" "fail" (func $fail)) (memory (export "memory") 1)
        (func (export "_start") (call $fail)))"""

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
    def test_what_a_host_function_raises_comes_out_as_it_was(
        self, host: Host, wat: Wat, kind: type[BaseException]
    ) -> None:
        raised = kind("from within")

        def fail(memory: object) -> None:
            raise raised

        program = host.compile(wat(self.FAIL))
        with program.instantiate(extra=[HostFunction("test", "fail", 0, False, fail)]) as guest:
            with pytest.raises(kind) as caught:
                guest.call("_start")
            assert caught.value is raised

    def test_each_thread_gets_its_own_exception(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(self.FAIL))
        wrong: list[object] = []

        def work(number: int) -> None:
            for turn in range(50):
                error = ValueError(number, turn)

                def fail(memory: object, error: ValueError = error) -> None:
                    raise error

                extra = [HostFunction("test", "fail", 0, False, fail)]
                with program.instantiate(extra=extra) as guest:
                    try:
                        guest.call("_start")
                        wrong.append("nothing")
                    except BaseException as caught:
                        if caught is not error:
                            wrong.append(caught)

        _together([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
        assert wrong == []

    def test_a_host_function_may_run_another_guest(self, host: Host, wat: Wat) -> None:
        inner = host.compile(GUESTS / "hello/hello.wasm")
        outputs: list[bytes] = []

        def nested(memory: object) -> None:
            outputs.append(inner.run().stdout)

        extra = [HostFunction("test", "fail", 0, False, nested)]
        program = host.compile(wat(self.FAIL))
        with program.instantiate(extra=extra) as guest, _may_refuse("within a host function"):
            guest.call("_start")
            guest.call("_start")
            assert outputs == [b"hello, wasi-nn\n"] * 2

    def test_the_same_name_with_two_signatures(self, host: Host, wat: Wat) -> None:
        one = wat(
            """(module (import "t" "f" (func $f (param i32) (result i32)))
            (func (export "run") (result i32) (call $f (i32.const 7))))"""
        )
        two = wat('(module (import "t" "f" (func $f)) (func (export "run") (call $f)))')
        called: list[str] = []

        def first(memory: object, value: int) -> int:
            return value + 1

        def second(memory: object) -> None:
            called.append("two")

        programs = host.compile(one), host.compile(two)
        for _ in range(2):
            with programs[0].instantiate(extra=[HostFunction("t", "f", 1, True, first)]) as guest:
                assert guest.call("run") == (8,)
            with programs[1].instantiate(extra=[HostFunction("t", "f", 0, False, second)]) as guest:
                guest.call("run")
        assert called == ["two", "two"]

    # Many guests

    def test_guests_in_several_threads(
        self, host: Host, identity_model: Callable[..., Path]
    ) -> None:
        host.add_model("stream", identity_model("stream", stream=3))
        program = host.compile(GUESTS / "echo/echo.wasm")
        outputs: list[tuple[bytes, bytes]] = []

        def work(number: int) -> None:
            for turn in range(10):
                text = f"{number} {turn}".encode()
                result = program.run(["--stream", "stream", text.decode()])
                outputs.append((result.stdout, text))

        _together([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
        assert len(outputs) == 40
        assert all(stdout == text for stdout, text in outputs)

    def test_nothing_leaks_over_many_runs(
        self, host: Host, identity_model: Callable[..., Path]
    ) -> None:
        host.add_model("stream", identity_model("stream", stream=3))
        program = host.compile(GUESTS / "echo/echo.wasm")

        def run(times: int) -> None:
            for _ in range(times):
                assert program.run(["--stream", "stream", "hello"]).stdout == b"hello"
            gc.collect()

        _assert_flat(run, 500)

    def test_nothing_leaks_over_many_programs(self, host: Host, wat: Wat) -> None:
        wasm = wat(self.FAIL)
        extra = [HostFunction("test", "fail", 0, False, lambda memory: None)]

        def run(times: int) -> None:
            for _ in range(times):
                with host.compile(wasm).instantiate(extra=extra) as guest:
                    guest.call("_start")
            gc.collect()

        _assert_flat(run, 200)

    def test_guests_that_were_never_closed_are_collected(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(COMMAND.format("")))

        def run(times: int) -> None:
            for _ in range(times):
                wasi = WasiConfig(stdout=lambda piece: None, stderr=None)
                program.instantiate(wasi=wasi).call("_start")
            gc.collect()

        _assert_flat(run, 50)

    def _needs(self, host: Host, feature: str) -> None:
        if not getattr(host.runtime.features, feature):
            pytest.skip(f"{self.runtime}, as it is installed here, has no {feature}")


def _assert_flat(run: Callable[[int], None], times: int) -> None:
    """Memory and open files stay as they are. An allocator may take a piece once in a while; a leak
    takes one in every round."""
    run(times // 4)
    grown: list[tuple[int, int]] = []
    for _ in range(3):
        before, open_before = resident(), descriptors()
        run(times)
        grown.append((resident() - before, descriptors() - open_before))
        if grown[-1][0] < 4 << 20 and grown[-1][1] <= 0:
            return
    pytest.fail(f"bytes and open files grew by {grown}")


@contextlib.contextmanager
def _may_refuse(says: str) -> Iterator[None]:
    """What an engine cannot do, its adapter has to refuse in so many words."""
    try:
        yield
    except UsageError as refused:
        if says not in str(refused):
            raise


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
