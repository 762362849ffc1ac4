"""Guests of tools, in the text format."""

from __future__ import annotations

LOOP = '(module (func (export "_start") (loop $l (br $l))))'
TRAP = '(module (func (export "_start") unreachable))'
# Prints the eight bytes of its data again and again.
PRINT = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\08\\00\\00\\00") (data (i32.const 16) "{data}")
  (func $say (param i32)
    (drop (call $write (local.get 0) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") {body}))"""
ONCE = "(call $say (i32.const 1))"
EXPORTS = """(module
  (memory (export "memory") 1) (data (i32.const 8) "hello\\00")
  (func (export "malloc") (param i32) (result i32) (i32.const 64))
  (func (export "add") (param i32 f64) (result f64)
    (f64.add (f64.convert_i32_s (local.get 0)) (local.get 1)))
  (func (export "same") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1))
  (func (export "packed") (param i32 i32) (result i64) (i64.or
    (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1))))
  (func (export "hello") (param i32 i32) (result i32) (i32.const 8))
  (func (export "outside") (param i32 i32) (result i32 i32) (i32.const -9) (i32.const 9))
  (func (export "huge") (param i32 i32) (result i32 i32) (i32.const 0) (i32.const -1))
  (func (export "loop") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 0)))"""


def printing(data, body=ONCE):
    return PRINT.replace("{data}", data).replace("{body}", body)
