"""Rewriting a component so that lists of bytes pass through its memory.

wasmtime's C API turns every byte of a `list<u8>` into a value of 32 bytes. The canonical ABI passes
such a list as two i32, its address and its length. It passes a `tuple<u32, u32>` in the same way.
So if the imported functions of a component take the tuple instead of the list, its core code stays
the same, and the host gets the address (memories.py reads there).

A function that returns a list needs more. The guest's `realloc` allocates the result, and only
wasmtime may call it. So the function gets an address as an additional last parameter, and a core
module of ours (shims.py) stands between it and the guest. The shim asks for the length, calls
`realloc`, and calls the function again with the address.

Types and functions keep their indices. The shims add core modules, core instances and core
functions, so the later indices of these are raised. A component that is not understood is left
alone (``NotRewritable``), and wasmtime validates the result. The binary format is described in the
component model's Binary.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wasi_nn.wasm.module import leb, section_bytes
from wasi_nn_wasmtime.bytes_through_memory.component_types import (
    NotRewritable,
    Space,
    Type,
    TypeReader,
)
from wasi_nn_wasmtime.bytes_through_memory.shims import Imports, shim

#: In the place of an address: a function that returns bytes is asked for their number.
ASK_LENGTH = 0xFFFFFFFF

_CUSTOM, _MODULE, _INSTANCE, _CORE_TYPE, _COMPONENT, _INSTANCES = range(6)
_ALIAS, _TYPE, _CANON, _START, _IMPORT, _EXPORT = range(6, 12)
_MEMORIES = 5
_MODULE_SORT, _INSTANCE_SORT = 0x11, 0x12
_PAIR = b"\x6f\x02\x79\x79"  # tuple<u32, u32>
_U32 = b"\x79"


#: The functions, by interface and name, that return bytes: they take the address where to put them
#: as their last parameter.
ReturnsBytes = frozenset[tuple[str, str]]


class Lowered(NamedTuple):
    """A component with the same behaviour."""

    wasm: bytes
    returns_bytes: ReturnsBytes


def lower_bytes_through_memory(wasm: bytes, skip: Callable[[str], bool]) -> Lowered:
    """The component with lists of bytes through memory, in all imported interfaces but those that
    ``skip`` selects by name. Raises ``NotRewritable`` with the reason."""
    try:
        return _Rewriter(wasm, skip).rewritten()
    except (IndexError, ValueError, RecursionError) as error:
        raise NotRewritable(f"it is not understood: {error}") from error


class _Patch(NamedTuple):
    """Bytes to replace: by ``text``, or by the new value of index ``number`` in ``space``."""

    start: int
    end: int
    text: bytes = b""
    space: int | None = None
    number: int = 0


class _Lowering(NamedTuple):
    """A lowered function that returns bytes. ``end`` is where its entry ends, ``entry`` its number
    in its section, ``number`` its number among the lowerings. The rest is for the shim; ``modules``
    and ``core_instances`` count those before it."""

    end: int
    entry: int
    number: int
    modules: int
    core_instances: int
    core_function: int
    parameters: int
    memory: int
    realloc: int


class _Rewriter(TypeReader):
    def __init__(self, wasm: bytes, skip: Callable[[str], bool]) -> None:
        super().__init__(memoryview(wasm))
        self._skip = skip
        self._root = Space(None)
        self._patches: list[_Patch] = []
        self._lowerings: list[_Lowering] = []
        # Index spaces. A function is the instance and name that it comes from, an instance the
        # name of its interface, or either is None.
        self._functions: list[tuple[int, str] | None] = []
        self._instances: list[str | None] = []
        self._core_functions = 0
        self._modules: list[int] = []
        self._memories = 0
        # By index space, the indices from which on core functions, modules and instances move.
        self._moved: dict[int, list[int]] = {0: [], _MODULE_SORT: [], _INSTANCE_SORT: []}
        self._core_instances = 0
        self._returns_bytes: dict[tuple[str, str], int] = {}
        # Each with its id and the start and end of its content; and the current entry's number.
        self._sections: list[tuple[int, int, int]] = []
        self._entry = 0
        self._described: set[Space] = set()
        self._patched_spaces: set[Space] = set()
        self._patched_functions: set[int] = set()

    def rewritten(self) -> Lowered:
        for section, end in self.sections():
            self._sections.append((section, self.at, end))
            self._section(section, end)
        if self._memories != 1:
            raise NotRewritable(f"it has {self._memories} memories")
        return Lowered(self._written(), frozenset(self._returns_bytes))

    # Reading

    def _section(self, section: int, end: int) -> None:
        if section == _MODULE:
            self._modules.append(self._count_memories(end))
        elif section == _COMPONENT:
            self._look_into(end)
        elif section == _START or section > _EXPORT:
            raise NotRewritable(f"it has a section {section}")
        elif section not in (_CUSTOM, _CORE_TYPE):
            read = {
                _INSTANCE: self._core_instance,
                _INSTANCES: self._instance,
                _ALIAS: self._alias,
                _TYPE: self._type,
                _CANON: self._canon,
                _IMPORT: self._import,
                _EXPORT: self._export,
            }[section]
            self._entry = 0
            for _ in range(self.count()):
                self._entry += 1
                read()

    def _count_memories(self, end: int) -> int:
        self.at += 8
        memories = 0
        for section, _end in self.sections(end):
            if section == _MEMORIES:
                memories += self.count()
                flags = self.byte() if memories else 0
                if flags & ~1:
                    raise NotRewritable("its memory is shared or of 64 bits")
        return memories

    def _look_into(self, end: int) -> None:
        """Check a nested component. Those that only give the exports a shape have no code."""
        self.at += 8
        for section, _end in self.sections(end):
            if section in (_MODULE, _INSTANCE, _COMPONENT, _CANON):
                raise NotRewritable("it contains components with code")

    def _index(self, space: int) -> int:
        """Read an index, in an index space whose indices may move."""
        start = self.at
        number = self.number()
        self._patches.append(_Patch(start, self.at, space=space, number=number))
        return number

    def _core_sort(self) -> None:
        sort = self.byte()
        if sort in self._moved:
            self._index(sort)
        else:
            self.number()

    def _core_instance(self) -> None:
        self._core_instances += 1
        if self.byte() == 0:
            self._memories += self._modules[self._index(_MODULE_SORT)]
            for _ in range(self.count()):
                self.name()
                self._core_sort()
        else:
            for _ in range(self.count()):
                self.name()
                self._core_sort()

    def _instance(self) -> None:
        self._instances.append(None)
        if self.byte() == 0:
            self.number()
            names = self.name
        else:
            names = self.extern_name
        for _ in range(self.count()):
            names()
            self._sort_index()

    def _sort_index(self) -> int:
        sort = self.byte()
        if sort == 0:
            raise NotRewritable("it passes core modules on")
        self.number()
        return sort

    def _alias(self) -> None:
        sort = self.byte()
        if sort == 0:
            kind = self.byte()
            if self.byte() != 1 or kind in (_MODULE_SORT, _INSTANCE_SORT):
                raise NotRewritable("it passes core modules on")
            self._index(_INSTANCE_SORT)
            self.name()
            self._core_functions += kind == 0
            return
        target, number = self.byte(), self.number()
        name = self.name() if target == 0 else str(self.number())
        source = (number, name) if target == 0 else None
        if sort == 3:
            self._root.add_alias(target, number, name)
        else:
            self._add(sort, source)

    def _add(self, sort: int, function: tuple[int, str] | None = None) -> None:
        if sort == 1:
            self._functions.append(function)
        elif sort == 5:
            self._instances.append(None)

    def _type(self) -> None:
        before = len(self.destructors)
        self.define(self._root)
        for start, end, number in self.destructors[before:]:
            self._patches.append(_Patch(start, end, space=0, number=number))

    def _import(self) -> None:
        name = self.extern_name()
        sort, number = self.description(self._root, name)
        if sort == 0:
            raise NotRewritable("it imports a core module")
        if sort != 5:
            self._add(sort)
            return
        self._instances.append(name)
        interface = self._root.at(number).inside
        self._root.instances[len(self._instances) - 1] = interface
        if interface is None:
            return
        if interface in self._described:
            raise NotRewritable("one type describes two interfaces")
        self._described.add(interface)
        if self._skip(name):
            return
        self._patched_spaces.add(interface)
        for start, end in interface.byte_lists:
            self._patches.append(_Patch(start, end, _PAIR))
        for label, kind in interface.functions.items():
            self._patch_function(interface, name, label, interface.at(kind))

    def _patch_function(self, interface: Space, name: str, label: str, kind: Type) -> None:
        function = kind.function
        if function is None or function.result is None:
            return
        result = kind.home.known(function.result)
        if not result.has_bytes:
            return
        if not result.is_bytes:
            raise NotRewritable(f"{label} returns lists of bytes inside other values")
        if kind.home is not interface or result.home not in self._patched_spaces:
            raise NotRewritable(f"{label} returns bytes of a type that is defined elsewhere")
        if not all(interface.is_small(parameter) for parameter in function.parameters):
            raise NotRewritable(f"{label} returns bytes and takes more than numbers")
        self._returns_bytes[name, label] = len(function.parameters)
        # (Two functions can have the same type.)
        if function.end not in self._patched_functions:
            self._patched_functions.add(function.end)
            count = leb(len(function.parameters) + 1)
            self._patches.append(_Patch(*function.number_at, count))
            text = b"\x0bbytes-place" + _U32
            self._patches.append(_Patch(function.end, function.end, text))

    def _export(self) -> None:
        name = self.extern_name()
        sort = self._sort_index()
        if self.byte():
            self.description(self._root, name)
        elif sort == 3:
            self._root.add_unknown()
        self._add(sort)

    def _canon(self) -> None:
        operation = self.byte()
        if operation in (0, 1):
            self.byte()
        if operation == 0:
            self._index(0)
            self._options()
            self.number()
            self._functions.append(None)
        elif operation == 1:
            source = self._functions[self.number()]
            memory, realloc = self._options()
            lowered = self._core_functions
            self._core_functions += 1
            if source is None or source[0] >= len(self._instances):
                return
            parameters = self._returns_bytes.get((self._instances[source[0]] or "", source[1]))
            if parameters is not None:
                if memory is None or realloc is None:
                    raise NotRewritable("a function that returns bytes is lowered without memory")
                counts = len(self._modules), self._core_instances
                self._lowerings.append(
                    _Lowering(
                        self.at,
                        self._entry,
                        len(self._lowerings),
                        *counts,
                        lowered,
                        parameters,
                        memory,
                        realloc,
                    )
                )
                for space, number in zip(self._moved, (lowered, *counts), strict=True):
                    self._moved[space].append(number)
        elif operation in (2, 3, 4):
            self.number()
            self._core_functions += 1
        else:
            raise NotRewritable("it uses features newer than WASI 0.2")

    def _options(self) -> tuple[int | None, int | None]:
        memory = realloc = None
        for _ in range(self.count()):
            option = self.byte()
            if option == 3:
                memory = self.number()
            elif option == 4:
                realloc = self._index(0)
            elif option == 5:
                self._index(0)
            elif option > 2:
                raise NotRewritable("it uses features newer than WASI 0.2")
        return memory, realloc

    # Writing

    def _written(self) -> bytes:
        self._patches.sort()
        out: list[bytes | memoryview] = [self.data[:8]]
        for section, start, end in self._sections:
            first = bisect_right(self._lowerings, (start,))
            inside = self._lowerings[first : bisect_right(self._lowerings, (end + 1,))]
            if section != _CANON or not inside:
                out += section_bytes(section, *self._patched(start, end))
                continue
            self.at = start
            count, done, start = self.count(), 0, self.at
            for lowering in inside:
                entries = self._patched(start, lowering.end)
                out += section_bytes(_CANON, leb(lowering.entry - done), *entries)
                out += self._shim(lowering)
                done, start = lowering.entry, lowering.end
            out += section_bytes(_CANON, leb(count - done), *self._patched(start, end))
        return b"".join(out)

    def _patched(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        first = bisect_left(self._patches, (start,))
        for patch in self._patches[first : bisect_left(self._patches, (end,))]:
            yield self.data[start : patch.start]
            yield (patch.text if patch.space is None else self._moved_to(patch.space, patch.number))
            start = patch.end
        yield self.data[start:end]

    def _moved_to(self, space: int, number: int) -> bytes:
        """The new value of an index. Each shim adds one to its space, and two core instances."""
        moved = bisect_right(self._moved[space], number)
        return leb(number + moved * (2 if space == _INSTANCE_SORT else 1))

    def _shim(self, lowering: _Lowering) -> list[bytes | memoryview]:
        before = lowering.number
        return shim(
            lowering.parameters,
            Imports(
                leb(lowering.memory),
                self._moved_to(0, lowering.realloc),
                leb(lowering.core_function + before),
            ),
            lowering.modules + before,
            lowering.core_instances + 2 * before,
        )
