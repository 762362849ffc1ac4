"""Engines in processes of their own run guests as they do in this one."""

from __future__ import annotations

import gc
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import needs_engine

from wasi_nn import Host, Limits, Policy
from wasi_nn.errors import (
    DeadlineExceeded,
    GuestTrap,
    Interrupted,
    InvalidArgument,
    Unavailable,
    UsageError,
)
from wasi_nn.runtime import HostFunction
from wasi_nn.runtime.process import child
from wasi_nn.runtime.process import runtime as process
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.engine_tests.common import COMMAND, LOOP
from wasi_nn_conformance.places import GUESTS

needs_engine("wasmtime")

ROOT = Path(__file__).resolve().parents[2]
#: `make test` makes it where there is a Python 3.10.
OTHER = ROOT / "build" / "python3.10" / "bin" / "python"


class TestWasmtime(EngineTests):
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

    def test_a_deadline_ends_the_wait_for_a_process_that_does_not_answer(self, host, wat):
        wasm = wat('(module (memory (export "memory") 1) (func (export "f")))')
        with host.compile(wasm).instantiate() as guest:
            guest._timeout = 0.5
            os.kill(guest._instance._child._process.pid, signal.SIGSTOP)
            with pytest.raises(DeadlineExceeded):
                guest.memory.read(0, 4)
            with pytest.raises(Interrupted):
                guest.memory.write(0, b"late")

    def test_its_features_are_those_of_the_engine_and_of_a_process(self, host):
        engine = Host(runtime="wasmtime").runtime.features
        assert host.runtime.features == engine._replace(zero_copy_memory=False)


@pytest.mark.skipif(not OTHER.exists(), reason="there is no build/python3.10; make test")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the other Python is this one")
class TestWasmer(EngineTests):
    """wasmer's package, which has wheels for Python 3.10 and none newer."""

    runtime = f"wasmer@{OTHER}"
    share = 0.02

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """The package, where the environment names a libwasmer too."""
        monkeypatch.delenv("WASI_NN_LIBWASMER", raising=False)
        process._describe.cache_clear()
        yield
        process._describe.cache_clear()

    def test_a_directory_is_refused(self, host, wat, tmp_path):
        """The package would let the guest leave it."""
        with pytest.raises(UsageError, match="could leave that directory"):
            host.run(wat(COMMAND.format("")), dirs={"/d": tmp_path})

    def test_the_other_python_gets_no_modules_of_this_one(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        process._describe.cache_clear()
        with Host(runtime=self.runtime) as host:
            assert host.run(GUESTS / "hello" / "hello.wasm").stdout == b"hello, wasi-nn\n"

    def test_availability_names_the_process(self, host):
        assert (
            "wasmer 1.1.0 (Python package), in a process of" in host.runtime.availability().detail
        )


def test_a_python_without_our_packages_lacks_only_the_engine(tmp_path):
    """A fresh environment, without pluggy even: the engine's library is what it lacks."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    with (
        pytest.raises(Unavailable, match="wasmtime is not installed"),
        Host(runtime=f"wasmtime@{python}") as host,
    ):
        host.runtime  # noqa: B018


@pytest.mark.parametrize("program", ["no-such-python", "false", "echo"])
def test_a_program_that_is_not_a_python_is_refused(program):
    with pytest.raises(Unavailable, match=program), Host(runtime=f"wasmtime@{program}") as host:
        host.runtime  # noqa: B018


@pytest.fixture(params=["wasmtime@", "v8"])
def runtime(request):
    needs_engine(request.param.rstrip("@"))
    return request.param


@pytest.fixture
def host(runtime):
    with Host(runtime=runtime, policy=Policy(own_models=True)) as made:
        yield made


NUMBERS = """(module (import "test" "f" (func $f)) (memory (export "memory") 1)
    (func (export "slow") (loop $l (br $l)))
    (func (export "call") (result i32) (call $f) (i32.const 1))
    (func (export "two") (result i32) (i32.const 2)))"""


class _Tick(Exception):
    pass


def test_no_call_gets_the_answer_of_an_abandoned_one(host, wat):
    """A signal's handler raises while the guest runs: it is interrupted, and its process ended."""

    def tick(*_):
        raise _Tick

    extra = [HostFunction("test", "f", 0, False, lambda memory: None)]
    before = signal.signal(signal.SIGALRM, tick)
    try:
        with host.compile(wat(NUMBERS)).instantiate(extra=extra) as guest:
            assert guest.call("two") == (2,)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(_Tick):
                guest.call("slow")
            with pytest.raises(Interrupted):
                guest.call("two")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits a process so")
def test_the_memory_of_the_process_is_limited(host, wat, monkeypatch):
    monkeypatch.setattr(child, "_MAX_GUEST_BYTES", 0)
    monkeypatch.setattr(child, "_ENGINE_BYTES", 512 << 20)
    wasm = wat(
        """(module (memory (export "memory") 1) (func (export "grow") (result i32)
        (loop $again (br_if $again (i32.ge_s (memory.grow (i32.const 256)) (i32.const 0))))
        (memory.size)))"""
    )
    with host.compile(wasm).instantiate() as guest:
        (pages,) = guest.call("grow")
    assert 256 <= pages * 65536 >> 20 <= 512
    # The guest's own limit comes on top, even if it is a number that no system has.
    with host.compile(wasm).instantiate(limits=Limits(memory=(1 << 63) - 1)) as guest:
        assert guest.call("grow")[0] > pages


def test_ctrl_c_reaches_only_the_host(host, wat):
    """A terminal sends it to the guest's process too."""

    def press(memory):
        os.kill(guest._instance._child._process.pid, signal.SIGINT)

    extra = [HostFunction("test", "f", 0, False, press)]
    with host.compile(wat(NUMBERS)).instantiate(extra=extra) as guest:
        assert guest.call("call") == (1,)
        time.sleep(0.1)
        assert guest.call("two") == (2,)


def test_a_start_without_free_descriptors_leaks_none(host, wat):
    program = host.compile(wat(COMMAND.format("")))
    program.run()  # (The watch on the keyboard, once in a process, has two.)
    gc.collect()  # What earlier tests left is not counted.
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = 0
    # A process needs some for itself too (Node.js about twenty), and has the same limit: more and
    # more of them until one runs. (They are numbered from 0 on; the listing's own one is closed.)
    for limit in range(before - 1, before + 100):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            program.run()
        except (GuestTrap, OSError):
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) == before
    assert 0 < failed < 101


def test_a_deadline_ends_a_host_function_that_reads(host, wat):
    """The process is ended in the middle of an answer, which is nobody's failure."""
    wasm = wat(
        """(module (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32)
            (result i32)))
          (memory (export "memory") 200)
          (data (i32.const 16) "\\00\\01\\00\\00\\00\\00\\c0\\00")
          (func (export "_start") (loop $l (drop (call $load
            (i32.const 16) (i32.const 1) (i32.const 5) (i32.const 0) (i32.const 32))) (br $l))))"""
    )
    reached, timeout = 0, 0.5
    while reached < 4:
        result = host.run(wasm, limits=Limits(timeout=timeout))
        assert isinstance(result.error, DeadlineExceeded)
        reasons = {failure.reason for failure in result.failures}
        assert reasons <= {
            "autodetect does not recognise the model: the model is nothing but zeros. Its "
            "download or copy is not finished: get it again"
        }
        reached += bool(reasons)
        # (The process has to be there before.)
        timeout *= 1.04 if reasons else 2


def test_memory_is_new_after_a_nested_call_that_traps(host, wat):
    wasm = wat(
        """(module (import "test" "f" (func $f (param i32)))
        (memory (export "memory") 1) (data (i32.const 64) "old!")
        (func (export "call") (call $f (i32.const 64)))
        (func (export "change") (i32.store (i32.const 64) (i32.const 0x2177656e))
          (drop (memory.grow (i32.const 1))) unreachable))"""
    )
    seen = []

    def look(memory, at):
        seen.append((bytes(memory.read(at, 4)), memory.size))
        with pytest.raises(GuestTrap, match="unreachable"):
            guest.call("change")
        seen.append((bytes(memory.read(at, 4)), memory.size))

    extra = [HostFunction("test", "f", 1, False, look)]
    with host.compile(wasm).instantiate(extra=extra) as guest:
        guest.call("call")
    assert seen == [(b"old!", 65536), (b"new!", 131072)]


def test_an_argument_that_cannot_be_sent_does_not_end_the_guest(host, wat):
    wasm = wat('(module (func (export "same") (param i32) (result i32) (local.get 0)))')
    with host.compile(wasm).instantiate() as guest:
        with pytest.raises((TypeError, UsageError)):
            guest.call("same", object())
        assert guest.call("same", 3) == (3,)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_host_may_have_no_standard_streams(guests, runtime, closed):
    command = f'"$1" -m wasi_nn run --runtime {runtime} "$2" {closed}'
    hello = guests / "hello" / "hello.wasm"
    done = subprocess.run(["sh", "-c", command, "sh", sys.executable, hello], capture_output=True)
    wanted = b"" if ">" in closed else b"hello, wasi-nn\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, wanted, b"")


def test_ctrl_c_ends_the_start_of_an_engine(wat):
    """It comes to the process too, before that could say that it wants none of it."""
    with Host(runtime="wasmtime@") as host:
        program = host.compile(wat(NUMBERS))
        extra = [HostFunction("test", "f", 0, False, lambda memory: None)]
        for wait in (0, 0.005, 0.02, 0.05):
            with program.instantiate(extra=extra) as guest:
                time.sleep(wait)
                os.kill(guest._instance._child._process.pid, signal.SIGINT)
                assert guest.call("two") == (2,)


_OK = struct.pack("<II", 1, 12) + b'{"size": 99}'


def _failed(text: bytes) -> bytes:
    return struct.pack("<II", 2, len(text)) + text


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<II", 3, 4) + b"aaaa",
        struct.pack("<II", 3, 12) + struct.pack("<III", 99, 0, 0),
        struct.pack("<II", 1, 4) + b"aaaa",
        struct.pack("<II", 1, 3) + b"[1]",
        struct.pack("<II", 2, 2) + b"{}",
        struct.pack("<II", 4, 2) + b"{}",
        struct.pack("<II", 77, 2) + b"{}",
        # What is claimed here would fill the host's memory.
        struct.pack("<II", 4, 3 << 30),
        struct.pack("<II", 3, 3 << 30),
        struct.pack("<II", 1, 3 << 30),
        _failed(b'{"size": 1, "kind": "exit", "text": "", "code": Infinity}'),
        _failed(b'{"size": 1, "kind": [], "text": ""}'),
        _failed(b"[" * 100_000),
    ],
)
def test_a_process_that_sends_nonsense_ends_the_guest(message, stand_in, wat):
    stand_in(_OK, _OK + message)
    with Host(runtime="v8") as host:
        result = host.run(wat(COMMAND.format("")))
    assert isinstance(result.error, GuestTrap)
    assert "does not keep to its protocol" in str(result.error)


def test_nonsense_in_place_of_memory_ends_the_guest(stand_in, wat):
    large = b'{"size": 99999999999}'
    answer = struct.pack("<II", 1, len(large)) + large
    stand_in(_OK, _OK + answer + struct.pack("<II", 4, 2) + b"{}")
    wasm = wat('(module (memory (export "memory") 1) (func (export "f")))')
    with Host(runtime="v8") as host, host.instantiate(wasm) as guest:
        with pytest.raises(InvalidArgument):
            guest.memory.read(1 << 32, 4)
        with pytest.raises(GuestTrap, match="does not keep to its protocol"):
            guest.memory.read(0, 4)


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<II", 3, 12) + struct.pack("<III", 99, 0, 0),
        struct.pack("<II", 77, 2) + b"{}",
        struct.pack("<II", 1, 3 << 30),
        _failed(b"aaaa"),
        _failed(b"[1]"),
        _failed(b"{}"),
        _failed(b"[" * 100_000),
    ],
)
def test_nonsense_in_place_of_a_compiled_module_is_refused(message, stand_in, wat):
    stand_in(message, b"")
    with Host(runtime="v8") as host, pytest.raises(UsageError, match="does not keep to"):
        host.compile(wat(COMMAND.format("")))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """For Node.js, since no real process talks nonsense: ``stand_in(first, second)`` is what it
    says when it is to compile, and when it is to run."""

    def make(first, second):
        node = tmp_path / "node"
        node.write_text(
            f"#!{sys.executable}\n"
            "import os, sys, time\n"
            "if sys.argv[1] == '--version': sys.exit(print('v22.0.0'))\n"
            f"os.write(int(sys.argv[4]), {first!r} if len(sys.argv) == 5 else {second!r})\n"
            "time.sleep(5)\n"
        )
        node.chmod(0o755)
        monkeypatch.setenv("WASI_NN_NODE", str(node))

    return make


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
def test_a_guest_that_computes_ends_with_its_host(wat, runtime):
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
