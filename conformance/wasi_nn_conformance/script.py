"""Compile a case to a script for the interpreter guest, with the numbers and layouts of a
dialect."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wasi_nn_conformance.case import Case
from wasi_nn_conformance.checks import FORMATS, Check, Contains, Near, Same
from wasi_nn_conformance.dialects import DIALECTS, TARGETS, WIT, Dialect
from wasi_nn_conformance.graphs import GraphSet

#: Where the guest finds the graphs' files.
MOUNT = "/graphs"


class Unsupported(Exception):
    """The dialect cannot express the case, or the host cannot run it."""


class Call(NamedTuple):
    """The expected ``call`` line of the transcript: the result is one of these numbers."""

    step: int
    function: str
    wanted: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether only one line is right."""
        return len(set(self.wanted)) == 1

    @property
    def pattern(self) -> str:
        """An extended regular expression for the line."""
        numbers = "|".join(map(str, dict.fromkeys(self.wanted)))
        return f"call {self.function} {numbers if self.exact else f'({numbers})'}"


class Show(NamedTuple):
    """The expected ``show`` line, with a check of its bytes."""

    step: int
    buffer: str
    check: Check

    @property
    def exact(self) -> bool:
        """Whether only one line is right."""
        return self.check.exact

    @property
    def pattern(self) -> str:
        """An extended regular expression for the line."""
        return f"show {self.buffer} {self.check.pattern}".replace("show .", r"show \.", 1)


class Script(NamedTuple):
    """The text for the interpreter, and the expected lines of its transcript."""

    text: str
    checks: tuple[Call | Show, ...]


def compile_case(case: Case, dialect_name: str, graphs: GraphSet) -> Script:
    """The script of a case. Raises ``Unsupported`` with the reason."""
    if dialect_name == WIT.name:
        from wasi_nn_conformance.wit import WitCompiler

        return WitCompiler(graphs).compile(case)
    return Compiler(DIALECTS[dialect_name], graphs).compile(case)


class Compiler:
    """Compiles for a dialect of the core ABI. Each step has a method of its name."""

    def __init__(self, dialect: Dialect, graphs: GraphSet) -> None:
        self._dialect = dialect
        self._legacy = dialect.name == "wamr-legacy"
        self._graphs = graphs
        self._lines: list[str] = []
        self._checks: list[Call | Show] = []
        self._step = 0
        self._fresh = 0

    def compile(self, case: Case) -> Script:
        for self._step, step in enumerate(case.steps, 1):
            for word in _STEPS:
                if word in step:
                    getattr(self, word)(step)
                    break
            else:
                raise ValueError(f"{case.id}: step {self._step} is of an unknown kind: {step}")
        return Script("\n".join(self._lines) + "\n", tuple(self._checks))

    # Values

    def _value(self, value: Any) -> str:
        if isinstance(value, int):
            return str(value & 0xFFFFFFFF)
        text = str(value)
        if text == "$encoding":
            return str(self._encoding(self._graphs.encoding))
        if text.startswith("$encoding."):
            return str(self._encoding(text.partition(".")[2]))
        if text.startswith("$type."):
            return str(self._type(text[6:]))
        if text.startswith("$target."):
            return str(TARGETS.index(text[8:]))
        return text

    def _encoding(self, name: str) -> int:
        if name not in self._dialect.encodings:
            raise Unsupported(f"the dialect has no number for the encoding {name}")
        return self._dialect.encodings[name]

    def _type(self, name: str) -> int:
        if name not in self._dialect.tensor_types:
            raise Unsupported(f"the dialect has no tensor type {name}")
        return self._dialect.tensor_types.index(name)

    def _errno(self, name: str) -> int:
        return 0 if name == "success" else self._dialect.errnos[name]

    # Lines

    def _line(self, *words: Any) -> None:
        self._lines.append(" ".join(str(word) for word in words))

    def _new(self) -> str:
        self._fresh += 1
        return f".{self._fresh}"

    def _data(self, data: bytes, name: str = "", shift: int = 0) -> str:
        name = name or self._new()
        self._line("buf", name, len(data), *([shift] if shift else []))
        for at in range(0, len(data), 4096):
            self._line("put", name, at, data[at : at + 4096].hex())
        return name

    def _emit(self, function: str, arguments: Sequence[Any], names: str | Sequence[str]) -> None:
        names = (names,) if isinstance(names, str) else tuple(names)
        self._line("call", function, *(self._value(argument) for argument in arguments))
        wanted = tuple(self._errno(name) for name in names)
        self._checks.append(Call(self._step, function, wanted, names))

    def _look(self, buffer: str, at: int, length: int, check: Check) -> None:
        self._line("show", buffer, at, length)
        self._checks.append(Show(self._step, buffer, check))

    # Steps

    def buffer(self, step: Mapping[str, Any]) -> None:
        name, shift = step["buffer"], step.get("shift", 0)
        if "tensor" in step:
            self._tensor(name, step["tensor"], shift)
            return
        if "builders" in step:
            self._builders(name, step["builders"])
            return
        if "addresses" in step:
            self._line("buf", name, 4 * len(step["addresses"]), *([shift] if shift else []))
            for index, value in enumerate(step["addresses"]):
                self._line("ptr", name, 4 * index, self._value(value))
            return
        if "zeros" in step:
            self._line("buf", name, step["zeros"], *([shift] if shift else []))
            return
        self._data(_bytes(step), name, shift)

    def grow(self, step: Mapping[str, Any]) -> None:
        self._line("grow", step["grow"])

    def call(self, step: Mapping[str, Any]) -> None:
        self._emit(step["call"], step.get("args", ()), step["is"])

    def expect(self, step: Mapping[str, Any]) -> None:
        name, at = step["expect"], step.get("at", 0)
        if "length" in step:
            length = int(step["length"])
        else:
            length = len(_bytes(step)) if "zeros" not in step else int(step["zeros"])
        self._look(name, at, length, _check(step))

    def open(self, step: Mapping[str, Any]) -> None:
        """Open a graph by name, and a context of it. The handles are in g and c."""
        suffix = step.get("as", "")
        name = self._data(step["open"].encode())
        self._line("buf", f"g{suffix}", 4)
        self._line("buf", f"c{suffix}", 4)
        self._emit("load_by_name", [f"&{name}", f"#{name}", f"&g{suffix}"], "success")
        self._emit("init_execution_context", [f"*g{suffix}", f"&c{suffix}"], "success")

    def load(self, step: Mapping[str, Any]) -> None:
        """Load a graph from its bytes, and open a context of it. The handles are in g and c."""
        suffix = step.get("as", "")
        self._line("buf", f"g{suffix}", 4)
        self._line("buf", f"c{suffix}", 4)
        builders, count = self._builders(self._new(), step["load"])
        encoding = step.get("encoding", "$encoding")
        where = [f"&{builders}"] if self._legacy else [f"&{builders}", count]
        self._emit("load", [*where, encoding, 0, f"&g{suffix}"], step.get("is", "success"))
        if step.get("is", "success") == "success":
            self._emit("init_execution_context", [f"*g{suffix}", f"&c{suffix}"], "success")

    def set(self, step: Mapping[str, Any]) -> None:
        tensor = self._tensor_of(step)
        self._emit(
            "set_input",
            [f"*{step['set']}", step.get("index", 0), f"&{tensor}"],
            step.get("is", "success"),
        )

    def _tensor_of(self, step: Mapping[str, Any]) -> str:
        kind = step.get("type", "f32")
        if "text" in step:
            kind, data = "u8", step["text"].encode()
        else:
            data = pack(kind, step["values"])
        dims = step.get("dims", [len(data)] if "text" in step else [1, len(step["values"])])
        tensor = self._new()
        where = self._data(data)
        self._tensor(tensor, {"type": kind, "dims": dims, "data": f"&{where}", "length": len(data)})
        return tensor

    def compute(self, step: Mapping[str, Any]) -> None:
        self._emit("compute", [f"*{step['compute']}"], step.get("is", "success"))

    def get(self, step: Mapping[str, Any]) -> None:
        """Read an output into a buffer of its size, or of ``capacity``, and compare it."""
        length = len(_bytes(step)) if _has_content(step) else int(step.get("length", 0))
        capacity = int(step.get("capacity", length))
        out, size = self._new(), self._new()
        self._line("buf", out, max(capacity, 4))
        single = "get_output_single" if step.get("single") else "get_output"
        wanted = step.get("is", "success")
        if self._legacy:
            self._data(struct.pack("<I", -(-capacity // 4)), size)
            self._emit(
                single, [f"*{step['get']}", step.get("index", 0), f"&{out}", f"&{size}"], wanted
            )
        else:
            self._line("buf", size, 4)
            arguments = [f"*{step['get']}", step.get("index", 0), f"&{out}", capacity, f"&{size}"]
            self._emit(single, arguments, wanted)
        if wanted == "success" and _has_content(step):
            unit = 4 if self._legacy else 1
            self._look(size, 0, 4, Same(struct.pack("<I", length // unit), "the size written"))
            self._look(out, 0, length, _check(step))
        elif wanted == "success" and "contains" in step:
            self._look(out, 0, capacity, Contains(step["contains"]))

    # Layouts

    def _tensor(self, name: str, tensor: Mapping[str, Any], shift: int = 0) -> None:
        kind = tensor.get("type", "f32")
        number = kind if isinstance(kind, int) else self._type(kind)
        dims = tensor.get("dims", [])
        where = self._data(struct.pack(f"<{len(dims)}I", *(d & 0xFFFFFFFF for d in dims)) or b"\0")
        dims_at = tensor.get("dims_at", f"&{where}")
        rank = tensor.get("rank", len(dims))
        padding = bytes.fromhex(tensor.get("padding", "000000"))
        extra = [shift] if shift else []
        if self._legacy:
            pair = self._new()
            self._line("buf", pair, 8)
            self._line("ptr", pair, 0, self._value(dims_at))
            self._line("ptr", pair, 4, self._value(rank))
            self._line("buf", name, 12, *extra)
            self._line("ptr", name, 0, f"&{pair}")
            self._line("put", name, 4, (bytes([number]) + padding).hex())
            self._line("ptr", name, 8, self._value(tensor["data"]))
            return
        self._line("buf", name, 20, *extra)
        self._line("ptr", name, 0, self._value(dims_at))
        self._line("ptr", name, 4, self._value(rank))
        self._line("put", name, 8, (bytes([number]) + padding).hex())
        self._line("ptr", name, 12, self._value(tensor["data"]))
        self._line("ptr", name, 16, self._value(tensor["length"]))

    def _builders(self, name: str, graph: str) -> tuple[str, int]:
        files = self._graphs.files[graph]
        for index, path in enumerate(files):
            self._line("file", f"{name}.{index}", f"{MOUNT}/{path.name}")
        array = self._new() if self._legacy else name
        self._line("buf", array, 8 * len(files))
        for index in range(len(files)):
            self._line("ptr", array, 8 * index, f"&{name}.{index}")
            self._line("ptr", array, 8 * index + 4, f"#{name}.{index}")
        if self._legacy:
            self._line("buf", name, 8)
            self._line("ptr", name, 0, f"&{array}")
            self._line("ptr", name, 4, len(files))
        return name, len(files)


_STEPS = ("buffer", "grow", "call", "expect", "open", "load", "set", "compute", "get")
_CONTENT = ("text", "bytes", "values", *FORMATS, "bf16")


def _has_content(step: Mapping[str, Any]) -> bool:
    return any(key in step for key in _CONTENT)


def pack(kind: str, values: Sequence[float]) -> bytes:
    """Values as little-endian bytes of a tensor type."""
    if kind == "bf16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)


def _bytes(step: Mapping[str, Any]) -> bytes:
    if "text" in step:
        return str(step["text"]).encode()
    if "bytes" in step:
        return bytes.fromhex(step["bytes"])
    if "values" in step:
        return pack(step.get("type", "f32"), step["values"])
    for kind in (*FORMATS, "bf16"):
        if kind in step:
            return pack(kind, step[kind])
    raise ValueError(f"the step says nothing of its bytes: {step}")


def _check(step: Mapping[str, Any]) -> Check:
    if "zeros" in step:
        return Same(bytes(int(step["zeros"])))
    if "contains" in step:
        return Contains(step["contains"])
    wanted = _bytes(step)
    tolerance = float(step.get("tolerance", 0))
    kind = (
        step.get("type", "f32") if "values" in step else next((k for k in FORMATS if k in step), "")
    )
    if not tolerance or kind not in ("f32", "f64", "f16"):
        return Same(wanted)
    return Near(wanted, kind, tolerance)
