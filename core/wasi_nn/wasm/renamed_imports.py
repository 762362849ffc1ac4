"""Let a guest import some functions from another module, for engines that offer a module whole."""

from __future__ import annotations

from collections.abc import Callable

from wasi_nn.wasm.module import FileReader, Import, leb, section_bytes

__all__ = ["rename_modules"]

_IMPORT = 2
_HEADER = 8


def rename_modules(wasm: bytes, renames: Callable[[Import], bool], module: str) -> bytes:
    """The module (valid, core) in which each import that ``renames`` chooses comes from
    ``module``."""
    reader = FileReader(memoryview(wasm))
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    text = module.encode()
    for section, end in reader.sections():
        start = reader.at
        if section != _IMPORT:
            out += section_bytes(section, reader.data[start:end])
            continue
        count = reader.count()
        content: list[bytes | memoryview] = [leb(count)]
        for _ in range(count):
            at = reader.at
            reader.name()
            after_module = reader.at
            reader.at = at
            if renames(reader.import_entry()):
                content += [leb(len(text)), text, reader.data[after_module : reader.at]]
            else:
                content.append(reader.data[at : reader.at])
        out += section_bytes(section, *content)
    return b"".join(out)
