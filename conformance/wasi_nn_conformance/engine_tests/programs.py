"""Programs: how they start, what they print, how they end."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import (
    DeadlineExceeded,
    GuestTrap,
    LinkError,
    UsageError,
)
from wasi_nn.runtime import HostFunction
from wasi_nn_conformance.engine_tests.common import (
    COMMAND,
    LOOP,
    WASI,
    Engine,
    Wat,
    skip_if_refused,
)
from wasi_nn_conformance.places import GUESTS


class Programs(Engine):
    def test_a_guest_prints_hello(self, host: Host) -> None:
        result = host.run(GUESTS / "hello/hello.wasm")
        assert (result.exit_code, result.stdout, result.error) == (0, b"hello, wasi-nn\n", None)

    def test_a_guest_streams_a_text_through_a_model(
        self, host: Host, identity_model: Callable[..., Path]
    ) -> None:
        host.add_model("stream", identity_model("stream", stream=3))
        result = host.run(GUESTS / "echo/echo.wasm", ["--stream", "stream", "hello"])
        assert (result.exit_code, result.stdout) == (0, b"hello")
        result = host.run(GUESTS / "echo/echo.wasm", ["nothing", "hello"])
        assert result.stderr == b"echo: load_by_name: not_found\n"
        assert result.exit_code == 1

    def test_a_guest_classifies_a_file(
        self, host: Host, tmp_path: Path, identity_model: Callable[..., Path]
    ) -> None:
        self.needs(host, "wasi")
        identity_model("model")
        scores = [0.125, 0.5, 0.25, 0.0625]
        (tmp_path / "input.raw").write_bytes(struct.pack("<4f", *scores))
        arguments = ["/data/model.identity", "/data/input.raw", "1,4"]
        with skip_if_refused("cannot give"):
            result = host.run(
                GUESTS / "classify/classify.wasm", arguments, dirs={"/data": tmp_path}
            )
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.decode().split("\n")
        assert [line.split()[0] for line in lines if line] == ["1", "2", "0", "3"], lines

    def test_a_guest_gets_arguments_and_variables(self, host: Host, wat: Wat) -> None:
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
    def test_every_exit_code_is_the_guests(self, host: Host, wat: Wat, code: int) -> None:
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

    def test_a_host_may_end_while_a_guest_runs(self, host: Host, wat: Wat, tmp_path: Path) -> None:
        """Python does not wait for daemon threads. Servers run guests in them."""
        self.needs_process()
        self.needs(host, "threads")
        path = tmp_path / "busy.wasm"
        path.write_bytes(
            wat(
                """(module (memory (export "memory") 1)
                (func $next (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
                (func (export "_start") (local i32) (loop $l
                  (local.set 0 (call $next (local.get 0)))
                  (i32.store (i32.const 8) (local.get 0)) (br $l))))"""
            )
        )
        code = (
            "import sys, threading, time; from wasi_nn import Host\n"
            "def work(): Host(runtime=sys.argv[1]).compile(sys.argv[2]).run(on_start=begun)\n"
            "there = threading.Event(); begun = lambda guest: there.set()\n"
            "threading.Thread(target=work, daemon=True).start()\n"
            "there.wait(); time.sleep(0.3); print('ends')"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, self.runtime, path],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "ends\n", "")

    WRITES = "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))"

    def test_a_shared_memory_works_or_is_refused_before_the_start(
        self, host: Host, wat: Wat
    ) -> None:
        """A guest that is built for threads need not start one."""
        shared = WASI.replace('(export "memory") 1)', '(export "memory") 1 2 shared)')
        wasm = wat(f'(module {shared} (func (export "_start") {self.WRITES}))')
        if host.runtime.features.shared_memory:
            assert host.run(wasm).check().stdout == b"out"
        else:
            with pytest.raises(LinkError, match="shared between threads"):
                host.run(wasm)

    def test_an_invalid_module_is_a_usage_error(self, host: Host, wat: Wat) -> None:
        valid = wat('(module (func (export "_start")))')
        with pytest.raises(UsageError, match=r"cannot (compile|load)"):
            host.run(valid.replace(b"\x00\x0b", b"\x00\x1a"))

    def test_import_mismatches_are_explained_before_the_start(self, host: Host, wat: Wat) -> None:
        start = '(func (export "_start"))'
        with pytest.raises(LinkError, match="nothing that this host knows"):
            host.run(wat(f'(module (import "x" "y" (func)) (memory (export "memory") 1) {start})'))
        wrong = '(import "wasi_ephemeral_nn" "compute" (func (param i64) (result i32)))'
        with pytest.raises(LinkError, match="this host has"):
            host.run(wat(f"(module {wrong} {start})"))

    def test_imports_are_checked_before_the_guest_is_compiled(self, host: Host, wat: Wat) -> None:
        """Compiling can take minutes. The code of this guest is invalid, which nothing notices."""
        memory = '(memory (export "memory") 1)'
        valid = wat(f'(module (import "x" "y" (func)) {memory} (func (export "_start")))')
        wasm = valid.replace(b"\x00\x0b", b"\x00\x1a")
        with pytest.raises(LinkError, match=r"x\.y"):
            host.run(wasm)
        with pytest.raises(LinkError, match=r"x\.y"):
            host.program(wasm).instantiate()
        given = [HostFunction("x", "y", 0, False, lambda memory: None)]
        with pytest.raises(UsageError, match=r"cannot (compile|load)"):
            host.program(wasm).instantiate(extra=given)
        with host.program(valid).instantiate(extra=given) as guest:
            assert guest.call("_start") == ()

    def test_a_program_is_compiled_once(self, host: Host, wat: Wat) -> None:
        program = host.program(wat(COMMAND.format("")))
        assert program.compile_seconds == 0
        first, second = program.run().timings, program.run().timings
        assert first.compile == second.compile == program.compile_seconds > 0

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
            (func (export "same") (param i64) (result i64) (local.get 0))
            (func (export "zero") (result f64) (f64.const -0))
            (func (export "whole") (param f64) (result f64) (local.get 0))
            (func (export "last") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64)
              (result i64) (local.get 13))
            (func (export "trap") unreachable))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("add", 2, 3) == (5,)
            assert guest.call("add", -2, 1) == (-1,)
            assert guest.call("two") == (1, -2)
            assert guest.call("none") == ()
            for number in (2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)):
                assert guest.call("same", number) == (number,)
            assert str(guest.call("zero")[0]) == "-0.0"
            for real in (3.0, 2.0**60, 1e22, math.inf, -math.inf):
                (whole,) = guest.call("whole", real)
                assert whole == real
                assert isinstance(whole, float)
            assert math.isnan(guest.call("whole", math.nan)[0])
            assert guest.call("last", *range(13), 1 << 62) == (1 << 62,)
            assert guest.call("kinds", -(1 << 40), 1, 2) == (3.0 - (1 << 40),)
            with pytest.raises(GuestTrap):
                guest.call("trap")
            assert guest.call("add", 2, 3) == (5,)
            with pytest.raises(UsageError, match="no function 'sub'"):
                guest.call("sub")
            guest.begin()
            assert guest.call("add", 2, 3) == (5,)
            with pytest.raises(UsageError, match="no _start"):
                guest.run()

    START = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func $s {}) (start $s) (func (export "_start")))"""

    def test_a_deadline_reaches_a_start_function(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
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

    def test_a_start_function_has_its_memory_and_wasi(self, host: Host, wat: Wat) -> None:
        """A program of AssemblyScript is a start function."""
        wasm = wat(
            """(module
            (import "wasi_snapshot_preview1" "fd_write"
              (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\\08\\00\\00\\00\\03\\00\\00\\00hi\\0a")
            (func $begin
              (if (i32.ne (call $compute (i32.const 5)) (i32.const 1)) (then unreachable))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 40))))
            (start $begin)
            (func (export "_start")))"""
        )
        result = host.run(wasm)
        assert (result.error, result.stdout) == (None, b"hi\n")

    KINDS = """(module (memory (export "memory") 1)
        (func (export "i32") (param i32) (result i32) (local.get 0))
        (func (export "i64") (param i64) (result i64) (local.get 0))
        (func (export "f32") (param f32) (result f32) (local.get 0))
        (func (export "f64") (param f64) (result f64) (local.get 0)))"""

    WRONG: ClassVar[list[tuple[str, tuple[Any, ...], str]]] = [
        ("i32", (), "takes 1 arguments, not 0"),
        ("i32", (1, 2), "takes 1 arguments, not 2"),
        ("i32", (1 << 32,), "does not fit an i32"),
        ("i32", (-(1 << 31) - 1,), "does not fit an i32"),
        ("i32", (1.5,), "is not of type i32"),
        ("i32", ("1",), "is not of type i32"),
        ("i64", (1 << 64,), "does not fit an i64"),
        ("f32", (1 << 200,), "does not fit an f32"),
        ("f64", (1 << 2000,), "does not fit an f64"),
        ("f64", (None,), "is not of type f64"),
    ]

    def test_arguments_that_do_not_fit_are_usage_errors(self, host: Host, wat: Wat) -> None:
        with host.compile(wat(self.KINDS)).instantiate() as guest:
            for export, arguments, says in self.WRONG:
                with pytest.raises(UsageError, match=says):
                    guest.call(export, *arguments)
            for most in ((1 << 32) - 1, 1 << 31):
                assert guest.call("i32", most) == (most - (1 << 32),)
            assert guest.call("f32", 1 << 100) == (float(1 << 100),)

    @pytest.mark.parametrize("kind", ["v128", "funcref", "externref"])
    def test_only_functions_of_numbers_are_called(self, host: Host, wat: Wat, kind: str) -> None:
        """Some engines' libraries end the process when they meet it."""
        nothing = {"v128": "v128.const i64x2 1 2", "funcref": "ref.null func"}
        gives = f"(result {kind}) ({nothing.get(kind, 'ref.null extern')})"
        memory = '(memory (export "memory") 1)'
        takes = f'(func (export "takes") (param {kind}))'
        wasm = wat(f'(module {memory} {takes} (func (export "gives") {gives}))')
        command = wat(f'(module {memory} (func (export "_start") {gives}))')
        with skip_if_refused():
            program = host.compile(wasm)
        with program.instantiate() as guest:
            for name, arguments in (("takes", (0,)), ("takes", ()), ("gives", ())):
                with pytest.raises(UsageError, match=r"not a number|takes 1 arguments"):
                    guest.call(name, *arguments)
        with pytest.raises(UsageError, match=r"not a number|signature"):
            host.run(command)

    @pytest.mark.parametrize("wasi", [True, False])
    def test_no_export_runs_by_itself(self, host: Host, wat: Wat, wasi: bool) -> None:
        """No name is special to an engine. (The host calls ``_initialize`` first.)"""
        imported = '(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))'
        names = ["_initialize", "__post_instantiate", "__wasm_call_ctors"]
        run = "(global.set $runs (i32.add (global.get $runs) (i32.const 1)))"
        exports = "".join(f'(func (export "{name}") {run})' for name in names)
        wasm = wat(
            f"""(module {imported if wasi else ""} (memory (export "memory") 1)
            (global $runs (mut i32) (i32.const 0)) (func (export "before")) {exports}
            (func (export "runs") (result i32) (global.get $runs)))"""
        )
        with host.compile(wasm).instantiate() as guest:
            for runs, name in enumerate(names, 1):
                assert guest.call("runs") == (runs,)
                assert guest.call(name) == ()
            assert guest.call("runs") == (4,)
            guest.call("before")
