"""What calls are made of: sensible ones, hostile ones, and the memory that they point into."""

from __future__ import annotations

import struct

from fuzz.calls.driver import (
    CONTEXT,
    GRAPH,
    GROW,
    MAX_CALLS,
    PAGE,
    POKE,
    RECORD,
    TABLE,
    VALUE,
    Call,
)
from fuzz.chance import Chance
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn_conformance import graphs

#: The named models of the host, all of which are there but the last.
NAMES = (b"echo", b"net", b"stream", b"text", b"missing", b"\xff\xfe", b"")
CONFIGS = (b"", b"{}", b'{"stream": 2}', b'{"untyped_bytes": true}', b'{"stream": "x"}', b"[",
           b"[1]", b'{"inputs": ["a", "b"]}', b'{"inputs": 3}',
           b"[" * 3000, b'{"threads": 1}')  # fmt: skip
_END = TABLE + MAX_CALLS * RECORD.size
_OUT = 64
_START = 1024
_BUFFER = 3 * PAGE


class Image:
    """The content of a guest's memory, and where things are in it."""

    def __init__(self, module: str) -> None:
        self.legacy = module == WamrLegacy.module
        self.bytes = bytearray(_BUFFER - _START)
        self._free = 0
        onnx = graphs.canonical("onnx").files["add"][0].read_bytes()
        models = (
            b"wasi-nn:identity", b'wasi-nn:identity {"stream": 2}',
            b'wasi-nn:identity {"untyped_bytes": true}', onnx, onnx[:50], b"GGUF\3\0\0\0", b"",
        )  # fmt: skip
        self.names = [(self._put(name), len(name)) for name in NAMES]
        self.configs = [(self._put(config), len(config)) for config in CONFIGS]
        self.builders = [self._builders(model) for model in models]
        self.tensors = [
            self._tensor(kind, dims, length)
            for kind, size in ((0, 2), (1, 4), (2, 1), (2, 8), (3, 4), (4, 1), (9, 1))
            for dims in ((1, 4), (4,), (), (2, 2), (0,), (1 << 31, 2))
            for length in {min(size * _product(dims), 32), 7}
        ]
        #: Four f32 numbers.
        self.row = self._tensor(1, (1, 4), 16)
        #: Four bytes, in the dialects in which 3 is u8.
        self.text = self._tensor(3, (4,), 4)
        self.sizes = [self._put(struct.pack("<I", size)) for size in (0, 1, 4, 64, 1 << 31)]

    def _put(self, data: bytes) -> int:
        at = self._free
        self.bytes[at : at + len(data)] = data
        self._free += (len(data) + 7) & ~7
        return _START + at

    def _builders(self, model: bytes) -> int:
        at = self._put(struct.pack("<II", self._put(model), len(model)))
        return self._put(struct.pack("<II", at, 1)) if self.legacy else at

    def _tensor(self, kind: int, dims: tuple[int, ...], length: int) -> int:
        at = self._put(struct.pack(f"<{len(dims)}I", *dims))
        data = self._put(bytes(range(1, 1 + length)))
        if self.legacy:
            where = self._put(struct.pack("<II", at, len(dims)))
            return self._put(struct.pack("<IBxxxI", where, kind, data))
        return self._put(struct.pack("<IIBxxxII", at, len(dims), kind, data, length))


def _product(dims: tuple[int, ...]) -> int:
    product = 1
    for dim in dims:
        product *= dim
    return product


def garbage(chance: Chance) -> int:
    """A number that means nothing; never an address of the table."""
    kind = chance.randrange(6)
    if kind == 0:
        value = chance.randrange(5)
    elif kind == 1:
        value = chance.randrange(TABLE)
    elif kind == 2:
        value = _END + chance.randrange(-64, 2 * PAGE)
    elif kind == 3:
        value = chance.randrange(1 << 32)
    elif kind == 4:
        value = chance.choice((0, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0))
    else:
        value = TABLE - chance.randrange(1, 64)
    # What is written there could reach into the table.
    return value if not TABLE - 64 <= value < _END else value - PAGE


def sensible(name: str, image: Image, chance: Chance) -> Call:
    """A call with arguments that can be right."""
    index = chance.choice((0, 0, 0, 1, 2))
    graph, context = ((chance.choice((0, 0, 0, 1, 2)), kind) for kind in (GRAPH, CONTEXT))
    length = (_BUFFER, chance.choice((64, 64, 16, 4, 0, PAGE)), _OUT + 4)
    if name == "load":
        array = chance.choice(image.builders)
        tail = [(chance.choice((5, 1, 6, 0)), VALUE), (0, VALUE), (_OUT, VALUE)]
        given = [(array, VALUE), *([] if image.legacy else [(1, VALUE)]), *tail]
    elif name.startswith("load_by_name"):
        given = [(value, VALUE) for value in chance.choice(image.names)]
        if name == "load_by_name_with_config":
            given += [(value, VALUE) for value in chance.choice(image.configs)]
        given.append((_OUT, VALUE))
    elif name == "init_execution_context":
        given = [graph, (_OUT, VALUE)]
    elif name == "set_input":
        given = [context, (index, VALUE), (chance.choice(image.tensors), VALUE)]
    elif name in ("get_output", "get_output_single"):
        more = (_BUFFER, chance.choice(image.sizes)) if image.legacy else length
        given = [context, (index, VALUE), *((value, VALUE) for value in more)]
    elif name == "unload":
        given = [graph]
    else:
        given = [context]
    return Call(name, tuple(value for value, _ in given), tuple(kind for _, kind in given))


# How often a function is called: opening a graph and a context is what others need.
_WEIGHTS = {"set_input": 4, "compute": 3, "get_output": 3, "init_execution_context": 2,
            "load_by_name": 2}  # fmt: skip


def call(table: dict[str, int], image: Image, chance: Chance) -> Call:
    """A call: sensible, or with garbage in one place or in all."""
    if chance.once_in(40):
        at = chance.randrange(_START, _START + len(image.bytes))
        return Call(POKE, (at, garbage(chance)))
    if chance.once_in(3000):
        return Call(GROW, (chance.choice((0, 1, 1 << 16)),))
    weights = [_WEIGHTS.get(name, 1) for name in table]
    (name,) = chance.choices(list(table), weights)
    # (A guest's own model takes a process.)
    if name == "load" and not chance.once_in(16):
        name = "load_by_name"
    if name == "unload" and not chance.once_in(3):
        name = "compute"
    made = sensible(name, image, chance)
    kind = chance.randrange(4)
    if kind == 0:
        return Call(name, tuple(garbage(chance) for _ in made.values))
    if kind == 1:
        at = chance.randrange(len(made.values))
        values, kinds = list(made.values), list(made.kinds)
        values[at], kinds[at] = garbage(chance), VALUE
        return Call(name, tuple(values), tuple(kinds))
    return made
