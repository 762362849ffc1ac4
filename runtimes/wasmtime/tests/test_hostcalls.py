"""Host functions that are defined with wasmtime's C API, once for all guests of a module."""

from __future__ import annotations

import threading

import pytest

wasmtime = pytest.importorskip("wasmtime")

from wasi_nn import Host  # noqa: E402
from wasi_nn.runtime import HostFunction  # noqa: E402

WASM = """(module
  (import "t" "five" (func $five (param i32 i32 i32 i32 i32) (result i32)))
  (import "t" "none" (func $none))
  (import "t" "fail" (func $fail (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "data")
  (func (export "five") (result i32)
    (call $five (i32.const 0) (i32.const -1) (i32.const 8) (i32.const 4) (i32.const 0x80000000)))
  (func (export "none") (call $none))
  (func (export "peek") (result i32) (i32.load (i32.const 16)))
  (func (export "fail") (result i32) (call $fail (i32.const 1))))"""


def functions(seen: list[object]) -> list[HostFunction]:
    def five(memory, *values):
        seen.append((values, bytes(memory.read(8, 4)), memory.size))
        memory.write(16, b"\x2a\0\0\0")
        return 0xFFFFFFFE

    def fail(memory, value):
        raise KeyError("lost")

    return [
        HostFunction("t", "five", 5, True, five),
        HostFunction("t", "none", 0, False, lambda memory: seen.append("none")),
        HostFunction("t", "fail", 1, True, fail),
    ]


@pytest.fixture
def program():
    with Host(runtime="wasmtime") as host:
        yield host.compile(bytes(wasmtime.wat2wasm(WASM)))


def test_host_functions_get_unsigned_values_and_the_memory(program):
    seen: list[object] = []
    with program.instantiate(extra=functions(seen)) as guest:
        assert guest.call("five") == (-2,)
        assert guest.call("none") == ()
        assert seen == [((0, 0xFFFFFFFF, 8, 4, 0x80000000), b"data", 65536), "none"]
        assert guest.call("peek") == (0x2A,)
        with pytest.raises(KeyError, match="lost"):
            guest.call("fail")


def test_guests_of_one_module_have_their_own_functions_and_memories(program):
    first: list[object] = []
    second: list[object] = []
    with (
        program.instantiate(extra=functions(first)) as one,
        program.instantiate(extra=functions(second)) as other,
    ):
        assert one._instance._linked is other._instance._linked
        one.call("none")
        other.call("five")
        one.call("none")
        assert (first, len(second)) == (["none", "none"], 1)
        assert (one.call("peek"), other.call("peek")) == ((0,), (0x2A,))


def test_a_guest_that_another_guests_host_function_runs_has_its_own_functions(program):
    outer: list[object] = []
    inner: list[object] = []

    def run_other(memory):
        with program.instantiate(extra=functions(inner)) as guest:
            guest.call("five")
            with pytest.raises(KeyError):
                guest.call("fail")
        outer.append(bytes(memory.read(16, 1)))

    given = functions(outer)
    given[1] = HostFunction("t", "none", 0, False, run_other)
    with program.instantiate(extra=given) as guest:
        guest.call("none")
        assert (outer, len(inner)) == ([b"\0"], 1)
        assert guest.call("five") == (-2,)
        assert len(outer) == 2


def test_guests_of_many_threads_call_their_own_functions(program):
    wrong: list[object] = []

    def run(number: int) -> None:
        for turn in range(50):
            seen: list[object] = []
            given = functions(seen)
            given[0] = HostFunction("t", "five", 5, True, lambda memory, *_, n=number: n)
            with program.instantiate(extra=given) as guest:
                guest.call("none")
                if (guest.call("five"), seen) != ((number,), ["none"]):
                    wrong.append((number, turn))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_guest_with_other_functions_is_linked_anew(program):
    """The same program, but one guest's output goes to Python and another's nowhere."""
    wat = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 8) "\\10\\00\\00\\00\\03\\00\\00\\00yes")
      (func (export "_start")
        (drop (call $w (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64)))))"""
    with Host(runtime="wasmtime") as host:
        command = host.compile(bytes(wasmtime.wat2wasm(wat)))
        for capture in (True, False, True):
            assert command.run(capture=capture).check().stdout == (b"yes" if capture else b"")
