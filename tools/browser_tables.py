"""Write the tables of the browser host from the Python host's own, and what its tests expect."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from wasi_nn import encodings
from wasi_nn._abi.core import detection, dialects
from wasi_nn._abi.core.common import MAX_BUILDERS, MAX_RANK, CoreAbi
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn._abi.guard import MAX_CONFIG, MAX_NAME
from wasi_nn.limits import Limits
from wasi_nn.types import TensorType
from wasi_nn.wasm.module import leb, parse, section_bytes

BROWSER = Path(__file__).parents[1] / "runtimes/browser"
#: The limits that the browser's host enforces.
LIMITS = ("memory", "graphs", "contexts", "output", "model_bytes", "tensor_bytes", "wasm_bytes")
DIALECT = """\
export interface Dialect {
  name: string;
  module: string;
  tensorTypes: readonly string[];
  encodings: Record<number, string>;
  errnos: Record<string, number>;
  unboundedZero: boolean;
}"""


def tables() -> str:
    """The TypeScript module."""
    lists = {
        name.lstrip("_"): value
        for name, value in vars(dialects).items()
        if name.startswith(("_TYPES", "_ENCODINGS", "_ERRNOS"))
    }
    lines = ["// tools/browser_tables.py writes this file from the Python host's tables.", DIALECT]
    lines += [f"const {name} = {_text(value)};" for name, value in lists.items()]

    def named(value: object) -> str:
        return next((name for name, known in lists.items() if known is value), _text(value))

    # Methods name their functions: the tables need an object, and no session.
    abis: tuple[CoreAbi, ...] = (Witx.__new__(Witx), WamrLegacy.__new__(WamrLegacy))
    functions = {
        abi.module: {name: parameters for name, (parameters, _) in abi.table().items()}
        for abi in abis
    }
    limits = {name: getattr(Limits(), name) for name in LIMITS}
    for name, kind, value in (
        ("FUNCTIONS", "Record<string, Record<string, number>>", functions),
        ("TENSOR_TYPES", "Record<string, number>", {kind.name: kind.size for kind in TensorType}),
        ("TARGETS", "readonly string[]", [str(target) for target in dialects.TARGETS]),
        ("MAX_RANK", "number", MAX_RANK),
        ("MAX_BUILDERS", "number", MAX_BUILDERS),
        ("MAX_NAME", "number", MAX_NAME),
        ("MAX_CONFIG", "number", MAX_CONFIG),
        ("LIMITS", f"Record<{' | '.join(map(json.dumps, LIMITS))}, number | null>", limits),
        ("WASMEDGE_FUNCTIONS", "readonly string[]", sorted(detection.WASMEDGE_FUNCTIONS)),
        ("AFTER_2023", "readonly string[]", sorted(detection._AFTER_2023)),
        ("RECENT", "Record<string, readonly [number, number]>", detection._RECENT),
        ("ONNX_SECOND_TAGS", "readonly number[]", sorted(encodings._ONNX_SECOND_TAGS)),
    ):
        lines.append(f"export const {name}: {kind} = {_text(value)};")
    lines.append("export const DIALECTS: Record<string, Dialect> = {")
    for dialect in dialects.DIALECTS.values():
        lines.append(
            f'  "{dialect.name}": {{ name: "{dialect.name}", module: "{dialect.module}", '
            f"tensorTypes: {named(dialect.tensor_types)}, encodings: {named(dialect.encodings)}, "
            f"errnos: {named(dialect.errnos)}, "
            f"unboundedZero: {_text(dialect.unbounded_zero)} }},"
        )
    return "\n".join([*lines, "};"]) + "\n"


def detected() -> str:
    """JSON: modules in hexadecimal digits, with the candidates that the Python host detects."""
    imports = (
        ("wasi_nn", "load"),
        *(
            ("wasi_ephemeral_nn", *names)
            for names in (
                ("compute",),
                ("compute_single",),
                ("compute_single", "fini_single"),
                ("compute_single", "unload"),
                ("load_by_name_with_config",),
            )
        ),
    )
    tools = ((), ("rustc", "1.76.0"), ("rustc", "1.77.0 (of 2024)"), ("AssemblyScript", "0.27"))
    texts = (b"", b"EndOfSequence", b"EndOfSequence PromptTooLong")
    found = {}
    for (module, *names), text, crate, tool in itertools.product(
        imports, texts, (False, True), tools
    ):
        binary = _module(module, names, text, crate, tool)
        candidates = detection.detect_dialect(parse(binary)).candidates
        found[binary.hex()] = " ".join(dialect.name for dialect in candidates)
    return json.dumps(found, indent=0) + "\n"


def _module(
    module: str, names: list[str], text: bytes, crate: bool, tool: tuple[str, ...]
) -> bytes:
    entries = [_name(module) + _name(name) + b"\0\0" for name in names]
    sections = [
        (1, b"\x01\x60\0\0"),
        (2, leb(len(entries)) + b"".join(entries)),
        (5, b"\x01\0\x01"),
        (11, b"\x01\0\x41\0\x0b" + leb(len(text)) + text),
    ]
    if crate:
        sections.append((0, _name("name") + b"_ZN16wasmedge_wasi_nn5graph"))
    if tool:
        title = _name("processed-by") + b"\x01" + b"".join(map(_name, tool))
        sections.append((0, _name("producers") + b"\x01" + title))
    body = b"".join(b"".join(section_bytes(kind, content)) for kind, content in sections)
    return b"\0asm\x01\0\0\0" + body


def _name(text: str) -> bytes:
    return leb(len(text)) + text.encode()


def _text(value: Any) -> str:
    """A value in TypeScript, on one line."""
    if isinstance(value, dict):
        value = {getattr(key, "name", key): item for key, item in value.items()}
    elif isinstance(value, tuple):
        value = [item.name if isinstance(item, TensorType) else item for item in value]
    return json.dumps(value)


FILES = {BROWSER / "src/tables.ts": tables, BROWSER / "tests/detection.json": detected}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content())
