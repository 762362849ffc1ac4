"""What stands between a guest and a function that gives it bytes: a core module, in a component."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import wasmtime

from wasi_nn.wasm.module import leb, section_bytes

_MODULE, _INSTANCE, _ALIAS = 1, 2, 6
# $realloc with the guest's memory is what the function was lowered with.
_SHIM = """(module
  (import "" "m" (memory 0))
  (import "" "r" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "" "f" (func $given (param {parameters} i32 i32)))
  (func (export "f") (param {parameters}) (param $result i32) (local $place i32)
    (call $given {arguments} (i32.const -1) (local.get $result))
    (local.set $place
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 1)
        (i32.load offset=4 (local.get $result))))
    (if (i32.eq (local.get $place) (i32.const -1)) (then unreachable))
    (call $given {arguments} (local.get $place) (local.get $result))))"""


class Imports(NamedTuple):
    """What a shim is given, by its number: the guest's memory, its `realloc`, and the function."""

    memory: bytes
    realloc: bytes
    function: bytes


def shim(parameters: int, imports: Imports, module: int, instance: int) -> list[bytes | memoryview]:
    """Sections that make the module, an instance of what it imports, its own instance, and an alias
    of its function. ``module`` and ``instance`` are the next numbers of those."""
    given = (
        b"\x01\x03"
        + (b"\x01m\x02" + imports.memory)
        + (b"\x01r\x00" + imports.realloc)
        + (b"\x01f\x00" + imports.function)
    )
    made = b"\x00" + leb(module) + b"\x01\x00\x12" + leb(instance)
    return [
        *section_bytes(_MODULE, _shim_module(parameters)),
        *section_bytes(_INSTANCE, b"\x02", given, made),
        *section_bytes(_ALIAS, b"\x01\x00\x00\x01", leb(instance + 1), b"\x01f"),
    ]


@lru_cache(maxsize=16)
def _shim_module(parameters: int) -> bytes:
    arguments = " ".join(f"(local.get {i})" for i in range(parameters))
    text = _SHIM.format(parameters="i32 " * parameters, arguments=arguments)
    return bytes(wasmtime.wat2wasm(text))
