"""The plugins in docs/examples for libraries that people use: their own tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hide, needs

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"


@pytest.fixture
def installed(tmp_path):
    """A function that installs a plugin as pip does, and gives the environment to run it in."""

    def install(name, library):
        needs("hatchling")
        needs(library)
        site = tmp_path / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        alone = ["--no-deps", "--no-build-isolation", "--target", str(site)]
        run = subprocess.run([*pip, *alone, str(EXAMPLES / name)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        hide(site, "torch", "openvino", "ai_edge_litert")
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path}

    return install


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library"), [("wasi-nn-sklearn", "skops"), ("wasi-nn-lightgbm", "lightgbm")]
)
def test_the_tests_of_a_plugin_pass(installed, name, library):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-qrs", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=EXAMPLES / name,
        env=installed(name, library),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 80


def test_the_model_of_the_sklearn_page_is_inspected(installed, tmp_path):
    environment = installed("wasi-nn-sklearn", "skops")
    page = (EXAMPLES / "wasi-nn-sklearn/README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "wasi_nn", "inspect", "model.skops"]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "probabilities" in run.stdout
    assert "label" in run.stdout
