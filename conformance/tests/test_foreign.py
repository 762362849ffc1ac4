"""Anybody's host, by its command line."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wasi_nn_conformance import graphs, hosts, places
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.foreign import ForeignHost
from wasi_nn_conformance.hosts.wasmtime import Wasmtime
from wasi_nn_conformance.script import Unsupported

# Our own command, as a foreign one.
OURS = (
    f"{shlex.quote(sys.executable)} -m wasi_nn run --dir {{graphs}}::/graphs "
    "[ --graph {name}={encoding}:{paths} ] {module} {args}"
)
CELL = ("--encoding", "onnx", "--dialect", "witx")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasi_nn", "conformance", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_foreign_command_passes_cases():
    ended = run(*CELL, "--host-command", OURS, "--case", "names/*", "--json", "-")
    assert ended.returncode == 0, ended.stderr
    (cell,) = json.loads(ended.stdout)["cells"]
    assert cell["engine"] == f"native-{Path(sys.executable).name}"
    assert cell["pass"] > 5
    assert cell["fail"] == 0
    assert "pass / fail" in ended.stderr


WASMTIME = Wasmtime()
#: The options of wasmtime, which our own command has too.
NN_GRAPH = "run -S nn [ -S nn-graph={encoding}::{folder} ] --dir {graphs}::/graphs {module} {args}"


def test_graphs_can_be_given_as_folders():
    command = f"{shlex.quote(sys.executable)} -m wasi_nn {NN_GRAPH}"
    ended = run(*CELL, "--host-command", command, "--case", "flow/two-graphs", "--json", "-")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["cells"][0]["pass"] == 1


@pytest.mark.skipif(WASMTIME.unavailable() is not None, reason=str(WASMTIME.unavailable()))
def test_wasmtime_s_own_command_passes_cases(tmp_path):
    libraries = WASMTIME.environment(tmp_path)["LD_LIBRARY_PATH"]
    command = shlex.join(["env", f"LD_LIBRARY_PATH={libraries}", str(WASMTIME.path())])
    some = ("--encoding", "openvino", "--dialect", "witx", "--case", "flow/two-*")
    ended = run(*some, "--host-command", f"{command} {NN_GRAPH}", "--json", "-")
    (cell,) = json.loads(ended.stdout)["cells"]
    assert cell["pass"] > 2, ended.stderr
    assert cell["fail"] == 0


def test_a_foreign_command_that_does_nothing_fails(tmp_path):
    file = tmp_path / "nothing.toml"
    file.write_text('name = "nothing"\ncommand = "true {module}"\nversion = "echo 1.2"\n')
    ended = run(*CELL, "--adapter", str(file), "--case", "names/unknown", "--json", "-")
    assert ended.returncode == 1, ended.stderr
    (cell,) = json.loads(ended.stdout)["cells"]
    assert (cell["engine"], cell["version"], cell["fail"]) == ("native-nothing", "1.2", 1)


def test_own_expectations_are_written_and_kept(tmp_path):
    file, description = tmp_path / "mine.json", tmp_path / "nothing.toml"
    description.write_text('name = "nothing"\ncommand = "true {module}"\n')
    some = (*CELL, "--adapter", str(description), "--expectations", str(file))
    some += ("--case", "names/*", "--case", "flow/identity")
    assert run(*some).returncode == 2, "the file is not there"
    assert run(*some, "--update-expectations").returncode == 0
    deviations = json.loads(file.read_text())["deviations"]
    assert [one["encodings"] for one in deviations] == [["onnx"]] * len(deviations)
    assert "names/unknown" in {name for one in deviations for name in one["cases"]}
    assert run(*some).returncode == 0, "all failures are known now"
    description.write_text(f'name = "nothing"\ncommand = {json.dumps(OURS)}\n')
    assert run(*some).returncode == 1, "known failures pass"
    mine = {"cases": ["other/case"], "reason": "kept"}
    file.write_text(json.dumps({"deviations": [*deviations, mine]}))
    assert run(*some, "--update-expectations").returncode == 0
    assert json.loads(file.read_text()) == {"deviations": [mine]}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_leaves_the_results_so_far(tmp_path):
    description, report, count = tmp_path / "slow.toml", tmp_path / "out.json", tmp_path / "count"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, time\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "count.open('a').write('x')\n"
        "time.sleep(60 * (count.stat().st_size > 1))\n"
    )
    command = f"{sys.executable} {slow} {{module}}"
    description.write_text(f'name = "slow"\ncommand = "{command}"\nversion = "echo 1"\n')
    arguments = (*CELL, "--adapter", str(description), "--case", "names/*", "--json", str(report))
    child = subprocess.Popen(
        [sys.executable, "-m", "wasi_nn", "conformance", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not count.exists() or count.stat().st_size < 2:
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "interrupted: the reports have the cases that ran before" in err
    (cell,) = json.loads(report.read_text())["cells"]
    assert [one["status"] for one in cell["cases"]].count("fail") == 1


def test_a_program_that_is_not_here_is_unavailable():
    ended = run(*CELL, "--host-command", "nowhere-to-be-found {module}", "--case", "names/*")
    assert ended.returncode == 2
    assert "nowhere-to-be-found" in ended.stdout


def test_the_line_repeats_for_each_graph(tmp_path):
    files = graphs.canonical("openvino")
    host = ForeignHost(
        {"command": "sh [ -g {name}:{paths}:{path} {folder} ] --dir {graphs} {module} {args}"}
    )
    job = Job(places.guest("interpreter"), b"", ("a b", "{c}"), {"m": "add"})
    line = list(host.line(job, files, tmp_path))
    xml, binary = files.files["add"]
    assert f"m:{xml},{binary}:{xml}" in line
    assert [path.name for path in sorted((tmp_path / "m").iterdir())] == ["model.bin", "model.xml"]
    assert (tmp_path / "m/model.xml").read_bytes() == xml.read_bytes()
    assert str(tmp_path / "m") in line
    assert line.count("-g") == len(files.files) + 1
    assert line[-5:] == ["--dir", str(files.folder), str(job.module), "a b", "{c}"]
    with pytest.raises(Unsupported):
        host.line(job._replace(network=True), files, tmp_path)
    assert str(ForeignHost.parse(str(host))) == str(host)
    assert isinstance(host, hosts.HostUnderTest)


@pytest.mark.parametrize(
    "table",
    [
        "",
        'command = "myhost"',
        'command = "myhost {module} {nothing}"',
        'command = "myhost {module} {}"',
        'command = "myhost {module} {path.x}"',
        'command = "myhost {module} {path[x]}"',
        'command = "myhost \'{module}"',
        'command = "myhost [ {module}"',
        'command = "myhost ] {module} ["',
        "command = 3",
        'command = "x {module}"\nwhat = 1',
        'command = "x {module}"\nencodings = ["none"]',
        'command = "x {module}"\ndialects = [3]',
        "not toml",
    ],
)
def test_a_wrong_description_is_refused(tmp_path, table):
    file = tmp_path / "a.toml"
    file.write_text(table)
    with pytest.raises(UsageError, match=r"a\.toml"):
        ForeignHost.read(file)


@pytest.mark.parametrize("path", ["nowhere/a.json", "."])
def test_a_report_that_cannot_be_written_is_known_before_the_run(tmp_path, path):
    ended = run(*CELL, "--host", "wasmtime", "--case", "names/*", "--json", str(tmp_path / path))
    assert ended.returncode == 2
    assert ended.stderr.startswith("wasi-nn: cannot write ")
    assert ended.stdout == ""


def test_only_one_report_goes_to_standard_output():
    ended = run("--json", "-", "--html", "-")
    assert ended.returncode == 2
    assert "only one report" in ended.stderr
