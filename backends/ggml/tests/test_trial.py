"""The process in which a guest's own model is tried."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions
from wasi_nn_ggml.backend import GgmlBackend

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# What a trial imports: of the standard library, and of this project.
NAMES = ("ctypes", "json", "signal", "sitecustomize", "wasi_nn", "wasi_nn_ggml")
LOAD = """
import sys
from pathlib import Path
from wasi_nn.backend import LoadOptions
from wasi_nn_ggml.backend import GgmlBackend
data = memoryview(Path(sys.argv[1]).read_bytes())
GgmlBackend().load([data], LoadOptions("ggml")).close()
print("loaded")
"""


@pytest.fixture
def poisoned(tmp_path):
    """A folder with modules that leave a trace of having been imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    return tmp_path


def traces(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".py")


def load():
    GgmlBackend().load([memoryview(TINY.read_bytes())], LoadOptions("ggml")).close()


def test_modules_of_the_current_directory(poisoned, monkeypatch):
    monkeypatch.chdir(poisoned)
    load()
    assert traces(poisoned) == []


@pytest.mark.parametrize("place", ["", ".", "modules"])
def test_relative_places(poisoned, monkeypatch, place):
    (poisoned / "modules").symlink_to(poisoned)
    monkeypatch.setenv("PYTHONPATH", f"{place}:")
    monkeypatch.setattr(sys, "path", [place, *sys.path])
    monkeypatch.chdir(poisoned)
    load()
    assert traces(poisoned) == ["modules"]


def test_a_host_that_changes_its_directory(poisoned):
    script = f"import os\n{LOAD}".replace("data =", f"os.chdir({str(poisoned)!r})\ndata =")
    done = subprocess.run(
        [sys.executable, "-c", script, str(TINY)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "loaded\n", done.stderr
    assert traces(poisoned) == []
