"""Reading the types of a component: the parameters and results of its imported functions.

Only what ``rewriting`` needs is kept of a type; the rest is skipped (component model, Binary.md,
"Type Definitions").
"""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.wasm.module import Reader

_U8 = 0x7D
# bool, s8, u8, s16, u16, s32, u32, char.
_NUMBERS = frozenset((0x7F, 0x7E, _U8, 0x7C, 0x7B, 0x7A, 0x79, 0x74))
_PRIMITIVES = frozenset((*range(0x73, 0x80), 0x64))
_RECORD, _VARIANT, _LIST, _TUPLE, _FLAGS, _ENUM = 0x72, 0x71, 0x70, 0x6F, 0x6E, 0x6D
_OPTION, _RESULT, _OWN, _BORROW = 0x6B, 0x6A, 0x69, 0x68
_ASYNC_FUNCTION, _INTERFACE, _COMPONENT, _FUNCTION, _RESOURCE = 0x43, 0x42, 0x41, 0x40, 0x3F
_UNKNOWN = -1

_SMALL = _NUMBERS | {_ENUM, _BORROW}

#: A value's type: for a primitive type its byte as a negative number, otherwise a type index.
Value = int


class NotRewritable(Exception):
    """The component cannot be rewritten: it must run as it is."""


class FunctionType(NamedTuple):
    """``number_at`` is where the number of parameters is, ``end`` where the last one ends."""

    parameters: tuple[Value, ...]
    result: Value | None
    number_at: tuple[int, int]
    end: int


class Type(NamedTuple):
    """A type, with its aliases resolved.

    ``kind`` is the byte that says what it is, ``home`` the component or interface that defines it.
    ``is_bytes`` says that it is a ``list<u8>``, ``has_bytes`` that it is or contains one.
    ``function`` and ``inside`` hold the content of a function or an interface.
    """

    kind: int
    home: Space
    is_bytes: bool = False
    has_bytes: bool = False
    function: FunctionType | None = None
    inside: Space | None = None


class Space:
    """The types of a component or an interface by index, and its exports by name. A reference to a
    type must come after the type."""

    def __init__(self, parent: Space | None) -> None:
        self._parent = parent
        self.types: list[Type] = []
        self.functions: dict[str, int] = {}
        self.byte_lists: list[tuple[int, int]] = []
        self.instances: dict[int, Space | None] = {}
        self._exported: dict[str, Type] = {}

    def add_alias(self, target: int, number: int, name: str) -> None:
        """Add a type of an instance (target 0), or of ``number`` levels further out (target 2)."""
        self.types.append(self._outer(number, int(name)) if target else self._member(number, name))

    def _outer(self, levels: int, number: int) -> Type:
        space = self
        for _ in range(levels):
            if space._parent is None:
                return self._unknown()
            space = space._parent
        return space.at(number)

    def _member(self, number: int, name: str) -> Type:
        inside = self.instances.get(number)
        return self._unknown() if inside is None else inside._exported.get(name, self._unknown())

    def _unknown(self) -> Type:
        return Type(_UNKNOWN, self)

    def add_unknown(self) -> None:
        """Add a type that is never needed here."""
        self.types.append(self._unknown())

    def add_export(self, name: str, sort: int, number: int | None) -> None:
        """Add an export. The export of a type also adds the type under a new index."""
        if sort == 1 and number is not None:
            self.functions[name] = number
        elif sort == 3:
            self._exported[name] = self._unknown() if number is None else self.at(number)
            self.types.append(self._exported[name])

    def at(self, number: Value) -> Type:
        """The type with an index, or the primitive type for a negative number. Raises
        ``ValueError`` for a type that comes later."""
        if number >= len(self.types):
            raise ValueError("a type refers to a later one")
        return Type(number + 0x80, self) if number < 0 else self.types[number]

    def known(self, number: Value) -> Type:
        """The type of a parameter or result. Raises ``NotRewritable`` if it is not understood."""
        found = self.at(number)
        if found.kind == _UNKNOWN:
            raise NotRewritable("its functions use a type that is not understood")
        return found

    def is_small(self, number: Value) -> bool:
        """Whether the value is one i32 that can be passed twice."""
        return self.known(number).kind in _SMALL


class TypeReader(Reader):
    """Reads type definitions. ``destructors`` holds the core functions in them: the start and end
    of their index, and the index."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self.destructors: list[tuple[int, int, int]] = []

    def define(self, space: Space) -> None:
        """Read a definition, and add it to a space."""
        start, kind = self.at, self.byte()
        made = Type(kind, space)
        if kind in (_FUNCTION, _ASYNC_FUNCTION):
            made = made._replace(function=self._function())
        elif kind in (_INTERFACE, _COMPONENT):
            made = made._replace(inside=self._inside(space))
        elif kind == _RESOURCE:
            self._resource()
        elif kind not in _PRIMITIVES:
            parts = [space.at(part) for part in self._parts(kind)]
            is_bytes = kind == _LIST and parts[0].kind == _U8
            has_bytes = is_bytes or any(part.has_bytes for part in parts)
            made = made._replace(is_bytes=is_bytes, has_bytes=has_bytes)
            if any(part.kind == _UNKNOWN for part in parts):
                made = made._replace(kind=_UNKNOWN)
        space.types.append(made)
        if made.is_bytes:
            space.byte_lists.append((start, self.at))

    def description(self, space: Space, name: str) -> tuple[int, int]:
        """The sort of an import or export, and the index of its type (0 if it has none)."""
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
            raise NotRewritable("it uses features newer than WASI 0.2")
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
        parts: list[Value] = []
        if kind not in (_RECORD, _VARIANT):
            raise NotRewritable("it uses features newer than WASI 0.2")
        for _ in range(self.count()):
            self.name()
            if kind == _RECORD:
                parts.append(self.value())
            else:
                parts += self._perhaps()
                self.byte()
        return tuple(parts)

    def _perhaps(self) -> tuple[Value, ...]:
        return (self.value(),) if self.byte() else ()
