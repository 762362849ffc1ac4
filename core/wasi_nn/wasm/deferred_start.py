"""Move a module's start function out of instantiation.

Some engines run the start function within their instantiation call and cannot stop a guest there.
For them, the start section is replaced by an additional export, and the runtime calls that first.
If such an engine runs some exports on its own, they are renamed.
"""

from __future__ import annotations

from collections.abc import Mapping

from wasi_nn.wasm.module import Reader, leb, section_bytes

__all__ = ["START", "defer_start", "rename_exports"]

#: The name of the export that replaces the start section.
START = "wasi-nn:start"

_EXPORT, _START = 7, 8
_HEADER = 8


def defer_start(wasm: bytes) -> bytes:
    """The module (valid, core) with its start function as the export ``START``. The same bytes if
    it has no start function."""
    sections = _sections(wasm)
    found = dict(sections)
    if _START not in found:
        return wasm
    name = START.encode()
    exports = Reader(found.get(_EXPORT, memoryview(b"\0")))
    exports.at = 0
    counted = leb(exports.number() + 1)
    content = (counted, exports.data[exports.at :], leb(len(name)), name, b"\0", found[_START])
    # The start section directly follows the exports (WebAssembly core specification, section
    # 5.5.2). So it also marks where the exports belong in a module that has none.
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, body in sections:
        if section == _START:
            out += section_bytes(_EXPORT, *content)
        elif section != _EXPORT:
            out += section_bytes(section, body)
    return b"".join(out)


def rename_exports(wasm: bytes, names: Mapping[str, str]) -> bytes:
    """The module (valid, core) with exports renamed as ``names`` says. The same bytes if it has
    none of them."""
    sections = _sections(wasm)
    exports = dict(sections).get(_EXPORT)
    if exports is None:
        return wasm
    content = _renamed(exports, names)
    if content is None:
        return wasm
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, body in sections:
        out += section_bytes(section, *(content if section == _EXPORT else (body,)))
    return b"".join(out)


def _renamed(exports: memoryview, names: Mapping[str, str]) -> list[bytes | memoryview] | None:
    reader = Reader(exports)
    reader.at = 0
    count = reader.count()
    content: list[bytes | memoryview] = [leb(count)]
    found = False
    for _ in range(count):
        name = reader.name()
        found |= name in names
        text = names.get(name, name).encode()
        start = reader.at
        reader.byte()
        reader.number()
        content += [leb(len(text)), text, exports[start : reader.at]]
    return content if found else None


def _sections(wasm: bytes) -> list[tuple[int, memoryview]]:
    reader = Reader(memoryview(wasm))
    return [(section, reader.data[reader.at : end]) for section, end in reader.sections()]
