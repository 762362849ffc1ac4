"""Guest memory in host functions."""

from __future__ import annotations

import pytest

from wasi_nn import Host
from wasi_nn.runtime import GuestMemory, HostFunction
from wasi_nn_conformance.engine_tests.common import (
    Engine,
    Wat,
)


class Memory(Engine):
    def test_a_view_of_memory_follows_growth(self, host: Host, wat: Wat) -> None:
        seen: list[tuple[int, bytes]] = []

        def look(memory: GuestMemory, at: int) -> int:
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

    def test_a_memory_may_never_grow(self, host: Host, wat: Wat) -> None:
        seen: list[tuple[int, bytes]] = []

        def look(memory: GuestMemory) -> None:
            seen.append((memory.size, bytes(memory.read(720890, 6))))

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

        def look(memory: GuestMemory) -> None:
            sizes.append(memory.size)
            if len(sizes) == 1:
                assert guest.call("grow") == (1,)
                # The memory of this call follows.
                memory.write(300 * 65536, b"there")
                assert memory.size == 301 * 65536

        extra = [HostFunction("test", "look", 0, False, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert sizes == [65536, 301 * 65536]

    def test_a_memory_may_be_empty_at_the_first_call(self, host: Host, wat: Wat) -> None:
        sizes: list[int] = []

        def look(memory: GuestMemory) -> None:
            sizes.append(memory.size)

        wasm = wat(
            """(module (import "test" "look" (func $look)) (memory (export "memory") 0)
            (func (export "run") (call $look) (drop (memory.grow (i32.const 1))) (call $look)))"""
        )
        extra = [HostFunction("test", "look", 0, False, look)]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            guest.call("run")
        assert sizes == [0, 65536]

    @pytest.mark.parametrize("memory", ["", '(memory (export "other") 1)', "(memory 1)"])
    def test_a_guest_without_an_exported_memory_gets_none(
        self, host: Host, wat: Wat, memory: str
    ) -> None:
        wasm = wat(
            f"""(module (import "wasi_ephemeral_nn" "compute" (func $f (param i32) (result i32)))
            {memory} (func (export "run") (result i32) (call $f (i32.const 0))))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("run") == (3,)
