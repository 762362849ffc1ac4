"""Known deviations of hosts, each with its reason: expectations/HOST.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from wasi_nn.errors import UsageError
from wasi_nn_conformance.places import EXPECTATIONS


class Expectation(NamedTuple):
    """Cases that are expected to fail on a host, and why. ``encodings`` and ``dialects`` are
    patterns (empty: all)."""

    cases: Sequence[str]
    reason: str
    encodings: Sequence[str] = ()
    dialects: Sequence[str] = ()


def load(host: str, folder: Path = EXPECTATIONS) -> list[Expectation]:
    """The known deviations of a host. For our own runtimes, those that all of them share too."""
    names = [host] if host.startswith("native-") else ["wasi-nn", host]
    found: list[Expectation] = []
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        try:
            deviations = json.loads(path.read_text(encoding="utf-8"))["deviations"]
            found += [Expectation(**entry) for entry in deviations]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} has no valid deviations: {error}") from error
    return found


def reason(
    expectations: Sequence[Expectation], case: str, encoding: str, dialect: str
) -> str | None:
    """Why a case is expected to fail, or None."""
    for expectation in expectations:
        if (
            any(fnmatch(case, pattern) for pattern in expectation.cases)
            and _among(encoding, expectation.encodings)
            and _among(dialect, expectation.dialects)
        ):
            return expectation.reason
    return None


def _among(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)
