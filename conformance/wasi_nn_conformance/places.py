"""Where the suite's data is: beside this package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent

CASES = _DATA / "cases"
EXPECTATIONS = _DATA / "expectations"
GRAPHS = _DATA / "graphs"
GUESTS = _DATA / "guests"


def guest(name: str) -> Path:
    """A guest program's module."""
    return GUESTS / name / f"{name}.wasm"
