"""What a shell completes, asked as the shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def complete(words, plugins="identity,wasmtime"):
    """The completions of the last word."""
    env = {
        **os.environ,
        "WASI_NN_PLUGINS": plugins,
        "_WASI_NN_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    run = subprocess.run(
        [sys.executable, "-m", "wasi_nn"], capture_output=True, text=True, env=env, timeout=60
    )
    assert run.stderr == ""
    return [line.partition(",") for line in run.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("wasi-nn ins", ["inspect"]),
        ("wasi-nn run --runtime w", ["wasmtime"]),
        ("wasi-nn run --dialect wamr-", ["wamr-2.1", "wamr-legacy"]),
        ("wasi-nn run --encodings ide", ["identity"]),
        ("wasi-nn run --targets cpu,g", ["cpu,gpu"]),
        ("wasi-nn run --graph net=m.onnx --graph chat=c.gguf --models n", ["net"]),
        ("wasi-nn run --graph net=m.onnx --pin n", ["net="]),
        ("wasi-nn run -p no:wasme", ["no:wasmedge", "no:wasmer"]),
        ("wasi-nn -p no:v8 run --runtime wasmti", ["wasmtime"]),
        ("wasi-nn inspect --js", ["--json"]),
        ("wasi-nn completion z", ["zsh"]),
        ("wasi-nn conformance --export-f", ["--export-format"]),
        ("wasi-nn conformance --host native-wasmt", ["native-wasmtime"]),
        ("wasi-nn conformance --host wasmt", ["wasmtime"]),
        ("wasi-nn conformance --encoding op", ["openvino"]),
        (
            "wasi-nn conformance --dialect wi",
            ["witx", "witx-2022", "witx-2022-04", "witx-2020", "wit"],
        ),
        ("wasi-nn conformance --case flow/two-g", ["flow/two-graphs"]),
    ],
)
def test_values_are_completed(line, offered):
    assert complete(line.split(" ")) == [("plain", ",", value) for value in offered]


def test_only_directories_are_offered_where_one_is_needed():
    assert complete(["wasi-nn", "run", "--dir", "sr"]) == [("dir", ",", "sr")]
    assert complete(["wasi-nn", "run", "hel"]) == [("file", ",", "hel")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell):
    run = subprocess.run(
        [sys.executable, "-m", "wasi_nn", "completion", shell], capture_output=True, text=True
    )
    assert run.returncode == 0
    assert f"_WASI_NN_COMPLETE={shell}_complete" in run.stdout
