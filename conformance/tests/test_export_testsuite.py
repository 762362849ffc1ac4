"""The cases in the form of WebAssembly/wasi-testsuite.

The tests check the form, and run host.py as the specification of that form says. Where
WASI_TESTSUITE is the command of that repository's executor, it runs the cases too, such as
`python3.12 wasi-testsuite/test-runner/wasi_test_runner.py` (which needs the package colorama).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wasi_nn_conformance import case
from wasi_nn_conformance.export import testsuite
from wasi_nn_conformance.hosts.wasmtime import Wasmtime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CASES = case.load()
SOME = case.chosen(CASES, ["names/unknown", "load/from-bytes", "programs/*", "load/garbage"])
#: The keys of the form, of which the others have the same values by default.
KEYS = {"args", "root", "exit_code", "stdout"}
OURS = f"{sys.executable} -m wasi_nn run --dialect {{dialect}}"


@pytest.fixture(scope="module")
def suites(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "suites"
    # One of names/unknown, from-bytes, classify and classify-unknown in each dialect. The last two
    # are not of the legacy ABI, garbage has several right answers, chats have standard input.
    assert testsuite.write(folder, SOME, ["onnx"], ["witx", "wamr-legacy", "wit"]) == 6
    return folder


def argv(suites: Path, path: Path) -> list[str]:
    """The command line that host.py gives for a test."""
    spec = importlib.util.spec_from_file_location("host", suites / "host.py")
    assert spec is not None
    assert spec.loader is not None
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    assert host.get_wasi_versions() == ["wasm32-wasip1"]
    assert host.get_wasi_worlds() == ["wasi:cli/command"]
    assert host.get_version()
    test = json.loads(path.read_text())
    root = str(path.parent / test["root"])
    where = (test["args"], {"NAME": "value"}, root)
    return host.compute_argv(
        str(path.with_suffix(".wasm")), where, [], "wasi:cli/command", "wasm32-wasip1"
    )


def test_every_file_has_the_form(suites):
    assert {path.name for path in suites.iterdir()} == {
        *("README.md", "host.py", "native-wasmtime.toml", "onnx-wamr-legacy", "onnx-witx"),
    }
    for suite in suites.glob("onnx-*"):
        manifest = json.loads((suite / "manifest.json").read_text())
        assert manifest == {"name": f"wasi-nn {suite.name}"}
        guests = {path.stem for path in suite.glob("*.wasm")}
        assert guests == {path.stem for path in suite.glob("*.json")} - {"manifest"}
        for path in suite.glob("*-*.json"):
            test = json.loads(path.read_text())
            assert test.keys() == KEYS
            assert all(isinstance(argument, str) for argument in test["args"])
            assert isinstance(test["exit_code"], int)
            assert isinstance(test["stdout"], str)
            assert (suite / test["root"] / "graphs/add.onnx").is_file()


@pytest.mark.parametrize("suite", ["onnx-witx", "onnx-wamr-legacy"])
def test_our_host_passes_them(suites, suite, monkeypatch):
    monkeypatch.setenv("WASI_NN_HOST", OURS)
    for path in (suites / suite).glob("*-*.json"):
        test = json.loads(path.read_text())
        line = argv(suites, path)
        ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert (ended.stdout, ended.returncode) == (test["stdout"], test["exit_code"]), line


def test_what_wasmtime_fails_is_expected_to_fail(tmp_path):
    folder = tmp_path / "suites"
    testsuite.write(folder, case.chosen(CASES, ["names/*", "flow/add"]), ["openvino"], ["witx"])
    known = tomllib.loads((folder / "native-wasmtime.toml").read_text())
    assert known["version"] == 1
    (suite,) = known["suite"]
    assert suite["name"] == json.loads((folder / "openvino-witx/manifest.json").read_text())["name"]
    names = [test["name"] for test in suite["test"]]
    assert "names-unknown" in names
    assert "flow-add" not in names
    assert {test["expected"] for test in suite["test"]} == {"fail"}
    for name in names:
        assert (folder / "openvino-witx" / f"{name}.wasm").exists()


EXECUTOR = shlex.split(os.environ.get("WASI_TESTSUITE", ""))


@pytest.mark.skipif(not EXECUTOR, reason="WASI_TESTSUITE is not set: no executor of wasi-testsuite")
class TestItsExecutor:
    def execute(self, folder: Path, *options: str, **environment: str):
        return subprocess.run(
            [*EXECUTOR, "--disable-colors", "-r", folder / "host.py", *options],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
            env={**os.environ, **environment},
        )

    def test_our_host_passes_them(self, suites):
        options = ("-t", "onnx-witx", "onnx-wamr-legacy")
        ended = self.execute(suites, *options, WASI_NN_HOST=OURS)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "6 tests passed" in ended.stdout

    def test_it_fails_what_is_wrong(self, suites):
        ended = self.execute(suites, "-t", "onnx-witx", WASI_NN_HOST="echo")
        assert ended.returncode == 1
        assert "4/4 tests failed" in ended.stdout

    def test_wasmtime_fails_those_that_it_is_known_to_fail(self, tmp_path):
        host = Wasmtime()
        if host.unavailable():
            pytest.skip(f"native-wasmtime is unavailable: {host.unavailable()}")
        folder = tmp_path / "suites"
        some = case.chosen(CASES, ["names/*", "flow/add"])
        testsuite.write(folder, some, ["openvino"], ["witx"])
        environment = dict(host.environment(tmp_path))
        environment["WASI_NN_HOST"] = f"{host.path()} run -S nn"
        options = ("-t", "openvino-witx", "-e", "native-wasmtime.toml")
        ended = self.execute(folder, *options, **environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
