"""The arguments of a TorchScript module, from its schema."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from wasi_nn.backend import position
from wasi_nn.errors import InvalidArgument, UnsupportedOperation
from wasi_nn.types import TensorInfo
from wasi_nn_pytorch.leaves import Leaf, describe
from wasi_nn_pytorch.signature import READERS, Path, Signature, Slot, not_set

# A list takes any number of elements, so there must be a limit.
_MAX_ELEMENTS = 1024
_NUMBER = re.compile("[0-9]{1,4}")
_FIELD = re.compile(r"[(,] ?(\w+) : ")
_EXAMPLES = {"int": 0, "float": 0.0, "bool": False}


class Shape(ABC):
    """The type of one argument, or of a part of one. ``native`` is torch's name of it. ``given`` is
    what was set: a value, a dict of what was set for the parts, or None."""

    #: Whether the caller decides how many parts it has.
    is_open = False

    def __init__(self, native: str) -> None:
        self.native = native

    @abstractmethod
    def slot(self, name: str, rest: str, path: Path) -> Slot:
        """The slot of the part ``rest``, a name with dots."""

    @abstractmethod
    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        """The value to call the module with. Adds the names of unset parts to ``missing``."""

    def inputs(self, name: str) -> list[tuple[str, TensorInfo]]:
        """The inputs that have an index: for each, its name and its description."""
        return [(name, TensorInfo(name, None, None, self.native))]


class One(Shape):
    """A tensor, or a value that can be read from one."""

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        if rest:
            raise InvalidArgument(f"input {name} is a {self.native}, which has no part {rest!r}")
        return Slot(name, path, READERS.get(self.native))

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        if given is None:
            missing.append(name)
        return given

    def inputs(self, name: str) -> list[tuple[str, TensorInfo]]:
        if self.native not in _EXAMPLES:
            return super().inputs(name)
        return [(name, describe(Leaf(name, name, _EXAMPLES[self.native])))]


class Unsettable(One):
    """A type that cannot be set with a tensor: a device, an object of a class."""

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        raise self._refusal(name)

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        raise self._refusal(name)

    def _refusal(self, name: str) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"input {name} is a {self.native}, which no tensor can stand for: give the argument a "
            "default in the module's forward, or leave it out"
        )


class Maybe(Shape):
    """An optional type. It is None if it is not set."""

    def __init__(self, native: str, content: Shape) -> None:
        super().__init__(native)
        self.content = content
        self.is_open = content.is_open

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        return self.content.slot(name, rest, path)

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        return None if given is None else self.content.value(name, given, missing)

    def inputs(self, name: str) -> list[tuple[str, TensorInfo]]:
        return [
            (key, info._replace(native_type=f"Optional[{info.native_type}]"))
            for key, info in self.content.inputs(name)
        ]


class Items(Shape):
    """A list. Its elements are set by their numbers."""

    is_open = True

    def __init__(self, native: str, element: Shape) -> None:
        super().__init__(native)
        self.element = element

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        number, _, rest = rest.partition(".")
        if not (_NUMBER.fullmatch(number) and int(number) < _MAX_ELEMENTS):
            raise InvalidArgument(
                f"input {name} is a {self.native}: set its elements one by one, as {name}.0, "
                f"{name}.1 (at most {_MAX_ELEMENTS} of them)"
            )
        return self.element.slot(f"{name}.{int(number)}", rest, (*path, int(number)))

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        if not given:
            missing.append(f"{name}.0")
            return None
        return [
            self.element.value(f"{name}.{number}", given.get(number), missing)
            for number in range(max(given) + 1)
        ]

    def inputs(self, name: str) -> list[tuple[str, TensorInfo]]:
        return [(f"{name}.0", TensorInfo(name, None, None, self.native))]


class Entries(Shape):
    """A dict. Its values are set by their keys. If the values have no parts, keys may have dots."""

    is_open = True

    def __init__(self, native: str, key: str, content: Shape) -> None:
        super().__init__(native)
        self.key = key
        self.content = content

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        if isinstance(self.content, One):
            key, rest = rest, ""
        else:
            key, _, rest = rest.partition(".")
        if not key:
            raise InvalidArgument(
                f"input {name} is a {self.native}: set its values by their keys, as {name}.KEY"
            )
        try:
            found = int(key) if self.key == "int" else key
        except ValueError:
            raise InvalidArgument(
                f"the keys of input {name} are whole numbers, not {key}"
            ) from None
        return self.content.slot(f"{name}.{key}", rest, (*path, found))

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        if not given:
            missing.append(f"{name}.KEY")
            return None
        return {
            key: self.content.value(f"{name}.{key}", part, missing) for key, part in given.items()
        }


class Fields(Shape):
    """A tuple. Its parts are set by their numbers, or by the field names of a named tuple."""

    def __init__(self, native: str, names: Sequence[str], parts: Sequence[Shape]) -> None:
        super().__init__(native)
        self.names = names
        self.parts = parts

    def slot(self, name: str, rest: str, path: Path) -> Slot:
        key, _, rest = rest.partition(".")
        numbers = [str(number) for number in range(len(self.parts))]
        for known in (self.names, numbers):
            if key in known:
                index = known.index(key)
                inside = f"{name}.{self.names[index]}"
                return self.parts[index].slot(inside, rest, (*path, index))
        raise InvalidArgument(
            f"input {name} is a {self.native}: set its parts one by one, as "
            + ", ".join(f"{name}.{part}" for part in self.names)
        )

    def value(self, name: str, given: Any, missing: list[str]) -> Any:
        given = given or {}
        return tuple(
            part.value(f"{name}.{key}", given.get(index), missing)
            for index, (key, part) in enumerate(zip(self.names, self.parts, strict=True))
        )

    def inputs(self, name: str) -> list[tuple[str, TensorInfo]]:
        return [
            found
            for key, part in zip(self.names, self.parts, strict=True)
            for found in part.inputs(f"{name}.{key}")
        ]


def shape_of(kind: Any) -> Shape:
    """The shape of a TorchScript type."""
    native = str(kind)
    inner = kind.containedTypes() if hasattr(kind, "containedTypes") else []
    word = kind.kind()
    if native in READERS or word in ("TensorType", "AnyType"):
        return One(native)
    if word == "OptionalType":
        return Maybe(native, shape_of(inner[0]))
    if word == "ListType":
        return Items(native, shape_of(inner[0]))
    if word == "DictType" and str(inner[0]) in ("str", "int"):
        return Entries(native, str(inner[0]), shape_of(inner[1]))
    if word == "TupleType":
        names = _FIELD.findall(kind.str()) if kind.str().startswith("NamedTuple(") else []
        parts = [shape_of(part) for part in inner]
        if len(names) != len(parts):
            names = [str(number) for number in range(len(parts))]
        return Fields(native, names, parts)
    if word == "UnionType" and any(part.kind() == "TensorType" for part in inner):
        content = One("Tensor")
        return Maybe(native, content) if "NoneType" in map(str, inner) else content
    return Unsettable(native)


class ScriptSignature(Signature):
    """The arguments of ``forward``, without the module itself."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self._arguments = arguments
        self._shapes = [shape_of(argument.type) for argument in arguments]
        self.nested = any(not isinstance(_content(shape), One) for shape in self._shapes)
        indexed = _by_index([*zip(arguments, self._shapes, strict=True)])
        inputs = [found for argument, shape in indexed for found in _inputs(argument, shape)]
        self._keys = [key for key, _ in inputs]
        self.infos = [info for _, info in inputs]
        # The list whose later elements have the indexes after the last input.
        self._rest = indexed[-1][0].name if indexed and _is_list(indexed[-1][1]) else None

    def slot(self, key: int | str) -> Slot:
        if isinstance(key, int):
            beyond = key - len(self._keys) + 1
            if self._rest is not None and 0 < beyond < _MAX_ELEMENTS:
                return self.slot(f"{self._rest}.{beyond}")
            return self.slot(self._keys[position(key, self.infos, "input")])
        name, _, rest = key.partition(".")
        for number, argument in enumerate(self._arguments):
            if argument.name == name:
                return self._shapes[number].slot(name, rest, (number,))
        known = ", ".join(argument.name for argument in self._arguments)
        raise InvalidArgument(f"there is no input named {key!r}; the module has: {known or 'none'}")

    def arguments(self, given: Mapping[Path, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        tree: dict[Any, Any] = {}
        for path, value in given.items():
            inside = tree
            for key in path[:-1]:
                inside = inside.setdefault(key, {})
            inside[path[-1]] = value
        positional: list[Any] = []
        named: dict[str, Any] = {}
        missing: list[str] = []
        for number, argument in enumerate(self._arguments):
            found = tree.get(number)
            if found is None and argument.has_default_value():
                continue
            value = self._shapes[number].value(argument.name, found, missing)
            if len(positional) == number and not argument.kwarg_only:
                positional.append(value)
            else:
                named[argument.name] = value
        if missing:
            raise not_set(missing)
        return positional, named


def _content(shape: Shape) -> Shape:
    return shape.content if isinstance(shape, Maybe) else shape


def _is_list(shape: Shape) -> bool:
    return isinstance(_content(shape), Items)


def _by_index(arguments: list[tuple[Any, Shape]]) -> list[tuple[Any, Shape]]:
    """The arguments that have an index. If a list comes before trailing lists and dicts with a
    default, those have no index, so that the whole list can be set by index."""
    end = len(arguments)
    while end and arguments[end - 1][0].has_default_value() and arguments[end - 1][1].is_open:
        end -= 1
    return arguments[:end] if end and _is_list(arguments[end - 1][1]) else arguments


def _inputs(argument: Any, shape: Shape) -> list[tuple[str, TensorInfo]]:
    inputs = shape.inputs(argument.name)
    if not argument.has_default_value():
        return inputs
    default = f" = {argument.default_value!r}"
    return [(key, info._replace(native_type=info.native_type + default)) for key, info in inputs]
