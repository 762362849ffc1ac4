"""The component ABI: `wasi:nn` in its published versions, for one session.

The versions differ in three places: `errors` has a constructor until 2024-06-25; the execution
context has `set-input`, `compute` and `get-output` until 2024-08-19, and one `compute` with named
tensors since 2024-10-28 (WebAssembly/wasi-nn, wit/wasi-nn.wit and its history). Prereleases are not
compatible with each other: a component imports exactly one of the names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from wasi_nn._abi.component.guard import fallible
from wasi_nn._abi.component.tables import (
    CLOSED,
    NO_ERROR,
    NO_TENSOR,
    GuestContext,
    GuestError,
    GuestGraph,
    GuestTensor,
)
from wasi_nn._abi.component.versions import (
    DIALECTS,
    ENCODINGS,
    ERROR_CODES,
    ERROR_CONSTRUCTOR,
    NAMED_TENSORS,
    PACKAGE,
    TENSOR_TYPES,
    TYPE_NAMES,
)
from wasi_nn._abi.core.common import MAX_BUILDERS, MAX_RANK
from wasi_nn._abi.guard import MAX_NAME, Observer, check_text
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._session.session import Session
from wasi_nn.errors import InvalidArgument, NnError
from wasi_nn.runtime.component import (
    U32,
    Borrow,
    Bytes,
    Enumeration,
    Function,
    Interface,
    ListOf,
    Own,
    Resource,
    ResultOf,
    Text,
    TupleOf,
    Type,
)
from wasi_nn.types import ExecutionTarget, Tensor

# Bytes that the host needs for a tensor or an error beside its data. They count against the guest's
# limit, so that a guest cannot make any number of empty ones.
_OVERHEAD = 256
# Bytes of a Python number and its place in a tuple.
_DIMENSION = 40
#: The number that a constructor returns for an object above the guest's limit: it cannot fail.
_REFUSED = 0

_TENSOR, _GRAPH, _CONTEXT, _ERROR = "tensor", "graph", "graph-execution-context", "error"
_DIMENSIONS = ListOf(U32())
_TENSOR_TYPE = Enumeration(tuple(TENSOR_TYPES))
_ENCODING = Enumeration(ENCODINGS)
_TARGET = Enumeration(("cpu", "gpu", "tpu"))
_ERROR_CODE = Enumeration(ERROR_CODES)
_NAMED = ListOf(TupleOf((Text(), Own(_TENSOR))))


class Wit:
    """Every resource of one guest, and the functions of `wasi:nn` on them."""

    def __init__(self, session: Session, observer: Observer, dialect: str = DIALECTS[0]) -> None:
        self.session = session
        self.observer = observer
        self.dialect = dialect
        self._next = 1
        self._refusal = "the tensor was refused"
        self.tensors: dict[int, GuestTensor] = {}
        self.graphs: dict[int, GuestGraph] = {}
        self.contexts: dict[int, GuestContext] = {}
        self.errors: dict[int, GuestError] = {}

    def interfaces(self, version: str) -> list[Interface]:
        """The four interfaces of a version."""
        suffix = f"@{version}" if version else ""
        tensor = (
            self._function(
                "[constructor]tensor", (_DIMENSIONS, _TENSOR_TYPE, Bytes()), Own(_TENSOR), self.make
            ),
            self._method(_TENSOR, "dimensions", (), _DIMENSIONS, self.dimensions),
            self._method(_TENSOR, "ty", (), _TENSOR_TYPE, self.type_name),
            self._method(_TENSOR, "data", (), Bytes(), self.data),
        )
        graph = (
            self._method(
                _GRAPH, "init-execution-context", (), _fallible(Own(_CONTEXT)), self.init_context
            ),
            self._function(
                "load", (ListOf(Bytes()), _ENCODING, _TARGET), _fallible(Own(_GRAPH)), self.load
            ),
            self._function("load-by-name", (Text(),), _fallible(Own(_GRAPH)), self.load_by_name),
        )
        errors = [
            self._method(_ERROR, "code", (), _ERROR_CODE, lambda error: self._error(error).code),
            self._method(_ERROR, "data", (), Text(), lambda error: self._error(error).data),
        ]
        if version in ERROR_CONSTRUCTOR:
            errors.append(
                self._function(
                    "[constructor]error", (_ERROR_CODE, Text()), Own(_ERROR), self._make_error
                )
            )
        return [
            Interface(
                f"{PACKAGE}errors{suffix}", [Resource(_ERROR, self._drop_error)], tuple(errors)
            ),
            Interface(f"{PACKAGE}tensor{suffix}", [Resource(_TENSOR, self._drop_tensor)], tensor),
            Interface(
                f"{PACKAGE}inference{suffix}",
                [Resource(_CONTEXT, self._drop_context)],
                self._inference(version),
            ),
            Interface(f"{PACKAGE}graph{suffix}", [Resource(_GRAPH, self._drop_graph)], graph),
        ]

    def _inference(self, version: str) -> tuple[Function, ...]:
        if version in NAMED_TENSORS:
            return (
                self._method(_CONTEXT, "compute", (_NAMED,), _fallible(_NAMED), self.compute_named),
            )
        return (
            self._method(
                _CONTEXT, "set-input", (Text(), Own(_TENSOR)), _fallible(None), self.set_input
            ),
            self._method(_CONTEXT, "compute", (), _fallible(None), self.compute),
            self._method(
                _CONTEXT, "get-output", (Text(),), _fallible(Own(_TENSOR)), self.get_output
            ),
        )

    # Tensors

    def make(self, dims: list[int], kind: str, data: bytes | memoryview) -> int:
        """The constructor. It cannot fail: a refused tensor is reported when it is used."""
        try:
            self.session.ledger.reserve_tensor(_size(dims, data))
        except NnError as error:
            self._refusal = str(error)
            self.observer.refuse(error.rule)
            return _REFUSED
        kept = GuestTensor(tuple(dims), TENSOR_TYPES[kind], bytes(data))
        return self._keep(self.tensors, kept)

    def dimensions(self, tensor: int) -> tuple[int, ...]:
        """The dimensions, as they were given."""
        return self._tensor(tensor).dims

    def type_name(self, tensor: int) -> str:
        """The tensor type's name."""
        return TYPE_NAMES[self._tensor(tensor).type]

    def data(self, tensor: int) -> bytes:
        """The bytes."""
        return self._tensor(tensor).data

    def _tensor(self, number: int) -> GuestTensor:
        return self.tensors[number] if number else NO_TENSOR

    def _take_tensor(self, number: int) -> GuestTensor:
        tensor = self.tensors.pop(number)
        self.session.ledger.add_tensor(-_size(tensor.dims, tensor.data))
        return tensor

    def _drop_tensor(self, number: int) -> None:
        if number:
            self._take_tensor(number)

    # Graphs

    def load(self, builders: list[bytes | memoryview], encoding: str, target: str) -> int:
        """`load`."""
        if len(builders) > MAX_BUILDERS:
            raise InvalidArgument(
                f"{len(builders)} graph builders: at most {MAX_BUILDERS} are allowed"
            )
        parts = [memoryview(builder) for builder in builders]
        handle = self.session.load(parts, encoding, ExecutionTarget(target))
        return self._keep(self.graphs, GuestGraph(handle))

    def load_by_name(self, name: str) -> int:
        """`load-by-name`."""
        check_text(len(name.encode()), "name", MAX_NAME)
        return self._keep(self.graphs, GuestGraph(self.session.load_by_name(name)))

    def init_context(self, graph: int) -> int:
        """`init-execution-context`."""
        kept = self.graphs[graph]
        context = GuestContext(self.session.init_execution_context(kept.handle), kept)
        kept.contexts += 1
        return self._keep(self.contexts, context)

    def _drop_graph(self, number: int) -> None:
        graph = self.graphs.pop(number)
        graph.dropped = True
        self._unload_unused(graph)

    def _unload_unused(self, graph: GuestGraph) -> None:
        if graph.dropped and not graph.contexts:
            self.session.unload(graph.handle)

    # Execution contexts

    def compute_named(self, context: int, inputs: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """`compute` since 2024-10-28. Earlier inputs no longer count."""
        kept = self.contexts[context]
        try:
            names = self._input_names(kept)
            wanted = {_key(name, names): number for name, number in inputs}
            if len(wanted) < len(inputs):
                raise InvalidArgument("an input is given twice")
            if kept.handle == CLOSED or kept.set - wanted.keys():
                # A backend cannot unset an input, so this needs a fresh context.
                self._renew(kept)
            for key, number in wanted.items():
                self._set(kept, key, number)
        finally:
            for _, number in inputs:
                if number in self.tensors:
                    self._drop_tensor(number)
        self.session.contexts[kept.handle].compute()
        return self._outputs(kept)

    def set_input(self, context: int, name: str, tensor: int) -> None:
        """`set-input` until 2024-08-19."""
        kept = self.contexts[context]
        try:
            self._set(kept, _key(name, self._input_names(kept)), tensor)
        finally:
            if tensor in self.tensors:
                self._drop_tensor(tensor)

    def compute(self, context: int) -> None:
        """`compute` until 2024-08-19."""
        self.session.contexts[self.contexts[context].handle].compute()

    def get_output(self, context: int, name: str) -> int:
        """`get-output` until 2024-08-19."""
        kept = self.contexts[context]
        names = [info.name for info in self._loaded(kept).outputs]
        return self._output(kept, _key(name, names))

    def _loaded(self, context: GuestContext) -> LoadedGraph:
        return self.session.graphs[context.graph.handle]

    def _input_names(self, context: GuestContext) -> list[str]:
        return [info.name for info in self._loaded(context).inputs]

    def _set(self, context: GuestContext, key: int | str, number: int) -> None:
        if number == _REFUSED:
            raise InvalidArgument(f"a tensor was refused when it was made: {self._refusal}")
        given = self.tensors[number]
        if len(given.dims) > MAX_RANK:
            raise InvalidArgument(f"{len(given.dims)} dimensions: at most {MAX_RANK} are allowed")
        tensor = Tensor(given.type, given.dims, memoryview(given.data))
        self.session.contexts[context.handle].set_input(key, tensor)
        context.set.add(key)

    def _outputs(self, context: GuestContext) -> list[tuple[str, int]]:
        described = self._loaded(context).outputs
        indexed = self.dialect == DIALECTS[1]
        given: list[tuple[str, int]] = []
        try:
            for index, info in enumerate(described):
                name = str(index) if indexed else info.name or str(index)
                given.append((name, self._output(context, index)))
            if not described:
                # The model describes none: ask by index until there is no further one.
                for index in range(MAX_BUILDERS):
                    try:
                        given.append((str(index), self._output(context, index)))
                    except InvalidArgument:
                        if not given:
                            raise
                        break
        except BaseException:
            for _, number in given:
                self._drop_tensor(number)
            raise
        return given

    def _output(self, context: GuestContext, key: int | str) -> int:
        output = self.session.contexts[context.handle].get_output(key)
        self.session.ledger.reserve_tensor(_size(output.dims, output.data))
        # A copy: the guest may keep the tensor for longer than the library keeps the bytes.
        tensor = GuestTensor(output.dims, output.type, bytes(output.data))
        return self._keep(self.tensors, tensor)

    def _renew(self, context: GuestContext) -> None:
        # Close the old one first: the guest's limits may not allow two.
        self._close(context)
        context.set.clear()
        context.handle = self.session.init_execution_context(context.graph.handle)

    def _close(self, context: GuestContext) -> None:
        if context.handle != CLOSED:
            self.session.finalize_execution_context(context.handle)
            context.handle = CLOSED

    def _drop_context(self, number: int) -> None:
        context = self.contexts.pop(number)
        self._close(context)
        context.graph.contexts -= 1
        self._unload_unused(context.graph)

    # Errors

    def _make_error(self, code: str, data: str) -> int:
        try:
            self.session.ledger.reserve(_error_size(data))
        except NnError:
            return _REFUSED
        return self._keep(self.errors, GuestError(code, data))

    def _error(self, number: int) -> GuestError:
        return self.errors[number] if number else NO_ERROR

    def _drop_error(self, number: int) -> None:
        if number:
            self.session.ledger.release(_error_size(self.errors.pop(number).data))

    # Tables and functions

    def _keep(self, table: dict[int, Any], item: Any) -> int:
        number = self._next
        self._next += 1
        table[number] = item
        return number

    def _method(
        self,
        resource: str,
        name: str,
        parameters: tuple[Type, ...],
        result: Type,
        call: Callable[..., Any],
    ) -> Function:
        return self._function(
            f"[method]{resource}.{name}", (Borrow(resource), *parameters), result, call
        )

    def _function(
        self, name: str, parameters: tuple[Type, ...], result: Type, call: Callable[..., Any]
    ) -> Function:
        label = name.rpartition("]")[2]
        if isinstance(result, ResultOf):
            call = fallible(label, call, self.observer, self._make_error)
        call = self.observer.watch(label, call, lambda *_: label)
        return Function(name, parameters, result, call)


def _fallible(ok: Type | None) -> ResultOf:
    return ResultOf(ok, Own(_ERROR))


def _size(dims: Sequence[int], data: bytes | memoryview) -> int:
    """The bytes of a kept tensor that count against the guest's limit."""
    return _OVERHEAD + len(data) + _DIMENSION * len(dims)


def _error_size(data: str) -> int:
    return _OVERHEAD + sys.getsizeof(data)


def _key(name: str, names: Sequence[str]) -> int | str:
    """The index of a tensor's name; else the name as a decimal index; else the name, which the
    backend refuses."""
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdecimal() and len(name) < 10:
        return int(name)
    return name
