"""TorchScript: calls of torch's operators with arguments of the declared types, and mutated code,
pickles and zip entries."""

from __future__ import annotations

import functools
import io
import re
import struct
import warnings
import zipfile
from typing import Any

from authoring import networks
from fuzz.chance import Chance
from fuzz.models.seeds import canonical, written
from fuzz.trial import Trial
from wasi_nn_conformance import graphs

_ENCODING = "pytorch"
_TEXTS = ("'none'", "'mean'", "'reflect'", "'i,j->ij'", "'cpu'", "''")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*|\d+\.?\d*|\S")
_KEYWORDS = (
    "while True",
    "for i in range(9)",
    "if bool(1)",
    "raise AssertionError('x')",
    "assert False",
    "return x",
    "None",
    "annotate(List[int], [])",
    "uninitialized(Tensor)",
    "unchecked_cast(int, x)",
    "CONSTANTS.c0",
    "self",
    "self.w",
    "training",
    "del x",
    "x = x",
)


@functools.cache
def _operators() -> list[Any]:
    """The schemas of the operators over tensors and numbers."""
    import torch

    found = []
    for schema in torch._C._jit_get_all_schemas():
        space = schema.name.partition("::")[0]
        if space in ("aten", "prim", "quantized", "prims") and schema.name.count("::") == 1:
            found.append(schema)
    return sorted(found, key=str)


def _argument(kind: str, chance: Chance, depth: int = 0) -> str:
    """An expression of a type."""
    if kind.startswith("Optional["):
        inner = kind.removeprefix("Optional[").removesuffix("]")
        return "None" if chance.once_in(2) else _argument(inner, chance)
    if kind.startswith("List["):
        inner = kind.removeprefix("List[").removesuffix("]")
        count = chance.randrange(4)
        items = ", ".join(_argument(inner, chance) for _ in range(count))
        return f"[{items}]" if count else f"annotate(List[{inner}], [])"
    if kind == "Tensor":
        if depth < 2 and chance.once_in(6):
            return _call(chance, depth + 1)
        dims = ", ".join(map(str, chance.dims()))
        made = f"torch.ones([{dims}])" if dims else "torch.tensor(1)"
        dtype = chance.choice((4, 3, 7, 11, 0, 5))
        ints = f"torch.randint({chance.randrange(1, 9)}, [{dims}])"
        typed = f"torch.zeros([{dims}], dtype={dtype})"
        return chance.choice(("x", "x", "x", "torch.add(x, 1)", "torch.t(x)", made, ints, typed))
    if kind == "int":
        return str(chance.randrange(-2, 5) if not chance.once_in(4) else chance.whole())
    if kind in ("float", "number"):
        return chance.choice(("0.5", "1.", "-1.", "0.", "1e30", "2", "inf"))
    if kind == "bool":
        return chance.choice(("True", "False"))
    if kind == "str":
        return chance.choice(_TEXTS)
    if kind == "Device":
        return 'torch.device("cpu")'
    return "None"


def _call(chance: Chance, depth: int = 0) -> str:
    """A call of an operator."""
    schema = chance.choice(_operators())
    space, name = schema.name.split("::")
    given = []
    for argument in schema.arguments:
        if argument.has_default_value() and chance.once_in(2):
            continue
        value = _argument(str(argument.type), chance, depth)
        given.append(f"{argument.name}={value}" if argument.kwarg_only else value)
    spaces = {"aten": "torch", "prim": "ops.prim", "quantized": "ops.quantized"}
    return f"{spaces.get(space, f'ops.{space}')}.{name}({', '.join(given)})"


@functools.cache
def _sound() -> list[bytes]:
    return [*canonical(_ENCODING), *written(networks.torchscript)]


Entries = list[tuple[str, bytes]]


def _entries(archive: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        return [(info.filename, read.read(info)) for info in read.infolist()]


def _archive(entries: Entries, pressed: bool = False) -> bytes:
    """An archive as torch writes it: stored, with the data of each entry at a multiple of 64."""
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if pressed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", kind) as made:
        # Two entries of one name are meant.
        warnings.simplefilter("ignore", UserWarning)
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            at = out.tell() + 30 + len(name.encode())
            gap = -(at + 4) % 64
            info.extra = b"FB" + struct.pack("<H", gap) + bytes(gap)
            made.writestr(info, data)
    return out.getvalue()


@functools.cache
def _adding() -> Entries:
    return _entries(graphs.canonical(_ENCODING).files["add"][0].read_bytes())


def built(chance: Chance) -> Trial:
    """A module whose method calls a few operators."""
    lines = [f"    x{step} = {_call(chance)}" for step in range(chance.choice((0, 0, 1, 2)))]
    last = _call(chance)
    # Not every value is a tensor.
    result = f"    x = {last}" if chance.once_in(3) else f"    return {last}"
    end = [] if result.lstrip().startswith("return") else ["    return x"]
    kind = "Tensor" if not chance.once_in(6) else chance.choice(("int", "List[Tensor]", "Any"))
    code = "\n".join(
        [
            "class Add(Module):",
            "  __parameters__ = []",
            "  __buffers__ = []",
            "  training : bool",
            "  _is_full_backward_hook : Optional[bool]",
            "  def forward(self: __torch__.Add,",
            "    x: Tensor,",
            f"    y: Tensor) -> {kind}:",
            *lines,
            result,
            *end,
            "",
        ]
    )
    entries = [
        (name, code.encode() if name.endswith("__torch__.py") else data)
        for name, data in _adding()
        if not name.endswith(".debug_pkl")
    ]
    return Trial(_ENCODING, (_archive(entries),), made=f"built {last[:100]}")


def _code(text: str, chance: Chance) -> str:
    """Code with a word changed."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = chance.choice(words)
    others = [other[0] for other in words]
    kind = chance.randrange(6)
    if kind == 0:
        new = _call(chance)
    elif kind == 1:
        new = chance.choice(_KEYWORDS)
    elif kind == 2:
        new = str(chance.whole())
    elif kind == 3:
        new = ""
    elif kind == 4:
        new = word[0] + " " + word[0]
    else:
        new = chance.choice(others)
    return text[: word.start()] + new + text[word.end() :]


def mutated(chance: Chance) -> Trial:
    """A sound archive with some of its entries changed."""
    data = chance.choice(_sound())
    if chance.once_in(8):
        return Trial(_ENCODING, (chance.flipped(data),), made="bytes changed")
    entries = _entries(data)
    changed = []
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(entries))
        name, content = entries[at]
        short = name.partition("/")[2]
        kind = chance.randrange(8)
        if kind == 0:
            del entries[at]
            short += " removed"
        elif kind == 1:
            entries.append((name, chance.flipped(content) if content else b"\x80\x02."))
            short += " twice"
        elif kind == 2:
            entries[at] = (chance.text(name) or "x", content)
            short += " renamed"
        elif name.endswith(".py"):
            entries[at] = (name, _code(content.decode(errors="replace"), chance).encode())
        else:
            entries[at] = (name, chance.flipped(content, 3))
        changed.append(short)
        if not entries:
            break
    try:
        archive = _archive(entries, pressed=chance.once_in(12))
    except (ValueError, struct.error):  # A name that no archive can have.
        archive = chance.flipped(data)
    return Trial(_ENCODING, (archive,), made="changed " + ", ".join(changed))


def make(chance: Chance) -> Trial:
    """A built or a mutated archive."""
    return built(chance) if not chance.once_in(3) else mutated(chance)
