"""Models in a process that was forked. (Guests: the engines' tests.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds.
_HANG = 60
START = """
import gc, os, signal, sys, threading
from wasi_nn import Host
from wasi_nn.errors import ForkedProcess

def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            work()
            print("works")
        except ForkedProcess:
            print("refused")
        gc.collect()
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0

host = Host()
path = sys.argv[1]
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def python(script: str, path: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + script, str(path)],
        capture_output=True,
        text=True,
        timeout=_HANG,
    )
    # Nothing is told of what the child can't free.
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def gguf() -> Path:
    needs("xllamacpp")
    return GRAPHS / "ggml" / "tiny.gguf"


@pytest.mark.parametrize(
    ("isolation", "again"), [("none", "refused"), ("shared", "works")], ids=["host", "worker"]
)
def test_a_model_of_the_parent_is_refused_and_never_freed(isolation: str, again: str) -> None:
    """A child can load a model again if it runs in a worker."""
    script = (
        f"where = {isolation!r}"
        + """
model = host.load(path, isolation=where)
context = model.init_execution_context()
context.set_input("prompt", "x")
text = context.stream()
next(text)
child(lambda: next(text))
child(context.compute)
child(lambda: context.set_input("prompt", "y"))
child(model.init_execution_context)
child(lambda: model.run("x"))
child(lambda: host.load(path, isolation=where))
child(lambda: Host().load(path, isolation=where))

def drop():
    global model, context, text, host
    context.close()
    model = context = text = host = None

child(drop)
thread = threading.Thread(target=child, args=(context.compute,))
thread.start()
thread.join()
assert next(text)
text.close()
context.close()
print("parent")
"""
    )
    said = python(script, gguf()).split()
    assert said == ["refused"] * 5 + [again] * 2 + ["works", "refused", "parent"]


def test_a_named_model_in_a_worker_works_in_the_child_too() -> None:
    script = """
host.add_model("net", path)

def use():
    with host.model("net").init_execution_context() as context:
        context.set_input("prompt", "x")
        assert next(context.stream())

child(use)
use()
child(use)
"""
    assert python(script, gguf()).split() == ["works", "works"]


def test_a_backend_without_native_code_works_in_the_child() -> None:
    script = """
model = host.load(b"wasi-nn:identity", isolation="none")
def use():
    assert model.run(b"abc")["0"].tobytes() == b"abc"
use()
child(use)
"""
    assert python(script, GRAPHS).split() == ["works"]


def test_a_pool_of_forked_processes_gets_a_clear_error() -> None:
    script = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
host.load(path, isolation="none")
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    try:
        pool.submit(host.load, path, isolation="none").result(30)
    except ForkedProcess as told:
        assert "spawn" in str(told)
        print("refused")
    except TypeError:  # (A host can't be sent to another process.)
        print("unsent")

def load():
    host.load(path, isolation="none")

with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    try:
        pool.submit(load).result(30)
    except ForkedProcess:
        print("refused")
with multiprocessing.get_context("fork").Pool(1) as pool:
    try:
        pool.apply_async(load).get(30)
    except ForkedProcess:
        print("refused")
"""
    assert python(script, gguf()).split() == ["unsent", "refused", "refused"]


@pytest.mark.slow
def test_a_fork_while_others_compute_and_compile() -> None:
    """Their locks are held for good in the child, which waits for none of them."""
    script = """
import wasmtime
model = host.load(path, config={"temp": 0, "ignore-eos": True})
body = "(func (result i32) (i32.add (i32.const 1) (i32.const 2)))" * 60000
large = bytes(wasmtime.wat2wasm(f"(module {body} (func (export \\"_start\\")))"))

def compute():
    while not done.is_set():
        with model.init_execution_context() as context:
            context.set_input("prompt", "x")
            busy.set()
            for _ in zip(range(100), context.stream()):
                pass

busy, done = threading.Event(), threading.Event()
thread = threading.Thread(target=compute)
compiling = threading.Thread(target=lambda: Host(runtime="wasmtime").compile(large))
thread.start()
busy.wait()
compiling.start()
for _ in range(5):
    child(lambda: model.run("x"))
    child(lambda: host.load(path))
    child(lambda: Host(runtime="wasmtime").run(large))
done.set()
thread.join()
compiling.join()
"""
    needs("wasmtime")
    assert python(script, gguf()).split() == ["refused", "works", "refused"] * 5


def examples() -> list[str]:
    page = (GRAPHS.parents[1] / "docs" / "forking.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_process_pool_of_the_page_works(tmp_path: Path) -> None:
    needs("onnxruntime")
    shutil.copy(GRAPHS / "onnx" / "identity.onnx", tmp_path / "model.onnx")
    (tmp_path / "pool.py").write_text(examples()[0])
    ended = subprocess.run(
        [sys.executable, "pool.py"], cwd=tmp_path, capture_output=True, text=True, timeout=_HANG
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("array([[") == 8
    assert "array([[7., 7., 7., 7.]]" in ended.stdout


def test_the_gunicorn_hook_of_the_page_works(tmp_path: Path) -> None:
    """The file runs as it is written, in a child as gunicorn's is."""
    (tmp_path / "hook.py").write_text(examples()[1])
    (tmp_path / "myapp.py").write_text(
        "import sys\n"
        "from wasi_nn import Host\n"
        "def make_host():\n"
        "    host = Host()\n"
        "    host.add_model('net', sys.argv[1])\n"
        "    return host\n"
        "host = make_host()\n"
    )
    script = f"""
sys.path.insert(0, {str(tmp_path)!r})
import hook, myapp

def serve():
    hook.post_fork(None, None)
    assert myapp.host.model("net").inputs

child(serve)
child(serve)
"""
    assert python(script, gguf()).split() == ["works"] * 2
