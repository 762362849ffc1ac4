"""WasmEdge runs guests as every engine does. Each of its hazards has a test."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import needs_engine, run_python

from wasi_nn import Host, Limits
from wasi_nn.errors import LimitExceeded, OutOfFuel
from wasi_nn.runtime import EngineLimits, WasiConfig
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.places import GUESTS
from wasi_nn_wasmedge.api import api
from wasi_nn_wasmedge.instance import WasmEdgeInstance

needs_engine("wasmedge")

RECURSION = '(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))'


class TestWasmEdge(EngineTests):
    runtime = "wasmedge"
    counts_files = False
    # Without redirection most guests have a process of their own.
    share = 1.0 if api().redirects else 0.02

    def test_endless_recursion_is_a_trap(self, host, wat):
        """Not here: the interpreter's stack has no limit but the machine's memory, and when that is
        used up WasmEdge aborts the process. A limit on fuel ends such a guest in time."""
        with Host(plugins=host.plugins, runtime="wasmedge", limits=Limits(fuel=10**6)) as limited:
            assert isinstance(limited.run(wat(RECURSION)).error, OutOfFuel)

    def test_wasmedges_own_plugin_does_not_clash(self):
        """A VM registers a mock of each plugin, `wasi_ephemeral_nn` among them, and ours would be
        refused there; nor do the plugins matter that are installed. The process is another one:
        0.14.1 cannot delete such a VM and go on."""
        code = (
            "import ctypes, sys; from wasi_nn import Host; from wasi_nn_wasmedge.api import api;"
            "library = ctypes.CDLL(api().library); library.WasmEdge_PluginLoadWithDefaultPaths();"
            "library.WasmEdge_VMCreate(None, None); host = Host(runtime='wasmedge');"
            "own = dict.fromkeys(['stdin', 'stdout', 'stderr'], 'inherit');"
            "host.run(sys.argv[1], ['nothing', 'hello'], **own)"
        )
        run = run_python(code, GUESTS / "echo" / "echo.wasm")
        assert run.returncode == 0
        assert "echo: load_by_name: not_found" in run.stderr

    def test_endless_recursion_without_fuel_aborts(self, tmp_path, wat):
        path = tmp_path / "recursion.wasm"
        path.write_bytes(wat(RECURSION))
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30));"
            "from wasi_nn import Host; print(Host(runtime='wasmedge').run(sys.argv[1]))"
        )
        run = run_python(code, path)
        # The README says so: when a WasmEdge gives a result instead, change both.
        assert run.returncode < 0, run.stdout

    @pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
    def test_redirected_streams_need_a_process_before_0_16(self, host, stream):
        """A guest whose streams are those of this process runs here with every version."""
        module = host.runtime.compile(
            (GUESTS / "hello" / "hello.wasm").read_bytes(), EngineLimits()
        )
        for wasi, here in (
            (WasiConfig(stdin="inherit"), True),
            (WasiConfig(stdin="inherit")._replace(**{stream: None}), api().redirects),
        ):
            instance = module.prepare((), wasi, EngineLimits())
            try:
                assert isinstance(instance, WasmEdgeInstance) == here
            finally:
                instance.close()

    def test_a_closed_stream_does_not_become_another_file(self, tmp_path):
        """What is opened next has the number of the standard output that this process closed."""
        code = (
            "import os, sys; from wasi_nn import Host; from wasi_nn.runtime import *;"
            "host = Host(runtime='wasmedge'); os.close(1);"
            "module = host.runtime.compile(open(sys.argv[1], 'rb').read(), EngineLimits());"
            "instance = module.prepare((), WasiConfig(stdin='inherit'), EngineLimits());"
            "instance.instantiate(); instance.start()"
        )
        hello = GUESTS / "hello" / "hello.wasm"
        run = run_python(code, hello)
        assert run.stdout == ""
        assert "Traceback" not in run.stderr

    @pytest.mark.parametrize("arguments", [[], ["-"]])
    def test_the_command_gives_its_own_streams(self, arguments):
        command = [sys.executable, "-m", "wasi_nn", "run", "--runtime", "wasmedge"]
        hello = GUESTS / "hello" / "hello.wasm"
        run = subprocess.run([*command, hello, *arguments], capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, "hello, wasi-nn\n"), run.stderr

    @pytest.mark.parametrize("limit", [1 << 48, (1 << 48) + (1 << 16), 1 << 60])
    def test_a_huge_limit_on_memory_is_a_limit(self, host, wat, limit):
        """Older versions take a number of pages of 32 bits, of which these would leave few."""
        guest = '(module (memory (export "memory") 3) (func (export "_start")))'
        with Host(plugins=host.plugins, runtime="wasmedge", limits=Limits(memory=limit)) as limited:
            assert limited.run(wat(guest)).error is None
        with Host(plugins=host.plugins, runtime="wasmedge", limits=Limits(memory=1 << 17)) as small:
            assert isinstance(small.run(wat(guest)).error, LimitExceeded)
