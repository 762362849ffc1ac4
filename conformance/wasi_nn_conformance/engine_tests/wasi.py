"""WASI: calls of a guest may end the guest, and nothing else."""

from __future__ import annotations

import pytest

from wasi_nn import Host
from wasi_nn.errors import LinkError
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_conformance.engine_tests.common import Engine, Wat


class Wasi(Engine):
    def test_every_wasi_function_can_be_imported(self, host: Host, wat: Wat) -> None:
        """Engines compare the signature with their own."""
        self.needs(host, "wasi")
        for module in host.runtime.wasi_modules:
            imports = "".join(
                f"""(import "{module}" "{name}"
                (func (param {" ".join(parameters)}) (result {" ".join(results)})))"""
                for name, (parameters, results) in SIGNATURES.items()
                # (It came later than the others.)
                if name != "sock_accept"
            )
            wasm = wat(f'(module {imports} (memory (export "memory") 1) (func (export "_start")))')
            assert host.run(wasm).exit_code == 0

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
            ("poll_oneoff", [0, 512, 0, 1020]),
            ("poll_oneoff", [0, 512, -1, 1020]),
            ("sock_recv", [0, -1, -1, 0, -1, -1]),
            ("sock_send", [0, -1, -1, 0, -1]),
            ("sock_shutdown", [0, 0]),
            # The signal that cannot be held.
            ("proc_raise", [9]),
        ],
    )
    def test_garbage_for_wasi_ends_at_most_the_guest(
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

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("proc_exit", "(func (param i32 i32))"),
            ("proc_exit", "(func)"),
            ("proc_exit", "(func (param i32) (result i32))"),
            ("proc_exit", "(func (param i64))"),
            ("fd_write", "(func (param i64) (result i32))"),
            ("fd_seek", "(func (param i32 i32 i32 i32) (result i32))"),
            ("fd_write", "(memory 1)"),
            ("fd_write", "(global i32)"),
        ],
    )
    def test_another_signature_is_explained_before_the_start(
        self, host: Host, wat: Wat, name: str, wanted: str
    ) -> None:
        own = "" if "memory" in wanted else "(memory 1)"
        for module in host.runtime.wasi_modules:
            wasm = wat(
                f"""(module (import "{module}" "{name}" {wanted}) {own}
                (export "memory" (memory 0)) (func (export "_start")))"""
            )
            with pytest.raises(LinkError, match=f"it imports {module}.{name} as"):
                host.run(wasm)
