"""Known deviations of hosts, with reasons: expectations/HOST.json, or a file of the user's."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from wasi_nn_conformance.errors import UsageError
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
        if path.exists():
            found += read(path)
    return found


def read(path: Path) -> list[Expectation]:
    """The deviations in a file. Raises ``UsageError`` if it has none."""
    try:
        deviations = json.loads(path.read_text(encoding="utf-8"))["deviations"]
        return [Expectation(**entry) for entry in deviations]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} has no valid deviations: {error}") from error


def write(path: Path, deviations: Iterable[Expectation]) -> None:
    """Write a file that ``read`` takes."""
    entries = [{k: v for k, v in each._asdict().items() if v} for each in deviations]
    text = json.dumps({"deviations": entries}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


class Failure(NamedTuple):
    """A case that fails in a cell, and why."""

    case: str
    reason: str
    encoding: str
    dialect: str


def updated(
    before: Sequence[Expectation], ran: Collection[tuple[str, str, str]], failures: list[Failure]
) -> list[Expectation]:
    """The deviations after a run: those before that it did not touch, and its failures. ``ran`` has
    the case, the encoding and the dialect of all that was run."""
    kept = [each for each in before if not any(reason([each], *one) for one in ran)]
    named = [f._replace(reason=reason(before, *_of(f)) or f.reason) for f in failures]
    by_cell: dict[tuple[str, str, str], list[str]] = {}
    for failure in named:
        key = failure.reason, failure.encoding, failure.dialect
        by_cell.setdefault(key, []).append(failure.case)
    by_dialect: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (why, encoding, dialect), cases in by_cell.items():
        by_dialect.setdefault((why, dialect, tuple(cases)), []).append(encoding)
    joined: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (why, dialect, found), encodings in by_dialect.items():
        joined.setdefault((why, found, tuple(encodings)), []).append(dialect)
    return kept + [
        Expectation(cases, why, encodings, dialects)
        for (why, cases, encodings), dialects in joined.items()
    ]


def _of(failure: Failure) -> tuple[str, str, str]:
    return failure.case, failure.encoding, failure.dialect


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
