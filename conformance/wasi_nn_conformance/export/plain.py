"""A folder for each case, and a shell loop that runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from wasi_nn_conformance.case import Case
from wasi_nn_conformance.export import Exported, exported, new_folder
from wasi_nn_conformance.graphs import put_folder


def write(
    folder: Path, cases: Sequence[Case], encodings: Sequence[str], dialects: Sequence[str]
) -> int:
    """Write the cases, the graphs, the guests, README.md and the loop. Returns the number of
    cases, each in each cell."""
    new_folder(folder)
    guests = folder / "guests"
    guests.mkdir()
    count = 0
    for one in exported(cases, encodings, dialects):
        encoding = one.graphs.encoding
        if not (folder / "graphs" / encoding).exists():
            shutil.copytree(one.graphs.folder, folder / "graphs" / encoding)
            for graph in one.graphs.files:
                put_folder(one.graphs, graph, folder / "named" / encoding / graph)
        module = guests / one.job.module.name
        if not module.exists():
            shutil.copyfile(one.job.module, module)
        _write_case(folder / "cases" / encoding / one.dialect / one.case.id, one)
        count += 1
    for name in ("README.md", "host.sh", "run.sh"):
        source = files("wasi_nn_conformance.export").joinpath(name)
        (folder / name).write_bytes(source.read_bytes())
    return count


def _write_case(folder: Path, one: Exported) -> None:
    folder.mkdir(parents=True)
    (folder / "module").write_text(one.job.module.name + "\n", encoding="utf-8")
    (folder / "args").write_text("".join(f"{arg}\n" for arg in one.job.args), encoding="utf-8")
    (folder / "stdin").write_bytes(one.job.stdin)
    expected = [*one.patterns, f"exit {one.exit_code}"]
    (folder / "expected").write_text("".join(f"{x}\n" for x in expected), encoding="utf-8")
    text = json.dumps(_record(one), indent=1, ensure_ascii=False)
    (folder / "case.json").write_text(text + "\n", encoding="utf-8")


def _record(one: Exported) -> dict[str, Any]:
    case = one.case
    return {
        "case": case.id,
        "version": case.version,
        "why": case.why,
        "source": case.source,
        "encoding": one.graphs.encoding,
        "dialect": one.dialect,
        "module": one.job.module.name,
        "args": list(one.job.args),
        "exit_code": one.exit_code,
        "config": dict(one.graphs.config),
        "near": [{"line": n, "type": kind, "tolerance": most} for n, kind, most in one.near],
    }
