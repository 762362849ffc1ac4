"""A module that calls an engine's WASI with a guest's memory.

An engine's WASI uses the memory that its caller exports. A host function that calls it has none. So
it calls this module, which imports the guest's memory, exports it as its own, and calls WASI.
"""

from __future__ import annotations

from collections.abc import Iterable

from wasi_nn.wasm.module import leb, section_bytes
from wasi_nn.wasm.wasi_signatures import SIGNATURES

__all__ = ["GUEST", "forwarder"]

#: The module from which it imports the guest's ``memory``.
GUEST = "guest"
_PREAMBLE = b"\0asm\1\0\0\0"
_TYPE, _IMPORT, _FUNCTION, _EXPORT, _CODE = 1, 2, 3, 7, 10
_OF_FUNCTION, _OF_MEMORY = b"\0", b"\2"
_FUNCTION_TYPE, _NO_LOCALS, _LOCAL_GET, _CALL, _END = b"\x60", b"\0", b"\x20", b"\x10", b"\x0b"
_ANY_SIZE = b"\0\0"
_KINDS = {"i32": b"\x7f", "i64": b"\x7e"}


def forwarder(module: str, names: Iterable[str]) -> bytes:
    """The module. It imports the functions from ``module``, and exports each under its name."""
    names = [*names]
    types, imports, exports, bodies = [], [], [], []
    for number, name in enumerate(names):
        parameters, results = SIGNATURES[name]
        kinds = [_vector([_KINDS[kind] for kind in each]) for each in (parameters, results)]
        types.append(_FUNCTION_TYPE + b"".join(kinds))
        imports.append(_name(module) + _name(name) + _OF_FUNCTION + leb(number))
        exports.append(_name(name) + _OF_FUNCTION + leb(len(names) + number))
        gets = b"".join(_LOCAL_GET + leb(index) for index in range(len(parameters)))
        body = _NO_LOCALS + gets + _CALL + leb(number) + _END
        bodies.append(leb(len(body)) + body)
    imports.append(_name(GUEST) + _name("memory") + _OF_MEMORY + _ANY_SIZE)
    exports.append(_name("memory") + _OF_MEMORY + leb(0))
    sections = {
        _TYPE: types,
        _IMPORT: imports,
        _FUNCTION: [leb(number) for number in range(len(names))],
        _EXPORT: exports,
        _CODE: bodies,
    }
    pieces: list[bytes | memoryview] = [_PREAMBLE]
    for section, entries in sections.items():
        pieces += section_bytes(section, _vector(entries))
    return b"".join(pieces)


def _vector(entries: list[bytes]) -> bytes:
    return leb(len(entries)) + b"".join(entries)


def _name(text: str) -> bytes:
    data = text.encode()
    return leb(len(data)) + data
