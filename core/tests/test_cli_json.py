"""What scripts read of the command line, and the plugins that it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
COMMAND = [sys.executable, "-m", "wasi_nn"]


def wasi_nn(*arguments, env=None):
    run = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=60,
    )
    return run.returncode, run.stdout, run.stderr


LIGHT = {"WASI_NN_PLUGINS": "identity,wasmtime"}


def test_plugins_and_doctor_write_json():
    code, out, err = wasi_nn("plugins", "--json", "-", env=LIGHT)
    assert (code, err) == (0, "")
    listed = json.loads(out)
    (backend,) = listed["plugins"][0]["backends"]
    assert backend["encodings"] == ["identity"]
    assert backend["usable"]
    (runtime,) = listed["plugins"][1]["runtimes"]
    assert runtime["features"]["interrupt"] is True
    assert "onnx" in listed["left_out"]

    code, out, _ = wasi_nn("doctor", "--json", "-", env=LIGHT)
    findings = json.loads(out)
    assert code == 0
    assert findings["sound"] is True
    assert set(findings["sandbox"]) == {"files", "network", "system_calls", "memory"}


def test_inspect_writes_json_of_every_file(guests, identity_model, tmp_path):
    echo, missing = identity_model("echo"), tmp_path / "missing.onnx"
    files = (guests / "echo/echo.wasm", echo, missing)
    code, out, err = wasi_nn("inspect", "--json", "-", *files, env=LIGHT)
    guest, model, neither = json.loads(out)
    assert (guest["runs_here"], model["runs_here"], neither["runs_here"]) == (True, True, None)
    assert "load_by_name" in guest["imports"]["wasi_ephemeral_nn"]
    assert guest["dialects"]
    assert model["encoding"] == "identity"
    assert neither["error"] in err
    assert code == 2


def test_inspect_writes_a_models_tensors_as_json():
    pytest.importorskip("onnxruntime")
    _, out, _ = wasi_nn("inspect", "--json", "-", GRAPHS / "onnx" / "batch.onnx")
    (model,) = json.loads(out)
    (tensor,) = model["inputs"]
    assert (tensor["name"], tensor["type"], tensor["dimensions"]) == ("x", "f32", [-1, 4])


def test_the_statistics_of_a_run_as_json(guests, identity_model, tmp_path):
    file = tmp_path / "stats.json"
    arguments = ("--graph", f"m={identity_model('m')}", guests / "echo/echo.wasm", "m", "hi")
    code, out, err = wasi_nn("run", "--json", file, *arguments, env=LIGHT)
    assert (code, out, err) == (0, "hi", "")
    stats = json.loads(file.read_text())
    assert stats["run"]["exit_code"] == 0
    assert stats["run"]["calls"]["compute"]["calls"] == 1
    assert stats["run"]["graphs"][0]["backend"] == "identity"
    assert stats["totals"]["runs"]["ok"] == 1


@pytest.mark.parametrize("command", ["run", "inspect", "plugins", "doctor"])
def test_a_report_that_cannot_be_written_is_told_before_the_work(command, guests, tmp_path):
    files = () if command in ("plugins", "doctor") else (guests / "hello/hello.wasm",)
    for file, why in (
        (tmp_path / "none" / "a.json", f"there is no folder {tmp_path / 'none'}"),
        (tmp_path, "it is a folder"),
    ):
        code, out, err = wasi_nn(command, "--json", file, *files, env=LIGHT)
        assert (code, out, err) == (2, "", f"wasi-nn: cannot write {file}: {why}\n")


def test_json_has_no_infinity(guests):
    _, out, _ = wasi_nn("run", "--json", "-", guests / "hello/hello.wasm", env=LIGHT)

    def refuse(word):
        raise AssertionError(word)

    first, _, rest = out.partition("\n")
    assert first == "hello, wasi-nn"
    json.loads(rest, parse_constant=refuse)


@pytest.mark.parametrize("command", ["before", "after", "environment"])
def test_a_plugin_that_is_left_out_is_not_imported(command, guests):
    # (An import of it would print: the plugin has no library, so look at sys.modules.)
    script = (
        "import sys, atexit, wasi_nn._cli\n"
        "atexit.register(lambda: print('wasi_nn_identity' in sys.modules))\n"
        "wasi_nn._cli.main()"
    )
    hello = str(guests / "hello/hello.wasm")
    arguments = {
        "before": ["-p", "no:identity", hello],
        "after": ["run", "-p", "no:identity", hello],
        "environment": [hello],
    }[command]
    out = {}
    for left_out in (True, False):
        env = {**os.environ, "WASI_NN_PLUGINS": "identity,wasmtime"}
        if command == "environment" and left_out:
            env["WASI_NN_PLUGINS"] += ",no:identity"
        given = arguments if left_out or command == "environment" else [hello]
        run = subprocess.run(
            [sys.executable, "-c", script, *given], capture_output=True, text=True, env=env
        )
        out[left_out] = run.stdout
    assert out == {True: "hello, wasi-nn\nFalse\n", False: "hello, wasi-nn\nTrue\n"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "no:wasmtme", "hello.wasm"], "there is no plugin 'wasmtme'; did you mean 'wasmti"),
        (["run", "-p", "wasmtime", "hello.wasm"], "-p takes no:NAME, the plugin to leave out, not"),
    ],
)
def test_a_mistake_in_a_plugins_name_is_one_line(arguments, says):
    code, out, err = wasi_nn(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_what_is_left_out_is_told_where_it_is_missed(guests):
    run = ("run", "--runtime", "wasmtime", guests / "hello/hello.wasm")
    code, _, err = wasi_nn("-p", "no:wasmtime", *run, env=LIGHT)
    assert code == 2
    assert "there is no runtime 'wasmtime'" in err
    assert "left out by WASI_NN_PLUGINS or -p: " in err
    assert "wasmtime)" in err


def test_each_plugin_has_one_line_of_80_columns():
    _, out, _ = wasi_nn("plugins", env={"WASI_NN_PLUGINS": "no:pytorch"})
    lines = out.split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert "pytorch: left out by WASI_NN_PLUGINS or -p" in lines
