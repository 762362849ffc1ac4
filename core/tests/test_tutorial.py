"""The plugins of docs/write-a-backend.md and docs/write-a-runtime.md, installed and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LIBRARIES, hide, needs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/wasi-nn-linear"
PYWASM = ROOT / "docs/examples/wasi-nn-pywasm"


def install(example, tmp_path_factory):
    """A folder with the plugin in it, as pip installs it."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    needs("hatchling")
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    run = subprocess.run([*command, *options, str(example)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return target


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    target = install(EXAMPLE, tmp_path_factory)
    hide(target, *LIBRARIES)
    return target


@pytest.fixture
def wasi_nn(installed, tmp_path):
    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "wasi_nn", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
        )

    return call


@pytest.fixture
def model(tmp_path):
    np.savez(tmp_path / "m.npz", weights=np.eye(3), bias=np.zeros(3))
    np.float32([1, 3, 2]).tofile(tmp_path / "in.raw")


def test_the_plugin_is_listed(wasi_nn):
    run = wasi_nn("plugins")
    assert "wasi-nn-linear 0.1.0" in run.stdout
    assert "serves linear; " in run.stdout


def test_its_models_are_recognised_and_run(wasi_nn, model, guests):
    run = wasi_nn("inspect", "m.npz")
    assert "x: f32[?, 3]" in run.stdout, run.stderr
    guest = guests / "classify/classify.wasm"
    for spelling in ("m=m.npz", "m=linear:m.npz", "m=linear:auto:m.npz"):
        run = wasi_nn("run", "--graph", spelling, "--dir", ".", guest, "name:m", "in.raw", "1,3")
        assert run.stdout == "1 3.0000\n2 2.0000\n0 1.0000\n", run.stderr
    run = wasi_nn("run", "--dir", ".", guest, "m.npz", "in.raw", "3")
    assert run.stdout.startswith("1 3.0000\n"), "from the guest's own bytes, by autodetect"


def test_its_errors_reach_the_guest_and_the_operator(wasi_nn, model, guests, tmp_path):
    guest = guests / "classify/classify.wasm"
    run = wasi_nn("run", "--graph", "m=m.npz", "--dir", ".", guest, "name:m", "in.raw", "1,1,1,3,1")
    assert run.returncode == 1
    assert "classify: set_input: invalid_argument" in run.stderr
    assert "input x takes f32 tensors of [?, 3]" in run.stderr
    (tmp_path / "m.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:100])
    run = wasi_nn("run", "--graph", "m=linear:m.npz", "--dir", ".", guest, "name:m", "in.raw", "3")
    assert "backend linear (wasi-nn-linear 0.1.0) could not load the model" in run.stderr


def test_the_page_shows_the_code():
    page = (ROOT / "docs/write-a-backend.md").read_text()
    code = (EXAMPLE / "wasi_nn_linear.py").read_text() + (EXAMPLE / "pyproject.toml").read_text()
    for line in ('name = "linear"', 'encodings = ("linear",)', 'linear = "wasi_nn_linear"'):
        assert line in page
        assert line in code


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="pywasm needs Python 3.11")
def test_a_runtime_passes_its_tests_without_this_repositorys_fixtures(tmp_path_factory, tmp_path):
    needs("pywasm")
    site = install(PYWASM, tmp_path_factory)
    shutil.copy(PYWASM / "test_wasi_nn_pywasm.py", tmp_path)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    # Of the conformance cases, those of one file, and one that opens a file.
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-qrs", "-p", "no:cacheprovider"),
            *("-k", "TestEngine or names or programs/classify"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stdout
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) > 130, run.stdout
    assert "the guest opens files: pywasm cannot give a directory to a guest" in run.stdout


def test_all_code_of_the_runtime_page_is_the_examples():
    page = (ROOT / "docs/write-a-runtime.md").read_text()
    files = [path.read_text() for path in PYWASM.rglob("*") if path.suffix in (".py", ".toml")]
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 10
    for block in blocks:
        assert any(block in text for text in files), block
