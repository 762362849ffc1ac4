"""Write the numbers that the conformance suite expects from the host's own tables."""

from __future__ import annotations

import json
from pathlib import Path

from wasi_nn._abi.component.versions import CODES, ENCODINGS, ERROR_CODES, TENSOR_TYPES
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn.types import ExecutionTarget

TABLES = Path(__file__).parents[1] / "conformance/wasi_nn_conformance/dialects.json"


def tables() -> str:
    """The JSON file."""
    dialects = {
        dialect.name: {
            "tensor_types": [str(kind) for kind in dialect.tensor_types],
            "encodings": dialect.encodings,
            "errnos": {code.value: number for code, number in dialect.errnos.items()},
        }
        for dialect in DIALECTS.values()
    }
    # The interpreter that is a component prints an error as its place plus one.
    dialects["wit"] = {
        "tensor_types": [str(kind) for kind in TENSOR_TYPES.values()],
        "encodings": dict(enumerate(ENCODINGS)),
        "errnos": {code.value: 1 + ERROR_CODES.index(text) for code, text in CODES.items()},
    }
    content = {"targets": [target.value for target in ExecutionTarget], "dialects": dialects}
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    TABLES.write_text(tables(), encoding="utf-8")
