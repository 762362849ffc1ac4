"""docs/coming-from.md: its commands print what it says, and wasmtime's own prints the same."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs_engine

from wasi_nn_conformance.hosts.wasmtime import Wasmtime

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "coming-from.md").read_text()
BLOCKS = [
    block.replace("\\\n", "").splitlines()
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conformance").symlink_to(ROOT / "conformance")
    for line in BLOCKS[0]:
        subprocess.run(["sh", "-c", line.removeprefix("$ ")], cwd=tmp_path, check=True)
    return tmp_path


def printed(arguments: list[str], folder: Path, **more: str) -> list[str]:
    environment = {**os.environ, **more}
    run = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block[0][2:20])
def test_the_commands_print_what_the_page_says(block: list[str], folder: Path) -> None:
    needs_engine("wasmtime")
    for name, library in (("classifier", "openvino"), (".tflite", "ai_edge_litert")):
        if name in block[0]:
            pytest.importorskip(library, reason=f"{library} is not installed")
    (ours,) = (line for line in block if line.startswith("$ wasi-nn "))
    command = [sys.executable, "-m", "wasi_nn", *shlex.split(ours)[2:]]
    assert printed(command, folder) == block[block.index(ours) + 1 :]


def test_wasmtimes_own_command_prints_the_same(folder: Path, tmp_path: Path) -> None:
    host = Wasmtime()
    if host.unavailable() is not None:
        pytest.skip(f"{host.name}: {host.unavailable()}")
    block = BLOCKS[1]
    theirs, _, *wanted = block
    command = [str(host.path()), *shlex.split(theirs)[2:]]
    assert printed(command, folder, **host.environment(tmp_path)) == wanted
