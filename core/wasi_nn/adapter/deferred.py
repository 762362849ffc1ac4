"""Start functions that run after instantiation.

Some engines cannot stop a guest before their instantiation call has returned, and run the module's
start function inside it. For them the module is given one export more in the place of its start
section, and the adapter calls that first.
"""

from __future__ import annotations

from wasi_nn.wasmfile import Reader, leb, section_bytes

#: The export that stands for the start section.
START = "wasi-nn:start"

_EXPORT, _START = 7, 8
_HEADER = 8


def defer_start(wasm: bytes) -> bytes:
    """A valid core module whose start function is the export ``START`` instead; the very same
    bytes where it has none."""
    reader = Reader(memoryview(wasm))
    sections = [(section, reader.data[reader.at : end]) for section, end in reader.sections()]
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
