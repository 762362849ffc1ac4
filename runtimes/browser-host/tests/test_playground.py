"""The playground: its command, its server, and its page in real browsers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, needs, needs_engine

from wasi_nn_browser.playground import Playground
from wasi_nn_conformance.places import GRAPHS, GUESTS

needs_engine("browser")

CLASSIFY = GUESTS / "classify" / "classify.wasm"
ADD = GRAPHS / "onnx" / "add.onnx"
DRIVER = ROOT / "runtimes" / "browser" / "node_modules" / "puppeteer-core"


def post(url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, b"")) as answer:
        return answer.read()


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_a_visitor_uses_the_page(browser):
    needs("magika")
    if browser == "firefox":
        needs_engine("browser-firefox")
    node = shutil.which("node")
    if node is None or not DRIVER.exists():
        assert not os.environ.get("CI"), "make browser must run first"
        pytest.skip("make browser installs what drives the browser")
    with Playground(CLASSIFY, [("net", ADD)], "name:net 'x y.raw' 1,4") as served:
        ended = subprocess.run(
            [node, "--test", Path(__file__).with_name("playground.mjs")],
            env={**os.environ, "PLAYGROUND": served.url, "PLAYGROUND_BROWSER": browser},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert ended.returncode == 0, ended.stdout[-8000:]


def test_only_what_is_offered_is_served():
    with Playground(CLASSIFY) as served:
        base = served.url.removesuffix("playground.html")
        offered = json.loads(post(f"{base}offered"))
        assert [one["name"] for one in offered["files"]] == ["classify.wasm"]
        assert post(f"{base}file/0") == CLASSIFY.read_bytes()
        for wrong in ("file/999", "file/-1", "file/../0", "other"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                post(f"{base}{wrong}")
            refused.value.close()


def test_the_command_serves_until_ctrl_c():
    command = [sys.executable, "-m", "wasi_nn", "playground", "--no-open", str(CLASSIFY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = child.stdout.readline()
        url = next(word for word in said.split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(url) as answer:
            assert b"<h1>wasi-nn playground</h1>" in answer.read()
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no-such.wasm"], "there is no file no-such.wasm"),
        (["--graph", "m=openvino:a.xml,a.bin"], "models of one file"),
    ],
)
def test_a_mistake_on_the_command_line(arguments, why):
    command = [sys.executable, "-m", "wasi_nn", "playground", "--no-open", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert why in ended.stderr
