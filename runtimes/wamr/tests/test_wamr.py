"""WAMR runs guests as every engine does, and does not disturb the process that it runs in."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from conftest import needs_engine, run_python

from wasi_nn import Host
from wasi_nn.errors import UsageError
from wasi_nn.runtime import HostFunction
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.engine_tests.common import COMMAND, WASI
from wasi_nn_wamr.api import needs_own_process

needs_engine("wamr")

CALLS = """(module (import "test" "name" (func $name (param i32) (result i32)))
    (func (export "run") (result i32) (call $name (i32.const 1))))"""


def adds(number):
    return [HostFunction("test", "name", 1, True, lambda memory, value: value + number)]


class TestWamr(EngineTests):
    runtime = "wamr"
    counts_files = False

    def test_a_renumbered_file_counts_once(self):
        pytest.skip("WAMR's fd_renumber waits forever for a lock that it holds")

    def test_renumbering_gives_an_errno(self, host, wat):
        wasm = wat(
            """(module (import "wasi_snapshot_preview1" "fd_renumber"
              (func $f (param i32 i32) (result i32)))
            (memory (export "memory") 1) (func (export "run") (result i32)
              (call $f (i32.const 0) (i32.const 1))))"""
        )
        with host.compile(wasm).instantiate() as guest:
            assert guest.call("run") == (58,)

    # (Processes take a third of a second each.)
    share = 0.02 if needs_own_process() else 1.0

    def test_natives_of_two_hosts_do_not_meet(self, host, wat):
        """WAMR has one list for the process, and searches it by name alone."""
        other = Host(runtime="wamr")
        wasm = wat(CALLS)
        with (
            host.compile(wasm).instantiate(extra=adds(1)) as one,
            other.compile(wasm).instantiate(extra=adds(2)) as two,
        ):
            assert (one.call("run"), two.call("run"), one.call("run")) == ((2,), (3,), (2,))

    def test_names_of_natives_that_are_gone(self, host, wat):
        """WAMR keeps pointers to names. If they dangle, imports silently stay unlinked."""
        first = host.compile(wat(CALLS))
        for turn in range(self.times(50)):
            wasm = wat(CALLS.replace("name", f"name{turn}"))
            extra = [HostFunction("test", f"name{turn}", 1, True, lambda memory, value: value)]
            with host.compile(wasm).instantiate(extra=extra) as guest:
                assert guest.call("run") == (1,)
            gc.collect()
        with first.instantiate(extra=adds(1)) as guest:
            assert guest.call("run") == (2,)

    def test_a_thread_that_wamr_has_not_seen(self, host, wat):
        """WAMR may refuse to work in a thread that it was not told about."""
        program = host.compile(wat(CALLS))
        results = []

        def work():
            with program.instantiate(extra=adds(1)) as guest:
                results.append(guest.call("run"))

        for _ in range(3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert results == [(2,)] * 3

    def test_a_guest_goes_from_thread_to_thread(self, host, wat):
        results = []
        with host.compile(wat(CALLS)).instantiate(extra=adds(1)) as guest:
            thread = threading.Thread(target=lambda: results.append(guest.call("run")))
            thread.start()
            thread.join()
            results.append(guest.call("run"))
        assert results == [(2,), (2,)]

    def test_a_command_without_memory_is_refused_by_wamr(self, host, wat):
        with pytest.raises(UsageError, match="must export memory"):
            host.compile(wat('(module (func (export "_start")))'))

    @pytest.mark.parametrize("name", ["/a::b", "/a:", "::"])
    def test_a_directory_whose_name_wamr_would_cut(self, host, wat, tmp_path, name):
        with pytest.raises(UsageError, match="takes no '::' in a directory's name"):
            host.run(wat(COMMAND.format("")), dirs={name: tmp_path})

    def test_a_directory_that_is_gone(self, host, wat, tmp_path):
        """Whatever its name, the error is not that of an import that cannot be linked."""
        gone = tmp_path / "failed to link"
        gone.mkdir()
        program = host.compile(wat(f'(module {WASI} (func (export "_start")))'))
        with pytest.raises(UsageError, match=r"cannot open a directory: .*failed to link"):
            program.run(dirs={"/data": gone}, on_start=lambda guest: gone.rmdir())

    def test_the_first_thread_may_end(self, wat, tmp_path):
        """The next thread gets its stack, where WAMR must have left no guard pages."""
        path = tmp_path / "guest.wasm"
        path.write_bytes(wat(COMMAND.format("")))
        code = (
            "import sys, threading; from wasi_nn import Host\n"
            "def run(): print(Host(runtime='wamr').run(sys.argv[1], capture=False).exit_code)\n"
            "for _ in range(5):\n"
            "    thread = threading.Thread(target=run); thread.start(); thread.join()\n"
            "run()"
        )
        run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=60)
        assert (run.returncode, run.stdout.split(), run.stderr) == (0, [b"0"] * 6, b"")

    TRAPS = COMMAND.format("(drop (i32.load (i32.const 0xfffffff0)))")
    RUN = (
        "import ctypes, faulthandler, sys, threading; from wasi_nn import Host\n"
        "def run(engine): print(engine, Host(runtime=engine).run(sys.argv[1]).exit_code)\n"
        "def threads(many, engine):\n"
        "    for _ in range(many):\n"
        "        thread = threading.Thread(target=run, args=(engine,))\n"
        "        thread.start(); thread.join()\n"
    )

    def run_traps(self, wat, tmp_path, code):
        """Run Python code, whose guests read out of bounds, in a new process."""
        path = tmp_path / "traps.wasm"
        path.write_bytes(wat(self.TRAPS))
        return run_python(self.RUN + code, path)

    @pytest.mark.parametrize(
        "order", ["wasmtime wamr wamr wasmtime", "wamr wasmtime wamr wamr wasmtime"]
    )
    @pytest.mark.parametrize("before", ["", "faulthandler.enable()\n"])
    def test_traps_beside_another_engine_in_several_threads(self, wat, tmp_path, order, before):
        """WAMR's fault handler would save itself as the previous one, and then call itself."""
        code = before + "".join(
            f"threads(2, '{engine}'); run('{engine}')\n" for engine in order.split()
        )
        run = self.run_traps(wat, tmp_path, code)
        lines = [f"{engine} 134" for engine in order.split() for _ in range(3)]
        assert (run.returncode, run.stdout.splitlines()) == (0, lines), run.stderr

    @pytest.mark.parametrize("before", ["", "faulthandler.enable()\n"])
    def test_a_crash_of_other_code_ends_the_process(self, wat, tmp_path, before):
        run = self.run_traps(wat, tmp_path, before + "threads(3, 'wamr'); ctypes.string_at(0)")
        assert run.returncode < 0
        assert ("Segmentation fault" in run.stderr) == bool(before)

    def test_traps_of_two_engines_while_threads_come_and_go(self, wat, tmp_path):
        rounds = self.times(60)
        code = (
            "hosts = {engine: Host(runtime=engine) for engine in ('wasmtime', 'wamr')}\n"
            "programs = {e: host.compile(sys.argv[1]) for e, host in hosts.items()}\n"
            "def work(engine): seen.append(programs[engine].run().exit_code)\n"
            "seen = []\n"
            f"for _ in range({rounds}):\n"
            "    ts = [threading.Thread(target=work, args=(e,)) for e in [*programs] * 4]\n"
            "    [t.start() for t in ts]; [t.join() for t in ts]\n"
            "print(len(seen), {*seen})"
        )
        run = self.run_traps(wat, tmp_path, code)
        assert (run.returncode, run.stdout) == (0, f"{8 * rounds} {{134}}\n"), run.stderr

    def test_guests_leave_the_fault_handlers_of_the_process_alone(self, wat, tmp_path):
        code = (
            "import signal\n"
            "def handlers():\n"
            "    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):\n"
            "        action = ctypes.create_string_buffer(512)\n"
            "        ctypes.CDLL(None).sigaction(number, None, action)\n"
            "        yield action.raw[:8]  # (The handler comes first.)\n"
            "before = [*handlers()]\n"
            "run('wamr'); threads(2, 'wamr'); print([*handlers()] == before)"
        )
        run = self.run_traps(wat, tmp_path, code)
        assert (run.returncode, run.stdout) == (0, "wamr 134\n" * 3 + "True\n"), run.stderr

    def test_a_library_with_fault_handlers_runs_guests_in_their_own_process(self, wat, monkeypatch):
        library = SimpleNamespace(os_thread_signal_init=None)
        monkeypatch.setattr("wasi_nn_wamr.api._load", lambda: library)
        with Host(runtime="wamr") as host, Host(runtime="wamr@") as isolated:
            assert "in a process of" in host.runtime.availability().detail
            assert host.runtime.features == isolated.runtime.features
            assert host.run(wat(COMMAND.format(""))).exit_code == 0
            assert isolated.run(wat(COMMAND.format(""))).exit_code == 0
