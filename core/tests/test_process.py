"""Engines in processes of their own run guests as they do in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginetests import GUESTS, EngineSuite, need
from enginetests.common import COMMAND, LOOP
from wasi_nn import Host
from wasi_nn.adapter import process
from wasi_nn.errors import GuestTrap, Unavailable
from wasi_nn.runtime import HostFunction

need("wasmtime")

ROOT = Path(__file__).resolve().parents[2]
#: `make test` makes it where there is a Python 3.10.
OTHER = ROOT / "build" / "python3.10" / "bin" / "python"


class TestWasmtime(EngineSuite):
    runtime = "wasmtime@"
    share = 0.02

    def test_a_process_that_dies_in_the_middle(self, host, wat):
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (func (export "run") (result i32)
              (call $f (i32.const 0))))"""
        )

        def die(memory, at):
            os.kill(guest._instance._child._process.pid, signal.SIGABRT)
            return len(memory.read(0, 5000))

        function = HostFunction("test", "f", 1, True, die)
        guest = host.compile(wasm).instantiate(extra=[function])
        with guest, pytest.raises(GuestTrap, match="process ended with -6"):
            guest.call("run")

    def test_its_features_are_those_of_the_engine_and_of_a_process(self, host):
        engine = Host(runtime="wasmtime").runtime.features
        assert host.runtime.features == engine._replace(zero_copy_memory=False, components=False)


@pytest.mark.skipif(not OTHER.exists(), reason="there is no build/python3.10; make test")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the other Python is this one")
class TestWasmer(EngineSuite):
    """wasmer's package, which has wheels for Python 3.10 and none newer."""

    runtime = f"wasmer@{OTHER}"
    share = 0.02

    def test_modules_of_this_python_are_not_the_others(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        process._describe.cache_clear()
        with Host(runtime=self.runtime) as host:
            assert host.run(GUESTS / "hello" / "hello.wasm").stdout == b"hello, wasi-nn\n"

    def test_where_it_runs(self, host):
        assert (
            "wasmer 1.1.0 (Python package), in a process of" in host.runtime.availability().detail
        )


def test_a_python_that_has_nothing_of_us(tmp_path):
    """A fresh environment, without pluggy even: the engine's library is what it lacks."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    with (
        pytest.raises(Unavailable, match="wasmtime is not installed"),
        Host(runtime=f"wasmtime@{python}") as host,
    ):
        host.runtime  # noqa: B018


@pytest.mark.parametrize("program", ["no-such-python", "false", "echo"])
def test_what_is_no_python(program):
    with pytest.raises(Unavailable, match=program), Host(runtime=f"wasmtime@{program}") as host:
        host.runtime  # noqa: B018


_COMPUTES = """
import sys
import time
from wasi_nn import Host
def started(guest):
    print(guest._instance._child._process.pid, flush=True)
Host(runtime=sys.argv[1]).compile(bytes.fromhex(sys.argv[2])).run(on_start=started)
"""


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="the test looks into /proc")
@pytest.mark.parametrize("runtime", ["wasmtime@", "v8"])
def test_a_guest_that_computes_ends_with_its_host(wat, runtime):
    need(runtime.rstrip("@"))
    wasm = wat(COMMAND.format(LOOP))
    line = [sys.executable, "-c", _COMPUTES, runtime, wasm.hex()]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as host:
        guest = int(host.stdout.readline())
        time.sleep(0.3)
        assert _lives(guest)
        host.kill()
    deadline = time.monotonic() + 10
    while _lives(guest):
        assert time.monotonic() < deadline
        time.sleep(0.02)
