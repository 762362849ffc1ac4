"""The suite as a distribution of its own, without the host: built, and run in an empty
environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import wasi_nn
import wasi_nn_conformance
from wasi_nn_conformance import case

SUITE = Path(__file__).parents[1]
#: A host that runs nothing.
HOST = "name = 'echo'\ncommand = 'echo {module}'\nversion = 'echo 1.2'\n"


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_of_the_dialects_are_current():
    tool = _module(SUITE.parent / "tools/suite_tables.py")
    assert tool.TABLES.read_text() == tool.tables(), "run tools/suite_tables.py"


class TestVersions:
    written = staticmethod(_module(SUITE / "authoring/versions.py").written)

    def test_they_are_current(self):
        text = case.VERSIONS.read_text()
        assert text == self.written(json.loads(text)), "run make cases"

    def test_a_case_that_has_changed_gets_the_next_one(self):
        before = json.loads(case.VERSIONS.read_text())
        one, other, *_ = before
        before[one][1] = "another test"
        del before[other]
        now = json.loads(self.written(before))
        assert now[one][0] == before[one][0] + 1
        assert now[other][0] == 1

    def test_the_suite_has_the_version_of_the_host(self):
        assert wasi_nn_conformance.__version__ == wasi_nn.__version__


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of an environment that has the suite's wheel and its requirements alone."""
    folder = tmp_path_factory.mktemp("suite")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, SUITE]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # What is installed here has been resolved already: no index is asked.
    for name in ("click", "rich", "markdown_it", "mdurl", "pygments", "tomli"):
        spec = importlib.util.find_spec(name)
        if spec is not None:
            (packages / name).symlink_to(Path(str(spec.origin)).parent)
    return folder / "env"


def run(
    environment: Path, *arguments: object, variables: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment / "bin/python", "-m", "wasi_nn_conformance", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **variables},
    )


def test_the_wheel_has_what_it_needs_and_no_test_of_our_plugins(environment):
    (packages,) = environment.glob("lib/python*/site-packages")
    (info,) = packages.glob("wasi_nn_conformance-*.dist-info")
    metadata = importlib.metadata.PathDistribution(info)
    requirements = {text.split(">")[0] for text in metadata.requires or ()}
    assert requirements == {"click", "rich", "tomli"}
    (script,) = metadata.entry_points
    assert (script.name, script.value) == (
        "wasi-nn-conformance",
        "wasi_nn_conformance.__main__:main",
    )
    assert list(info.rglob("LICENSE"))
    suite = packages / "wasi_nn_conformance"
    assert not (suite / "engine_tests").exists()
    assert not (suite / "testing.py").exists()


def test_it_runs_a_foreign_host_without_ours(environment, tmp_path):
    report, page = tmp_path / "out.json", tmp_path / "out.html"
    python = environment / "bin/python"
    imported = subprocess.run([python, "-Ic", "import wasi_nn"], capture_output=True)
    assert b"No module named" in imported.stderr
    host = tmp_path / "host.toml"
    host.write_text(HOST)
    some = ("--encoding", "onnx", "--dialect", "witx", "--case", "names/*")
    ended = run(environment, *some, "--adapter", host, "--json", report, "--html", page)
    assert ended.returncode == 1, ended.stderr
    found = json.loads(report.read_text())
    assert found["version"] == wasi_nn_conformance.__version__
    assert found["command"].startswith("wasi-nn-conformance --encoding onnx")
    (cell,) = found["cells"]
    assert (cell["version"], cell["pass"]) == ("1.2", 0)
    assert cell["fail"] > 5
    (first, *_) = cell["cases"]
    assert first["version"] >= 1
    assert "where 'call load_by_name' was expected" in first["reason"]
    assert first["reproduce"].startswith(
        "wasi-nn-conformance --encoding onnx --dialect witx --host"
    )
    assert page.stat().st_size > 10_000


def test_it_exports_cases(environment, tmp_path):
    ended = run(environment, "--encoding", "onnx", "--case", "flow/add", "--export", tmp_path / "x")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "x").iterdir()} > {"README.md", "host.sh", "run.sh"}


def test_a_shell_completes_its_options(environment):
    words = {"COMP_WORDS": "wasi-nn-conformance --host nat", "COMP_CWORD": "2"}
    variables = {"_WASI_NN_CONFORMANCE_COMPLETE": "bash_complete", **words}
    ended = run(environment, variables=variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == [
        f"plain,native-{name}" for name in ("wasmtime", "wasmedge", "iwasm")
    ]


def test_its_help_has_its_name(environment):
    ended = run(environment, "--help")
    assert "wasi-nn-conformance --list" in ended.stdout
    assert "wasi-nn conformance" not in ended.stdout


def test_it_lists_cases_and_refuses_what_is_not_there(environment):
    listed = run(environment, "--list", "--case", "names/*")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "names/unknown" in listed.stdout
    wrong = run(environment, "--host", "wasmtime")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        "wasi-nn-conformance: there is no host 'wasmtime'; known: native-"
    )
