"""wasmtime runs guests as every engine does, and has features of its own."""

from __future__ import annotations

import gc
from functools import partial

import pytest
from conftest import needs_engine

from wasi_nn import Host, Limits
from wasi_nn.errors import DeadlineExceeded, LimitExceeded, OutOfFuel, UsageError
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.engine_tests.common import together

needs_engine("wasmtime")


class TestWasmtime(EngineTests):
    runtime = "wasmtime"

    def test_a_memory_limit_applies_to_tables_and_more_memories(self, host, wat):
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

    def test_a_run_may_have_more_fuel_only_if_it_loosens_the_limit(self, plugins, wat):
        command = '(module (memory (export "memory") 1) (func (export "_start") {}))'
        turns = """(local i32) (loop $l (local.set 0 (i32.add (local.get 0) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get 0) (i32.const 1000))))"""
        with Host(plugins=plugins, runtime="wasmtime", limits=Limits(fuel=10)) as host:
            program = host.compile(wat(command.format(turns)))
            assert isinstance(program.run().error, OutOfFuel)
            assert isinstance(program.run(limits=Limits(fuel=10**6)).error, OutOfFuel)
            assert program.run(limits=Limits(fuel=10**6, loosen=True)).error is None

    def test_a_run_leaves_no_cycle_to_the_collector(self, host, wat):
        program = host.compile(
            wat('(module (memory (export "memory") 1) (func (export "_start")))')
        )
        program.run()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                program.run(["argument"])
            # (ctypes makes a type for each size of an array, once.)
            assert gc.collect() < 50
        finally:
            gc.enable()

    def test_two_engines_run_in_one_process(self, plugins, wat):
        """A FuncType of wasmtime-py that two engines use aborts the process."""
        wasm = wat(
            '(module (import "wasi_ephemeral_nn" "compute" (func (param i32) (result i32))))'
        )
        hosts = [Host(plugins=plugins, runtime="wasmtime"), Host(runtime="wasmtime")]
        hosts.append(Host(plugins=plugins, runtime="wasmtime", limits=Limits(fuel=10_000)))
        for host in hosts:
            host.compile(wasm).instantiate().close()

    def test_an_interrupt_that_a_store_missed_is_repeated(self, host, wat):
        """A store that continues after the interrupt of another store can miss its own."""
        loop = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'

        class Deaf:
            def __init__(self, engine):
                self.engine, self.heard = engine, 0

            def increment_epoch(self):
                self.heard += 1
                if self.heard > 1:
                    self.engine.increment_epoch()

        deaf = []

        def soon(guest):
            deaf.append(Deaf(guest._instance._engine))
            guest._instance._engine = deaf[0]

        result = host.compile(wat(loop)).run(limits=Limits(timeout=0.05), on_start=soon)
        assert isinstance(result.error, DeadlineExceeded)
        assert deaf[0].heard > 1

    def test_many_threads_get_their_own_exceptions_at_once(self, host, wat):
        """wasmtime-py itself keeps exceptions in a global variable, where threads race."""
        together([partial(self.test_each_thread_gets_its_own_exception, host, wat)] * 2)


@pytest.mark.parametrize("options", [{"stdin": "hello"}, {"stdout": "/path"}, {"stderr": 3}])
def test_a_wrong_value_for_a_stream_is_a_usage_error(host, guests, options):
    with pytest.raises(UsageError, match="must be None"):
        host.run(guests / "hello/hello.wasm", **options)
