"""The core module between a guest and a host function that returns bytes to it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import wasmtime

from wasi_nn.wasm.module import leb, section_bytes

_MODULE, _INSTANCE, _ALIAS = 1, 2, 6
# The memory and $realloc are those that the function was lowered with.
_SHIM = """(module
  (import "" "m" (memory 0))
  (import "" "r" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "" "f" (func $host (param {parameters} i32 i32)))
  (func (export "f") (param {parameters}) (param $result i32) (local $place i32)
    (call $host {arguments} (i32.const -1) (local.get $result))
    (local.set $place
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 1)
        (i32.load offset=4 (local.get $result))))
    (if (i32.eq (local.get $place) (i32.const -1)) (then unreachable))
    (call $host {arguments} (local.get $place) (local.get $result))))"""


class Imports(NamedTuple):
    """The encoded indices of a shim's imports: the guest's memory, its `realloc`, the function."""

    memory: bytes
    realloc: bytes
    function: bytes


def shim(parameters: int, imports: Imports, module: int, instance: int) -> list[bytes | memoryview]:
    """Sections that define the shim's module, an instance with its imports, its own instance, and
    an alias of its function. ``module`` and ``instance`` are the next free indices."""
    imported = (
        b"\x01\x03"
        + (b"\x01m\x02" + imports.memory)
        + (b"\x01r\x00" + imports.realloc)
        + (b"\x01f\x00" + imports.function)
    )
    made = b"\x00" + leb(module) + b"\x01\x00\x12" + leb(instance)
    return [
        *section_bytes(_MODULE, _shim_module(parameters)),
        *section_bytes(_INSTANCE, b"\x02", imported, made),
        *section_bytes(_ALIAS, b"\x01\x00\x00\x01", leb(instance + 1), b"\x01f"),
    ]


@lru_cache(maxsize=16)
def _shim_module(parameters: int) -> bytes:
    arguments = " ".join(f"(local.get {i})" for i in range(parameters))
    text = _SHIM.format(parameters="i32 " * parameters, arguments=arguments)
    return bytes(wasmtime.wat2wasm(text))
