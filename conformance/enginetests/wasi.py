"""WASI, whoever serves it: what a guest makes of it ends the guest at most."""

from __future__ import annotations

import pytest

from enginetests.common import Engine, Wat
from wasi_nn import Host
from wasi_nn.errors import LinkError


class Wasi(Engine):
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("random_get", [-1, 10]),
            ("random_get", [65530, 10]),
            ("fd_write", [1, -1, 1, 0]),
            ("fd_read", [0, -1, -1, -1]),
            ("clock_res_get", [0, -1]),
            ("path_unlink_file", [3, -1, -1]),
            ("poll_oneoff", [-1, -1, 1, -1]),
            ("sock_recv", [0, -1, -1, 0, -1, -1]),
            ("sock_send", [0, -1, -1, 0, -1]),
            ("sock_shutdown", [0, 0]),
            # The signal that cannot be held.
            ("proc_raise", [9]),
        ],
    )
    def test_garbage_ends_the_guest_at_most(
        self, host: Host, wat: Wat, name: str, arguments: list[int]
    ) -> None:
        values = "".join(f"(i32.const {value})" for value in arguments)
        wasm = wat(
            f"""(module (import "wasi_snapshot_preview1" "{name}"
              (func $f (param {"i32 " * len(arguments)}) (result i32)))
            (memory (export "memory") 1) (func (export "_start") (drop (call $f {values}))))"""
        )
        try:
            assert host.run(wasm).exit_code in (0, 134)
        except LinkError as error:
            # An engine may lack the function.
            if name not in str(error):
                raise
