"""A guest that imports functions which nothing provides, and is let start all the same."""

from __future__ import annotations

import pytest

from wasi_nn import Host
from wasi_nn.errors import GuestTrap, LinkError
from wasi_nn_conformance.engine_tests.common import Engine, Wat

_GUEST = """(module
  (import "plugin" "mixed" (func $mixed (param i64 f64 f32 i32) (result i64)))
  (import "plugin" "plain" (func $plain))
  (import "wasi_snapshot_preview1" "sock_lookup_ip"
    (func $lookup (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\03\\00\\00\\00out")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
    CALL))"""
_CALLS = {
    "plugin.mixed": "(drop (call $mixed (i64.const 1) (f64.const 2) (f32.const 3) (i32.const 4)))",
    "plugin.plain": "(call $plain)",
    "wasi_snapshot_preview1.sock_lookup_ip": "(drop (call $lookup " + "(i32.const 0) " * 6 + "))",
}


class StandIns(Engine):
    def test_a_guest_with_unknown_imports_starts_only_if_it_may(self, host: Host, wat: Wat) -> None:
        guest = wat(_GUEST.replace("CALL", ""))
        with pytest.raises(LinkError, match=r"plugin\.mixed.*--allow-unknown-imports"):
            host.run(guest)
        result = host.run(guest, allow_unknown_imports=True)
        assert (result.exit_code, result.stdout) == (0, b"out")

    @pytest.mark.parametrize("name", _CALLS)
    def test_a_stand_in_ends_the_guest_and_names_itself(
        self, host: Host, wat: Wat, name: str
    ) -> None:
        result = host.run(wat(_GUEST.replace("CALL", _CALLS[name])), allow_unknown_imports=True)
        assert result.stdout == b"out"
        assert isinstance(result.error, GuestTrap)
        assert f"it called {name}, which nothing here provides" in str(result.error)

    def test_only_functions_of_numbers_have_stand_ins(self, host: Host, wat: Wat) -> None:
        for kind in ("(memory 1)", "(global i32)", "(func (param externref))"):
            guest = wat(f'(module (import "plugin" "it" {kind}) (func (export "_start")))')
            with pytest.raises(LinkError, match=r"plugin\.it") as refused:
                host.run(guest, allow_unknown_imports=True)
            assert "--allow" not in str(refused.value)
