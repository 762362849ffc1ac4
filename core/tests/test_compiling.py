"""Waiting for a compiler, and giving up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial

import pytest
from conftest import needs, run_python

from wasi_nn._host.compiling import Code, StillCompiling, Waiter
from wasi_nn._process.compilation import here
from wasi_nn.wasm.module import leb, section_bytes

# More functions than any compiler compiles in the time of a test.
MANY = 300_000


class Compiler:
    """Gives its number of calls as the code, when it is let go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Event()
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(60)
        return f"code {self.calls}"


class Endable(Compiler):
    """One that can be ended."""

    def __call__(self) -> str:
        with here.endable(self.go_on.set):
            return super().__call__()


def soon(work, *arguments):
    threading.Timer(0.05, work, arguments).start()


def test_all_who_wait_get_the_same_code():
    compiler = Compiler()
    code = Code(compiler)
    assert code.made is None
    got = []
    threads = [threading.Thread(target=lambda: got.append(code.get(Waiter()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert code.seconds == 0
    soon(compiler.go_on.set)
    for thread in threads:
        thread.join()
    assert got == ["code 1"] * 4
    assert code.made == "code 1"
    assert code.seconds > 0


def test_one_who_stops_leaves_the_others_waiting():
    compiler = Compiler()
    code = Code(compiler)
    stays, leaves = Waiter(), Waiter()
    got = []
    thread = threading.Thread(target=lambda: got.append(code.get(stays)))
    thread.start()
    soon(leaves.stop)
    with pytest.raises(StillCompiling):
        code.get(leaves)
    compiler.go_on.set()
    thread.join()
    assert got == ["code 1"]


def test_one_who_was_stopped_before_does_not_wait():
    waiter = Waiter()
    waiter.stop()
    compiler = Compiler()
    with pytest.raises(StillCompiling):
        Code(compiler).get(waiter)
    assert compiler.calls == 0


def test_a_compilation_that_was_given_up_is_not_begun_again():
    compiler = Compiler()
    code = Code(compiler)
    first = Waiter()
    soon(first.stop)
    with pytest.raises(StillCompiling):
        code.get(first)
    compiler.go_on.set()
    assert code.get(Waiter()) == "code 1"


def test_an_endable_compilation_is_ended_when_nobody_waits():
    compiler = Endable()
    code = Code(compiler)
    waiter = Waiter()
    threading.Thread(target=lambda: (compiler.begun.wait(), waiter.stop())).start()
    with pytest.raises(StillCompiling):
        code.get(waiter)
    assert compiler.go_on.wait(60)
    assert code.get(Waiter()) == "code 2"


def test_a_compilation_that_becomes_endable_later_is_ended_then():
    """The compiler's process is being started when the last one stops waiting."""
    begun, left, ended = threading.Event(), threading.Event(), threading.Event()

    def compile():
        begun.set()
        assert left.wait(60)
        with here.endable(ended.set):
            assert ended.wait(60)
        raise ValueError("the process was ended")

    code = Code(compile)
    waiter = Waiter()
    threading.Thread(target=lambda: (begun.wait(), waiter.stop())).start()
    with pytest.raises(StillCompiling):
        code.get(waiter)
    left.set()
    assert ended.wait(60)


def test_the_guests_bytes_are_freed_after_compiling():
    class Guest(bytearray):
        """Bytes that a weak reference can watch."""

    guest = Guest(b"code")
    gone = threading.Event()
    weakref.finalize(guest, gone.set)
    code = Code(partial(bytes, guest))
    del guest
    assert code.get(Waiter()) == b"code"
    assert gone.wait(60)
    assert code.get(Waiter()) == b"code"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_code_that_is_being_compiled_when_the_process_forks_is_compiled_in_the_child():
    compiler = Compiler()
    code = Code(compiler)
    got = []
    thread = threading.Thread(target=lambda: got.append(code.get(Waiter())))
    thread.start()
    assert compiler.begun.wait(60)
    child = os.fork()
    if not child:
        # (No assertion and no error may leave this block: the child would go on with the tests.)
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            compiler.go_on.set()
            waiter = Waiter()
            os._exit(0 if code.get(waiter) == code.get(waiter) == "code 2" else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    compiler.go_on.set()
    thread.join()
    assert got == ["code 1"]


def test_a_compilers_exception_comes_out_and_the_next_caller_tries_again():
    results = [ValueError("first"), ValueError("second")]

    def compile():
        if results:
            raise results.pop(0)
        return "code"

    code = Code(compile)
    for text in ("first", "second"):
        with pytest.raises(ValueError, match=text):
            code.get(Waiter())
    assert code.get(Waiter()) == "code"


def test_a_guest_can_be_compiled_at_the_exit_of_python(guests):
    """Python 3.12 starts no thread any more then."""
    needs("wasmtime")
    code = """
import atexit, sys
from wasi_nn import Host
host = Host(runtime="wasmtime")
print(host.run(sys.argv[1]).exit_code)
atexit.register(lambda: print(host.run(sys.argv[1]).exit_code))
"""
    ended = run_python(code, guests / "hello/hello.wasm")
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, ["0", "0"], "")


def large_module(functions: int, imported: int = 0) -> bytes:
    """A command with that many functions of a few instructions; the first is exported as f.
    ``imported`` are x.y, which nobody has."""
    body = b"\x00\x20\x00\x41\x07\x6a\x41\x07\x6c\x0b"
    sections = (
        (1, b"\x02\x60\x01\x7f\x01\x7f\x60\x00\x00"),
        (2, leb(imported) + b"\x01x\x01y\x00\x01" * imported),
        (3, leb(functions + 1) + b"\x00" * functions + b"\x01"),
        (7, b"\x02\x06_start\x00" + leb(imported + functions) + b"\x01f\x00" + leb(imported)),
        (10, leb(functions + 1) + (leb(len(body)) + body) * functions + b"\x02\x00\x0b"),
    )
    parts = [bytes(part) for number, data in sections for part in section_bytes(number, data)]
    return b"\0asm\1\0\0\0" + b"".join(parts)


def nested_module(loops: int, variables: int) -> bytes:
    """A command of a few KB: loops in loops around variables that change. What a compiler has to
    do for it grows with the product."""
    body = b"\x01" + leb(variables) + b"\x7f" + b"\x03\x40" * loops
    for number in map(leb, range(variables)):
        body += b"\x20" + number + b"\x41\x01\x6a\x21" + number
    body += b"\x20\x00\x0d\x00\x0b" * loops + b"\x0b"
    sections = (
        (1, b"\x01\x60\x00\x00"),
        (3, b"\x01\x00"),
        (7, b"\x01\x06_start\x00\x00"),
        (10, b"\x01" + leb(len(body)) + body),
    )
    parts = [bytes(part) for number, data in sections for part in section_bytes(number, data)]
    return b"\0asm\1\0\0\0" + b"".join(parts)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    needs("wasmtime")
    path = tmp_path_factory.mktemp("large") / "large.wasm"
    path.write_bytes(large_module(MANY))
    return path


COMMAND = (sys.executable, "-m", "wasi_nn")


def hear_ctrl_c():
    """(Where the tests run in the background, SIGINT is ignored.)"""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """The command line, with its stderr on a terminal."""

    def __init__(self, arguments, environment):
        pty = pytest.importorskip("pty")
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**environment, "TERM": "xterm"},
            preexec_fn=hear_ctrl_c,
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def read(self, until):
        """What comes up to these bytes."""
        said = b""
        while until not in said:
            said += os.read(self._ours, 1)
        return said

    def rest(self):
        """What comes until the command ends."""
        said = b""
        # (Linux says EIO when nobody has the other end any more.)
        with contextlib.suppress(OSError):
            while more := os.read(self._ours, 1000):
                said += more
        return said


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}


@pytest.mark.parametrize("guest", [large_module(MANY), nested_module(500, 500)], ids=len)
def test_a_deadline_and_an_interrupt_reach_the_compiler(guest, tmp_path, environment):
    needs("wasmtime")
    path = tmp_path / "guest.wasm"
    path.write_bytes(guest)
    code = """
import sys, threading
from wasi_nn import Host, Limits
from wasi_nn.errors import DeadlineExceeded
host = Host(runtime="wasmtime")
program = host.program(sys.argv[1])
result = program.run(limits=Limits(timeout=0.3))
print(result.exit_code, result.error)
result = program.run(on_start=lambda guest: threading.Timer(0.3, guest.interrupt).start())
print(result.exit_code, result.error)
for attempt in (program.compile, program.instantiate):
    try:
        attempt(timeout=0.3)
    except DeadlineExceeded as error:
        print(error)
"""
    ended = run_python(code, path, env=environment)
    deadline = "quota timeout: the guest was still being compiled at its deadline of 0.3 s"
    interrupted = "the guest was interrupted while it was being compiled"
    expected = [f"124 {deadline}", f"130 {interrupted}", deadline, deadline]
    assert (ended.returncode, ended.stdout.splitlines(), ended.stderr) == (0, expected, "")


def test_ctrl_c_reaches_the_compiler_of_a_program_in_python(large, environment):
    code = """
import os, signal, sys, threading
from wasi_nn import Host
signal.signal(signal.SIGINT, signal.default_int_handler)
for work in (Host(runtime="wasmtime").compile, Host(runtime="wasmtime").run):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        work(sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted")
"""
    ended = run_python(code, large, env=environment)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, ["interrupted"] * 2, "")


def test_the_command_lines_deadline_counts_compiling(large, environment):
    """What compiles is told to terminals alone."""
    ended = subprocess.run(
        [*COMMAND, "run", "--runtime", "wasmtime", "--timeout", "2", large],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    said = "wasi-nn: quota timeout: the guest was still being compiled at its deadline of 2.0 s\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (124, "", said)


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--runtime", "wasmtime"],
        ["run", "--runtime", "wasmtime@"],
        ["run", "--runtime", "wasmtime", "--invoke", "f"],
        ["inspect"],
    ],
    ids=lambda command: " ".join(command),
)
def test_ctrl_c_ends_the_command_line_while_it_compiles(large, environment, command):
    """A terminal says what is compiled, until that ends."""
    more = ["1"] if "--invoke" in command else []
    with Terminal([*command, large, *more], environment) as terminal:
        said = terminal.read(b"compiling large.wasm \xe2\x80\xa6")
        terminal.process.send_signal(signal.SIGINT)
        said += terminal.rest()
        assert terminal.process.wait(60) == 130
    line = b"wasi-nn: compiling large.wasm \xe2\x80\xa6"
    ended = b"" if "inspect" in command else b"wasi-nn: the guest was interrupted while it was"
    assert said.startswith(line + b"\r\x1b[K" + ended)
    assert said.count(b"compiling") == 1


def test_ctrl_c_ends_the_description_of_another_pythons_engine(guests, tmp_path):
    """The terminal sends it there too, and what ends for that is not to blame."""
    needs("wasmtime")
    python, begun = tmp_path / "python", tmp_path / "begun"
    python.write_text(f"#!/bin/sh\necho > '{begun}'\nsleep 60\n")
    python.chmod(0o755)
    process = subprocess.Popen(
        [*COMMAND, "run", "--runtime", "wasmtime", "--python", python, guests / "hello/hello.wasm"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        while not begun.exists():
            time.sleep(0.05)
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        # (Until the other Python ends, it has our stderr.)
        assert process.stderr.readline() == b"wasi-nn: interrupted\n"
    finally:
        # (The group is gone if the other Python has heard it too.)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_inspect_lists_missing_imports_before_it_compiles(tmp_path, environment):
    """This guest would compile for a minute."""
    path = tmp_path / "large.wasm"
    path.write_bytes(large_module(MANY, imported=1))
    ended = subprocess.run(
        [*COMMAND, "inspect", path],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert ended.returncode == 1
    assert "it imports x.y, which comes from nothing that this host knows" in ended.stdout
