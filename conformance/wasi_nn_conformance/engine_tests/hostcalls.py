"""Host functions, and many guests."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import GuestError, GuestTrap, LinkError
from wasi_nn.runtime import HostFunction, WasiConfig
from wasi_nn_conformance.engine_tests.common import (
    COMMAND,
    FAIL,
    LOOP,
    Engine,
    Wat,
    assert_flat,
    may_refuse,
    together,
)
from wasi_nn_conformance.places import GUESTS


class HostCalls(Engine):
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

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
    def test_an_exception_of_a_host_function_comes_out_as_it_was(
        self, host: Host, wat: Wat, kind: type[BaseException]
    ) -> None:
        raised = kind("from within")

        def fail(memory: object) -> None:
            raise raised

        program = host.compile(wat(FAIL))
        with program.instantiate(extra=[HostFunction("test", "fail", 0, False, fail)]) as guest:
            with pytest.raises(kind) as caught:
                guest.call("_start")
            assert caught.value is raised

    def test_each_thread_gets_its_own_exception(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(FAIL))
        wrong: list[object] = []

        def work(number: int) -> None:
            for turn in range(self.times(50)):
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

        together([partial(work, number) for number in range(4)])
        assert wrong == []

    def test_a_host_function_may_run_another_guest(self, host: Host, wat: Wat) -> None:
        inner = host.compile(GUESTS / "hello/hello.wasm")
        outputs: list[bytes] = []

        def nested(memory: object) -> None:
            outputs.append(inner.run().stdout)

        extra = [HostFunction("test", "fail", 0, False, nested)]
        program = host.compile(wat(FAIL))
        with program.instantiate(extra=extra) as guest, may_refuse("within a host function"):
            guest.call("_start")
            guest.call("_start")
            assert outputs == [b"hello, wasi-nn\n"] * 2

    @pytest.mark.parametrize("name", ["trap", "raise", "exit"])
    def test_a_host_function_may_catch_the_error_of_a_nested_call(
        self, host: Host, wat: Wat, name: str
    ) -> None:
        caught: list[str] = []

        def calls(memory: object, number: int) -> int:
            if number == 99:
                raise ValueError("inner")
            try:
                guest.call(name)
            except (GuestTrap, ValueError) as error:
                caught.append(str(error))
            return number + 1

        wasm = wat(
            """(module (import "test" "calls" (func $calls (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "run") (param i32) (result i32)
              (i32.add (call $calls (local.get 0)) (call $calls (i32.const 10))))
            (func (export "trap") unreachable)
            (func (export "raise") (drop (call $calls (i32.const 99))))
            (func (export "exit") (call $exit (i32.const 4))))"""
        )
        extra = [HostFunction("test", "calls", 1, True, calls)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            assert guest.call("run", 1) == (13,)
            assert guest.call("run", 2) == (14,)
        says = {"trap": "unreachable", "raise": "inner", "exit": "proc_exit(4)"}[name]
        assert [says in text for text in caught] == [True] * 4

    def test_a_name_may_be_imported_with_two_signatures(self, host: Host, wat: Wat) -> None:
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

    def test_guests_run_in_several_threads(
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

        together([partial(work, number) for number in range(4)])
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

        assert_flat(run, self.times(500))

    @pytest.mark.parametrize("how", ["unlinked", "trap", "raised", "start", "data", "deadline"])
    def test_nothing_leaks_over_many_guests_that_fail(self, host: Host, wat: Wat, how: str) -> None:
        if how == "deadline":
            self.needs(host, "interrupt")
        failing = {
            "unlinked": '(module (import "nobody" "has" (func)) {})',
            "trap": '(module {} (func (export "_start") unreachable))',
            "raised": FAIL.replace('(memory (export "memory") 1)', "{}"),
            "start": "(module {} (func $s unreachable) (start $s))",
            "data": '(module {} (data (i32.const 65536) "x"))',
            "deadline": f'(module {{}} (func (export "_start") {LOOP}))',
        }
        program = host.compile(wat(failing[how].format('(memory (export "memory") 1)')))
        limits = Limits(timeout=0.001) if how == "deadline" else None

        def fail(memory: object) -> None:
            raise ValueError("x" * 1000)

        extra = [HostFunction("test", "fail", 0, False, fail)]

        def run(times: int) -> None:
            for _ in range(times):
                with (
                    pytest.raises((GuestError, LinkError, ValueError)),
                    program.instantiate(extra=extra, limits=limits) as guest,
                ):
                    guest.call("_start")
            gc.collect()

        assert_flat(run, self.times(200))

    def test_nothing_leaks_over_many_programs(self, host: Host, wat: Wat) -> None:
        wasm = wat(FAIL)
        extra = [HostFunction("test", "fail", 0, False, lambda memory: None)]

        def run(times: int) -> None:
            for _ in range(times):
                with host.compile(wasm).instantiate(extra=extra) as guest:
                    guest.call("_start")
            gc.collect()

        assert_flat(run, self.times(200))

    def test_guests_that_were_never_closed_are_collected(self, host: Host, wat: Wat) -> None:
        program = host.compile(wat(COMMAND.format("")))

        def run(times: int) -> None:
            for _ in range(times):
                wasi = WasiConfig(stdout=lambda piece: None, stderr=None)
                program.instantiate(wasi=wasi).call("_start")
            gc.collect()

        assert_flat(run, self.times(50))
