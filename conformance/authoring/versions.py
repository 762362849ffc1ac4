"""Write the versions of the cases: a case whose test has changed gets the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wasi_nn_conformance.case import VERSIONS, WORDS, entries


def written(before: Mapping[str, tuple[int, str]]) -> str:
    """The file, after the versions ``before``: by id, the version and the digest of the test."""
    lines = []
    for name, entry in entries():
        digest = _digest(entry)
        version, old = before.get(name, (1, digest))
        lines.append(f"{json.dumps(name)}: {json.dumps([version + (old != digest), digest])}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _digest(entry: Mapping[str, Any]) -> str:
    # A better sentence does not make another test.
    test = {key: value for key, value in entry.items() if key not in WORDS}
    return hashlib.sha256(json.dumps(test, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    before = json.loads(VERSIONS.read_text(encoding="utf-8"))
    VERSIONS.write_text(written(before), encoding="utf-8")
