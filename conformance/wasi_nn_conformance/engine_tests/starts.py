"""Modules whose program is the start section (AssemblyScript's default), and exports that exit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wasi_nn import Call, Host, Limits
from wasi_nn.errors import DeadlineExceeded, GuestExited, GuestTrap, LinkError, UsageError
from wasi_nn_conformance.engine_tests.common import LOOP, WASI, Engine, Wat, skip_if_refused

_WRITE = "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))"
_EXIT = "(call $exit (i32.const {}))"
_TRAPS = "unreachable"
_STARTED = f"(module {WASI} (func $main {{}}) (start $main) {{}})"
_ADD = """(func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))"""
NN = """(module
    (import "wasi_snapshot_preview1" "fd_write"
      (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "load_by_name"
      (func $load (param i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
    (import "wasi_ephemeral_nn" "get_output"
      (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "net")
    (; dimensions [5], type u8 in the numbering since 2023, and the data ;)
    (data (i32.const 16) "\\05\\00\\00\\00")
    (data (i32.const 32) "\\10\\00\\00\\00\\01\\00\\00\\00\\03\\00\\00\\00")
    (data (i32.const 44) "\\40\\00\\00\\00\\05\\00\\00\\00")
    (data (i32.const 64) "hello")
    (data (i32.const 80) "\\80\\00\\00\\00\\05\\00\\00\\00")
    (func $must (param i32) (if (local.get 0) (then unreachable)))
    (func $main
      (call $must (call $load (i32.const 0) (i32.const 3) (i32.const 100)))
      (call $must (call $init (i32.load (i32.const 100)) (i32.const 104)))
      (call $must (call $set (i32.load (i32.const 104)) (i32.const 0) (i32.const 32)))
      (call $must (call $compute (i32.load (i32.const 104))))
      (call $must (call $get (i32.load (i32.const 104)) (i32.const 0) (i32.const 128)
        (i32.const 64) (i32.const 108)))
      (call $must (call $write (i32.const 1) (i32.const 80) (i32.const 1) (i32.const 112))))
    (start $main))"""


class Starts(Engine):
    def test_a_start_section_alone_is_a_command(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(_STARTED.format(_WRITE, "")))
        for _ in range(2):
            result = program.run().check()
            assert (result.exit_code, result.stdout) == (0, b"out")

    def test_a_start_sections_memory_need_not_be_exported(self, host: Host, wat: Wat) -> None:
        """Only host calls need the memory."""
        result = host.run(wat("(module (memory 1) (func $main) (start $main))")).check()
        assert result.exit_code == 0

    @pytest.mark.parametrize("code", [0, 3, 255])
    def test_a_start_section_may_exit(self, host: Host, wat: Wat, code: int) -> None:
        body = f"{_WRITE} {_EXIT.format(code)} unreachable"
        for more in ("", f'(func (export "_start") {_TRAPS})', _ADD):
            result = host.run(wat(_STARTED.format(body, more)))
            assert (result.exit_code, result.error, result.stdout) == (code, None, b"out")

    def test_a_start_section_may_trap(self, host: Host, wat: Wat) -> None:
        result = host.run(wat(_STARTED.format(f"{_WRITE} {_TRAPS}", "")))
        assert (result.exit_code, result.stdout) == (134, b"out")
        assert type(result.error) is GuestTrap
        assert "unreachable" in str(result.error)

    def test_a_deadline_ends_a_start_section(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        result = host.run(wat(_STARTED.format(LOOP, "")), limits=Limits(timeout=0.2))
        assert isinstance(result.error, DeadlineExceeded)

    def test_a_start_section_may_run_inference(
        self, host: Host, wat: Wat, identity_model: Callable[..., Path]
    ) -> None:
        host.add_model("net", identity_model("net"))
        result = host.run(wat(NN)).check()
        assert (result.exit_code, result.stdout, result.failed) == (0, b"hello", 0)

    def test_a_start_section_runs_before_the_called_export(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(_STARTED.format(_WRITE, _ADD)))
        result = program.run(invoke=Call("add", (2, 3))).check()
        assert (result.values, result.stdout) == ((5,), b"out")
        assert program.run().check().stdout == b"out"
        with program.instantiate() as guest:
            assert guest.call("add", 4, 5) == (9,)

    @pytest.mark.parametrize("code", [0, 3])
    def test_the_exit_of_a_start_section_ends_the_call(
        self, host: Host, wat: Wat, code: int
    ) -> None:
        program = host.compile(wat(_STARTED.format(_EXIT.format(code), _ADD)))
        result = program.run(invoke=Call("add", (2, 3)))
        assert (result.exit_code, result.error, result.values) == (code, None, ())
        with pytest.raises(GuestExited) as ended:
            program.instantiate()
        assert ended.value.code == code

    @pytest.mark.parametrize("code", [0, 5, 255])
    def test_a_called_export_may_exit(self, host: Host, wat: Wat, code: int) -> None:
        leave = f'(func (export "leave") (param i32) {_WRITE} (call $exit (local.get 0)))'
        program = host.compile(wat(f"(module {WASI} {leave})"))
        result = program.run(invoke=Call("leave", (code,)))
        assert (result.exit_code, result.error, result.stdout) == (code, None, b"out")
        with program.instantiate() as guest, pytest.raises(GuestExited) as ended:
            guest.call("leave", code)
        assert ended.value.code == code

    def test_a_module_without_start_is_a_usage_error(self, host: Host, wat: Wat) -> None:
        with pytest.raises(UsageError, match="no _start"):
            host.run(wat("(module)"))
        with pytest.raises(UsageError, match="no _start"):
            host.run(wat('(module (memory (export "_start") 1))'))

    def test_a_command_may_return_a_number(self, host: Host, wat: Wat) -> None:
        """Nothing reads it: a command ends with 0."""
        with skip_if_refused():
            program = host.compile(
                wat('(module (func (export "_start") (result i32) i32.const 3))')
            )
        assert program.run().check().exit_code == 0

    def test_an_initialize_with_parameters_is_a_usage_error(self, host: Host, wat: Wat) -> None:
        program = host.compile(
            wat(f'(module (func (export "_initialize") (param i32)) {_ADD})'),
        )
        with pytest.raises(UsageError, match="takes 1 arguments, not 0"):
            program.run(invoke=Call("add", (2, 3)))
        assert program.run(invoke=Call("_initialize", (2,))).check().values == ()

    def test_a_guest_cannot_start_threads(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "wasi_thread_start") (param i32 i32))
            (func (export "_start") (loop $l (drop (call $spawn (i32.const 0))) (br $l))))"""
        )
        with pytest.raises(LinkError, match="thread-spawn, which comes from"):
            host.run(wasm)
