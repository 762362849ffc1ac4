"""The matrix as one self-contained page: click a cell, then a case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from wasi_nn_conformance import __version__
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.matrix import FAILURES, Cell, shown
from wasi_nn_conformance.origin import Origin

_MARK = "__DATA__"


def write(path: Path, cells: Sequence[Cell], cases: Sequence[Case], origin: Origin) -> None:
    """Write the page, with cases, transcripts and reasons inside."""
    template = files("wasi_nn_conformance.reports").joinpath("template.html").read_text("utf-8")
    data = json.dumps(_data(cells, cases, origin), ensure_ascii=True, separators=(",", ":"))
    # A script element ends at </script, whatever the JSON around it says.
    path.write_text(template.replace(_MARK, data.replace("<", "\\u003c")), encoding="utf-8")


def _data(cells: Sequence[Cell], cases: Sequence[Case], origin: Origin) -> dict[str, Any]:
    return {
        **origin._asdict(),
        "version": __version__,
        "cases": {
            case.id: {
                "version": case.version,
                "why": case.why,
                "source": case.source,
                "steps": case.steps or case.program,
            }
            for case in cases
        },
        "cells": [
            {
                **cell._asdict(),
                "counts": cell.counts,
                "outcomes": [
                    {
                        **o._asdict(),
                        "unexpected": o.unexpected,
                        "reproduce": cell.reproduce(o.case) if o.status in FAILURES else "",
                    }
                    for o in cell.outcomes
                ],
            }
            for cell in shown(cells)
        ],
    }
