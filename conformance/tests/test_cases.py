"""The cases as data: their schema, what they cover, and that the runner sees what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn._abi.core.witx import Witx
from wasi_nn_conformance import case, expectations, graphs, hosts, matrix, places, running
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.hosts import Job, Subject
from wasi_nn_conformance.script import compile_case
from wasi_nn_conformance.testing import BackendConformance
from wasi_nn_conformance.transcript import FAIL, PASS, Ending, judge

CASES = case.load()
BY_ID = {one.id: one for one in CASES}


class TestData:
    def test_cases_conform_to_the_schema(self):
        jsonschema = needs("jsonschema")
        schema = json.loads((places.CASES / "schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        for path in places.CASES.glob("*.json"):
            if path.name != "schema.json":
                validator.validate(json.loads(path.read_text()))

    def test_there_are_enough_cases(self):
        assert len(CASES) >= 150

    def test_every_function_is_called(self):
        called = {step["call"] for one in CASES for step in one.steps if "call" in step}
        called |= {"load", "load_by_name", "set_input", "get_output", "compute"}
        called |= {"get_output_single" for one in CASES for step in one.steps if "single" in step}
        functions = set(re.findall(r'^            "(\w+)": \(', _source(Witx), re.M))
        assert functions
        assert functions <= called

    def test_every_case_runs_somewhere(self):
        """Each has an encoding with its graphs, and a dialect of the default ones."""
        from wasi_nn_conformance.cli import DEFAULT_DIALECTS

        sets = [graphs.canonical(encoding) for encoding in graphs.SUFFIXES]
        for one in CASES:
            assert any(
                running.unsupported(one, files, dialect) is None
                for files in sets
                for dialect in DEFAULT_DIALECTS
            ), one.id

    def test_expectations_name_cases(self):
        for path in places.EXPECTATIONS.glob("*.json"):
            for expected in expectations.load(path.stem):
                assert expected.reason
                for pattern in expected.cases:
                    assert case.chosen(CASES, [pattern])

    def test_patterns_choose_cases(self):
        assert [c.id for c in case.chosen(CASES, ["flow/add"])] == ["flow/add"]
        with pytest.raises(UsageError, match="--list"):
            case.chosen(CASES, ["nothing/*"])

    @pytest.mark.parametrize("text", ["{", "{}", '{"cases": [{}]}', '{"cases": 3}'])
    def test_a_file_without_cases_is_refused_by_name(self, tmp_path, text):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(UsageError, match=r"wrong\.json"):
            case.load(tmp_path)

    def test_a_repeated_id_is_refused(self, tmp_path):
        content = {"name": "a", "why": "w", "source": "s", "steps": [{"grow": 0}]}
        (tmp_path / "f.json").write_text(json.dumps({"about": "", "cases": [content, content]}))
        with pytest.raises(UsageError, match="twice"):
            case.load(tmp_path)


def _source(kind: type) -> str:
    import inspect

    return inspect.getsource(kind)


class TestJudging:
    """A transcript that is changed anywhere is not passed."""

    @pytest.fixture
    def script(self):
        return compile_case(BY_ID["flow/add"], "witx", graphs.canonical("onnx"))

    GOOD = (
        "call load_by_name 0\ncall init_execution_context 0\ncall set_input 0\ncall set_input 0\n"
        "call compute 0\ncall get_output 0\nshow .9 10000000\n"
        "show .8 000030410000b0410000044200003042\nend\n"
    )

    def test_the_expected_transcript_passes(self, script):
        assert judge(script, Ending(self.GOOD.encode(), 0)).status == PASS

    def test_a_transcript_that_is_cut_anywhere_fails(self, script):
        lines = self.GOOD.splitlines(keepends=True)
        for count in range(len(lines)):
            verdict = judge(script, Ending("".join(lines[:count]).encode(), 134, "trap: x"))
            assert verdict.status == FAIL
            assert "trap: x" in verdict.reason

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("call compute 0", "call compute 1"),
            ("call compute 0", "call compute"),
            ("call compute 0", "call set_input 0"),
            ("10000000", "11000000"),
            ("00003041", "00003141"),
            ("00003041", ""),
            ("end", "en"),
        ],
    )
    def test_a_changed_transcript_fails(self, script, old, new):
        assert judge(script, Ending(self.GOOD.replace(old, new).encode(), 0)).status == FAIL

    def test_tolerance_is_kept(self, script):
        near = self.GOOD.replace("00003041", "01003041")
        assert judge(script, Ending(near.encode(), 0)).status == PASS


class TestMatrix:
    def test_a_small_matrix_passes(self):
        plans = matrix.plan(["wasmtime"], ["onnx", "ggml"], ["witx", "wamr-legacy"])
        cases = case.chosen(CASES, ["flow/*", "names/unknown"])
        cells = matrix.Run(cases).cells(plans, 2)
        assert [(c.encoding, c.dialect) for c in cells] == [
            ("onnx", "witx"),
            ("onnx", "wamr-legacy"),
            ("ggml", "witx"),
            ("ggml", "wamr-legacy"),
        ]
        for cell in cells:
            assert cell.counts["unexpected"] == 0
            assert len(cell.outcomes) == len(cases)
        assert cells[0].counts["pass"] == len(cases)

    def test_a_host_that_is_not_installed_is_unavailable(self, monkeypatch):
        monkeypatch.setenv("WASI_NN_WASMEDGE", "/nowhere/wasmedge")
        plans = matrix.plan(["native-wasmedge"], ["ggml"], ["wasmedge"])
        (cell,) = matrix.Run(CASES).cells(plans, 1)
        assert "not installed" in cell.unavailable
        assert cell.counts == {
            "pass": 0, "fail": 0, "unsupported": 0, "unavailable": 1, "unexpected": 0,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("behaviour", "status"),
        [("import os; os.abort()", "crash"), ("import time; time.sleep(60)", "timeout")],
    )
    def test_a_cell_that_dies_is_a_result(self, monkeypatch, tmp_path, behaviour, status):
        """A stand-in for the worker: it passes one case, and ends or hangs in the next."""
        package = tmp_path / "wasi_nn_conformance"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "cell.py").write_text(
            "import json, sys\n"
            "for name in sys.stdin.read().split():\n"
            "    print(json.dumps({'begin': name}), flush=True)\n"
            "    if name == 'flow/identity':\n"
            f"        {behaviour}\n"
            "    print(json.dumps({'case': name, 'status': 'pass', 'reason': '', 'seconds': 0}),\n"
            "          flush=True)\n"
        )
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.setattr(matrix, "_SILENCE_SECONDS", 2.0)
        cases = case.chosen(CASES, ["flow/add", "flow/identity", "flow/twice", "flow/matmul"][:2])
        cases += case.chosen(CASES, ["flow/matmul"])
        plan = matrix.Cell("wasmtime", "1", "onnx", "witx")
        (cell,) = matrix.Run(cases).cells([plan], 1)
        assert {o.case: o.status for o in cell.outcomes} == {
            "flow/add": PASS,
            "flow/identity": status,
            "flow/matmul": PASS,
        }
        assert cell.counts["fail"] == cell.counts["unexpected"] == 1

    @pytest.mark.slow
    def test_native_wasmtime_runs_cases(self):
        """The peer itself, with what is known of it."""
        needs("wasmtime_cli")
        plans = matrix.plan(["native-wasmtime"], ["openvino"], ["witx"])
        wanted = ["flow/*", "handles/they-grow", "handles/unknown-graph-next", "get_output/*"]
        (cell,) = matrix.Run(case.chosen(CASES, wanted)).cells(plans, 1)
        assert cell.counts["pass"] > 25
        assert [o.case for o in cell.outcomes if o.unexpected] == []
        assert cell.counts["fail"] >= 4

    def test_an_unexpected_pass_is_reported(self):
        outcome = matrix.Outcome("a/b", PASS, "", "it used to fail", 0.0)
        assert outcome.unexpected
        assert not outcome._replace(known=None).unexpected
        assert not outcome._replace(status="fail").unexpected
        assert outcome._replace(status="fail", known=None).unexpected


class TestHosts:
    def test_native_hosts_have_their_command_lines(self, monkeypatch, tmp_path):
        """The command lines that native hosts get; a script stands in for the programs."""
        program = tmp_path / "host"
        program.write_text('#!/bin/sh\necho "$0 1.2"\ncat > /dev/null\n')
        program.chmod(0o755)
        job = Job(Path("/g.wasm"), b"", ("a",), {"m": "add"})
        files = graphs.canonical("openvino")
        for name, variable, word in (
            ("native-wasmtime", "WASI_NN_WASMTIME", "nn-graph=openvino::"),
            ("native-wasmedge", "WASI_NN_WASMEDGE", "m:OpenVINO:CPU:"),
            ("native-iwasm", "WASI_NN_IWASM", "--map-dir=/graphs::"),
        ):
            monkeypatch.setenv(variable, str(program))
            host = hosts.known()[name]
            assert "1.2" in host.version()
            line = " ".join(host.line(job, files, tmp_path))
            assert word in line
            assert line.endswith("/g.wasm a")

    def test_a_command_that_hangs_is_a_timeout(self, monkeypatch, tmp_path):
        program = tmp_path / "host"
        program.write_text("#!/bin/sh\nexec sleep 30\n")
        program.chmod(0o755)
        monkeypatch.setenv("WASI_NN_WASMEDGE", str(program))
        subject = hosts.known()["native-wasmedge"].subject(graphs.canonical("ggml"), "wasmedge")
        with pytest.raises(TimeoutError):
            subject.run(Job(Path("/g.wasm"), b"", seconds=0.3))
        subject.close()


class TestInterpreter:
    """The guest's own mistakes: a script that makes no sense ends with a reason, and not with a
    wrong transcript."""

    @pytest.mark.parametrize(
        "script",
        [
            "nonsense\n",
            "buf\n",
            "buf a x\n",
            "buf a 4\nput a 0 zz\n",
            "buf a 4\nput a 2 00112233\n",
            "buf a 4\nshow a 4 1\n",
            "show b 0 1\n",
            "call nothing\n",
            "call compute\n",
            "call compute 1 2\n",
            "file a /graphs/nothing\n",
            "call compute *\n",
            "buf a 2\ncall compute *a\n",
            "grow 70000\n",
        ],
    )
    def test_mistakes(self, host, script):
        program = host.compile(places.guest("interpreter"))
        result = program.run(stdin=script.encode())
        assert result.exit_code == 1
        assert b"end" not in result.stdout.split(b"\n")
        assert result.stderr.startswith(b"interpreter: ")

    def test_values(self, host):
        program = host.compile(places.guest("interpreter"))
        script = (
            "buf a 8 3\nput a 0 01020304ff\nptr a 4 0x10\nshow a 0 8\nbuf b 12\nptr b 0 &a\n"
            "ptr b 4 &a+1\nptr b 8 #a\nshow b 0 12\ngrow 1\nptr a 0 end\nshow a 0 4\n"
        )
        lines = program.run(stdin=script.encode()).check().stdout.decode().splitlines()
        assert lines[0] == "show a 0102030410000000"
        first, second, size = (lines[1][7:][at : at + 8] for at in (0, 8, 16))
        number = int.from_bytes(bytes.fromhex(first), "little")
        assert number % 16 == 3
        assert int.from_bytes(bytes.fromhex(second), "little") == number + 1
        assert size == "08000000"
        assert lines[-1] == "end"


class TestCommand:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wasi_nn", "conformance", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_list_prints_the_cases(self):
        ended = self.run("--list", "--case", "flow/*")
        assert ended.returncode == 0
        assert ended.stdout.splitlines()[0].startswith("flow/add ")

    def test_reports_are_written_to_files(self, tmp_path):
        ended = self.run(
            *("--host", "wasmtime", "--encoding", "onnx", "--dialect", "witx"),
            *("--case", "flow/*"),
            *("--json", str(tmp_path / "a.json"), "--junit", str(tmp_path / "a.xml")),
            *("--html", str(tmp_path / "a.html"), "--markdown", str(tmp_path / "a.md")),
        )
        assert ended.returncode == 0, ended.stderr
        assert "onnx" in ended.stdout
        cell = json.loads((tmp_path / "a.json").read_text())["cells"][0]
        assert cell["pass"] == len(cell["cases"]) > 20
        assert "| wasmtime |" in (tmp_path / "a.md").read_text()
        assert (tmp_path / "a.xml").exists()
        assert "<html" in (tmp_path / "a.html").read_text()

    @pytest.mark.parametrize(
        "arguments",
        [("--host", "none"), ("--encoding", "x"), ("--dialect", "x"), ("--case", "x/*")],
    )
    def test_mistakes(self, arguments):
        ended = self.run(*arguments)
        assert ended.returncode == 2
        assert ended.stderr.startswith("wasi-nn: ")
        assert "Traceback" not in ended.stderr

    def test_nothing_to_run_is_an_error(self, monkeypatch):
        monkeypatch.setenv("WASI_NN_IWASM", "/nowhere")
        ended = self.run("--host", "native-iwasm", "--encoding", "onnx", "--dialect", "wamr")
        assert ended.returncode == 2
        assert "nothing was run" in ended.stderr


class TestOnnx(BackendConformance):
    """The class that plugin authors inherit, on a backend of ours."""

    graphs = graphs.canonical("onnx")
    dialects = ("witx",)


class _Broken(Subject):
    def __init__(self, stdout: bytes) -> None:
        self._stdout = stdout

    def run(self, job: Job) -> Ending:
        return Ending(self._stdout, 0)


def test_a_wrong_backend_is_seen():
    """Every case that is supported fails on a host that says nothing, and on one that always says
    success."""
    files = graphs.canonical("onnx")
    for one in CASES:
        result = running.run(one, _Broken(b""), files, "witx")
        assert result.status in (FAIL, running.UNSUPPORTED), one.id


def test_a_wheel_has_the_data(tmp_path):
    """What `pip install` brings is enough to run the cases."""
    build = needs("hatchling.build")
    root = Path(__file__).parents[2]
    shutil.copytree(
        root,
        tmp_path / "source",
        ignore=shutil.ignore_patterns(".venv*", ".git", "build", "*cache*", "node_modules"),
    )
    import os
    import zipfile

    before = os.getcwd()
    os.chdir(tmp_path / "source")
    try:
        wheel = build.build_wheel(str(tmp_path))
    finally:
        os.chdir(before)
    names = zipfile.ZipFile(tmp_path / wheel).namelist()
    for wanted in (
        "wasi_nn_conformance/data/cases/flow.json",
        "wasi_nn_conformance/data/expectations/native-wasmtime.json",
        "wasi_nn_conformance/data/graphs/onnx/add.onnx",
        "wasi_nn_conformance/data/guests/interpreter/interpreter.wasm",
    ):
        assert wanted in names
