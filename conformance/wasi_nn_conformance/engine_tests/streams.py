"""Standard streams and directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wasi_nn import Host, Limits
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import Preopen
from wasi_nn_conformance.engine_tests.common import (
    WASI,
    Engine,
    Wat,
    may_refuse,
)
from wasi_nn_conformance.engine_tests.starts import NN
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

    @pytest.mark.parametrize("isolation", ["none", "shared"])
    def test_what_a_model_prints_is_the_guests_output(
        self,
        host: Host,
        wat: Wat,
        identity_model: Callable[..., Path],
        capfd: pytest.CaptureFixture[str],
        isolation: str,
    ) -> None:
        model = identity_model("net", prints=True)
        host.add_model("net", model, isolation=isolation)
        # Writes "net" before it computes, and the output after it.
        write = (
            "(call $must (call $write (i32.const 1) (i32.const 88) (i32.const 1) (i32.const 112)))"
        )
        text = NN.replace("(call $must (call $compute", f"{write} (call $must (call $compute")
        guest = wat(
            text.replace(
                "(func $must",
                '(data (i32.const 88) "\\00\\00\\00\\00\\03\\00\\00\\00") (func $must',
            )
        )
        assert host.run(guest).check().stdout == b"nethellohello"
        assert host.run(guest, limits=Limits(output=7)).check().stdout == b"nethell"
        pieces: list[bytes] = []
        host.run(guest, stdout=pieces.append).check()
        assert b"".join(pieces) == b"nethellohello"

        def fail(piece: bytes) -> None:
            if piece.startswith(b"hello"):
                raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            host.run(guest, stdout=fail)
        assert capfd.readouterr().out == ""
        host.run(guest, stdout="inherit").check()
        assert capfd.readouterr().out == "nethellohello"

    @pytest.mark.parametrize(
        "body",
        [
            "unreachable",
            "(call $recurse)",
            "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 4096)) (i32.const -1))))",
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            "(drop (i32.load (i32.const -1)))",
            "(drop (call $write (i32.const 2) (i32.const -1) (i32.const 9) (i32.const -1)))",
            "(call $exit (i32.const 77))",
        ],
        ids="trap recursion memory division pointer garbage exit".split(),
    )
    def test_nothing_is_written_to_the_hosts_own_streams(
        self, plugins: Plugins, host: Host, wat: Wat, capfd: pytest.CaptureFixture[str], body: str
    ) -> None:
        """By an engine that explains how the guest ended, for example."""
        wasm = wat(
            f'(module {WASI} (func $recurse (call $recurse)) (func (export "_start") {body}))'
        )
        limits = Limits(memory=64 << 20) if self.installed else Limits()
        with Host(plugins=plugins, runtime=self.runtime, limits=limits) as limited:
            limited.run(wasm, capture=False)
        assert capfd.readouterr() == ("", "")

    def test_a_read_only_directory_is_readable(self, host: Host, tmp_path: Path) -> None:
        self.needs(host, "wasi")
        (tmp_path / "m.identity").write_text("wasi-nn:identity\n")
        (tmp_path / "input.raw").write_bytes(bytes(16))
        arguments = ["/data/m.identity", "/data/input.raw", "1,4"]
        guest, preopen = GUESTS / "classify/classify.wasm", Preopen(tmp_path, "/data", False)
        with may_refuse("cannot give"):
            result = host.run(guest, arguments, dirs=[preopen])
            assert result.exit_code == 0, result.stderr
