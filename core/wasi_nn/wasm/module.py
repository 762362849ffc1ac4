"""Read a Wasm binary: its imports, exports and custom sections, and its framing.

Engines differ in what they report about a module, and `wasi-nn inspect` needs no engine. So the few
sections that matter are read here (WebAssembly core specification, section 5.5). Function bodies
are skipped. The cost grows with the number of entries, which is bounded: a guest chooses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from wasi_nn.errors import UsageError

__all__ = [
    "MAGIC",
    "PAGE",
    "Extent",
    "FileReader",
    "Import",
    "Reader",
    "Signature",
    "WasmFile",
    "is_component",
    "is_wasm",
    "leb",
    "no_command",
    "parse",
    "section_bytes",
]

#: The first four bytes of every Wasm binary.
MAGIC = b"\0asm"
#: Bytes of a page of linear memory.
PAGE = 65536
_CORE_VERSION = b"\x01\0\0\0"
_VALUE_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_KINDS = ("func", "table", "memory", "global", "tag")
_TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _EXPORT, _CUSTOM = 1, 2, 3, 4, 5, 7, 0
_START, _DATA = 8, 11
_FUNC, _STRUCT, _ARRAY, _GROUP, _SUBTYPES = 0x60, 0x5F, 0x5E, 0x4E, (0x50, 0x4F)
_TYPED_REFERENCES = 0x63, 0x64
_WITH_VALUE = 0x40
# Instructions of constant expressions, grouped by their operands.
_END, _F32, _F64 = 0x0B, 0x43, 0x44
_ONE_NUMBER = frozenset((0x23, 0x41, 0x42, 0xD0, 0xD2))
_NOTHING = frozenset((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E))
_MAX_LISTED = 20  # exports in a message
# What a binary may list: its sections, and the entries of the vectors that are read. A second of
# reading, and 30 MB. Function bodies are not among them.
_MAX_ENTRIES = 250_000
_MAX_FUNCTIONS = 1_000_000  # as engines


class Signature(NamedTuple):
    """Parameter and result types, by name (``i32``)."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


class Import(NamedTuple):
    """An import. ``signature`` is None if it is not a function."""

    module: str
    name: str
    kind: str
    signature: Signature | None


class Extent(NamedTuple):
    """The initial and the maximum size of a memory in pages of 64 KiB, or of a table in elements.
    ``shared`` marks a memory that threads share."""

    minimum: int
    maximum: int | None
    shared: bool = False


#: The extent of a table that could not be read.
_UNREAD = Extent(1 << 32, None)


class WasmFile(NamedTuple):
    """A core module: its imports, exports and custom sections, the signatures of its exported
    functions (None for one that could not be read), its memories and tables including the imported
    ones, whether it has a start section, and the raw bytes of its data section."""

    imports: tuple[Import, ...]
    exports: tuple[tuple[str, str], ...]
    custom: tuple[tuple[str, memoryview], ...]
    signatures: Mapping[str, Signature | None] = MappingProxyType({})
    memories: tuple[Extent, ...] = ()
    tables: tuple[Extent, ...] = ()
    has_start: bool = False
    data: memoryview = memoryview(b"")

    @property
    def functions(self) -> list[str]:
        """The names of the exported functions."""
        return [name for name, kind in self.exports if kind == "func"]

    @property
    def is_command(self) -> bool:
        """Whether the module is a command: it exports ``_start``, or its program is the start
        section, which runs when the module is instantiated (AssemblyScript's default)."""
        return self.has_start or "_start" in self.functions

    @property
    def memory_pages(self) -> int:
        """The initial size of its memories in pages."""
        return sum(memory.minimum for memory in self.memories)

    def imported(self, module: str) -> set[str]:
        """The names imported from a module."""
        return {item.name for item in self.imports if item.module == module}

    def section(self, name: str) -> memoryview:
        """The first custom section with this name, or empty bytes."""
        return next((data for title, data in self.custom if title == name), memoryview(b""))


def is_wasm(data: bytes) -> bool:
    """Whether the bytes begin like a core module or a component."""
    return data[:4] == MAGIC


def is_component(data: bytes) -> bool:
    """Whether the bytes begin like a component (layer 1)."""
    return data[:4] == MAGIC and data[6:8] == b"\x01\0"


def parse(data: bytes) -> WasmFile:
    """Read a core module. Raises ``UsageError`` for anything else."""
    if is_component(data):
        raise UsageError("this is a component; only core modules can be read here")
    if data[:8] != MAGIC + _CORE_VERSION:
        raise UsageError(
            f"this is not a WebAssembly module of version 1: it begins with {data[:8]!r}, and must "
            f"begin with {MAGIC + _CORE_VERSION!r}"
        )
    try:
        return FileReader(memoryview(data)).module()
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"the WebAssembly module is damaged: {error}") from error


def no_command(file: WasmFile) -> str:
    """Why a module that has no ``_start`` does not run by itself, and what to do instead."""
    callable_ = [name for name in file.functions if name != "_initialize"]
    if not callable_:
        return "it exports no _start and no other function"
    listed = ", ".join(f"{name}{file.signatures[name] or ''}" for name in callable_[:_MAX_LISTED])
    more = len(callable_) - _MAX_LISTED
    return (
        f"it exports no _start. Call one of its functions with --invoke NAME (from Python, with "
        f"Program.instantiate and Guest.call): {listed}{f' and {more} more' if more > 0 else ''}"
    )


class Reader:
    """Reads the numbers and names of a binary, starting after the preamble. Raises ``IndexError``
    or ``ValueError`` (``UnicodeDecodeError``) if the binary is damaged."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 8
        self._left = _MAX_ENTRIES

    def sections(self, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the number and the end of each section up to ``end`` (the file's end by default).
        Meanwhile ``at`` is where the section's content begins."""
        last = len(self.data) if end is None else end
        while self.at < last:
            self.spend(1)
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
        """The number of elements of a vector that is read next. Raises ``ValueError`` if the binary
        has more entries than this host reads."""
        value = self.number()
        if value > len(self.data):
            raise ValueError("a vector is longer than the file")
        self.spend(value)
        return value

    def spend(self, entries: int) -> None:
        """Count entries that are read. Raises ``ValueError`` if these are too many."""
        self._left -= entries
        if self._left < 0:
            raise ValueError(
                f"it has more than {_MAX_ENTRIES} types, imports, exports and sections"
            )

    def name(self) -> str:
        """A name: a length and UTF-8 text."""
        length = self.number()
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise ValueError("a name is longer than the file")
        self.at += length
        return bytes(raw).decode()


def section_bytes(section: int, *content: bytes | memoryview) -> list[bytes | memoryview]:
    """The pieces of a section's binary: its number, its size and its content."""
    return [bytes((section,)), leb(sum(map(len, content))), *content]


def leb(number: int) -> bytes:
    """The bytes of an unsigned LEB128 number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


class FileReader(Reader):
    """Reads a core module."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self.types: list[Signature | None] = []
        # The type numbers of the imported functions, and where those of the others begin.
        self.functions: list[int] = []
        self.function_section = 0
        self.memories: list[Extent] = []
        self.tables: list[Extent] = []

    def module(self) -> WasmFile:
        imports: list[Import] = []
        exports: list[tuple[str, str, int]] = []
        custom: list[tuple[str, memoryview]] = []
        has_start = False
        contents = memoryview(b"")
        for section, end in self.sections():
            if section == _CUSTOM:
                name = self.name()
                custom.append((name, self.data[self.at : end]))
            elif section == _TYPE:
                self.type_section(end)
            elif section == _IMPORT:
                imports = [self.import_entry() for _ in range(self.count())]
            elif section == _FUNCTION:
                self.function_section = self.at
            elif section == _TABLE:
                self.table_section(end)
            elif section == _MEMORY:
                self.memories += [self.limits() for _ in range(self.count())]
            elif section == _EXPORT:
                exports = [self.export_entry() for _ in range(self.count())]
            elif section == _START:
                has_start = True
            elif section == _DATA:
                contents = self.data[self.at : end]
        return WasmFile(
            tuple(imports),
            tuple((name, kind) for name, kind, _ in exports),
            tuple(custom),
            self.signatures({name: number for name, kind, number in exports if kind == "func"}),
            tuple(self.memories),
            tuple(self.tables),
            has_start,
            contents,
        )

    def signatures(self, exported: dict[str, int]) -> dict[str, Signature | None]:
        last = max(exported.values(), default=-1)
        if self.function_section and last >= len(self.functions):
            self.at = self.function_section
            count = min(self.number(), last + 1 - len(self.functions), _MAX_FUNCTIONS)
            numbers = bytes(self.data[self.at : self.at + count])
            # Most modules have fewer than 128 types. Then every number is one byte.
            small = len(numbers) == count and numbers.isascii()
            self.functions += numbers if small else [self.number() for _ in range(count)]
        return {name: self.signature(number) for name, number in exported.items()}

    def signature(self, function: int) -> Signature | None:
        kind = self.functions[function] if function < len(self.functions) else len(self.types)
        return self.types[kind] if kind < len(self.types) else None

    def type_section(self, end: int) -> None:
        left = self.count()
        while left:
            left -= 1
            form = self.byte()
            if form == _GROUP:
                left += self.count()
                continue
            if form in _SUBTYPES:
                for _ in range(self.count()):
                    self.number()
                form = self.byte()
            if form == _FUNC:
                self.types.append(Signature(self.value_types(), self.value_types()))
            elif form in (_STRUCT, _ARRAY):
                for _ in range(self.count() if form == _STRUCT else 1):
                    self.value_type()
                    self.byte()
                self.types.append(None)
            else:
                # A type of a future proposal: from here on, signatures stay unknown.
                self.at = end
                return

    def value_types(self) -> tuple[str, ...]:
        return tuple(self.value_type() for _ in range(self.count()))

    def value_type(self) -> str:
        code = self.byte()
        if code in _TYPED_REFERENCES:
            self.number()
        return _VALUE_TYPES.get(code, "ref")

    def import_entry(self) -> Import:
        module, name = self.name(), self.name()
        kind = self.byte()
        signature = None
        if kind == 0:
            self.functions.append(self.number())
            signature = self.signature(len(self.functions) - 1)
        elif kind == 1:
            self.value_type()
            self.tables.append(self.limits())
        elif kind == 2:
            self.memories.append(self.limits())
        elif kind == 3:
            self.value_type()
            self.byte()
        elif kind == 4:
            self.byte()
            self.number()
        else:
            raise ValueError(f"an import has the unknown kind {kind}")
        return Import(module, name, _KINDS[kind], signature)

    def table_section(self, end: int) -> None:
        for _ in range(self.count()):
            has_value = self.data[self.at] == _WITH_VALUE
            if has_value:
                self.at += 2
            self.value_type()
            self.tables.append(self.limits())
            if has_value and not self.constant():
                self.tables.append(_UNREAD)
                self.at = end
                return

    def constant(self) -> bool:
        """Skip a constant expression. False if it has an unknown instruction."""
        while True:
            self.spend(1)
            instruction = self.byte()
            if instruction == _END:
                return True
            if instruction in _ONE_NUMBER:
                self.number()
            elif instruction in (_F32, _F64):
                self.at += 4 if instruction == _F32 else 8
            elif instruction not in _NOTHING:
                return False

    def export_entry(self) -> tuple[str, str, int]:
        name, kind, number = self.name(), self.byte(), self.number()
        return name, _KINDS[kind] if kind < len(_KINDS) else "unknown", number

    def limits(self) -> Extent:
        flags, minimum = self.byte(), self.number()
        return Extent(minimum, self.number() if flags & 1 else None, bool(flags & 2))
