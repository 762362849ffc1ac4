"""Start functions that run after instantiation.

Some engines cannot stop a guest before their instantiation call has returned, and run the module's
start function inside it. For them the module is given one export more in the place of its start
section, and the adapter calls that first.
"""

from __future__ import annotations

#: The export that stands for the start section.
START = "wasi-nn:start"

_EXPORT, _START = 7, 8
_HEADER = 8


def defer_start(wasm: bytes) -> bytes:
    """A valid core module whose start function is the export ``START`` instead; the very same
    bytes where it has none."""
    sections = _sections(wasm)
    index = next((payload for kind, payload in sections if kind == _START), None)
    if index is None:
        return wasm
    name = START.encode()
    entry = _leb(len(name)) + name + b"\0" + index
    exports = next((payload for kind, payload in sections if kind == _EXPORT), b"\0")
    count, at = _number(exports, 0)
    payload = _leb(count + 1) + exports[at:] + entry
    # The start section comes right behind the exports, so it also marks the place where they would
    # be (WebAssembly core specification, section 5.5.2).
    out = [wasm[:_HEADER]]
    for kind, body in sections:
        if kind == _START:
            out.append(bytes([_EXPORT]) + _leb(len(payload)) + payload)
        elif kind != _EXPORT:
            out.append(bytes([kind]) + _leb(len(body)) + body)
    return b"".join(out)


def _sections(wasm: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = _HEADER
    while at < len(wasm):
        size, body = _number(wasm, at + 1)
        found.append((wasm[at], wasm[body : body + size]))
        at = body + size
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def _leb(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
