"""Guests whose exports the embedder calls, and whose memory it reads and writes."""

from __future__ import annotations

import array
import threading

import pytest

from wasi_nn import Host
from wasi_nn.errors import (
    GuestTrap,
    Interrupted,
    InvalidArgument,
    MissingMemory,
    UsageError,
)
from wasi_nn.runtime import GuestMemory, HostFunction
from wasi_nn_conformance.engine_tests.common import LOOP, Engine, Wat, may_refuse

# Allocates upwards from 1024, and never frees. `upper` changes a text in place.
TEXTS = """(module (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (func $alloc (export "malloc") (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $size)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1)))))
    (local.get $at))
  (func (export "alloc") (param $size i32) (param $align i32) (result i32)
    (global.set $top (i32.mul (local.get $align) (i32.div_u
      (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1))) (local.get $align))))
    (call $alloc (local.get $size)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (i32.or (local.get 0) (local.get 1)) (then unreachable))
    (call $alloc (local.get 3)))
  (func (export "upper") (param $at i32) (param $count i32) (result i32)
    (local $end i32) (local $from i32)
    (local.set $from (local.get $at))
    (local.set $end (i32.add (local.get $at) (local.get $count)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (i32.store8 (local.get $at) (i32.and (i32.load8_u (local.get $at)) (i32.const 0xdf)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (local.get $from))
  (func (export "sum") (param $at i32) (param $bytes i32) (result f64)
    (local $sum f64) (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $sum (f64.add (local.get $sum) (f64.load (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br $next)))
    (local.get $sum))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "none") (param i32) (result i32) (i32.const 0))
  (func (export "far") (param i32) (result i32) (i32.const -8))
  (func (export "broken") (param i32) (result i32) unreachable)
  (func (export "pair") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "silent") (param i32)))"""


class Exports(Engine):
    def test_texts_and_arrays_go_in_and_out(self, host: Host, wat: Wat) -> None:
        with host.instantiate(wat(TEXTS)) as guest:
            assert str(guest.exports["upper"]) == "(i32, i32) -> (i32)"
            region = guest.put("gruß", "malloc")
            assert region == (1024, 5)
            assert guest.memory.text(*region) == "gruß"
            (at,) = guest.call("upper", *guest.put(b"hello\0", "malloc"))
            assert guest.memory.read(int(at), 6) == b"HELLO\0"
            assert guest.memory.text(int(at)) == "HELLO"
            numbers = array.array("d", [1.5, 2.5, 38.0])
            assert guest.call("sum", *guest.put(numbers, "alloc", alignment=8)) == (42.0,)
            assert guest.put(numbers, "alloc", alignment=64).pointer % 64 == 0
            assert guest.memory.text(*guest.put("ab", "cabi_realloc")) == "ab"
            assert guest.put(b"", "malloc").length == 0

    def test_memory_lasts_from_call_to_call(self, host: Host, wat: Wat) -> None:
        with host.instantiate(wat(TEXTS)) as guest:
            memory = guest.memory
            assert memory.size == 65536
            memory.write(65530, b"at end")
            memory.write(65530, "AT")
            assert memory.read(65530, 6) == b"AT end"
            assert guest.call("grow", 2) == (1,)
            assert memory.size == 3 * 65536
            assert memory.read(65530, 8) == b"AT end\0\0"
            memory.write(3 * 65536 - 1, b"!")
            assert guest.call("upper", 65530, 6) == (65530,)
            assert memory.read(65530, 6) == b"AT\x00END"

    def test_large_arrays_go_in_and_out(self, host: Host, wat: Wat) -> None:
        data = bytes(range(256)) * (16 << 10)
        with host.instantiate(wat(TEXTS)) as guest:
            first, second = (guest.put(data, "malloc") for _ in range(2))
            assert guest.memory.read(*first) == guest.memory.read(*second) == data

    def test_bytes_outside_the_memory_are_errors(self, host: Host, wat: Wat) -> None:
        with host.instantiate(wat(TEXTS)) as guest:
            memory = guest.memory
            for pointer, length in ((65536, 1), (65530, 7), (0, -1), (-8, 8), (1 << 32, 0)):
                with pytest.raises(InvalidArgument, match="outside the guest's memory of 65536"):
                    memory.read(pointer, length)
            for pointer in (65534, -1, 1 << 40):
                with pytest.raises(InvalidArgument, match="outside the guest's memory"):
                    memory.write(pointer, b"four")
            assert memory.read(65534, 2) == b"\0\0"
            assert memory.read(65536, 0) == b""
            memory.write(0, b"\xff" * 65536)
            with pytest.raises(InvalidArgument, match="outside the guest's memory"):
                memory.text(16)
            with pytest.raises(InvalidArgument, match="at 0x10 is not UTF-8"):
                memory.text(16, 4)
            for wrong in ("1", None, -(1 << 31) - 1):
                with pytest.raises(UsageError, match="not a pointer"):
                    memory.read(wrong, 1)  # type: ignore[arg-type]

    def test_what_an_allocator_does_wrong_is_an_error(self, host: Host, wat: Wat) -> None:
        with host.instantiate(wat(TEXTS)) as guest:
            with pytest.raises(MissingMemory, match="none has no 2 bytes"):
                guest.put("no", "none")
            with pytest.raises(InvalidArgument, match="outside the guest's memory"):
                guest.put("four", "far")
            with pytest.raises(GuestTrap):
                guest.put("no", "broken")
            for name in ("pair", "silent"):
                with pytest.raises(UsageError, match="is not an allocator"):
                    guest.put("no", name)
            with pytest.raises(UsageError, match="exports no function 'mallok'"):
                guest.put("no", "mallok")
            with pytest.raises(UsageError, match="not a text, bytes or an array"):
                guest.put(7, "malloc")  # type: ignore[arg-type]
            assert guest.memory.text(*guest.put("yes", "malloc")) == "yes"

    def test_a_guest_may_have_no_memory(self, host: Host, wat: Wat) -> None:
        with (
            host.instantiate(wat('(module (func (export "f")))')) as guest,
            pytest.raises(UsageError, match="exports no memory"),
        ):
            guest.memory.read(0, 1)

    def test_a_closed_guest_has_no_memory(self, host: Host, wat: Wat) -> None:
        with host.instantiate(wat(TEXTS)) as guest:
            memory = guest.memory
        with pytest.raises(UsageError, match="the guest was closed"):
            memory.read(0, 1)

    def test_an_interrupted_guest_is_not_used_again(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        loop = f'(func (export "loop") (param i32) (result i32) {LOOP} (unreachable))'
        with host.instantiate(wat(f'(module (memory (export "memory") 1) {loop})')) as guest:
            timer = threading.Timer(0.2, guest.interrupt)
            timer.start()
            with pytest.raises(Interrupted):
                guest.put("text", "loop")
            timer.join()
            with pytest.raises(Interrupted):
                guest.memory.read(0, 1)

    def test_a_host_function_may_use_the_memory_of_its_guest(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module (import "test" "look" (func $look (param i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 16) "fore")
            (func (export "run") (result i32)
              (drop (call $look (i32.const 16))) (i32.load8_u (i32.const 18))))"""
        )
        seen: list[bytes] = []

        def look(memory: GuestMemory, at: int) -> int:
            seen.append(guest.memory.read(at, 4))
            memory.write(at, b"back")
            seen.append(guest.memory.read(at, 4))
            guest.memory.write(at + 2, b"BA")
            seen.append(bytes(memory.read(at, 4)))
            return 0

        extra = [HostFunction("test", "look", 1, True, look)]
        with host.instantiate(wasm, extra=extra) as guest, may_refuse("within a host function"):
            guest.memory.write(20, b"!")
            assert guest.call("run") == (ord("B"),)
            assert seen == [b"fore", b"back", b"baBA"]
            assert guest.memory.read(16, 5) == b"baBA!"

    def test_a_reactor_is_initialised_before_its_exports(self, host: Host, wat: Wat) -> None:
        wasm = wat(
            """(module (memory (export "memory") 1) (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize")
              (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
            (func (export "ready") (result i32) (global.get $ready)))"""
        )
        with host.instantiate(wasm) as guest:
            assert guest.call("ready") == (1,)
