"""Which torch `make test` installs (tools/torch_extra.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """A wheel without code, in place of gigabytes."""
    info = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def extra(index: Path, **more: str) -> tuple[str, str, bool]:
    """What the tool prints, what it says, and whether it writes down why there is no torch."""
    marker = index / "no-torch"
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    run = subprocess.run(
        [sys.executable, "tools/torch_extra.py", str(marker)],
        cwd=ROOT,
        env={**os.environ, "TORCH": "", **environment, **more},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip(), run.stderr, marker.exists()


@pytest.mark.parametrize("requires", [[], ["nvidia-library; sys_platform == 'none'"]])
def test_a_build_without_cuda_is_installed(tmp_path, requires):
    wheel(tmp_path, "torch", "2.13.0", *requires)
    assert extra(tmp_path) == (",dev-pytorch", "", False)


def test_a_build_for_cuda_is_left_out_with_the_reason(tmp_path):
    wheel(tmp_path, "torch", "2.13.0", "nvidia-library")
    wheel(tmp_path, "nvidia_library", "1.0")
    printed, said, marked = extra(tmp_path)
    assert (printed, marked) == ("", True)
    assert "TORCH=1 installs it" in said
    assert extra(tmp_path, TORCH="1") == (",dev-pytorch", "", False)
