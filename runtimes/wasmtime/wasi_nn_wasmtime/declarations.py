"""Comparing the function types that a component declares for its imports with the host's.

wasmtime's C API accepts a host function for any type that the component declares, and passes its
values without types. Read as another type, a value would be an address of the component's choice.
So the types are compared before anything is linked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import wasmtime
from wasmtime import component as declared

from wasi_nn.errors import LinkError
from wasi_nn.runtime import component
from wasi_nn.runtime.component import Function, Interface
from wasi_nn_wasmtime.bytes_through_memory.rewriting import ReturnsBytes

_Resources = Mapping[str, Any]


class Declarations:
    """The imports and exports of a compiled component. With ``memory``, its lists of bytes are
    pairs of an address and a length (see bytes_through_memory)."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        compiled: declared.Component,
        returns_bytes: ReturnsBytes,
        memory: bool,
    ) -> None:
        self._engine = engine
        self._type = compiled.type
        self.returns_bytes = returns_bytes
        self._memory = memory
        # The interfaces already compared, by name. Programs run many times.
        self._agreed: dict[str, object] = {}

    def check(self, interfaces: Sequence[Interface]) -> None:
        """Raise ``LinkError`` if a function is declared with another type than the host's."""
        if all(self._agreed.get(one.name) == _shape(one) for one in interfaces):
            return
        resources: dict[str, Any] = {}
        imported: dict[str, Mapping[str, Any]] = {}
        imports = _types(self._type.imports(self._engine))
        for interface in interfaces:
            kind = imports.get(interface.name)
            if kind is None:
                continue
            if not isinstance(kind, declared.ComponentInstanceType):
                raise _unlike(interface.name, "it is an interface")
            exports = imported[interface.name] = _types(kind.exports(self._engine))
            for resource in interface.resources:
                resources[resource.name] = exports.get(resource.name)
        for interface in interfaces:
            functions = {function.name: function for function in interface.functions}
            for name, kind in imported.get(interface.name, {}).items():
                if isinstance(kind, declared.FuncType):
                    self._check_function(interface.name, name, kind, functions, resources)
            self._agreed[interface.name] = _shape(interface)

    def command(self, name: str) -> str | None:
        """The full name of the exported interface ``name``, of any version, that has a function
        ``run: func() -> result``. None if the component exports none."""
        for export, kind in _types(self._type.exports(self._engine)).items():
            if export.partition("@")[0] != name:
                continue
            if not isinstance(kind, declared.ComponentInstanceType):
                continue
            run = _types(kind.exports(self._engine)).get("run")
            if not isinstance(run, declared.FuncType) or run.params:
                continue
            result = run.result
            if isinstance(result, declared.ResultType) and result.ok is result.err is None:
                return export
        return None

    def _check_function(
        self,
        interface: str,
        name: str,
        kind: Any,
        functions: Mapping[str, Function],
        resources: _Resources,
    ) -> None:
        function = functions.get(name)
        label = f"{interface} {name}"
        if function is None:
            raise LinkError(f"the guest cannot start: it imports {label}, which is not there")
        returns_bytes = (interface, name) in self.returns_bytes
        parameters: list[component.Type] = [*function.parameters]
        if returns_bytes:
            parameters.append(component.U32())
        found = [kind for _, kind in kind.params]
        if len(found) != len(parameters):
            raise _unlike(label, f"the number of its parameters is {len(function.parameters)}")
        for number, (one, wanted) in enumerate(zip(found, parameters, strict=True), 1):
            if not self._same(one, wanted, resources, self._memory):
                raise _unlike(label, f"parameter {number} is {_words(wanted)}")
        if not self._same(kind.result, function.result, resources, returns_bytes):
            raise _unlike(label, f"its result is {_words(function.result)}")

    def _same(
        self, found: Any, wanted: component.Type | None, resources: _Resources, memory: bool
    ) -> bool:
        """Whether a type is the wanted one. With ``memory`` a list of bytes may be a pair."""

        def same(found: Any, wanted: component.Type | None) -> bool:
            return self._same(found, wanted, resources, memory)

        if wanted is None or found is None:
            return found is wanted
        if isinstance(wanted, component.Bytes):
            if memory and isinstance(found, declared.TupleType):
                kinds = [type(part) for part in found.elements]
                return kinds == [declared.U32, declared.U32]
            return isinstance(found, declared.ListType) and isinstance(found.element, declared.U8)
        if isinstance(wanted, component.U32):
            return isinstance(found, declared.U32)
        if isinstance(wanted, component.Text):
            return isinstance(found, declared.String)
        if isinstance(wanted, component.Enumeration):
            return isinstance(found, declared.EnumType) and tuple(found.names) == wanted.cases
        if isinstance(wanted, component.ListOf):
            return isinstance(found, declared.ListType) and same(found.element, wanted.element)
        if isinstance(wanted, component.TupleOf):
            if not isinstance(found, declared.TupleType):
                return False
            parts = found.elements
            return len(parts) == len(wanted.elements) and all(map(same, parts, wanted.elements))
        if isinstance(wanted, component.ResultOf):
            if not isinstance(found, declared.ResultType):
                return False
            return same(found.ok, wanted.ok) and same(found.err, wanted.error)
        kind = declared.OwnType if isinstance(wanted, component.Own) else declared.BorrowType
        return isinstance(found, kind) and found.ty == resources.get(wanted.resource)


def _types(items: Mapping[str, Any]) -> dict[str, Any]:
    """The types of imports or exports. (In wasmtime 48 the items are types themselves.)"""
    return {name: getattr(item, "ty", item) for name, item in items.items()}


def _shape(interface: Interface) -> object:
    return [(one.name, one.parameters, one.result) for one in interface.functions]


def _unlike(label: str, why: str) -> LinkError:
    return LinkError(f"the guest cannot start: it imports {label} with another type; here {why}")


def _words(kind: component.Type | None) -> str:
    """A type in WIT."""
    if kind is None:
        return "nothing"
    if isinstance(kind, component.Enumeration):
        return f"the enum {', '.join(kind.cases)}"
    if isinstance(kind, (component.Own, component.Borrow)):
        return f"{type(kind).__name__.lower()}<{kind.resource}>"
    if isinstance(kind, component.ListOf):
        return f"list<{_words(kind.element)}>"
    if isinstance(kind, component.TupleOf):
        return f"tuple<{', '.join(map(_words, kind.elements))}>"
    if isinstance(kind, component.ResultOf):
        ok, error = ("_" if part is None else _words(part) for part in (kind.ok, kind.error))
        return f"result<{ok}, {error}>"
    return {component.U32: "u32", component.Text: "string", component.Bytes: "list<u8>"}[type(kind)]
