"""Components that open files, in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wasi_nn import Host, Limits
from wasi_nn.errors import DeadlineExceeded

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")

from wasi_nn_wasmtime import strand  # noqa: E402

_COMPONENT = """(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $q)) (export "pollable" (type $p (eq $q)))
    (type $n u64) (export "duration" (type $d (eq $n)))
    (export "subscribe-duration" (func (param "when" $d) (result (own $p))))))
  (import "wasi:filesystem/types@0.2.0" (instance $types
    (export "descriptor" (type $d (sub resource)))
    (type $pf (flags "symlink-follow")) (export "path-flags" (type $path-flags (eq $pf)))
    (type $of (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $open-flags (eq $of)))
    (type $df (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
      "requested-write-sync" "mutate-directory"))
    (export "descriptor-flags" (type $descriptor-flags (eq $df)))
    (type $ec (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota"
      "exist" "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io"
      "is-directory" "loop" "too-many-links" "message-size" "name-too-long" "no-device" "no-entry"
      "no-lock" "insufficient-memory" "insufficient-space" "not-directory" "not-empty"
      "not-recoverable" "unsupported" "no-tty" "no-such-device" "overflow" "not-permitted" "pipe"
      "read-only" "invalid-seek" "text-file-busy" "cross-device"))
    (export "error-code" (type $error-code (eq $ec)))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $d))
      (param "path-flags" $path-flags) (param "path" string) (param "open-flags" $open-flags)
      (param "flags" $descriptor-flags) (result (result (own $d) (error $error-code)))))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $q)) (export "descriptor" (type $d (eq $q)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core module $memory
    (memory (export "memory") 1)
    (global $at (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $at (i32.add (global.get $at) (i32.const 1024)))
      (global.get $at)))
  (core instance $libc (instantiate $memory))
  (alias core export $libc "memory" (core memory $bytes))
  (alias core export $libc "realloc" (core func $realloc))
  (alias export $poll "[method]pollable.block" (func $block))
  (alias export $clock "subscribe-duration" (func $sleep))
  (alias export $preopens "get-directories" (func $directories))
  (alias export $types "[method]descriptor.open-at" (func $open))
  (core func $block (canon lower (func $block)))
  (core func $sleep (canon lower (func $sleep)))
  (core func $directories (canon lower (func $directories) (memory $bytes) (realloc $realloc)))
  (core func $open (canon lower (func $open) (memory $bytes) (realloc $realloc)))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "wasi" "block" (func $block (param i32)))
    (import "wasi" "sleep" (func $sleep (param i64) (result i32)))
    (import "wasi" "directories" (func $directories (param i32)))
    (import "wasi" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 64) "file")
    (global $opened (mut i32) (i32.const 0))
    ;; Open the file of the first directory, without closing it.
    (func $another (param $directory i32)
      (call $open (local.get $directory) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 0)
        (i32.const 1) (i32.const 128))
      (if (i32.eqz (i32.load8_u (i32.const 128)))
        (then (global.set $opened (i32.add (global.get $opened) (i32.const 1))))))
    (func (export "run") (result i32)
      (local $n i32) (local $directory i32)
      (call $directories (i32.const 0))
      (local.set $directory (i32.load (i32.load (i32.const 0))))
      (loop $more
        (call $another (local.get $directory))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $n) (i32.const 2000))))
      RUN))
  (core instance $m (instantiate $main (with "libc" (instance $libc))
    (with "wasi" (instance (export "block" (func $block)) (export "sleep" (func $sleep))
      (export "directories" (func $directories)) (export "open" (func $open))))))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))"""
_SLEEP = f"(call $block (call $sleep (i64.const {3600 * 10**9}))) (i32.const 0)"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(runtime="wasmtime") as host:
        yield host


def compiled(host: Host, run: str):
    return host.compile(bytes(wasmtime.wat2wasm(_COMPONENT.replace("RUN", run))))


@pytest.fixture
def dirs(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("text")
    return {"/": tmp_path}


def test_a_component_has_as_many_files_as_it_may(host: Host, dirs: dict[str, Path]) -> None:
    opened = "(global.get $opened)"
    between = f"(i32.or (i32.lt_u {opened} (i32.const 64)) (i32.gt_u {opened} (i32.const 90)))"
    result = compiled(host, between).run(dirs=dirs, limits=Limits(files=64))
    assert (result.exit_code, result.error) == (0, None)
    few = f"(i32.ne {opened} (i32.const 2000))"
    assert compiled(host, few).run(dirs=dirs, limits=Limits(files=64)).exit_code == 1


def test_a_component_with_files_that_waits_leaves_nothing(
    host: Host, dirs: dict[str, Path]
) -> None:
    result = compiled(host, _SLEEP).run(dirs=dirs, timeout=2)
    assert isinstance(result.error, DeadlineExceeded)
    assert not strand._left
