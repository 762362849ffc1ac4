"""A case as a script for the interpreter that is a component (`wasi:nn` of 2024-10-28).

The interface has resources instead of handles and addresses, so cases about those do not apply. An
error appears as its code plus one. `compute` takes all inputs in each call. So everything that a
case has set goes into each call, and a mistake in an input is a mistake in the call.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from wasi_nn_conformance.checks import FORMATS, Same
from wasi_nn_conformance.dialects import WIT
from wasi_nn_conformance.graphs import GraphSet, inputs
from wasi_nn_conformance.script import Compiler, Unsupported

# The bytes of an output's shape: its type, its rank, and up to 16 dimensions.
_SHAPE = 4 * (2 + 16)


class _Shape(Same):
    def wrong(self, found: bytes) -> str | None:
        if found == self.wanted:
            return None
        return f"the output is {_describe(found)}, expected {_describe(self.wanted)}"


def _describe(shape: bytes) -> str:
    number, rank, *dims = struct.unpack(f"<{len(shape) // 4}I", shape)
    names = WIT.tensor_types
    kind = names[number] if number < len(names) else f"of type {number}"
    return f"{kind} {dims[:rank]}"


class WitCompiler(Compiler):
    """Compiles the steps that open, load, set, compute and get."""

    def __init__(self, graphs: GraphSet) -> None:
        super().__init__(WIT, graphs)
        # By context: the names of its graph's inputs, and what is set.
        self._names: dict[str, tuple[str, ...]] = {}
        self._inputs: dict[str, dict[int, Mapping[str, Any]]] = {}

    def buffer(self, step: Mapping[str, Any]) -> None:
        raise Unsupported("a component passes no addresses to the host")

    grow = call = expect = buffer

    def open(self, step: Mapping[str, Any]) -> None:
        super().open(step)
        self._opened(step, step["open"])

    def load(self, step: Mapping[str, Any]) -> None:
        super().load(step)
        self._opened(step, step["load"])

    def set(self, step: Mapping[str, Any]) -> None:
        given = self._inputs[step["set"]]
        index = step.get("index", 0)
        if step.get("is", "success") == "success":
            given[index] = step
        else:
            self._compute(step["set"], {**given, index: step}, step["is"])

    def compute(self, step: Mapping[str, Any]) -> None:
        context = step["compute"]
        self._compute(context, self._inputs[context], step.get("is", "success"))

    def get(self, step: Mapping[str, Any]) -> None:
        sized = "capacity" in step and "contains" not in step
        if step.get("single") or sized or step.get("is", "success") != "success":
            raise Unsupported("a component gets outputs as lists, not in a buffer of its own")
        self._shape(step)
        super().get(step)

    def _shape(self, step: Mapping[str, Any]) -> None:
        """Compare an output's type and dimensions, which the core ABI does not show."""
        kind = next((key for key in ("text", *FORMATS, "bf16") if key in step), "")
        kind = step.get(
            "type", {"": "f32" if "values" in step else "", "text": "u8"}.get(kind, kind)
        )
        if not kind:
            return
        elements = len(step.get("values", step.get(kind, ())))
        dims = step.get("dims", [len(step["text"].encode())] if "text" in step else [1, elements])
        wanted = struct.pack(f"<{2 + len(dims)}I", self._type(kind), len(dims), *dims)
        buffer = self._new()
        self._line("buf", buffer, _SHAPE)
        arguments = [f"*{step['get']}", step.get("index", 0), f"&{buffer}", f"#{buffer}"]
        self._emit("get_output_shape", arguments, "success")
        self._look(buffer, 0, _SHAPE, _Shape(wanted.ljust(_SHAPE, b"\0")))

    def _opened(self, step: Mapping[str, Any], graph: str) -> None:
        context = f"c{step.get('as', '')}"
        self._names[context] = inputs(self._graphs.encoding, graph)
        self._inputs[context] = {}

    def _compute(self, context: str, given: Mapping[int, Mapping[str, Any]], wanted: Any) -> None:
        names = self._names[context]
        for index, step in given.items():
            name = self._data((names[index] if index < len(names) else str(index)).encode())
            tensor = self._tensor_of(step)
            self._emit(
                "set_input", [f"*{context}", f"&{name}", f"#{name}", f"&{tensor}"], "success"
            )
        self._emit("compute", [f"*{context}"], wanted)
