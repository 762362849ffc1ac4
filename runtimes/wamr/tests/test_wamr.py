"""WAMR runs guests as every engine does, and its hazards are met."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from enginetests import EngineSuite, need
from enginetests.common import COMMAND, WASI
from wasi_nn import Host
from wasi_nn.errors import UsageError
from wasi_nn.runtime import HostFunction

need("wamr")

CALLS = """(module (import "test" "name" (func $name (param i32) (result i32)))
    (func (export "run") (result i32) (call $name (i32.const 1))))"""


def adds(number):
    return [HostFunction("test", "name", 1, True, lambda memory, value: value + number)]


class TestWamr(EngineSuite):
    runtime = "wamr"

    def test_natives_of_two_hosts_do_not_meet(self, host, wat):
        """They are one list for the process, looked up by name alone."""
        other = Host(runtime="wamr")
        wasm = wat(CALLS)
        with (
            host.compile(wasm).instantiate(extra=adds(1)) as one,
            other.compile(wasm).instantiate(extra=adds(2)) as two,
        ):
            assert (one.call("run"), two.call("run"), one.call("run")) == ((2,), (3,), (2,))

    def test_names_of_natives_that_are_gone(self, host, wat):
        """WAMR keeps the pointers to names; where they dangle, imports stay unlinked silently."""
        first = host.compile(wat(CALLS))
        for turn in range(50):
            wasm = wat(CALLS.replace("name", f"name{turn}"))
            extra = [HostFunction("test", f"name{turn}", 1, True, lambda memory, value: value)]
            with host.compile(wasm).instantiate(extra=extra) as guest:
                assert guest.call("run") == (1,)
            gc.collect()
        with first.instantiate(extra=adds(1)) as guest:
            assert guest.call("run") == (2,)

    def test_a_thread_that_wamr_has_not_seen(self, host, wat):
        """Without its own preparation WAMR refuses to work there."""
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
        """Whatever it was called, it is no import that cannot be linked."""
        gone = tmp_path / "failed to link"
        gone.mkdir()
        program = host.compile(wat(f'(module {WASI} (func (export "_start")))'))
        with pytest.raises(UsageError, match=r"cannot open a directory: .*failed to link"):
            program.run(dirs={"/data": gone}, on_start=lambda guest: gone.rmdir())

    def test_the_first_thread_may_end(self, wat, tmp_path):
        """The next one gets its stack, where WAMR had protected pages."""
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

    def test_beside_another_engine_in_several_threads(self, wat, tmp_path):
        """The README says so: when this ends by itself, change both."""
        path = tmp_path / "traps.wasm"
        path.write_bytes(wat(COMMAND.format("(drop (i32.load (i32.const 0xfffffff0)))")))
        code = (
            "import sys, threading; from wasi_nn import Host\n"
            "def run(engine): print(engine, Host(runtime=engine).run(sys.argv[1]).exit_code)\n"
            "run('wasmtime')\n"
            "for _ in range(2):\n"
            "    thread = threading.Thread(target=run, args=('wamr',))\n"
            "    thread.start(); thread.join()\n"
            "print('again', flush=True); run('wasmtime')"
        )
        command = [sys.executable, "-c", code, path]
        with pytest.raises(subprocess.TimeoutExpired) as hangs:
            subprocess.run(command, capture_output=True, timeout=10)
        assert hangs.value.stdout.split() == b"wasmtime 134 wamr 134 wamr 134 again".split()
        assert b"hangs the process from now on" in hangs.value.stderr
