"""Reading what a Wasm binary says of itself (imports, exports, custom sections), and its framing.

Engines differ in what they tell of a module, and `wasi-nn inspect` needs no engine at all, so the
few sections that matter are read here (WebAssembly core specification, section 5.5). Function
bodies are skipped, so a module of many megabytes costs well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wasi_nn.errors import UsageError

MAGIC = b"\0asm"
_CORE_VERSION = b"\x01\0\0\0"
_VALUE_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_KINDS = ("func", "table", "memory", "global", "tag")
_TYPE, _IMPORT, _MEMORY, _EXPORT, _CUSTOM = 1, 2, 5, 7, 0
_COMPONENT_IMPORT = 10


class Signature(NamedTuple):
    """Parameter and result types, by name (``i32``)."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


class Import(NamedTuple):
    """``signature`` is None for what is no function."""

    module: str
    name: str
    kind: str
    signature: Signature | None


class WasmFile(NamedTuple):
    """What a core module imports, exports, and carries in custom sections; and the pages (of 64
    KiB) that its memories start with."""

    imports: tuple[Import, ...]
    exports: tuple[tuple[str, str], ...]
    custom: tuple[tuple[str, memoryview], ...]
    memory_pages: int = 0

    def imported(self, module: str) -> set[str]:
        """The names imported from a module."""
        return {item.name for item in self.imports if item.module == module}

    def section(self, name: str) -> memoryview:
        """The first custom section of a name; empty when there is none."""
        return next((data for title, data in self.custom if title == name), memoryview(b""))


def is_wasm(data: bytes) -> bool:
    """Whether the bytes begin as a core module or a component does."""
    return data[:4] == MAGIC


def is_component(data: bytes) -> bool:
    """Whether the bytes begin as a component (layer 1) does."""
    return data[:4] == MAGIC and data[6:8] == b"\x01\0"


def component_imports(data: bytes) -> tuple[str, ...]:
    """The names that a component imports (component model, Binary.md). Raises ``UsageError``."""
    try:
        return _FileReader(memoryview(data)).component_imports()
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"the component is damaged: {error}") from error


def parse(data: bytes) -> WasmFile:
    """Read a core module. Raises ``UsageError`` for anything else."""
    if is_component(data):
        raise UsageError("this is a component; only core modules can be read here")
    if data[:8] != MAGIC + _CORE_VERSION:
        raise UsageError("this is no WebAssembly module (it does not begin with \\0asm, version 1)")
    try:
        return _FileReader(memoryview(data)).module()
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"the WebAssembly module is damaged: {error}") from error


class Reader:
    """The numbers and names of a binary, from after its preamble on. Raises ``IndexError`` and
    ``ValueError`` (``UnicodeDecodeError``) for one that is damaged."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 8

    def sections(self, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Each section's number and where it ends, when ``at`` is where its content begins; up to
        ``end``, or the file's."""
        last = len(self.data) if end is None else end
        while self.at < last:
            section = self.byte()
            size = self.number()
            after = self.at + size
            if after > last:
                raise ValueError("a section is longer than the file")
            yield section, after
            if self.at > after:
                raise ValueError("a section is longer than it says")
            self.at = after

    def byte(self) -> int:
        """One byte."""
        value = self.data[self.at]
        self.at += 1
        return value

    def number(self) -> int:
        """An unsigned LEB128 number."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a LEB128 number is too long")

    def count(self) -> int:
        """How many elements a vector has."""
        value = self.number()
        if value > len(self.data):
            raise ValueError("a vector is longer than the file")
        return value

    def name(self) -> str:
        """A text."""
        length = self.number()
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise ValueError("a name is longer than the file")
        self.at += length
        return bytes(raw).decode()


def section_bytes(section: int, *content: bytes | memoryview) -> list[bytes | memoryview]:
    """A section, in pieces."""
    return [bytes((section,)), leb(sum(map(len, content))), *content]


def leb(number: int) -> bytes:
    """An unsigned LEB128 number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


class _FileReader(Reader):
    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self.types: list[Signature] = []
        self.memory_pages = 0

    def module(self) -> WasmFile:
        imports: list[Import] = []
        exports: list[tuple[str, str]] = []
        custom: list[tuple[str, memoryview]] = []
        for section, end in self.sections():
            if section == _CUSTOM:
                name = self.name()
                custom.append((name, self.data[self.at : end]))
            elif section == _TYPE:
                self.type_section(end)
            elif section == _IMPORT:
                imports = [self.import_entry() for _ in range(self.count())]
            elif section == _MEMORY:
                self.memory_pages += sum(self.limits() for _ in range(self.count()))
            elif section == _EXPORT:
                exports = [self.export_entry() for _ in range(self.count())]
        return WasmFile(tuple(imports), tuple(exports), tuple(custom), self.memory_pages)

    def component_imports(self) -> tuple[str, ...]:
        names: list[str] = []
        for section, _end in self.sections():
            if section == _COMPONENT_IMPORT:
                for _ in range(self.count()):
                    self.byte()  # 0, or 1 in binaries of before 2024
                    names.append(self.name())
                    self.external_type()
        return tuple(names)

    def external_type(self) -> None:
        sort = self.byte()
        if sort == 0:
            self.byte()
            self.number()
        elif sort in (2, 3):
            # A bound: the type that it equals, or "any resource"; a value's is always followed.
            if self.byte() == 0 or sort == 2:
                self.number()
        elif sort in (1, 4, 5):
            self.number()
        else:
            raise ValueError(f"an import has the unknown sort {sort}")

    def type_section(self, end: int) -> None:
        for _ in range(self.count()):
            if self.byte() != 0x60:
                # Types of the GC proposal: signatures stay unknown from here on.
                self.at = end
                return
            parameters = self.value_types()
            self.types.append(Signature(parameters, self.value_types()))

    def value_types(self) -> tuple[str, ...]:
        return tuple(_VALUE_TYPES.get(self.byte(), "ref") for _ in range(self.count()))

    def import_entry(self) -> Import:
        module, name = self.name(), self.name()
        kind = self.byte()
        signature = None
        if kind == 0:
            index = self.number()
            signature = self.types[index] if index < len(self.types) else None
        elif kind == 1:
            self.byte()
            self.limits()
        elif kind == 2:
            self.memory_pages += self.limits()
        elif kind == 3:
            self.at += 2
        elif kind == 4:
            self.byte()
            self.number()
        else:
            raise ValueError(f"an import has the unknown kind {kind}")
        return Import(module, name, _KINDS[kind], signature)

    def export_entry(self) -> tuple[str, str]:
        name = self.name()
        kind = self.byte()
        self.number()
        return name, _KINDS[kind] if kind < len(_KINDS) else "unknown"

    def limits(self) -> int:
        """The minimum."""
        flags = self.byte()
        minimum = self.number()
        if flags & 1:
            self.number()
        return minimum
