"""The cases as plain files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wasi_nn_conformance import case, graphs, running
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.export import exported, plain
from wasi_nn_conformance.transcript import PASS, Ending, judge

CASES = case.load()
SOME = case.chosen(CASES, ["names/unknown", "flow/add", "load/garbage", "programs/classify*"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The environment of a shell that finds our command."""
    folder = tmp_path_factory.mktemp("path")
    command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m wasi_nn "$@"\n'
    (folder / "wasi-nn").write_text(command)
    (folder / "wasi-nn").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def loop(folder: Path, environment: dict[str, str], *patterns: str):
    command = ["sh", folder / "run.sh", *patterns]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_shell_loop_runs_them(tmp_path, environment):
    folder = tmp_path / "cases"
    assert plain.write(folder, SOME, ["onnx"], ["witx", "wit"]) == 8
    ended = loop(folder, environment)
    assert (ended.stdout, ended.returncode) == ("8 passed, 0 failed\n", 0), ended.stderr
    # Nothing is left of a case that passes, and nothing to run is not a success.
    assert not list(folder.rglob("difference"))
    assert loop(folder, environment, "ggml/*/*/*").returncode == 1


def test_the_loop_tells_what_differs(tmp_path, environment):
    folder = tmp_path / "cases"
    plain.write(folder, SOME, ["onnx"], ["witx"])
    (folder / "host.sh").write_text("host() { echo call load_by_name 0; return 3; }\n")
    ended = loop(folder, environment, "onnx/witx/flow/*", "onnx/witx/programs/classify")
    assert ended.returncode == 1
    assert ended.stdout == (
        "fail cases/onnx/witx/flow/add\n"
        "  line 2: exit 3\n"
        "    expected: call init_execution_context 0\n"
        "fail cases/onnx/witx/programs/classify\n"
        "  line 1: call load_by_name 0\n"
        "    expected: 2 80\\.0000\n"
        "0 passed, 2 failed\n"
    )
    # One that prints too much, or too little.
    for text in ("", r"2 80.0000\n1 70.0000\n0 60.0000\n\n"):
        (folder / "host.sh").write_text(f"host() {{ printf '{text}'; }}\n")
        assert loop(folder, environment, "onnx/witx/programs/classify").returncode == 1


@pytest.mark.parametrize("dialect", ["witx", "wamr-legacy", "wasmedge", "wit"])
@pytest.mark.parametrize("encoding", ["onnx", "ggml"])
def test_what_is_expected_is_what_the_judge_expects(encoding, dialect):
    files = graphs.canonical(encoding)
    count = 0
    for one in exported(CASES, [encoding], [dialect]):
        _, script = running.prepare(one.case, files, dialect)
        lines = one.text.splitlines()
        if one.fixed:
            assert len(lines) == len(one.patterns)
            for line, pattern in zip(lines, one.patterns, strict=True):
                assert re.fullmatch(pattern, line), one.case.id
                assert not re.fullmatch(pattern, f"{line}0")
            if script is not None:
                assert judge(script, Ending(one.text.encode(), 0)).status == PASS
                # Each check has its own line, and one for the end.
                assert len(lines) == len(script.checks) + 1
                for number, kind, tolerance in one.near:
                    assert lines[number - 1].startswith("show ")
                    assert kind in ("f16", "f32", "f64")
                    assert 0 < tolerance < 1
        count += 1
    assert count > 5


def test_what_needs_more_than_a_command_line_is_left_out():
    left = list(exported(CASES, ["onnx"], ["wasmedge"]))
    assert {"sockets", "cycle"}.isdisjoint(one.job.module.stem for one in left)


def test_only_a_new_folder_is_written(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="must be a new or an empty folder"):
        plain.write(tmp_path, SOME, ["onnx"], ["witx"])
    with pytest.raises(UsageError, match="must be a new or an empty folder"):
        plain.write(tmp_path / "mine", SOME, ["onnx"], ["witx"])
