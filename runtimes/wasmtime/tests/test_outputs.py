"""Outputs that go to Python, under the descriptors that the guest gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import needs_engine

from wasi_nn import Guest, Host
from wasi_nn.errors import Interrupted

needs_engine("wasmtime")

from wasi_nn_wasmtime import files  # noqa: E402
from wasi_nn_wasmtime.files import Gate  # noqa: E402

# The errno of each call is written as a digit or letter ('0' + errno) to what is then the
# descriptor 2.
GUEST = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\20\\00\\00\\00\\01\\00\\00\\00")
  (data (i32.const 64) "file")
  (func $put (param $fd i32) (param $byte i32) (result i32)
    (i32.store8 (i32.const 32) (local.get $byte))
    (call $write (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 48)))
  (func $say (param $errno i32)
    (drop (call $put (i32.const 2) (i32.add (i32.const 48) (local.get $errno)))))
  (func $file (param $at i32) (result i32)
    (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 9)
      (i64.const 66) (i64.const 66) (i32.const 0) (local.get $at)))
  (func (export "_start") {}))"""
EBADF = "8"


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize(
    ("body", "stdout", "stderr"),
    [
        (
            "(call $say (call $close (i32.const 1)))"
            "(call $say (call $put (i32.const 1) (i32.const 97)))"
            "(call $say (call $close (i32.const 1)))",
            "",
            "0" + EBADF * 2,
        ),
        (
            "(call $say (call $put (i32.const 1) (i32.const 97)))"
            "(call $say (call $renumber (i32.const 1) (i32.const 1)))"
            "(call $say (call $renumber (i32.const 1) (i32.const 2)))"
            "(call $say (call $put (i32.const 1) (i32.const 97)))",
            "a0" + EBADF,
            "00",
        ),
        ("(call $say (call $put (i32.const 7) (i32.const 97)))", "", EBADF),
        ("(call $say (call $close (i32.const 7)))", "", EBADF),
    ],
)
def test_a_guest_may_close_and_renumber_its_outputs(
    wat, body: str, stdout: str, stderr: str, capture: bool, capfd
) -> None:
    """As in wasmtime's own WASI, which writes outputs that are inherited."""
    given = {} if capture else {"stdout": "inherit", "stderr": "inherit"}
    with Host(runtime="wasmtime") as host:
        result = host.run(wat(GUEST.format(body)), **given).check()
    seen = (result.stdout.decode(), result.stderr.decode()) if capture else capfd.readouterr()
    assert tuple(seen) == (stdout, stderr)


@pytest.mark.parametrize("capture", [True, False])
def test_a_file_may_take_the_number_of_an_output(wat, tmp_path: Path, capture: bool, capfd) -> None:
    body = """(call $say (call $close (i32.const 1)))
      (call $say (call $file (i32.const 80)))
      (call $say (call $put (i32.load (i32.const 80)) (i32.const 97)))
      (call $say (call $renumber (i32.load (i32.const 80)) (i32.const 1)))
      (call $say (call $put (i32.const 1) (i32.const 98)))"""
    given = {} if capture else {"stdout": "inherit", "stderr": "inherit"}
    with Host(runtime="wasmtime") as host:
        result = host.run(wat(GUEST.format(body)), dirs={"/": tmp_path}, **given).check()
    seen = (result.stdout.decode(), result.stderr.decode()) if capture else capfd.readouterr()
    assert tuple(seen) == ("", "00000")
    assert (tmp_path / "file").read_bytes() == b"ab"


def test_a_guest_may_be_interrupted_on_its_way_to_a_file(
    wat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests: list[Guest] = []
    call = Gate.call

    def interrupted(gate: Gate, *arguments: Any) -> int:
        guests[0].interrupt()
        return call(gate, *arguments)

    monkeypatch.setattr(Gate, "call", interrupted)
    body = "(drop (call $file (i32.const 80)))"
    with Host(runtime="wasmtime") as host:
        program = host.compile(wat(GUEST.format(body)))
        result = program.run(dirs={"/": tmp_path}, on_start=guests.append)
    assert isinstance(result.error, Interrupted)


def test_a_gate_may_be_the_only_one_to_keep_its_module(
    wat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of two guests that begin at the same time keeps one's."""
    monkeypatch.setattr(files, "_gate_module", files._gate_module.__wrapped__)
    body = "(call $say (call $file (i32.const 80)))"
    with Host(runtime="wasmtime") as host:
        program = host.compile(wat(GUEST.format(body)))
        for _ in range(20):
            assert program.run(dirs={"/": tmp_path}).check().stderr == b"0"
