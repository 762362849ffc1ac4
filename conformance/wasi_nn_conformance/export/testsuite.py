"""The form of WebAssembly/wasi-testsuite: a .wasm and a .json for each case, which its executor
runs. https://github.com/WebAssembly/wasi-testsuite/blob/main/doc/specification.md"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from wasi_nn_conformance import expectations
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.dialects import WIT
from wasi_nn_conformance.export import Exported, exported, new_folder
from wasi_nn_conformance.graphs import put_folder
from wasi_nn_conformance.places import EXPECTATIONS
from wasi_nn_conformance.script import MOUNT

# What the guest sees as its root: the graphs, and the scripts of the interpreter.
_ROOT = "root"


def write(
    folder: Path, cases: Sequence[Case], encodings: Sequence[str], dialects: Sequence[str]
) -> int:
    """Write a suite for each encoding and dialect, and host.py. Returns the number of cases.

    The executor compares the output with one text, gives no standard input, and runs core modules:
    cases that need more are left out."""
    new_folder(folder)
    count = 0
    known = _KnownFailures()
    for one in exported(cases, encodings, dialects):
        if one.fixed and one.dialect != WIT.name and (one.interprets or not one.job.stdin):
            suite = folder / f"{one.graphs.encoding}-{one.dialect}"
            if not suite.exists():
                _write_suite(suite, one)
            _write_case(suite, one)
            known.add(suite, one)
            count += 1
    for name in ("host.py", "testsuite.md"):
        source = files("wasi_nn_conformance.export").joinpath(name)
        (folder / name.replace("testsuite", "README")).write_bytes(source.read_bytes())
    known.write(folder)
    return count


class _KnownFailures:
    """The cases that the known hosts fail, as the executor's --expectations."""

    def __init__(self) -> None:
        hosts = sorted(path.stem for path in EXPECTATIONS.glob("native-*.json"))
        self._deviations = {host: expectations.load(host) for host in hosts}
        self._failing: dict[str, dict[str, list[str]]] = {host: {} for host in hosts}

    def add(self, suite: Path, one: Exported) -> None:
        cell = one.graphs.encoding, one.dialect
        for host, deviations in self._deviations.items():
            if expectations.reason(deviations, one.case.id, *cell) is not None:
                self._failing[host].setdefault(suite.name, []).append(_name(one.case))

    def write(self, folder: Path) -> None:
        for host, suites in self._failing.items():
            lines = ["version = 1"]
            for suite, names in suites.items():
                lines += ["", "[[suite]]", f'name = "wasi-nn {suite}"']
                for name in names:
                    lines += ["", "[[suite.test]]", f'name = "{name}"', 'expected = "fail"']
            (folder / f"{host}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name(case: Case) -> str:
    return case.id.replace("/", "-")


def _write_suite(suite: Path, one: Exported) -> None:
    shutil.copytree(one.graphs.folder, suite / _ROOT / MOUNT.strip("/"))
    (suite / _ROOT / "scripts").mkdir()
    for graph in one.graphs.files:
        put_folder(one.graphs, graph, suite / "named" / graph)
    _write_json(suite / "manifest.json", {"name": f"wasi-nn {suite.name}"})


def _write_case(suite: Path, one: Exported) -> None:
    name = _name(one.case)
    args = list(one.job.args)
    if one.interprets:
        (suite / _ROOT / "scripts" / name).write_bytes(one.job.stdin)
        args = [f"/scripts/{name}"]
    shutil.copyfile(one.job.module, suite / f"{name}.wasm")
    test = {"args": args, "root": _ROOT, "exit_code": one.exit_code, "stdout": one.text}
    _write_json(suite / f"{name}.json", test)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
