"""Read the imports and exports of a component's binary (component model, Binary.md).

Everything else is skipped, including nested modules and components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import Reader

__all__ = ["RUN", "ComponentFile", "no_command", "parse"]

#: The export of a command.
RUN = "wasi:cli/run"
_IMPORT, _EXPORT = 10, 11
_SORTS = ("module", "function", "value", "type", "component", "instance")
_MODULE, _VALUE, _TYPE = 0, 2, 3


class ComponentFile(NamedTuple):
    """The names that a component imports and exports, each with its sort (``instance``)."""

    imports: Mapping[str, str]
    exports: Mapping[str, str]

    @property
    def is_command(self) -> bool:
        """Whether it exports `wasi:cli/run`, in any version."""
        return any(name.partition("@")[0] == RUN for name in self.exports)


def parse(data: bytes) -> ComponentFile:
    """Read a component. Raises ``UsageError`` for one that is damaged."""
    try:
        return _ComponentReader(memoryview(data)).component()
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"the component is damaged: {error}") from error


def no_command(file: ComponentFile) -> str:
    """Why a component is not a command."""
    exported = ", ".join(name for name, sort in file.exports.items() if sort != "type")
    return f"it does not export {RUN}; it exports: {exported or 'nothing'}"


class _ComponentReader(Reader):
    def component(self) -> ComponentFile:
        imports: dict[str, str] = {}
        exports: dict[str, str] = {}
        for section, _end in self.sections():
            if section == _IMPORT:
                for _ in range(self.count()):
                    self.byte()  # 0, or 1 in binaries from before 2024
                    name = self.name()
                    imports[name] = self.type()
            elif section == _EXPORT:
                for _ in range(self.count()):
                    self.byte()
                    name = self.name()
                    exports[name] = self.exported()
        return ComponentFile(imports, exports)

    def exported(self) -> str:
        sort = self.byte()
        if sort == _MODULE:
            self.byte()
        self.number()
        if self.byte():
            self.type()
        return _sort(sort)

    def type(self) -> str:
        sort = self.byte()
        if sort == _MODULE:
            self.byte()
            self.number()
        elif sort in (_VALUE, _TYPE):
            # A bound is a type to equal (0, followed by its number) or "any resource". A value's
            # bound always has a number.
            if self.byte() == 0 or sort == _VALUE:
                self.number()
        else:
            self.number()
        return _sort(sort)


def _sort(number: int) -> str:
    if number >= len(_SORTS):
        raise ValueError(f"there is the unknown sort {number}")
    return _SORTS[number]
