"""The helpers that runtimes share, without an engine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
import time

import pytest

from wasi_nn.errors import LimitExceeded, Unavailable, UsageError
from wasi_nn.runtime import BufferMemory, HostFunction, WasiConfig, values
from wasi_nn.runtime.engine import GuestExit, check_start_memory
from wasi_nn.runtime.library import Once, lean, load, view_at
from wasi_nn.runtime.pause import Pause
from wasi_nn.runtime.streams import Streams
from wasi_nn.runtime.wasi_streams import Preview1, may_wait
from wasi_nn.wasm import arguments
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.deferred_start import START, defer_start, rename_exports
from wasi_nn_conformance.engine_tests.common import together


class TestDeferredStarts:
    @pytest.mark.parametrize(
        "exports", ["", '(export "memory" (memory 0)) (export "also" (func $s))']
    )
    def test_a_start_function_becomes_an_export(self, host, wat, exports):
        wasm = wat(
            f"""(module (import "test" "called" (func $called)) (memory 1) {exports}
            (table 1 funcref) (global (mut i32) (i32.const 0)) (elem (i32.const 0) $s)
            (func $s (call $called)) (start $s) (data (i32.const 0) "x"))"""
        )
        called: list[int] = []
        extra = [HostFunction("test", "called", 0, False, lambda memory: called.append(1))]
        with host.compile(defer_start(wasm)).instantiate(extra=extra) as guest:
            assert called == []
            guest.call(START)
            assert called == [1]
        names = [name for name, _ in wasm_module.parse(defer_start(wasm)).exports]
        assert names == [name for name, _ in wasm_module.parse(wasm).exports] + [START]

    def test_indices_of_several_bytes_are_rewritten(self, host, wat):
        functions = "".join(f'(func (export "export number {n}"))' for n in range(300))
        wasm = wat(f'(module {functions} (func $s unreachable) (start $s) (memory (export "m") 1))')
        with host.compile(defer_start(wasm)).instantiate() as guest:
            guest.call("export number 299")
            with pytest.raises(Exception, match="unreachable"):
                guest.call(START)

    def test_exports_are_renamed(self, host, wat):
        functions = "".join(f'(func (export "export number {n}"))' for n in range(300))
        wasm = wat(
            f"""(module {functions} (func (export "run") (result i32) (i32.const 3))
            (memory (export "m") 1) (data (i32.const 0) "run"))"""
        )
        renamed = rename_exports(wasm, {"run": "n" * 200, "other": "x"})
        names = [name.replace("run", "n" * 200) for name, _ in wasm_module.parse(wasm).exports]
        assert [name for name, _ in wasm_module.parse(renamed).exports] == names
        with host.compile(renamed).instantiate() as guest:
            assert guest.call("n" * 200) == (3,)
        assert rename_exports(wasm, {"other": "x"}) is wasm
        bare = wat("(module)")
        assert rename_exports(bare, {"other": "x"}) is bare

    def test_a_module_without_a_start_function_is_unchanged(self, wat):
        wasm = wat('(module (func (export "_start")))')
        assert defer_start(wasm) is wasm


@pytest.mark.parametrize(
    ("module", "pages"),
    [
        ("(module)", 0),
        ("(module (memory 3))", 3),
        ("(module (memory 200 300))", 200),
        ('(module (import "a" "b" (memory 2 4)))', 2),
    ],
)
def test_the_initial_pages_of_a_module_are_read(wat, module, pages):
    assert wasm_module.parse(wat(module)).memory_pages == pages


def test_a_module_above_the_limit_at_its_start_is_refused(wat):
    two = wasm_module.parse(wat("(module (memory 2))"))
    check_start_memory(two, None, 1 << 40)
    check_start_memory(two, 131072, 131072)
    with pytest.raises(LimitExceeded, match="its 131071 bytes: 131072 bytes"):
        check_start_memory(two, 131071, 0)
    with pytest.raises(LimitExceeded, match="tables may take more memory than its 131072 bytes"):
        check_start_memory(two, 131072, 131073)
    several = wasm_module.parse(wat("(module (memory 0) (memory 0))"))
    check_start_memory(several, None, 0)
    with pytest.raises(LimitExceeded, match="supports one memory; the guest has 2"):
        check_start_memory(several, 1 << 20, 0)


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "given", "comes"),
        [
            (arguments.I32, -1, -1),
            (arguments.I32, 0xFFFFFFFF, -1),
            (arguments.I64, (1 << 64) - 2, -2),
            (arguments.F32, 1, 1.0),
            (arguments.F64, 0.1, 0.1),
        ],
    )
    def test_values_come_back_as_they_were(self, kind, given, comes):
        (value,) = values.pack([kind], [given])
        assert ctypes.sizeof(value) == 16
        assert values.from_raw(kind, value.raw) == comes

    @pytest.mark.parametrize(
        ("kinds", "numbers", "says"),
        [
            ([arguments.I32], [], "takes 1 arguments, not 0"),
            ([arguments.I32], [1 << 32], "does not fit an i32"),
            ([arguments.I64], [-(1 << 63) - 1], "does not fit an i64"),
            ([128], [0], "not a number"),
        ],
    )
    def test_values_that_do_not_fit_are_usage_errors(self, kinds, numbers, says):
        with pytest.raises(UsageError, match=says):
            values.pack(kinds, numbers)


def write_on(descriptor):
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(descriptor, bytes(4096))


class TestStreams:
    def test_pieces_arrive_in_order_while_the_guest_runs_and_after(self):
        pieces: list[bytes] = []
        streams = Streams(WasiConfig(stdout=pieces.append, stderr=None), [])
        try:
            for number in range(200):
                # 200 KB: more than the pipe holds, so the thread has to read.
                os.write(streams.stdout, str(number).encode().rjust(1000))
            os.write(streams.stderr, b"to nobody")
            streams.flush()
            assert [int(n) for n in b"".join(pieces).split()] == list(range(200))
        finally:
            streams.close()

    def test_stdin_is_read_to_its_end(self):
        for given, comes in ((b"abc", b"abc"), (None, b""), (b"", b"")):
            streams = Streams(WasiConfig(stdin=given, stdout=None, stderr=None), [])
            assert os.read(streams.stdin, 10) == comes
            streams.close()

    def test_a_callback_that_failed_is_not_called_again(self):
        failures: list[BaseException] = []
        calls: list[bytes] = []

        def fail(piece):
            calls.append(piece)
            raise KeyError("lost")

        streams = Streams(WasiConfig(stdout=fail, stderr=None), failures)
        # The guest is told: one that writes on and on would never end.
        write_on(streams.stdout)
        streams.flush()
        streams.close()
        assert (len(calls), len(failures)) == (1, 1)

    def test_the_other_stream_goes_on_after_a_failure(self):
        pieces: list[bytes] = []

        def fail(piece):
            raise KeyError("lost")

        streams = Streams(WasiConfig(stdout=fail, stderr=pieces.append), [])
        write_on(streams.stdout)
        for _ in range(100):
            os.write(streams.stderr, bytes(4096))
        streams.flush()
        streams.close()
        assert sum(map(len, pieces)) == 409600

    def test_a_callback_may_close_the_streams(self):
        """Whoever collects garbage in a callback may collect the guest."""
        before = sorted(os.listdir("/proc/self/fd"))
        closed = threading.Event()

        def close(piece):
            streams.close()
            closed.set()

        streams = Streams(WasiConfig(stdout=close, stderr=None), [])
        thread = streams._thread
        os.write(streams.stdout, b".")
        assert closed.wait(20)
        thread.join(20)
        streams.close()
        assert sorted(os.listdir("/proc/self/fd")) == before

    def test_close_leaves_no_descriptor_open(self):
        before = sorted(os.listdir("/proc/self/fd"))
        threads = set(threading.enumerate())
        for _ in range(3):
            Streams(WasiConfig(stdin=b"x", stdout=print, stderr="inherit"), []).close()
        # (A thread of an earlier test may end meanwhile.)
        assert set(os.listdir("/proc/self/fd")) <= set(before)
        assert set(threading.enumerate()) <= threads


class TestPreview1:
    @pytest.fixture
    def wasi(self):
        """Calls a function by name on a memory of a page."""
        config = WasiConfig(["guest", "zwölf"], [("A", "b=c")], (), b"input", None, None)
        pieces: list[bytes] = []
        served = Preview1(config._replace(stdout=pieces.append), [], Pause())
        functions = {f.name: f.call for f in served.functions("wasi_snapshot_preview1")}
        data = bytearray(65536)
        memory = BufferMemory(memoryview(data))

        def call(name, *arguments):
            return functions[name](memory, *arguments)

        call.data, call.pieces, call.served, call.functions = data, pieces, served, functions
        return call

    def test_arguments_and_variables_are_written(self, wasi):
        assert wasi("args_sizes_get", 0, 4) == 0
        assert struct.unpack_from("<II", wasi.data) == (2, 13)
        assert wasi("args_get", 0, 100) == 0
        assert struct.unpack_from("<II", wasi.data) == (100, 106)
        assert wasi.data[100:113] == "guest\0zwölf\0".encode()
        assert wasi("environ_get", 0, 100) == 0
        assert wasi.data[100:106] == b"A=b=c\0"

    @pytest.mark.parametrize("name", ["args_get", "args_sizes_get", "environ_get", "fd_read"])
    @pytest.mark.parametrize("at", [65535, 0xFFFFFFFF])
    def test_pointers_outside_the_memory_give_efault(self, wasi, name, at):
        before = bytes(wasi.data)
        arguments = (0, at, 1, at) if name == "fd_read" else (at, at)
        assert wasi(name, *arguments) == 21
        assert bytes(wasi.data) == before
        assert wasi.functions[name](None, *arguments) == 21

    def test_a_terminal_is_reported_as_one(self, monkeypatch):
        """Programs print prompts to a user, and none into a pipe."""
        data = bytearray(64)
        memory = BufferMemory(memoryview(data))
        for terminal in (True, False):
            monkeypatch.setattr(os, "isatty", lambda descriptor, there=terminal: there)
            for stdin, kind in (("inherit", 2 if terminal else 0), (b"text", 0), (None, 0)):
                config = WasiConfig(stdin=stdin, stdout="inherit", stderr=None)
                served = Preview1(config, [], Pause())
                assert served.fd_fdstat_get(memory, 0, 0) == 0
                assert data[0] == kind
                assert struct.unpack_from("<Q", data, 8) == (1 << 1 | 1 << 27,)
                assert served.fd_fdstat_get(memory, 1, 0) == 0
                assert data[0] == (2 if terminal else 0)
                assert served.fd_fdstat_get(memory, 2, 0) == 0
                assert data[0] == 0
                assert served.fd_fdstat_get(memory, 3, 0) == 8

    def test_streams_are_read_and_written(self, wasi):
        struct.pack_into("<4I", wasi.data, 0, 100, 3, 200, 9)
        assert wasi("fd_read", 0, 0, 2, 50) == 0
        assert (wasi.data[100:103], wasi.data[200:202]) == (b"inp", b"ut")
        assert wasi.data[50] == 5
        struct.pack_into("<4I", wasi.data, 0, 100, 3, 200, 2)
        assert wasi("fd_write", 1, 0, 2, 50) == 0
        assert wasi("fd_write", 2, 0, 2, 50) == 0
        assert wasi.pieces == [b"input"]
        assert wasi("fd_write", 0, 0, 2, 50) == wasi("fd_read", 1, 0, 2, 50) == 8

    def test_a_guest_may_list_its_memory_many_times_over(self, wasi):
        for number in range(1024):
            struct.pack_into("<II", wasi.data, 8 * number, 0, 65536)
        assert wasi("fd_write", 1, 0, 1024, 50) == 0
        assert len(wasi.pieces[0]) == 1 << 20
        assert wasi("fd_write", 1, 0, 1025, 50) == 21

    def test_files_are_left_to_the_engine(self, wasi):
        assert wasi("fd_write", 5, 0, 0, 0) == 8
        wasi.served.files["fd_write"] = lambda *arguments: sum(arguments)
        assert wasi("fd_write", 5, 1, 2, 3) == 11

    def test_only_a_pipe_or_a_terminal_may_wait(self, tmp_path):
        (tmp_path / "input").write_bytes(b"text")
        before = os.dup(0)
        pipe = os.pipe()
        opened = [os.open(path, os.O_RDONLY) for path in (tmp_path / "input", os.devnull)]
        try:
            for descriptor, waits in ((opened[0], False), (opened[1], False), (pipe[0], True)):
                os.dup2(descriptor, 0)
                assert may_wait("inherit") is waits
                assert may_wait(b"text") is may_wait(None) is False
        finally:
            os.dup2(before, 0)
            for descriptor in (before, *pipe, *opened):
                os.close(descriptor)

    def test_proc_exit_keeps_the_low_byte(self, wasi):
        with pytest.raises(GuestExit) as exit:
            wasi("proc_exit", 0x1FF)
        assert exit.value.code == 255


class TestLibraries:
    def test_the_environment_variable_wins(self, monkeypatch, tmp_path):
        ffi = pytest.importorskip("wasmtime._ffi")
        monkeypatch.setenv("WASI_NN_LIBTEST", str(ffi.filename))
        library = load("WASI_NN_LIBTEST", "no-such-library")
        with pytest.raises(Unavailable, match="has no function wasm_runtime_init"):
            lean(library, "wasm_runtime_init", None)
        monkeypatch.setenv("WASI_NN_LIBTEST", str(tmp_path / "x.so"))
        with pytest.raises(Unavailable, match=r"WASI_NN_LIBTEST names .*x\.so, which cannot"):
            load("WASI_NN_LIBTEST", "c")

    def test_a_library_that_is_nowhere_is_unavailable(self, monkeypatch, tmp_path):
        monkeypatch.delenv("WASI_NN_LIBTEST", raising=False)
        with pytest.raises(Unavailable, match="is not found; build it and name it with WASI_NN"):
            load("WASI_NN_LIBTEST", "no-such-library", [tmp_path], "build it")

    def test_a_library_is_found_in_the_given_folders(self, monkeypatch, tmp_path):
        ffi = pytest.importorskip("wasmtime._ffi")
        monkeypatch.delenv("WASI_NN_LIBTEST", raising=False)
        (tmp_path / "libodd-name.so").symlink_to(ffi.filename)
        assert load("WASI_NN_LIBTEST", "odd-name", [tmp_path])

    def test_a_name_with_a_version_comes_last(self, monkeypatch, tmp_path):
        """A distribution's package has the library under that name alone."""
        ffi = pytest.importorskip("wasmtime._ffi")
        monkeypatch.delenv("WASI_NN_LIBTEST", raising=False)
        versioned = tmp_path / "libodd.so.0"
        versioned.symlink_to(ffi.filename)
        missing = "libno-such.so.7"
        assert load("WASI_NN_LIBTEST", "odd", [], "", [missing, str(versioned)])._name == str(
            versioned
        )
        (tmp_path / "libodd.so").symlink_to(ffi.filename)
        plain = load("WASI_NN_LIBTEST", "odd", [tmp_path], "", [str(versioned)])
        assert plain._name == str(tmp_path / "libodd.so")

    def test_once_gives_all_threads_the_same_object(self):
        made: list[object] = []

        def make():
            time.sleep(0.05)
            made.append(object())
            if len(made) == 1:
                raise Unavailable("not yet")
            return made[-1]

        once = Once(make)
        with pytest.raises(Unavailable):
            once()
        got: list[object] = []
        together([lambda: got.append(once())] * 4)
        assert len(made) == 2
        assert got == [made[1]] * 4

    def test_views_are_writable_and_not_copies(self):
        data = ctypes.create_string_buffer(8)
        view_at(ctypes.addressof(data), 8)[2:4] = b"xy"
        assert data.raw == b"\0\0xy\0\0\0\0"
        assert view_at(0, 0).nbytes == 0
