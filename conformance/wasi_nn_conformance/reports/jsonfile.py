"""The matrix as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wasi_nn_conformance import __version__
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.matrix import FAILURES, Cell, Outcome, shown
from wasi_nn_conformance.origin import Origin


def write(path: Path, cells: Sequence[Cell], cases: Sequence[Case], origin: Origin) -> None:
    """Write the matrix: for each cell the engine (the host), its version, encoding, dialect, the
    counts, and each case's result. What fails also has the command that runs it again."""
    text = json.dumps(record(cells, cases, origin), ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path, cases: Sequence[Case]) -> list[Cell]:
    """The cells of a file that ``write`` made, with the results of these cases only. Raises
    ``UsageError`` for anything else."""
    known = {case.id for case in cases}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [
            Cell(
                cell["engine"],
                cell["version"],
                cell["encoding"],
                cell["dialect"],
                tuple(
                    Outcome(
                        o["case"],
                        o["status"],
                        o["reason"],
                        o["known"],
                        o["seconds"],
                        version=o.get("version", 1),
                    )
                    for o in cell["cases"]
                    if o["case"] in known
                ),
                cell["why_unavailable"],
            )
            for cell in found["cells"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no results of conformance --json: {error}") from None


def record(cells: Sequence[Cell], cases: Sequence[Case], origin: Origin) -> dict[str, Any]:
    """The content of the file."""
    return {
        "schema": 1,
        **origin._asdict(),
        "version": __version__,
        "number_of_cases": len(cases),
        "cells": [
            {
                "engine": cell.host,
                "native": cell.host.startswith("native-"),
                "version": cell.version,
                "encoding": cell.encoding,
                "dialect": cell.dialect,
                **cell.counts,
                "why_unavailable": cell.unavailable,
                "cases": [
                    {
                        "case": outcome.case,
                        "version": outcome.version,
                        "status": outcome.status,
                        "reason": outcome.reason,
                        "known": outcome.known,
                        "unexpected": outcome.unexpected,
                        "seconds": round(outcome.seconds, 6),
                        **(
                            {"reproduce": cell.reproduce(outcome.case)}
                            if outcome.status in FAILURES
                            else {}
                        ),
                    }
                    for outcome in cell.outcomes
                ],
            }
            for cell in shown(cells)
        ],
    }
