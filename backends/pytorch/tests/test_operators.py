"""Models with operators that other packages add to torch, as torchvision's detectors have them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

needs("torch")

from wasi_nn import Host  # noqa: E402
from wasi_nn.errors import RuntimeFailure  # noqa: E402

# A package of this name is known to bring operators, and seldom installed.
PACKAGE = "torch_cluster"
if find_spec(PACKAGE) is not None:
    pytest.skip(f"{PACKAGE} is installed here", allow_module_level=True)

BRINGS = f"""
import torch

library = torch.library.Library("{PACKAGE}", "DEF")
library.define("best(Tensor scores) -> Tensor")
library.impl("best", lambda scores: torch.argsort(scores, descending=True), "CPU")
torch.library.register_fake("{PACKAGE}::best", lambda scores: scores.long(), lib=library)
"""
WRITES = f"""
import sys
{BRINGS}
class Detector(torch.nn.Module):
    def forward(self, scores):
        return torch.ops.{PACKAGE}.best(scores)

example = (torch.rand(3),)
torch.jit.trace(Detector(), example).save(sys.argv[1] + "/detector.pt")
torch.export.save(torch.export.export(Detector(), example), sys.argv[1] + "/detector.pt2")
"""
RUNS = """
import sys
import numpy as np
from wasi_nn import Host
from wasi_nn.errors import RuntimeFailure

with Host() as host:
    if sys.argv[1].endswith(".pt"):
        # (A guest can bring such a one.)
        try:
            host.load(open(sys.argv[1], "rb").read())
        except RuntimeFailure as error:
            print(error)
    host.add_model("net", sys.argv[1])
    print(host.model("net").run(np.float32([1, 3, 2]))["0"].tolist())
"""


def run(source, *arguments, path=""):
    command = [sys.executable, "-W", "ignore", "-c", source, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    done = run(WRITES, folder)
    assert not done.returncode, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detector.pt", "detector.pt2"])
class TestPackages:
    def test_an_installed_package_is_imported(self, models, tmp_path, name):
        (tmp_path / f"{PACKAGE}.py").write_text(BRINGS)
        done = run(RUNS, models / name, path=tmp_path)
        *refused, right = done.stdout.splitlines()
        assert right == "[1, 2, 0]", done.stderr
        if name.endswith(".pt"):
            assert "register the model by its path" in refused[0]

    def test_a_missing_package_is_named(self, models, name):
        with Host() as host:
            host.add_model("net", models / name)
            with pytest.raises(RuntimeFailure, match=f"{PACKAGE}::best: install {PACKAGE}"):
                host.model("net")

    def test_a_package_that_fails_is_named_with_its_reason(self, models, tmp_path, name):
        (tmp_path / f"{PACKAGE}.py").write_text("raise RuntimeError('another build')")
        done = run(RUNS, models / name, path=tmp_path)
        assert f"{PACKAGE} cannot be imported" in done.stderr
        assert "another build" in done.stderr


@pytest.mark.slow
def test_a_package_that_a_model_makes_up_is_not_imported(tmp_path):
    (tmp_path / "made_up.py").write_text("print('imported')")
    done = run(WRITES.replace(PACKAGE, "made_up"), tmp_path)
    assert not done.returncode, done.stderr
    done = run(RUNS, tmp_path / "detector.pt", path=tmp_path)
    assert "Unknown builtin op: made_up::best" in done.stderr
    assert "imported" not in done.stdout
