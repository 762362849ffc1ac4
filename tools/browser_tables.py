"""Write the tables of the browser host from the Python host's own."""

from __future__ import annotations

import json
from pathlib import Path

from wasi_nn._abi.core.common import MAX_BUILDERS, MAX_RANK
from wasi_nn._abi.core.dialects import DIALECTS, TARGETS
from wasi_nn._abi.core.witx import Witx
from wasi_nn._abi.guard import MAX_NAME
from wasi_nn.types import TensorType

TABLES = Path(__file__).parents[1] / "runtimes/browser/src/tables.ts"


def tables() -> str:
    """The TypeScript module."""
    functions = {name: parameters for name, (parameters, _) in Witx.table(_unbound()).items()}
    dialects = {
        dialect.name: {
            "module": dialect.module,
            "tensorTypes": [kind.name for kind in dialect.tensor_types],
            "encodings": dialect.encodings,
            "errnos": {code.name: number for code, number in dialect.errnos.items()},
            "unboundedZero": dialect.unbounded_zero,
        }
        for dialect in DIALECTS.values()
    }
    lines = ["// tools/browser_tables.py writes this file from the Python host's tables."]
    for name, kind, value in (
        ("FUNCTIONS", "Record<string, number>", functions),
        ("TENSOR_TYPES", "Record<string, number>", {kind.name: kind.size for kind in TensorType}),
        ("TARGETS", "readonly string[]", [target.name for target in TARGETS]),
        ("MAX_RANK", "number", MAX_RANK),
        ("MAX_BUILDERS", "number", MAX_BUILDERS),
        ("MAX_NAME", "number", MAX_NAME),
        ("DIALECTS", "Record<string, Dialect>", dialects),
    ):
        lines.append(f"export const {name}: {kind} = {json.dumps(value, indent=2)};")
    lines.insert(
        1,
        "export interface Dialect {\n"
        "  module: string;\n"
        "  tensorTypes: readonly string[];\n"
        "  encodings: Record<number, string>;\n"
        "  errnos: Record<string, number>;\n"
        "  unboundedZero: boolean;\n"
        "}",
    )
    return "\n".join(lines) + "\n"


def _unbound() -> Witx:
    """The table names bound methods: it needs an object, and no session."""
    return Witx.__new__(Witx)


if __name__ == "__main__":
    TABLES.write_text(tables())
