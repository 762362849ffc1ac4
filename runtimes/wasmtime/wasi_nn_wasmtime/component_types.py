"""Reading the types of a component: what its imported functions take and give.

Only what ``relowering`` asks is kept of a type; the rest is walked over (component model,
Binary.md, "Type Definitions").
"""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.wasmfile import Reader

_U8 = 0x7D
# bool, s8, u8, s16, u16, s32, u32, char.
_NUMBERS = frozenset((0x7F, 0x7E, _U8, 0x7C, 0x7B, 0x7A, 0x79, 0x74))
_PRIMITIVES = frozenset((*range(0x73, 0x80), 0x64))
_RECORD, _VARIANT, _LIST, _TUPLE, _FLAGS, _ENUM = 0x72, 0x71, 0x70, 0x6F, 0x6E, 0x6D
_OPTION, _RESULT, _OWN, _BORROW = 0x6B, 0x6A, 0x69, 0x68
_ASYNC_FUNCTION, _INTERFACE, _COMPONENT, _FUNCTION, _RESOURCE = 0x43, 0x42, 0x41, 0x40, 0x3F
_SAME, _OUTER, _MEMBER, _UNKNOWN = "same", "outer", "member", "unknown"

#: A value's type: the byte of a primitive one as a negative number, or the number of a type.
Value = int


class Unfit(Exception):
    """A component that is run as it is."""


class FunctionType(NamedTuple):
    """``number_at`` is where the number of parameters stands, ``end`` where the last one ends."""

    parameters: tuple[Value, ...]
    result: Value | None
    number_at: tuple[int, int]
    end: int


class Type(NamedTuple):
    """A defined type: what it is, which types it is made of, and what is inside of one that is a
    function or an interface. For an alias, ``kind`` is a word and ``of`` where it leads."""

    kind: int | str
    of: tuple[int, ...] = ()
    name: str = ""
    function: FunctionType | None = None
    inside: Space | None = None


class Space:
    """The types of a component or an interface by number, and what it exports by name."""

    def __init__(self, parent: Space | None) -> None:
        self._parent = parent
        self.types: list[Type] = []
        self.functions: dict[str, int] = {}
        self.byte_lists: list[tuple[int, int]] = []
        self.instances: dict[int, Space | None] = {}
        self._exported: dict[str, int] = {}

    def add_alias(self, target: int, number: int, name: str) -> None:
        """A type of an instance (target 0), or of ``number`` levels further out (target 2)."""
        if target == 2:
            self.types.append(Type(_OUTER, (number, int(name))))
        else:
            self.types.append(Type(_MEMBER, (number,), name))

    def add_unknown(self) -> None:
        """A type that nothing here needs to know."""
        self.types.append(Type(_UNKNOWN))

    def add_export(self, name: str, sort: int, number: int | None) -> None:
        """An export; a type's gives it a number of its own."""
        if sort == 1 and number is not None:
            self.functions[name] = number
        elif sort == 3:
            self._exported[name] = len(self.types)
            self.types.append(Type(_UNKNOWN) if number is None else Type(_SAME, (number,)))

    def is_bytes(self, kind: Value) -> bool:
        """Whether it is a ``list<u8>``."""
        _, found = self._found(kind)
        if found.kind == _UNKNOWN:
            raise Unfit("a type of its functions is not understood")
        return found.kind == _LIST and found.of == (_U8 - 0x80,)

    def has_bytes(self, kind: Value) -> bool:
        """Whether a ``list<u8>`` is somewhere in it."""
        where, found = self._found(kind)
        return self.is_bytes(kind) or any(where.has_bytes(part) for part in found.of)

    def is_small(self, kind: Value) -> bool:
        """Whether it is one i32 that can be passed twice."""
        if kind < 0:
            return kind + 0x80 in _NUMBERS
        return self._found(kind)[1].kind in (_ENUM, _BORROW)

    def _found(self, kind: Value) -> tuple[Space, Type]:
        """The type behind aliases, and the space that its parts are numbered in."""
        if kind < 0:
            return self, Type(kind)
        found = self.types[kind]
        if found.kind == _SAME:
            return self._found(found.of[0])
        if found.kind == _OUTER:
            space: Space | None = self
            for _ in range(found.of[0]):
                space = space._parent if space is not None else None
            return (self, Type(_UNKNOWN)) if space is None else space._found(found.of[1])
        if found.kind == _MEMBER:
            inside = self.instances.get(found.of[0])
            if inside is None or found.name not in inside._exported:
                return self, Type(_UNKNOWN)
            return inside._found(inside._exported[found.name])
        return self, found


class TypeReader(Reader):
    """Reads definitions of types. ``destructors`` are the numbers of core functions in them, with
    where they stand."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self.destructors: list[tuple[int, int, int]] = []

    def define(self, space: Space) -> None:
        """Read a definition, and number it in a space."""
        start, kind = self.at, self.byte()
        made = Type(kind)
        if kind in (_FUNCTION, _ASYNC_FUNCTION):
            made = Type(kind, function=self._function())
        elif kind in (_INTERFACE, _COMPONENT):
            made = Type(kind, inside=self._inside(space))
        elif kind == _RESOURCE:
            self._resource()
        elif kind in _PRIMITIVES:
            made = Type(_SAME, (kind - 0x80,))
        else:
            made = Type(kind, self._parts(kind))
        space.types.append(made)
        if kind == _LIST and made.of == (_U8 - 0x80,):
            space.byte_lists.append((start, self.at))

    def description(self, space: Space, name: str) -> tuple[int, int]:
        """What an import or export is: its sort and, where it has one, the number of its type."""
        sort = self.byte()
        number: int | None
        if sort == 3:
            number = self.number() if self.byte() == 0 else None
        elif sort in (0, 2):
            self.byte()
            number = self.number()
        elif sort in (1, 4, 5):
            number = self.number()
        else:
            raise ValueError(f"{name} has the unknown sort {sort}")
        space.add_export(name, sort, number)
        return sort, 0 if number is None else number

    def extern_name(self) -> str:
        """The name of an import or export."""
        if self.byte() > 1:
            raise Unfit("it uses what is newer than WASI 0.2")
        return self.name()

    def value(self) -> Value:
        """A value's type."""
        if self.data[self.at] in _PRIMITIVES:
            return self.byte() - 0x80
        return self.number()

    def _function(self) -> FunctionType:
        start = self.at
        count = self.count()
        after = self.at
        parameters = []
        for _ in range(count):
            self.name()
            parameters.append(self.value())
        end = self.at
        result = self.value() if self.byte() == 0 else None
        if result is None and self.byte():
            raise ValueError("a function has named results")
        return FunctionType(tuple(parameters), result, (start, after), end)

    def _inside(self, parent: Space) -> Space:
        space = Space(parent)
        for _ in range(self.count()):
            declared = self.byte()
            if declared == 1:
                self.define(space)
            elif declared == 2:
                self._declared_alias(space)
            elif declared in (3, 4):
                name = self.extern_name()
                self.description(space, name)
            else:
                raise ValueError("core types are declared")
        return space

    def _declared_alias(self, space: Space) -> None:
        sort = self.byte()
        if sort == 0:
            raise ValueError("core items are declared")
        target, number = self.byte(), self.number()
        name = self.name() if target == 0 else str(self.number())
        if sort == 3:
            space.add_alias(target, number, name)

    def _resource(self) -> None:
        self.byte()
        if self.byte():
            start = self.at
            number = self.number()
            self.destructors.append((start, self.at, number))

    def _parts(self, kind: int) -> tuple[Value, ...]:
        if kind in (_LIST, _OPTION):
            return (self.value(),)
        if kind in (_OWN, _BORROW):
            self.number()
            return ()
        if kind == _TUPLE:
            return tuple(self.value() for _ in range(self.count()))
        if kind in (_FLAGS, _ENUM):
            for _ in range(self.count()):
                self.name()
            return ()
        if kind == _RESULT:
            return self._perhaps() + self._perhaps()
        parts: tuple[Value, ...] = ()
        if kind not in (_RECORD, _VARIANT):
            raise Unfit("it uses what is newer than WASI 0.2")
        for _ in range(self.count()):
            self.name()
            if kind == _RECORD:
                parts += (self.value(),)
            else:
                parts += self._perhaps()
                self.byte()
        return parts

    def _perhaps(self) -> tuple[Value, ...]:
        return (self.value(),) if self.byte() else ()
