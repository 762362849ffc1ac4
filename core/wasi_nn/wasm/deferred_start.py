"""What runs after instantiation, and not within.

Some engines cannot stop a guest before their instantiation call has returned, and run the module's
start function inside it. For them the module is given one export more in the place of its start
section, and the adapter calls that first. An export that such an engine runs of its own accord is
given another name.
"""

from __future__ import annotations

from collections.abc import Mapping

from wasi_nn.wasm.module import Reader, leb, section_bytes

#: The export that stands for the start section.
START = "wasi-nn:start"

_EXPORT, _START = 7, 8
_HEADER = 8


def defer_start(wasm: bytes) -> bytes:
    """A valid core module whose start function is the export ``START`` instead; the very same
    bytes where it has none."""
    sections = _sections(wasm)
    found = dict(sections)
    if _START not in found:
        return wasm
    name = START.encode()
    exports = Reader(found.get(_EXPORT, memoryview(b"\0")))
    exports.at = 0
    counted = leb(exports.number() + 1)
    content = (counted, exports.data[exports.at :], leb(len(name)), name, b"\0", found[_START])
    # The start section comes right behind the exports, so it also marks the place where they would
    # be (WebAssembly core specification, section 5.5.2).
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, body in sections:
        if section == _START:
            out += section_bytes(_EXPORT, *content)
        elif section != _EXPORT:
            out += section_bytes(section, body)
    return b"".join(out)


def rename_exports(wasm: bytes, names: Mapping[str, str]) -> bytes:
    """A valid core module with those of its exports under other names; the very same bytes where
    it has none of them."""
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
