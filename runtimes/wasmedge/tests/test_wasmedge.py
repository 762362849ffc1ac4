"""WasmEdge runs guests as every engine does, but for its hazards, each of which has a test."""

from __future__ import annotations

import ctypes
import subprocess
import sys

from enginetests import EngineSuite, need
from wasi_nn import Host, Limits
from wasi_nn.errors import OutOfFuel
from wasi_nn_wasmedge.api import api

need("wasmedge")

RECURSION = '(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))'


class TestWasmEdge(EngineSuite):
    runtime = "wasmedge"

    def test_endless_recursion_is_a_trap(self, host, wat):
        """Not here: the interpreter's stack has no limit but the machine's memory, and when that is
        used up WasmEdge aborts the process. A limit on fuel ends such a guest in time."""
        with Host(plugins=host.plugins, runtime="wasmedge", limits=Limits(fuel=10**6)) as limited:
            assert isinstance(limited.run(wat(RECURSION)).error, OutOfFuel)

    def test_wasmedges_own_plugin_does_not_clash(self, host, identity_model):
        """A VM registers a mock of each plugin, `wasi_ephemeral_nn` among them, and ours would be
        refused there; nor do the plugins matter that are installed."""
        library = ctypes.CDLL(api().library)
        library.WasmEdge_PluginLoadWithDefaultPaths()
        library.WasmEdge_VMCreate.restype = ctypes.c_void_p
        machine = ctypes.c_void_p(library.WasmEdge_VMCreate(None, None))
        try:
            self.test_echo(host, identity_model)
        finally:
            library.WasmEdge_VMDelete(machine)

    def test_endless_recursion_without_fuel_aborts(self, tmp_path, wat):
        path = tmp_path / "recursion.wasm"
        path.write_bytes(wat(RECURSION))
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30));"
            "from wasi_nn import Host; print(Host(runtime='wasmedge').run(sys.argv[1]))"
        )
        run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        # The README says so: when a WasmEdge gives a result instead, change both.
        assert run.returncode < 0, run.stdout
