"""Standard streams and directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasi_nn import Host
from wasi_nn.runtime import Preopen
from wasi_nn_conformance.engine_tests.common import (
    WASI,
    Engine,
    Wat,
    may_refuse,
)
from wasi_nn_conformance.places import GUESTS


class StandardStreams(Engine):
    def test_streams_are_captured_or_go_to_a_callable(self, host: Host, wat: Wat) -> None:
        # Copies three bytes of stdin to stdout and writes "out" to stderr.
        wasm = wat(
            f"""(module {WASI} (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
            (drop (call $write (i32.const 1) (i32.const 12) (i32.const 1) (i32.const 100)))
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 100)))))"""
        )
        result = host.run(wasm, stdin=b"xyz and more")
        assert (result.stdout, result.stderr) == (b"xyz", b"out")
        pieces: list[bytes] = []
        result = host.run(wasm, stdin=b"abc", stdout=pieces.append, capture=False)
        assert (b"".join(pieces), result.stdout, result.stderr) == (b"abc", b"", b"")

    def test_streams_may_be_inherited(self, host: Host, capfd: pytest.CaptureFixture[str]) -> None:
        print("before", end=" ")
        host.run(GUESTS / "hello/hello.wasm", stdout="inherit")
        assert capfd.readouterr().out == "before hello, wasi-nn\n"

    def test_stdin_is_empty_by_default(self, host: Host, wat: Wat) -> None:
        # The exit code is the number of bytes read.
        wasm = wat(
            f"""(module {WASI} (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 12) (i32.const 1) (i32.const 100)))
            (call $exit (i32.load (i32.const 100)))))"""
        )
        assert host.run(wasm).exit_code == 0
        assert host.run(wasm, stdin=b"ab").exit_code == 2

    def test_more_output_than_a_pipe_holds_is_captured(self, host: Host, wat: Wat) -> None:
        # 300 times 4,096 bytes: more than any pipe holds.
        wasm = wat(
            f"""(module {WASI} (func (export "_start") (local i32)
            (i32.store (i32.const 200) (i32.const 1024))
            (i32.store (i32.const 204) (i32.const 4096))
            (loop $l
              (drop (call $write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 100)))
              (local.set 0 (i32.add (local.get 0) (i32.const 1)))
              (br_if $l (i32.lt_u (local.get 0) (i32.const 300))))))"""
        )
        assert host.run(wasm).stdout == bytes(300 * 4096)

    def test_a_failure_of_an_output_callback_comes_out(self, host: Host, wat: Wat) -> None:
        def fail(piece: bytes) -> None:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            host.run(GUESTS / "hello/hello.wasm", stdout=fail)
        # One that writes as long as it is read.
        wasm = wat(
            f"""(module {WASI} (func (export "_start")
            (loop $l (br_if $l (i32.eqz
              (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))))"""
        )
        with pytest.raises(KeyError, match="lost"):
            host.run(wasm, stdout=fail)

    def test_a_read_only_directory_is_readable(self, host: Host, tmp_path: Path) -> None:
        self.needs(host, "wasi")
        (tmp_path / "m.identity").write_text("wasi-nn:identity\n")
        (tmp_path / "input.raw").write_bytes(bytes(16))
        arguments = ["/data/m.identity", "/data/input.raw", "1,4"]
        guest, preopen = GUESTS / "classify/classify.wasm", Preopen(tmp_path, "/data", False)
        with may_refuse("cannot give"):
            result = host.run(guest, arguments, dirs=[preopen])
            assert result.exit_code == 0, result.stderr
