"""How many files a guest may have open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import DeadlineExceeded
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import Preopen
from wasi_nn_conformance.engine_tests.common import Engine, Wat, skip_if_refused

# An engine in a process of its own needs some descriptors itself.
_LIMIT, _SLACK = 50, 30
# Opens the file "a" 200 times, and then writes how often that went well and the last errno. If
# CLOSE is there, it closes each one at once.
_OPENS = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "a")
  (func $one (result i32)
    (call $open (i32.load (i32.const 28)) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
  (func (export "_start") (local $left i32) (local $errno i32)
    (i32.store (i32.const 32) (i32.const 64)) (i32.store (i32.const 36) (i32.const 1))
    ;; The directory is 3, or a few more.
    (i32.store (i32.const 28) (i32.const 3))
    (loop $next (if (call $one) (then
      (i32.store (i32.const 28) (i32.add (i32.load (i32.const 28)) (i32.const 1)))
      (br_if $next (i32.lt_u (i32.load (i32.const 28)) (i32.const 8))))))
    (drop (call $close (i32.load (i32.const 16))))
    (local.set $left (i32.const 200))
    (loop $again
      (local.set $errno (call $one))
      (if (i32.eqz (local.get $errno)) (then
        (i32.store (i32.const 40) (i32.add (i32.load (i32.const 40)) (i32.const 1)))
        (drop (call $read (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 20)))
        CLOSE))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.store (i32.const 44) (local.get $errno))
    (i32.store (i32.const 48) (i32.const 40)) (i32.store (i32.const 52) (i32.const 28))
    (drop (call $write (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 20)))))"""
_MFILE = 33


class Files(Engine):
    #: Whether a guest's files are counted, and not only limited by the system.
    counts_files = True

    def _opened(self, host: Host, wasm: bytes, folder: Path) -> tuple[int, int, bytes]:
        """How many files the guest opened, the last errno, and what it read from the last one."""
        (folder / "a").write_text("!")
        with skip_if_refused():
            result = host.run(wasm, dirs=[Preopen(folder, "/")], limits=Limits(files=_LIMIT))
        assert result.error is None
        out = result.stdout
        refused = 200 - int.from_bytes(out[:4], "little")
        assert result.refused.get("files", 0) == (refused if self.counts_files else 0)
        return int.from_bytes(out[:4], "little"), int.from_bytes(out[4:8], "little"), out[24:25]

    def test_a_guest_opens_only_so_many_files(self, host: Host, wat: Wat, tmp_path: Path) -> None:
        """Otherwise it could take all descriptors of the host."""
        self.needs(host, "wasi")
        wasm = wat(_OPENS.replace("CLOSE", ""))
        # (An engine keeps some for itself from its first run on.)
        self._opened(host, wasm, tmp_path)
        before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
        count, errno, read = self._opened(host, wasm, tmp_path)
        assert _LIMIT <= count <= _LIMIT + _SLACK
        assert (errno, read) == (_MFILE, b"!")
        if before:
            assert len(os.listdir("/proc/self/fd")) <= len(before) + 8

    @pytest.mark.parametrize("rights", [2, 64], ids=["read", "write"])
    def test_a_fifo_does_not_hold_a_guest(
        self, plugins: Plugins, host: Host, wat: Wat, tmp_path: Path, rights: int
    ) -> None:
        """Opening it waits for its other side."""
        self.needs(host, "wasi")
        if not host.runtime.features.interrupt:
            self.needs_process()
        os.mkfifo(tmp_path / "a")
        wasm = wat(_OPENS.replace("CLOSE", "").replace("(i64.const 2)", f"(i64.const {rights})"))
        limited = Host(plugins=plugins, runtime=self.runtime, limits=Limits(timeout=2))
        with limited, skip_if_refused():
            result = limited.run(wasm, dirs=[Preopen(tmp_path, "/")])
        assert result.error is None or isinstance(result.error, DeadlineExceeded)

    def test_a_closed_file_does_not_count(self, host: Host, wat: Wat, tmp_path: Path) -> None:
        self.needs(host, "wasi")
        close = "(drop (call $close (i32.load (i32.const 16))))"
        assert self._opened(host, wat(_OPENS.replace("CLOSE", close)), tmp_path) == (200, 0, b"!")

    def test_a_renumbered_file_counts_once(self, host: Host, wat: Wat, tmp_path: Path) -> None:
        self.needs(host, "wasi")
        # The first file keeps its number, and the second takes the place of the first.
        move = """(if (i32.load (i32.const 56))
            (then (drop (call $renumber (i32.load (i32.const 16)) (i32.load (i32.const 56)))))
            (else (i32.store (i32.const 56) (i32.load (i32.const 16)))))"""
        count, errno, _ = self._opened(host, wat(_OPENS.replace("CLOSE", move)), tmp_path)
        assert (count, errno) == (200, 0)
