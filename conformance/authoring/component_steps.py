"""Steps of a component's `run` as WAT, and a program made of them."""

from __future__ import annotations

from pathlib import Path

import wasmtime

from authoring.components import component
from wasi_nn import Host, Policy
from wasi_nn._abi.component.versions import VERSIONS
from wasi_nn._host.program import Program

NEWEST = VERSIONS[0]
# "net" at 1024, the name "0" at 1028, dimensions [2, 4] at 1032, eight bytes at 1040.
DATA = r"net\000\00\00\00\02\00\00\00\04\00\00\00abcdefgh"
# $g is the graph, $x a context of it. The guest traps if one is refused.
OPEN = """
  (local $g i32) (local $x i32) (local $t i32)
  (call $load_by_name (i32.const 1024) (i32.const 3) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
  (local.set $g (i32.load (i32.const 68)))
  (call $init (local.get $g) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
  (local.set $x (i32.load (i32.const 68)))
"""
TENSOR = """
  (local.set $t (call $tensor (i32.const 1032) (i32.const 2) (i32.const 4)
    (i32.const 1040) (i32.const 8)))
"""
# Set one input named "0" at 256 and compute. The result is at 64.
COMPUTE = """
  (i32.store (i32.const 256) (i32.const 1028)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 264) (local.get $t))
  (call $compute (local.get $x) (i32.const 256) (i32.const 1) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
"""
# Trap unless the output's bytes equal the input's.
CHECK = """
  (call $data (local.get $t) (i32.const 80))
  (if (i32.ne (i32.load (i32.const 84)) (i32.const 8)) (then unreachable))
  (if (i64.ne (i64.load (i32.load (i32.const 80))) (i64.load (i32.const 1040)))
    (then unreachable))
  (call $dimensions (local.get $t) (i32.const 80))
  (if (i64.ne (i64.load (i32.load (i32.const 80))) (i64.load (i32.const 1032)))
    (then unreachable))
"""
TAKE = "(local.set $t (i32.load offset=8 (i32.load (i32.const 68))))"
OLD = """
  (call $set_input (local.get $x) (i32.const 1028) (i32.const 1) (local.get $t) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
  (call $compute (local.get $x) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
  (call $get_output (local.get $x) (i32.const 1028) (i32.const 1) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
  (local.set $t (i32.load (i32.const 68)))
"""


def with_net(folder: Path, runtime: str = "wasmtime") -> Host:
    """A host that offers "net", whose output is its input."""
    model = folder / "net.model"
    model.write_text("wasi-nn:identity {}\n")
    host = Host(runtime=runtime, policy=Policy(own_models=True))
    host.add_model("net", model, encoding="identity")
    return host


def compiled(
    host: Host, run: str, version: str = NEWEST, data: str = DATA, more: str = ""
) -> Program:
    """A program of a component with this ``run``."""
    return host.compile(wasmtime.wat2wasm(component(run, version, data, more)))
