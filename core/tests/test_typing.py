"""The package's types find mistakes in a service's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import needs

CALLS = Path(__file__).with_name("typed_calls.py")


def mypy(file: Path, folder: Path) -> str:
    """What mypy says of a file, as a user runs it."""
    needs("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder), str(file)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_right_calls_pass_and_wrong_calls_do_not(tmp_path):
    assert mypy(CALLS, tmp_path) == "Success: no issues found in 1 source file\n"


def test_each_wrong_call_is_found(tmp_path):
    """The comments are what lets them pass."""
    text = CALLS.read_text()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "# type: ignore" in line]
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(line.partition("# type: ignore")[0] for line in text.splitlines()))
    said = mypy(bare, tmp_path)
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert found == set(lines), said
