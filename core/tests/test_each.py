"""`wasi-nn run --each`, run as a user runs it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CAT, needs

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds.
_HANG = 60
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
RUN = [sys.executable, "-m", "wasi_nn", "run"]
# Tries to make the file "new" in its first directory, and ends with the errno.
MAKE = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "new")
  (func (export "_start")
    (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))))"""


@pytest.fixture
def folder(tmp_path, wat):
    for name, text in (("cat", CAT), ("loop", LOOP), ("make", MAKE)):
        (tmp_path / f"{name}.wasm").write_bytes(wat(text))
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt").write_text(f"text {number}\n")
    return tmp_path


@pytest.fixture
def run(folder):
    def call(*arguments, stdin=b""):
        command = [*RUN, *map(str, arguments)]
        ended = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, timeout=_HANG)
        return ended.returncode, ended.stdout.decode(), ended.stderr.decode()

    return call


def test_a_model_classifies_each_file_in_the_order_of_the_files(run, folder, guests):
    needs("onnxruntime")
    for number in range(5):
        (folder / "in" / f"{number}.raw").write_bytes(struct.pack("<4f", *[number] * 4))
    model, guest = GRAPHS / "onnx/matmul.onnx", guests / "classify/classify.wasm"
    common = ["--graph", f"net={model}"]
    names = [f"in/{number}.raw" for number in range(5)]
    alone = [run(*common, "--dir", "in", guest, "name:net", name, "1,4") for name in names]
    assert len({out for _, out, _ in alone}) == 5
    together = run(*common, "--jobs", 3, "--each", *names, guest, "name:net", "{}", "1,4")
    assert together == (0, "".join(out for _, out, _ in alone), "")


@pytest.mark.parametrize("path", ["../in/0.raw", "{tmp}/in/0.raw", "./0.raw", "0.raw"])
def test_the_guest_opens_the_file_under_the_path_that_was_given(guests, folder, path):
    needs("onnxruntime")
    (folder / "in" / "0.raw").write_bytes(struct.pack("<4f", 1, 2, 3, 4))
    ended = subprocess.run(
        [
            *(*RUN, "--graph", f"net={GRAPHS / 'onnx/matmul.onnx'}"),
            *("--each", path.format(tmp=folder)),
            *(guests / "classify/classify.wasm", "name:net", "{}", "1,4"),
        ],
        capture_output=True,
        cwd=folder / "in",
        timeout=_HANG,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_symbolic_link_is_followed_for_the_guest(guests, folder, run):
    needs("onnxruntime")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "blob").write_bytes(struct.pack("<4f", 1, 2, 3, 4))
    (folder / "in" / "link.raw").symlink_to("../elsewhere/blob")
    model, guest = GRAPHS / "onnx/matmul.onnx", guests / "classify/classify.wasm"
    code, out, err = run(
        *("--graph", f"net={model}", "--each", "in/link.raw", guest, "name:net", "{}", "1,4")
    )
    assert (code, out.count("\n"), err) == (0, 3, "")


def test_many_failures_are_counted_and_the_first_are_named(run):
    code, _, err = run("--each", "-", "cat.wasm", stdin=b"missing\n" * 12)
    names = ", ".join(["missing"] * 10)
    assert code == 1
    assert err.splitlines()[-1] == f"wasi-nn: 12 of 12 runs failed: {names} and 2 more"


def test_without_a_place_in_the_arguments_the_file_is_standard_input(run):
    """As a shell makes it of in/*.txt, as a pattern, and with the names on standard input."""
    names = [f"in/{number}.txt" for number in range(5)]
    expected = (0, "".join(f"text {number}\n" for number in range(5)), "")
    assert run("--each", *names, "cat.wasm") == expected
    assert run("--each", *names, "--jobs", 2, "cat.wasm", "--each", "x") == expected
    assert run("--each", "in/*.txt", "cat.wasm") == expected
    assert run("--each=in/*.txt", "-j1", "cat.wasm") == expected
    assert run("--each", "-", "cat.wasm", stdin="\n".join(names).encode()) == expected
    assert run("--each", "-", "cat.wasm") == (0, "", "")


def test_outputs_are_whole_and_not_mixed(run, folder):
    texts = [bytes([65 + number]) * 300_000 + b"\n" for number in range(6)]
    for number, text in enumerate(texts):
        (folder / f"{number}.big").write_bytes(text)
    code, out, err = run("--jobs", 4, "--each", "*.big", "cat.wasm")
    assert (code, out.encode() == b"".join(texts), err) == (0, True, "")


def test_what_fails_is_named_and_the_others_go_on(run, folder):
    (folder / "in" / "2.txt").write_bytes(b"")
    (folder / "in" / "3.txt").unlink()
    names = [f"in/{number}.txt" for number in range(5)]
    code, out, err = run("--each", *names, "in", "cat.wasm")
    assert (code, out) == (1, "text 0\ntext 1\ntext 4\n")
    first, second, third, summary = [line for line in err.splitlines() if line[:1] != " "]
    assert first.startswith("wasi-nn: in/2.txt: ")
    assert second == "wasi-nn: in/3.txt: No such file or directory"
    assert third == "wasi-nn: in: Is a directory"
    assert summary == "wasi-nn: 3 of 6 runs failed: in/2.txt, in/3.txt, in"


def test_a_reason_of_the_host_says_which_file_it_is_about(run, guests):
    names = ["in/0.txt", "in/1.txt"]
    code, _, err = run("--each", *names, guests / "echo/echo.wasm", "missing", "{}")
    assert code == 1
    for name in names:
        assert f"wasi-nn: {name}: load_by_name" in err


def test_limits_hold_for_each_run(run):
    code, out, err = run("--timeout", 0.3, "--each", "in/0.txt", "in/1.txt", "loop.wasm")
    assert (code, out) == (1, "")
    assert err.count("deadline of 0.3 s") == 2


def test_the_guest_may_only_read_beside_its_file(run, folder):
    code, _, err = run("--each", "in/0.txt", "make.wasm", "{}")
    assert code == 1
    # That is EPERM.
    assert "in/0.txt: exit code 63" in err
    assert not (folder / "in" / "new").exists()
    # What the user gives to the guest holds.
    assert run("--dir", "in", "--each", "in/0.txt", "make.wasm", "{}")[0] == 0
    assert (folder / "in" / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--each", "*.missing", "cat.wasm"], "--each *.missing: no file matches"),
        (["--each", "in/0.txt", "in/1.txt"], "the guest (a .wasm file) must follow"),
        (["--each", "-", "--each", "in/0.txt", "cat.wasm"], "reads the names of all files"),
        (["--each", "in/0.txt", "--invoke", "other", "cat.wasm"], "--each runs programs"),
        (["--jobs", "2", "cat.wasm"], "--jobs is for --each"),
        (["--jobs", "0", "--each", "in/0.txt", "cat.wasm"], "'--jobs'"),
        (["--each", "in/0.txt", "--dialect", "latin", "cat.wasm"], "no dialect"),
        (["--each", "in/0.txt", "missing.wasm"], "missing.wasm"),
    ],
)
def test_mistakes_are_one_line(run, arguments, says):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_the_answer_for_a_name_comes_before_the_next_name(folder):
    command = [*RUN, "--each", "-", "cat.wasm"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        for number in range(3):
            process.stdin.write(b"in/%d.txt\n" % number)
            process.stdin.flush()
            assert process.stdout.readline() == b"text %d\n" % number
        process.stdin.close()
        assert process.wait(_HANG) == 0


def test_ctrl_c_ends_everything(folder):
    command = [*RUN, "--jobs", "2", "--each", "-", "loop.wasm"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        process.stdin.write(b"in/0.txt\nin/1.txt\nin/2.txt\n")
        process.stdin.flush()
        # The main thread, that which shows the outcomes, and two that run guests.
        tasks = Path(f"/proc/{process.pid}/task")
        while tasks.exists() and len(list(tasks.iterdir())) < 4:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=_HANG)
    assert (process.returncode, out) == (130, b"")
    assert err.decode().splitlines()[-1] == "wasi-nn: interrupted"


def test_a_closed_pipe_ends_it_quietly(folder):
    (folder / "big").write_bytes(b"x\n" * 100_000)
    command = [*RUN, "--each", *["big"] * 20, "cat.wasm"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(_HANG) == 141


def test_a_terminal_shows_how_far_it_is(folder):
    pty = pytest.importorskip("pty", reason="this system has no terminals")
    ours, theirs = pty.openpty()
    (folder / "in" / "2.txt").write_bytes(b"")
    command = [*RUN, "--each", "in/*.txt", "cat.wasm"]
    env = {**os.environ, "TERM": "xterm"}
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, cwd=folder, timeout=_HANG, env=env
    )
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert ended.returncode == 1
    assert "wasi-nn: 0 of 5 done\r\x1b[K" in said
    assert "wasi-nn: 5 of 5 done, 1 failed\r\x1b[K" in said
    # Nothing of it stays on the last lines.
    assert said.splitlines()[-1].endswith("\x1b[Kwasi-nn: 1 of 5 runs failed: in/2.txt")


def test_help_shows_how_to_give_the_files(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "--each photos/*.raw classify.wasm name:net {} 1,3,224,224" in out
