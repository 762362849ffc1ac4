"""V8 runs guests as every engine does, from a process of its own."""

from __future__ import annotations

import os
import shutil
from struct import pack, unpack_from

import pytest
from conftest import needs_engine

from wasi_nn import Host
from wasi_nn.errors import GuestTrap, UsageError
from wasi_nn.runtime import HostFunction, Preopen, WasiConfig
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.engine_tests.preopens import READ, WRITE, WasiCalls
from wasi_nn_conformance.places import GUESTS
from wasi_nn_v8 import instance

needs_engine("v8")

CALL = """(module (import "test" "f" (func $f (param i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 1000) "what lies there")
    (func (export "run") (param i32) (result i32) (call $f (local.get 0)))
    (func (export "peek") (param i32) (result i32) (i32.load8_u (local.get 0))))"""


PREOPENS = """(module
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name"
      (func $name (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "first") (param i32) (result i32)
      (drop (call $name (local.get 0) (i32.const 0) (i32.const 1)))
      (i32.load8_u (i32.const 0))))"""
# Errnos of WASI.
EBADF, EFAULT, EINVAL, EMFILE, ENAMETOOLONG = 8, 21, 28, 33, 37


class TestV8(EngineTests):
    runtime = "v8"
    share = 0.15

    def test_a_guest_sleeps_until_a_time(self):
        pytest.skip("node:wasi compares an absolute time with another clock, and sleeps longer")

    def with_f(self, host, wat, function):
        extra = [HostFunction("test", "f", 1, True, function)]
        return host.compile(wat(CALL)).instantiate(extra=extra)

    def test_memory_is_read_near_and_far_from_the_arguments(self, host, wat):
        """A call carries some bytes. The host asks for the others."""

        def look(memory, at):
            assert bytes(memory.read(at, 15)) == b"what lies there"
            assert bytes(memory.read(1005, 4)) == b"lies"
            assert bytes(memory.read(990, 12)) == bytes(10) + b"wh"
            assert bytes(memory.read(131_000, 72)) == bytes(72)
            assert memory.read(5, 0) == b""
            return len(memory.read(0, 131_072))

        with self.with_f(host, wat, look) as guest:
            assert guest.call("run", 1000) == (131_072,)
            assert guest.call("run", 1000) == (131_072,)

    def test_written_memory_is_read_back(self, host, wat):
        def write(memory, at):
            memory.write(at + 2, b"XYZ")
            assert bytes(memory.read(at, 6)) == b"whXYZl"
            memory.write(0, bytes(100_000))
            memory.write(7, b"\x2a")
            return memory.read(at + 2, 1)[0]

        with self.with_f(host, wat, write) as guest:
            # The last large write overwrote the earlier one.
            assert guest.call("run", 1000) == (0,)
            assert guest.call("peek", 7) == (42,)

    def test_a_process_that_dies_in_the_middle(self, host, wat):
        def kill(memory, at):
            guest._instance._child._process.kill()
            guest._instance._child._process.wait()
            return len(memory.read(0, 5000))

        with self.with_f(host, wat, kill) as guest:
            with pytest.raises(GuestTrap, match="process ended with -9"):
                guest.call("run", 1000)
            with pytest.raises(GuestTrap):
                guest.call("run", 1000)

    def test_a_program_that_sends_nonsense_ends_the_guest(self, monkeypatch, tmp_path, wat):
        program = tmp_path / "node"
        program.write_text(
            "#!/bin/sh\n"
            'if [ "$1" = --version ]; then echo v22.0.0; exit; fi\n'
            'printf "this is not a message, but it is long enough" > /proc/self/fd/$4\n'
            "exec sleep 5\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("WASI_NN_NODE", str(program))
        with Host(runtime="v8") as host, pytest.raises(UsageError, match="protocol"):
            host.compile(wat(CALL))

    @pytest.mark.parametrize("says", ["v18.2.0", "nonsense"])
    def test_the_variable_names_another_node(self, monkeypatch, tmp_path, says):
        program = tmp_path / "node"
        program.write_text(f"#!/bin/sh\necho {says}\n")
        program.chmod(0o755)
        monkeypatch.setenv("WASI_NN_NODE", str(program))
        with Host(runtime="v8") as host, pytest.raises(UsageError, match=r"Node\.js 20"):
            host.run(b"\0asm\1\0\0\0")

    def test_without_node_the_runtime_is_unavailable(self, monkeypatch):
        monkeypatch.setenv("WASI_NN_NODE", "/nowhere/node")
        with Host(runtime="v8") as host, pytest.raises(UsageError, match="WASI_NN_NODE"):
            host.run(b"\0asm\1\0\0\0")

    def test_a_directory_that_is_missing_is_refused(self, host, wat, tmp_path):
        wasi = WasiConfig(preopens=[Preopen(tmp_path / "missing", "/")])
        with pytest.raises(UsageError, match=r"cannot open the directory .*missing: ENOENT"):
            host.compile(wat("(module)")).instantiate(wasi=wasi)

    def test_several_directories_keep_their_order(self, host, wat, tmp_path):
        """JavaScript would move names that are numbers to the front."""
        names = ["b", "1", "a"]
        for name in names:
            (tmp_path / name).mkdir()
        preopens = [Preopen(tmp_path / name, name) for name in names]
        with host.compile(wat(PREOPENS)).instantiate(wasi=WasiConfig(preopens=preopens)) as guest:
            first = [guest.call("first", fd)[0] for fd in (3, 4, 5)]
        assert bytes(first) == b"b1a"

    def test_the_next_file_gets_the_number_of_a_closed_one(self, host, wat, tmp_path):
        (tmp_path / "file").touch()
        guest = WasiCalls(host, wat, Preopen(tmp_path, "/"))
        assert [guest.open("file") for _ in range(300)][-1] == (EMFILE, 0)
        assert guest.call("fd_close", 100) == 0
        assert guest.open("file") == (0, 100)
        guest.close()

    def test_descriptors_are_renumbered_and_closed(self, host, wat, tmp_path):
        (tmp_path / "file").write_text("of a file")
        guest = WasiCalls(host, wat, Preopen(tmp_path, "/"))
        errno, file = guest.open("file")
        assert errno == 0
        assert guest.call("fd_renumber", file, 0) == 0
        assert guest.call("fd_renumber", file, 0) == EBADF
        assert guest.read(0) == (0, b"of a file")
        assert guest.call("fd_renumber", 2, guest.top) == 0
        assert guest.write(guest.top, b"") == (0, 0)
        assert guest.open("file")[0] == EBADF
        assert guest.call("fd_close", 0) == 0
        assert guest.read(0)[0] == EBADF
        guest.close()

    def test_pointers_outside_the_memory_are_errors(self, host, wat, tmp_path):
        (tmp_path / "file").touch()
        guest = WasiCalls(host, wat, Preopen(tmp_path, "/"))
        file, end = guest.open("file", 0, READ | WRITE)[1], (1 << 16) - 2
        assert guest.call("fd_read", file, end, 1, 0) == EFAULT
        assert guest.call("fd_write", file, -8, 1, 0) == EFAULT
        assert guest.call("fd_write", file, 0, -1, 0) == EINVAL
        assert guest.call("fd_filestat_get", file, end) == EFAULT
        assert guest.call("fd_readdir", guest.top, end, 100, 0, 0) == EFAULT
        assert guest.call("path_open", guest.top, 0, -1, 5, 0, 2, 2, 0, 0) == EFAULT
        assert guest.call("path_filestat_get", guest.top, 0, 0, -1, 0) == ENAMETOOLONG
        guest.close()

    def test_files_are_ready_at_once(self, host, wat, tmp_path):
        (tmp_path / "file").touch()
        guest = WasiCalls(host, wat, Preopen(tmp_path, "/"))
        file = guest.open("file")[1]
        events, count = 8192, 1024
        guest.put(2048, pack("<QB7xI28x", 7, 1, file) + pack("<QB7xI4xQ16x", 8, 0, 1, 1 << 62))
        assert guest.call("poll_oneoff", 2048, events, 2, count) == 0
        found = guest.result(events + 32)
        assert found[count] == 1
        assert unpack_from("<QHB", found, events) == (7, 0, 1)
        # A clock alone.
        guest.put(2048, pack("<QB7xI4xQ16x", 9, 0, 1, 1000))
        assert guest.call("poll_oneoff", 2048, events, 1, count) == 0
        assert unpack_from("<QHB", guest.result(events + 32), events) == (9, 0, 0)
        guest.close()

    def test_close_leaves_no_process_and_no_descriptor(self, host, wat):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with self.with_f(host, wat, lambda memory, at: at) as guest:
                child = guest._instance._child._process
                assert guest.call("run", 3) == (3,)
            assert child.returncode == -9
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_guest_cannot_catch_what_ends_it(self, host, wat):
        """A guest can catch every JavaScript exception."""
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "run") (result i32)
              try (drop (call $f (i32.const 8))) catch_all end
              try (drop (call $f (i32.const 8))) catch_all end
              (i32.const 55))
            (func (export "fine") (result i32) (i32.const 1))
            (func (export "_start") try (call $exit (i32.const 3)) catch_all end))"""
        )
        calls = []

        def fail(memory, at):
            calls.append(at)
            raise EOFError("of the test")

        with host.compile(wasm).instantiate(extra=[HostFunction("test", "f", 1, True, fail)]) as g:
            with pytest.raises(EOFError, match="of the test"):
                g.call("run")
            assert calls == [8]
            assert g.call("fine") == (1,)
            assert g.run() == 3

    def test_a_memory_may_have_4_gib(self, host, wat):
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (memory (export "memory") 65536)
            (func (export "run") (result i32) (call $f (i32.const -16))))"""
        )
        extra = [HostFunction("test", "f", 1, True, lambda memory, at: len(memory.read(at, 4)))]
        with host.compile(wasm).instantiate(extra=extra) as guest:
            assert guest.call("run") == (4,)

    @pytest.mark.parametrize("piece", [1, 1000])
    def test_more_than_node_reads_at_once_is_sent(self, host, wat, tmp_path, monkeypatch, piece):
        """Tested with a bound far below the real one, which is close to 2 GiB."""
        shutil.copytree(instance._SCRIPTS, tmp_path, dirs_exist_ok=True)
        script = tmp_path / "guest.cjs"
        text = script.read_text()
        assert "const MAX_PIECE = 1 << 30;" in text
        script.write_text(text.replace("MAX_PIECE = 1 << 30;", f"MAX_PIECE = {piece};"))
        monkeypatch.setattr(instance, "_SCRIPTS", tmp_path)
        data = bytes(range(251)) * 20

        def call(memory, at):
            memory.write(at, data)
            assert bytes(memory.read(at - 1, len(data) + 2)) == b"\0" + data + b"\0"
            return 5

        with self.with_f(host, wat, call) as guest:
            assert guest.call("run", 2000) == (5,)
            assert guest.call("run", 20000) == (5,)

    def test_a_stack_overflow_in_a_host_call_ends_the_guest(self, host, wat):
        """Later calls get their own answers, or the guest ends. None gets the rest of a message."""
        wasm = wat(
            """(module (import "test" "f" (func $f (param i32) (result i32)))
            (global $depth (mut i32) (i32.const 0)) (global $from (mut i32) (i32.const 0))
            (memory (export "memory") 1)
            (func $call (param i32) (result i32) (local $x i32)
              (local.set $x (i32.const -1))
              try (local.set $x (call $f (local.get 0))) catch_all end
              (if (i32.eq (local.get $x) (i32.const -1)) (then (return (i32.const 1))))
              (if (i32.ne (local.get $x) (i32.add (local.get 0) (i32.const 1)))
                (then (return (i32.const 2))))
              (call $call (i32.add (local.get 0) (i32.const 1))))
            (func $down (param i32) (result i32) (global.set $depth (local.get 0))
              (if (result i32) (i32.lt_u (local.get 0) (global.get $from))
                (then (call $down (i32.add (local.get 0) (i32.const 1))))
                (else (call $call (local.get 0)))))
            (func (export "go") (param i32) (result i32)
              (global.set $from (local.get 0)) (call $down (i32.const 0)))
            (func (export "depth") (result i32) (global.get $depth))
            (func (export "call") (param i32) (result i32) (call $f (local.get 0))))"""
        )
        program = host.compile(wasm)
        extra = [HostFunction("test", "f", 1, True, lambda memory, at: at + 1)]
        for less in range(10, 60, 10):
            with program.instantiate(extra=extra) as guest:
                with pytest.raises(GuestTrap):
                    guest.call("go", 0x7FFFFFFF)
                (depth,) = guest.call("depth")
                try:
                    assert guest.call("go", depth - less) == (1,)
                    assert guest.call("call", 7) == (8,)
                except GuestTrap:
                    pass

    def test_the_users_node_options_do_not_matter(self, host, monkeypatch):
        monkeypatch.setenv("NODE_OPTIONS", "--require /nowhere/at/all.js")
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", "/nowhere/at/all.pem")
        assert "NODE_EXTRA_CA_CERTS" not in instance._environment()
        assert host.run(GUESTS / "hello/hello.wasm").stdout == b"hello, wasi-nn\n"
