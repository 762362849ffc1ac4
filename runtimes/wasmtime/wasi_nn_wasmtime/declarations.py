"""What a component declares of the functions that it imports, held against what the host gives.

wasmtime's C API takes a host function for whatever type the component declares, and its values come
without types: read as another type they would be addresses of the component's choice. So types are
compared before anything is linked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import wasmtime
from wasmtime import component as declared

from wasi_nn.errors import LinkError
from wasi_nn.runtime import component
from wasi_nn.runtime.component import Function, Interface
from wasi_nn_wasmtime.relowering import Giving

_Resources = Mapping[str, Any]


class Declarations:
    """The imports and exports of a compiled component. With ``memory`` its lists of bytes are pairs
    of an address and a length."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        compiled: declared.Component,
        giving: Giving,
        memory: bool,
    ) -> None:
        self._engine = engine
        self._type = compiled.type
        self.giving = giving
        self._memory = memory
        # What was compared already, by name: programs run many times.
        self._agreed: dict[str, object] = {}

    def check(self, interfaces: Sequence[Interface]) -> None:
        """Raises ``LinkError`` for a function that is declared with another type than the host
        has."""
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
        """The export of that name (and of any version) that is an interface whose function ``run``
        takes nothing and says whether it went well."""
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
        gives = (interface, name) in self.giving
        parameters: list[component.Type] = [*function.parameters]
        if gives:
            parameters.append(component.U32())
        found = [kind for _, kind in kind.params]
        if len(found) != len(parameters):
            raise _unlike(label, f"the number of its parameters is {len(function.parameters)}")
        for number, (one, wanted) in enumerate(zip(found, parameters, strict=True), 1):
            if not self._same(one, wanted, resources, self._memory):
                raise _unlike(label, f"parameter {number} is {_words(wanted)}")
        if not self._same(kind.result, function.result, resources, gives):
            raise _unlike(label, f"its result is {_words(function.result)}")

    def _same(
        self, found: Any, wanted: component.Type | None, resources: _Resources, memory: bool
    ) -> bool:
        """Whether a type is what is wanted; ``memory`` where a list of bytes can be a pair."""

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
    """What imports or exports are (in wasmtime 48 they are types themselves)."""
    return {name: getattr(item, "ty", item) for name, item in items.items()}


def _shape(interface: Interface) -> object:
    return [(one.name, one.parameters, one.result) for one in interface.functions]


def _unlike(label: str, why: str) -> LinkError:
    return LinkError(f"the guest cannot start: it imports {label} with another type; here {why}")


def _words(kind: component.Type | None) -> str:
    """A type as WIT writes it."""
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
