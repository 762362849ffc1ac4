"""Limits: what stops a guest."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from functools import partial

import pytest

from wasi_nn import Guest, Host, Limits
from wasi_nn.errors import (
    DeadlineExceeded,
    Interrupted,
    LimitExceeded,
    OutOfFuel,
    UsageError,
)
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import HostFunction
from wasi_nn_conformance.engine_tests.common import (
    COMMAND,
    FAIL,
    LOOP,
    WASI,
    Engine,
    Wat,
    ctrl_c,
    skip_if_refused,
    together,
)


class Limited(Engine):
    def test_a_deadline_ends_the_guest(self, plugins: Plugins, host: Host, wat: Wat) -> None:
        wasm = wat(COMMAND.format(LOOP))
        if not host.runtime.features.interrupt:
            with pytest.raises(UsageError, match="cannot stop a guest at a deadline"):
                host.run(wasm, limits=Limits(timeout=0.2))
            if not self.installed:
                return
        # If the engine cannot be stopped, its process is ended.
        with Host(plugins=plugins, runtime=self.runtime, limits=Limits(timeout=0.2)) as limited:
            started = time.monotonic()
            result = limited.run(wasm)
            seconds = time.monotonic() - started
        assert isinstance(result.error, DeadlineExceeded)
        assert result.exit_code == 124
        assert 0.2 <= seconds < 10
        with Host(plugins=plugins, runtime=self.runtime, limits=Limits(timeout=20)) as limited:
            assert limited.run(wat(COMMAND.format(""))).exit_code == 0

    def test_the_deadline_of_one_guest_stops_no_other(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        # The other guest counts for a while, in the same engine.
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

    def test_a_deadline_may_come_at_any_moment(self, host: Host, wat: Wat) -> None:
        """Before, while and after the guest runs, in several threads."""
        self.needs(host, "interrupt")
        programs = [host.compile(wat(COMMAND.format(body))) for body in (LOOP, "")]
        ended: list[str] = []

        def work(number: int) -> None:
            for turn in range(60):
                limits = Limits(timeout=1e-5 * (1 + (turn * 37 + number * 11) % 200))
                result = programs[turn % 2].run(limits=limits)
                if turn % 2 == 0:
                    ended.append(type(result.error).__name__)

        together([partial(work, number) for number in range(4)])
        assert set(ended) == {"DeadlineExceeded"}
        assert len(ended) == 120

    def test_an_interrupt_from_another_thread_ends_the_guest(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        timers = []

        def soon(guest: Guest) -> None:
            timers.append(threading.Timer(0.1, guest.interrupt))
            timers[0].start()

        result = host.compile(wat(COMMAND.format(LOOP))).run(on_start=soon)
        timers[0].join()
        assert isinstance(result.error, Interrupted)
        assert result.exit_code == 130

    def test_an_interrupt_before_the_start_ends_the_guest(self, host: Host, wat: Wat) -> None:
        result = host.compile(wat(COMMAND.format(""))).run(on_start=lambda guest: guest.interrupt())
        assert isinstance(result.error, Interrupted)

    def test_ctrl_c_ends_a_guest_that_computes(self, host: Host, wat: Wat) -> None:
        """Python's own handler would raise in code that the engine calls, where nothing catches
        it. So core interrupts the guest, and raises after the guest has returned."""
        self.needs(host, "interrupt")
        program = host.compile(wat(COMMAND.format(LOOP)))
        with ctrl_c(0.2):
            with pytest.raises(KeyboardInterrupt):
                program.run()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_ctrl_c_ends_a_guest_that_makes_host_calls(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (func (export "run")
              (loop $l (br_if $l (call $f (i32.const 1))))))"""
        )
        extra = [HostFunction("test", "f", 1, True, lambda memory, value: value)]
        program = host.compile(wasm)
        for wait in (0.05, 0.1, 0.15):
            with program.instantiate(extra=extra) as guest:
                with ctrl_c(wait), pytest.raises(KeyboardInterrupt):
                    guest.call("run")
                with pytest.raises(Interrupted):
                    guest.call("run")

    def test_ctrl_c_ends_a_guest_within_a_guest(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        inner = [host.compile(wat(COMMAND.format(body))) for body in ("", LOOP)]
        outer = host.compile(wat(FAIL))

        def within(memory: object) -> None:
            inner.pop(0).run()

        extra = [HostFunction("test", "fail", 0, False, within)]
        with outer.instantiate(extra=extra) as guest:
            with skip_if_refused("within a host function"):
                guest.call("_start")
            with ctrl_c(0.2), pytest.raises(KeyboardInterrupt):
                guest.call("_start")

    def test_an_interrupt_is_kept_if_a_host_function_swallows_it(
        self, host: Host, wat: Wat
    ) -> None:
        """It ends the whole guest, not only the call back into the guest."""
        self.needs(host, "interrupt")
        wasm = wat(
            f"""(module (import "test" "swallow" (func $swallow)) (memory (export "memory") 1)
            (func (export "loop") {LOOP})
            (func (export "run") (local i32) (call $swallow)
              (loop $l (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get 0) (i32.const 300000000))))))"""
        )

        def swallow(memory: object) -> None:
            with contextlib.suppress(Interrupted):
                guest.call("loop")

        extra = [HostFunction("test", "swallow", 0, False, swallow)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            timer = threading.Timer(0.1, guest.interrupt)
            timer.start()
            with pytest.raises(Interrupted):
                guest.call("run")
            timer.join()

    def test_an_interrupt_after_the_end_does_nothing(self, host: Host, wat: Wat) -> None:
        with host.compile(wat(COMMAND.format(""))).instantiate() as guest:
            guest.call("_start")
        guest.interrupt()

    def test_fuel_ends_the_guest(self, plugins: Plugins, host: Host, wat: Wat) -> None:
        with Host(plugins=plugins, runtime=self.runtime, limits=Limits(fuel=10_000)) as limited:
            if not host.runtime.features.fuel:
                with pytest.raises(UsageError, match="cannot count fuel"):
                    limited.run(wat(COMMAND.format("")))
                return
            assert limited.run(wat(COMMAND.format(""))).exit_code == 0
            assert isinstance(limited.run(wat(COMMAND.format(LOOP))).error, OutOfFuel)

    def test_a_memory_limit_holds(self, plugins: Plugins, host: Host, wat: Wat) -> None:
        grows = wat(
            f"""(module {WASI} (func (export "_start")
            (call $exit (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))))"""
        )
        assert host.run(grows).exit_code == 0
        if not host.runtime.features.memory_limit:
            with pytest.raises(UsageError, match="cannot limit a guest's memory"):
                host.run(grows, limits=Limits(memory=8 << 16))
            if not self.installed:
                return
        for memory in (8 << 16, 65535):
            # If the engine cannot, it does so in a process of its own.
            with Host(
                plugins=plugins, runtime=self.runtime, limits=Limits(memory=memory)
            ) as limited:
                result = limited.run(grows)
            if memory > 65536:
                assert (result.exit_code, result.error) == (1, None)
            else:
                assert isinstance(result.error, LimitExceeded)
                assert "65535 bytes" in str(result.error)
        if host.runtime.features.memory_limit:
            assert host.run(grows, limits=Limits(memory=8 << 16)).exit_code == 1

    @pytest.mark.parametrize(
        "body",
        [
            '(table 10000000 funcref) (memory (export "memory") 1)',
            '(table 10000000 10000000 externref) (memory (export "memory") 1)',
            f'{"(memory 0)" * 20} (memory (export "memory") 1)',
        ],
    )
    def test_a_memory_limit_holds_for_tables_and_for_memories_together(
        self, host: Host, wat: Wat, body: str
    ) -> None:
        self.needs(host, "memory_limit")
        wasm = wat(f'(module {body} (func (export "_start")))')
        with skip_if_refused():
            program = host.compile(wasm)
        assert program.run().error is None
        assert isinstance(program.run(limits=Limits(memory=1 << 20)).error, LimitExceeded)

    def test_a_small_table_fits_a_memory_limit(self, host: Host, wat: Wat) -> None:
        self.needs(host, "memory_limit")
        table = '(table 100 100 funcref) (memory (export "memory") 1)'
        wasm = wat(f'(module {table} (func (export "_start")))')
        assert host.run(wasm, limits=Limits(memory=65536)).error is None

    def test_a_table_that_grows_fits_a_memory_limit_and_grows_no_further(
        self, host: Host, wat: Wat
    ) -> None:
        self.needs(host, "memory_limit")
        wasm = wat(
            """(module (table $t 1 funcref) (memory (export "memory") 1) (func (export "_start")
            (if (i32.ne (table.grow $t (ref.null func) (i32.const 1000000)) (i32.const -1))
              (then unreachable))))"""
        )
        with skip_if_refused():
            program = host.compile(wasm)
        assert program.run(limits=Limits(memory=1 << 20)).error is None

    @pytest.mark.parametrize("memory", [0, 1000, 65535])
    def test_a_memory_limit_may_be_below_a_page(self, host: Host, wat: Wat, memory: int) -> None:
        self.needs(host, "memory_limit")
        grows = wat(
            """(module (memory (export "memory") 0) (func (export "_start")
            (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))"""
        )
        error = host.run(grows, limits=Limits(memory=memory)).error
        assert error is None or isinstance(error, LimitExceeded)
