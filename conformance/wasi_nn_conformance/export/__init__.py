"""The cases as plain files, for runners in any language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn_conformance import case as cases
from wasi_nn_conformance import graphs, running
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.checks import Near
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.script import MOUNT, Show, Unsupported

# What means something else in an extended regular expression.
_SPECIAL = re.compile(r"[].*+?()[{}|^$\\]")


class Exported(NamedTuple):
    """A case in a cell, as a guest to run and what it must print: ``patterns`` has an extended
    regular expression for each line. With ``fixed``, only one text is right, which is ``text``.
    ``near`` has the lines with floats (from 1), their type and their tolerance. ``interprets`` says
    whether the guest's standard input is a script."""

    case: Case
    graphs: GraphSet
    dialect: str
    job: Job
    patterns: tuple[str, ...]
    text: str
    fixed: bool
    exit_code: int
    interprets: bool
    near: tuple[tuple[int, str, float], ...] = ()


def exported(
    cases: Sequence[Case], encodings: Sequence[str], dialects: Sequence[str]
) -> Iterator[Exported]:
    """The cases that apply. What needs a configuration, a network or further models is left out,
    because hosts have no common options for them, and so is a guest whose output varies."""
    for encoding in encodings:
        files = graphs.canonical(encoding)
        for dialect in dialects:
            for case in cases:
                found = _exported(case, files, dialect)
                if found is not None:
                    yield found


def for_page(encoding: str, dialect: str) -> tuple[list[dict[str, Any]], dict[str, Path], int]:
    """The cases of a cell for a page that has no folders: what runs and what it must print, as JSON
    has it but for the path of the module. Then the graphs by name, and how many cases are left
    out."""
    every = cases.load()
    made = [
        {
            "id": one.case.id,
            "module": one.job.module,
            "args": [one.job.module.name, *one.job.args],
            "stdin": one.job.stdin.decode(),
            "patterns": one.patterns,
            "exit": one.exit_code,
            "near": one.near,
        }
        for one in exported(every, [encoding], [dialect])
        if MOUNT not in "".join(one.job.args) and MOUNT.encode() not in one.job.stdin
    ]
    files = {name: paths[0] for name, paths in graphs.canonical(encoding).files.items()}
    return made, files, len(every) - len(made)


def _exported(case: Case, files: GraphSet, dialect: str) -> Exported | None:
    try:
        job, script = running.prepare(case, files, dialect)
    except Unsupported:
        return None
    if job.configs or job.network or job.models:
        return None
    if script is None:
        assert case.program is not None
        if "stdout" not in case.program:
            return None
        text = case.program["stdout"]
        patterns = tuple(_SPECIAL.sub(r"\\\g<0>", line) for line in text.split("\n"))
        code = case.program.get("exit", 0)
        return Exported(case, files, dialect, job, patterns[:-1], text, True, code, False)
    shown = [(n, one.check) for n, one in enumerate(script.checks, 1) if isinstance(one, Show)]
    near = tuple((n, one.kind, one.tolerance) for n, one in shown if isinstance(one, Near))
    patterns = (*(one.pattern for one in script.checks), "end")
    text = "".join(f"{line}\n" for line in patterns).replace("\\.", ".")
    fixed = all(one.exact for one in script.checks)
    return Exported(case, files, dialect, job, patterns, text, fixed, 0, True, near)


def new_folder(folder: Path) -> None:
    """Make the folder of an export. Raises ``UsageError`` if there is something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"cannot export to {folder}: it must be a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
