"""The numbers of each dialect: dialects.json, which other runners can read too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TABLES = json.loads(Path(__file__).with_name("dialects.json").read_text(encoding="utf-8"))


class Dialect(NamedTuple):
    """``tensor_types`` by number, and the numbers of the encodings and errors."""

    name: str
    tensor_types: tuple[str, ...]
    encodings: Mapping[str, int]
    errnos: Mapping[str, int]


def _dialect(name: str) -> Dialect:
    table = _TABLES["dialects"][name]
    encodings = {encoding: int(number) for number, encoding in table["encodings"].items()}
    return Dialect(name, tuple(table["tensor_types"]), encodings, table["errnos"])


#: The execution targets, in the order of their numbers.
TARGETS: tuple[str, ...] = tuple(_TABLES["targets"])
#: Components have no numbers of their own: these are those of the interpreter's transcript.
WIT = _dialect("wit")
#: The dialects of the core ABI.
DIALECTS = {name: _dialect(name) for name in _TABLES["dialects"] if name != WIT.name}
