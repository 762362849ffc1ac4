"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from conftest import LIBRARIES, hide, needs
from onnx import TensorProto, helper

COMMAND = [sys.executable, "-m", "wasi_nn"]


def wasi_nn(*arguments, cwd=None, env=None, stdin=b""):
    given = {**os.environ, **(env or {})}
    if "PYTHONPATH" in os.environ and given["PYTHONPATH"] != os.environ["PYTHONPATH"]:
        # A checkout's packages, where they are not the ones that are installed.
        given["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    run = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=given,
        timeout=60,
    )
    return run.returncode, run.stdout.decode(), run.stderr.decode()


@pytest.fixture
def echo(identity_model):
    return identity_model("echo", stream=5)


@pytest.fixture
def relu(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path / "relu" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    (tmp_path / "in.raw").write_bytes(struct.pack("<3f", -1, 3, 2))
    return path


def test_help_has_examples():
    for arguments, says in (
        ((), "Usage: wasi-nn"),
        (("--help",), "run      "),
        (("run", "--help"), "wasi-nn run --graph mobilenet=mobilenet.onnx"),
        (("inspect", "--help"), "wasi-nn inspect guest.wasm"),
    ):
        code, out, err = wasi_nn(*arguments)
        assert says in out + err
        assert code == (0 if arguments else 2)


def test_the_installed_command_is_the_same():
    script = Path(sys.executable).with_name("wasi-nn")
    assert script.exists()
    run = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == "wasi-nn 0.1.0\n"


def test_a_guest_prints_hello(guests):
    assert wasi_nn("run", guests / "hello/hello.wasm") == (0, "hello, wasi-nn\n", "")


@pytest.mark.parametrize(
    "spelling", ["ours", "explicit", "wasmedge", "wasmtime", "wasmtime with a comma"]
)
def test_every_spelling_of_a_model(guests, relu, spelling):
    folder = relu.parent.parent
    options = {
        "ours": ("--graph", "relu=relu/model.onnx"),
        "explicit": ("--graph", "relu=onnx:cpu:relu/model.onnx"),
        "wasmedge": ("--nn-preload", "relu:ONNX:CPU:relu/model.onnx"),
        "wasmtime": ("-S", "nn", "-S", "nn-graph=onnx::relu"),
        "wasmtime with a comma": ("-S", "nn=y,nn-graph=onnx::relu"),
    }[spelling]
    guest = guests / "classify/classify.wasm"
    code, out, err = wasi_nn(
        "run", *options, "--dir", ".", guest, "name:relu", "in.raw", "1,3", cwd=folder
    )
    assert (code, out, err) == (0, "1 3.0000\n2 2.0000\n0 0.0000\n", "")


def test_a_model_in_a_package_is_found(guests):
    needs("magika")
    model = "package:magika/models/standard_v3_3/model.onnx"
    code, out, err = wasi_nn("run", "--graph", f"m={model}", guests / "hello/hello.wasm")
    assert (code, out, err) == (0, "hello, wasi-nn\n", "")


@pytest.mark.parametrize("option", [".", ".::/data", "/data:.", "{tmp}::/data"])
def test_a_guest_gets_directories(guests, relu, option):
    folder = relu.parent.parent
    inside = "" if option == "." else "/data/"
    code, out, _ = wasi_nn(
        "run",
        "--dir",
        option.format(tmp=folder),
        guests / "classify/classify.wasm",
        f"{inside}relu/model.onnx",
        f"{inside}in.raw",
        "1,3",
        cwd=folder,
    )
    assert (code, out) == (0, "1 3.0000\n2 2.0000\n0 0.0000\n")


def test_failures_are_printed_with_their_reason(guests, echo):
    code, out, err = wasi_nn(
        "run", "--graph", f"echo={echo}", guests / "echo/echo.wasm", "other", "text"
    )
    assert (code, out) == (1, "")
    assert "load_by_name" in err
    assert "8 not_found: no model is registered as 'other'; registered: echo" in err


def test_verbose_prints_every_call(guests, echo):
    arguments = (guests / "echo/echo.wasm", "--stream", "echo", "hello world")
    code, out, err = wasi_nn("run", "-v", "--graph", f"echo={echo}", *arguments)
    assert (code, out) == (0, "hello world")
    assert err.count("compute_single(context 0) in") == 3
    assert re.search(r'load_by_name\("echo"\) = graph 0 in \d', err)
    assert "init_execution_context(graph 0) = context 0 in" in err
    assert "set_input(context 0, input 0) in" in err
    assert "get_output_single(context 0, output 0) = 5 bytes in" in err
    code, out, err = wasi_nn("run", "--graph", f"echo={echo}", *arguments)
    assert (code, err) == (0, "")


def test_stats_go_to_stderr(guests, echo):
    arguments = (guests / "echo/echo.wasm", "--stream", "echo", "hello world")
    code, out, err = wasi_nn("run", "--stats", "--graph", f"echo={echo}", *arguments)
    assert (code, out) == (0, "hello world")
    for word in ("compile", "open model", "identity by identity on cpu", "compute_single", "mean"):
        assert word in err
    # The end of the text is not a failure.
    row = next(line for line in err.splitlines() if line.startswith("compute_single"))
    assert row.split()[2] == "0"


def test_a_config_reaches_the_backend(guests, echo):
    arguments = (guests / "echo/echo.wasm", "--stream", "echo", "hello world")
    options = ("--graph", f"echo={echo}", "--config", 'echo={"stream": 100}')
    code, _, err = wasi_nn("run", "-v", *options, *arguments)
    assert code == 0
    assert err.count("compute_single(context 0) in") == 1


def test_the_memory_of_texts_concerns_only_backends_that_know_it(guests, echo):
    arguments = (guests / "echo/echo.wasm", "echo", "hello world")
    code, _, err = wasi_nn("run", "--kv-memory", "1K", "--graph", f"echo={echo}", *arguments)
    assert (code, err) == (0, "")
    code, _, err = wasi_nn("run", "--kv-memory", "much", "--graph", f"echo={echo}", *arguments)
    assert code == 2
    assert "--kv-memory takes a size" in err


STARTS = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\06\\00\\00\\00hello\\0a")
  (func $f (drop (call $w (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0))) {})
  (start $f))"""
REACTOR = """(module (global $g (mut i32) (i32.const 0)) (memory (export "memory") 1)
  (func (export "_initialize") (global.set $g (i32.const 40)))
  (func (export "add") (param i32) (result i32) (i32.add (local.get 0) (global.get $g))))"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("(call $exit (i32.const 3))", 3)])
@pytest.mark.parametrize("runtime", ["wasmtime", "wasmtime@"])
def test_a_program_in_the_start_section(wat, tmp_path, runtime, end, code):
    guest = tmp_path / "starts.wasm"
    guest.write_bytes(wat(STARTS.format(end)))
    assert wasi_nn("run", "--runtime", runtime, guest) == (code, "hello\n", "")
    assert "a command (its start section)" in wasi_nn("inspect", guest)[1]


def test_a_guest_without_a_program_is_told_how_to_call_it(wat, tmp_path):
    guest = tmp_path / "reactor.wasm"
    guest.write_bytes(wat(REACTOR))
    code, out, err = wasi_nn("run", guest)
    assert (code, out) == (2, "")
    for word in ("_start", "--invoke NAME", "add(i32) -> (i32)"):
        assert word in err
        assert word in wasi_nn("inspect", guest)[1]


FLOATS = """(module (func (export "two") (param f32 f64 i64) (result f32 f64 i64)
  (local.get 0) (local.get 1) (local.get 2)))"""


@pytest.mark.parametrize(
    ("text", "arguments", "out"),
    [
        (REACTOR, ("--invoke", "add", "{guest}", "2"), "42\n"),
        (REACTOR, ("--reactor", "{guest}", "add", "0x10"), "56\n"),
        (REACTOR, ("-f", "add", "{guest}", "-50"), "-10\n"),
        (FLOATS, ("--invoke", "two", "{guest}", "0.1", "1e3", "7"), "0.1\n1000\n7\n"),
    ],
)
def test_invoke_calls_an_export(wat, tmp_path, text, arguments, out):
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(wat(text))
    given = [one.format(guest=guest) for one in arguments]
    assert wasi_nn("run", *given) == (0, out, "")


@pytest.mark.parametrize(
    "options",
    [
        ("--wasi", "nn"),
        ("-S", "cli,common,inherit-env=y"),
        ("-S", "inherit-network,tcplisten=127.0.0.1:0", "-W", "unknown-imports-trap=y"),
        ("-W", "timeout=50s,max-memory-size=90000000"),
        ("-O", "opt-level=2", "--enable-all", "--force-interpreter"),
        ("--wasi-modules=experimental-wasi-nn", "--mapdir", "fixture::."),
        ("--map-dir=/data::.", "--stack-size=65536", "--heap-size=65536"),
        ("--dir", "/data:.:readonly"),
        ("--dir", ".::/data:readonly"),
        ("--volume", ".:/data", "--forward-host-env"),
        ("--time-limit", "50000", "--memory-page-limit", "2000"),
        ("--argv0", "other"),
        ("-S", "nn,preview2,p3,inherit-stdin,inherit-stdout=y,http=n,max-random-size=5"),
        ("-W", "threads=y,nan-canonicalization,max-wasm-stack=1000000,shared-memory"),
        ("-D", "debug-info,max-backtrace=5,coredump=n"),
        ("--enable-gc", "--disable-simd", "--enable-threads", "--wasm-2", "--run-mode", "jit"),
        ("--llvm-jit", "--max-threads=4", "--native-lib=libwasi_nn.so", "--singlepass"),
        ("-v=2", "--enable-segue", "--enable-segue=i32.load,i64.store", "--shared-heap-size=9"),
        ("--time-limit", "0", "--log-level", "error", "--log-level=off"),
        ("--quiet", "--no-tty", "-e", "_start", "--enable-async-threads"),
        ("--wasm-timeout", "50s", "--max-memory-size=90000000", "--disable-cache"),
        ("--timeout=1e3", "--timeout", "50000ms"),
    ],
)
def test_spellings_of_other_hosts(guests, tmp_path, options):
    guest = guests / "hello/hello.wasm"
    code, out, err = wasi_nn("run", *options, guest, "--wasi", cwd=tmp_path)
    assert (code, out, err) == (0, "hello, wasi-nn\n", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--net",), "or --inherit-network"),
        (("--addr-pool=1.2.3.4/15",), "--listen ADDRESS:PORT"),
        (("-S", "http"), "not 'http'"),
        (("-S", "inherit-stdin=n"), "< /dev/null"),
        (("-W", "unknown-imports-default"), "not 'unknown-imports-default'"),
        (("-D", "guest-debug"), "-v"),
        (("--repl",), "--invoke NAME"),
        (("--preload", "m=m.wasm"), "wasm-merge"),
        (("--cwd", "/data"), "--dir"),
        (("--use", "python/python"), ".wasm file"),
        (("--profile", "perfmap"), "--stats"),
        (("-g", "1234"), "-v"),
        (("--net=ipv4:allow=*",), "--connect HOST:PORT"),
        (("--gen-prof-file=x.prof",), "--stats"),
        (("--config", "wasmtime.toml"), "named model"),
        (("--map-dir=data",), "--dir takes HOST::GUEST"),
        (("-v=x",), "-v=5"),
        (("--dir", ""), "no directory"),
        (("--dir", "::/data"), "no directory"),
    ],
)
def test_what_other_hosts_can_and_this_one_cannot_is_one_line(guests, options, says):
    code, out, err = wasi_nn("run", *options, guests / "hello/hello.wasm")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


@pytest.mark.parametrize(
    ("options", "prints_calls"),
    [
        (("-v",), True),
        (("-v=5",), True),
        (("-v=3",), True),
        (("-v=2",), False),
        (("-v=0",), False),
        (("--log-level", "debug"), True),
        (("--log-level=info",), False),
    ],
)
def test_levels_of_verbosity_of_other_hosts(guests, echo, options, prints_calls):
    guest = guests / "echo/echo.wasm"
    model = ("--graph", f"e={echo}")
    # What comes behind the guest is the guest's, whatever it looks like.
    code, out, err = wasi_nn("run", *options, *model, guest, "e", "-v=5")
    assert (code, out.strip()) == (0, "-v=5")
    assert ("load_by_name" in err) is prints_calls


@pytest.mark.parametrize(
    "arguments",
    [
        ("{guest}",),
        ("{guest}", "--version", "x"),
        ("-S", "nn", "{guest}"),
        ("-Wtimeout=50s", "{guest}"),
        ("--dir", ".", "{guest}"),
        ("-v=1", "{guest}"),
        ("--wasm-timeout=50s", "{guest}"),
        ("--reactor", "{guest}", "_start"),
    ],
)
def test_run_is_the_command_when_none_is_named(guests, tmp_path, arguments):
    given = [one.format(guest=guests / "hello/hello.wasm") for one in arguments]
    assert wasi_nn(*given, cwd=tmp_path) == (0, "hello, wasi-nn\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nosuch.wasm",), "cannot read nosuch.wasm"),
        (("rn", "hello.wasm"), "Did you mean 'run'?"),
        (("--versoin",), "No such option '--versoin'"),
        (("compile", "hello.wasm"), "wasi-nn run GUEST"),
        (("validate", "hello.wasm"), "wasi-nn inspect FILE"),
    ],
)
def test_a_command_that_is_not_there_is_one_line(arguments, says):
    code, out, err = wasi_nn(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_the_short_help_option():
    for command in ((), ("run",), ("inspect",), ("plugins",), ("doctor",), ("conformance",)):
        assert wasi_nn(*command, "-h")[0] == 0


def test_wasmedges_statistics_option_prints_our_table(guests):
    _, _, err = wasi_nn("run", "--enable-time-measuring", guests / "hello/hello.wasm")
    assert "instantiate" in err


@pytest.mark.parametrize("runtime", ["wasmtime", "wasmtime@"])
@pytest.mark.parametrize(("arguments", "code"), [(("quit", "3"), 3), (("zero",), 0)])
def test_an_export_that_exits_gives_its_exit_code(wat, tmp_path, runtime, arguments, code):
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(
        wat(
            """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "quit") (param i32) (call $exit (local.get 0)))
            (func (export "zero") (result i32) (call $exit (i32.const 0)) (i32.const 7)))"""
        )
    )
    export, *others = arguments
    given = ("run", "--runtime", runtime, "--invoke", export, guest, *others)
    assert wasi_nn(*given) == (code, "", "")


@pytest.mark.parametrize("option", ["/data:.", "/data:.:readonly"])
def test_a_read_only_directory_cannot_be_written(wat, tmp_path, option):
    guest = tmp_path / "writes.wasm"
    guest.write_bytes(
        wat(
            """(module
            (import "wasi_snapshot_preview1" "path_create_directory"
              (func $make (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 0) "new")
            (func (export "made") (result i32)
              (i32.eqz (call $make (i32.const 3) (i32.const 0) (i32.const 3)))))"""
        )
    )
    writable = not option.endswith("readonly")
    code, out, _ = wasi_nn("run", "--dir", option, "--invoke", "made", guest, cwd=tmp_path)
    assert (code, out) == (0, f"{int(writable)}\n")
    assert (tmp_path / "new").exists() == writable


def test_the_guests_exit_code_trap_and_environment(wat, tmp_path):
    exits = tmp_path / "exits.wasm"
    exits.write_bytes(
        wat(
            """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 42))))"""
        )
    )
    assert wasi_nn("run", exits)[0] == 42
    traps = tmp_path / "traps.wasm"
    traps.write_bytes(wat('(module (func (export "_start") unreachable))'))
    code, _, err = wasi_nn("run", traps)
    assert code == 134
    assert err.startswith("wasi-nn: ")
    assert "unreachable" in err


def test_arguments_and_environment_reach_the_guest(tmp_path, wat):
    # Writes its first variable and its third argument.
    shows = tmp_path / "shows.wasm"
    shows.write_bytes(
        wat(
            """(module
            (import "wasi_snapshot_preview1" "environ_get"
              (func $env (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get"
              (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write"
              (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
              (drop (call $env (i32.const 0) (i32.const 1024)))
              (drop (call $args (i32.const 100) (i32.const 2048)))
              (i32.store (i32.const 512) (i32.load (i32.const 0)))
              (i32.store (i32.const 516) (i32.const 5))
              (i32.store (i32.const 520) (i32.load (i32.const 108)))
              (i32.store (i32.const 524) (i32.const 6))
              (drop (call $write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 600)))
              (drop (call $write (i32.const 1) (i32.const 520) (i32.const 1) (i32.const 600)))))"""
        )
    )
    options = ("--env", "A=1", "--env", "FROM_SHELL")
    code, out, err = wasi_nn(
        "run", *options, shows, "one", "--two=", "three", env={"FROM_SHELL": "x"}
    )
    assert (code, out, err) == (0, "A=1\0F--two=", "")


ENDLESS = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
# What a guest does first that is to show that it runs: it writes a line.
RUNS = """(import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 1000) "\\f0\\03\\00\\00\\05\\00\\00\\00runs\\0a")
  (func $runs (drop (call $write (i32.const 1) (i32.const 1000) (i32.const 1) (i32.const 996))))"""


@pytest.mark.parametrize("code", [126, 200, 255])
def test_every_exit_code(wat, tmp_path, code):
    guest = tmp_path / "exits.wasm"
    guest.write_bytes(
        wat(
            f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"""
        )
    )
    assert wasi_nn("run", guest) == (code, "", "")


def test_inspect_runs_nothing_of_the_guest(wat, tmp_path):
    guest = tmp_path / "starts.wasm"
    guest.write_bytes(
        wat('(module (func $s (loop $l (br $l))) (start $s) (func (export "_start")))')
    )
    code, out, _ = wasi_nn("inspect", guest)
    assert (code, "yes, on wasmtime" in out) == (0, True)
    assert wasi_nn("run", "--timeout", "0.3", guest)[0] == 124


def test_inspect_finds_package_paths():
    needs("magika")
    code, out, _ = wasi_nn("inspect", "package:magika/models/standard_v3_3/model.onnx")
    assert (code, "bytes: i32[?, 2048]" in out) == (0, True)


def test_messages_that_nobody_can_read_do_not_matter_to_the_guest(guests, echo):
    command = [*COMMAND, "run", "--graph", f"echo={echo}", str(guests / "echo/echo.wasm")]
    with open("/dev/full", "w") as full:
        run = subprocess.run([*command, "nothing", "x"], stdout=subprocess.PIPE, stderr=full)
    assert (run.returncode, run.stdout) == (1, b"")
    closed = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command, "nothing", "x"], stdout=subprocess.PIPE
    )
    assert (closed.returncode, closed.stdout) == (1, b"")


@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("command", ["plugins", "inspect", "--help"])
def test_a_reader_may_close_the_pipe_early(guests, command, reader):
    files = [str(guests / "hello/hello.wasm")] if command == "inspect" else []
    run = subprocess.run(
        ["sh", "-c", f'"$@" | {reader}', "sh", *COMMAND, command, *files],
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""


def test_an_argument_that_is_not_utf_8_is_refused(guests):
    run = subprocess.run(
        [*COMMAND, "run", str(guests / "hello/hello.wasm"), b"\xff"], capture_output=True
    )
    assert run.returncode == 2
    assert b"is not UTF-8" in run.stderr
    assert run.stderr.count(b"\n") == 1


def test_a_deadline_ends_the_guest_with_124(wat, tmp_path):
    endless = tmp_path / "endless.wasm"
    endless.write_bytes(wat(ENDLESS))
    code, _, err = wasi_nn("run", "--timeout", "0.3", endless)
    said = "wasi-nn: quota timeout: the guest ran past its deadline of 0.3 s\n"
    assert (code, err) == (124, said)


SLEEPS = f"""(module {RUNS}
  (func (export "_start")
    (call $runs)
    (i32.store8 (i32.const 8) (i32.const 0))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))"""
COMPUTES = f'(module {RUNS} (func (export "_start") (call $runs) (loop $l (br $l))))'


def test_a_deadline_ends_a_guest_in_a_system_call(wat, tmp_path):
    sleeps = tmp_path / "sleeps.wasm"
    sleeps.write_bytes(wat(SLEEPS))
    # The guest sleeps for an hour.
    code, _, err = wasi_nn("run", "--timeout", "0.3", sleeps)
    assert code == 124
    assert "deadline" in err


@pytest.mark.parametrize(
    ("text", "runtime", "says"),
    [
        (COMPUTES, "wasmtime", b"wasi-nn: the guest was interrupted\n"),
        (COMPUTES, "wasmtime@", b"wasi-nn: the guest was interrupted\n"),
        (SLEEPS, "wasmtime", b"wasi-nn: the guest was interrupted\n"),
    ],
)
def test_ctrl_c_ends_the_guest_with_130(wat, tmp_path, text, runtime, says):
    guest = tmp_path / "guest.wasm"
    guest.write_bytes(wat(text))
    process = subprocess.Popen(
        [*COMMAND, "run", "--runtime", runtime, str(guest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # (Where the tests run in the background, SIGINT is ignored.)
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout.readline() == b"runs\n"
        # As a terminal does: to every process of the command.
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, says)


def test_ctrl_c_in_another_command_prints_one_line(tmp_path):
    """A model that nobody writes: the command waits for the first byte of a pipe."""
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "inspect", str(pipe)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process, open(pipe, "wb"):
        # (It has opened the pipe now.)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, b"wasi-nn: interrupted")


def test_the_current_directory_holds_no_modules_of_the_host(tmp_path, guests):
    """A guest can have it for writing, and backends are imported after it has started."""
    onnxruntime = pytest.importorskip("onnxruntime")
    assert onnxruntime.__version__
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('of the current directory')")
    model = guests.parent / "graphs" / "onnx" / "add.onnx"
    code, out, err = wasi_nn("inspect", model, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "onnx" in out


def test_memory_and_fuel_are_limited(wat, tmp_path, guests):
    big = tmp_path / "big.wasm"
    big.write_bytes(wat('(module (memory (export "memory") 64) (func (export "_start")))'))
    assert wasi_nn("run", "--max-memory", "4M", big)[0] == 0
    code, _, err = wasi_nn("run", "--max-memory", "1M", big)
    assert code == 134
    assert "more memory to start" in err
    code, _, err = wasi_nn("run", "--fuel", "5", guests / "hello/hello.wasm")
    assert (code, err) == (134, "wasi-nn: the guest used up its fuel\n")


@pytest.mark.parametrize("option", ["--max-host-memory", "--max-held"])
def test_a_tensor_above_the_limit_of_host_memory_is_refused(guests, echo, option):
    arguments = ("--graph", f"echo={echo}", guests / "echo/echo.wasm", "echo", "hello world")
    assert wasi_nn("run", option, "1K", *arguments)[0] == 0
    code, _, err = wasi_nn("run", option, "10", *arguments)
    assert code == 1
    assert "above its limit of 10" in err


def test_the_former_spelling_of_an_option_is_not_in_the_help():
    assert "--max-held" not in wasi_nn("run", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "missing.wasm"), "cannot read missing.wasm"),
        (("run", "--graph", "m=missing.onnx", "{hello}"), "no file missing.onnx"),
        (("run", "--graph", "m", "{hello}"), "--graph takes"),
        (("run", "--graph", "m=cobol:{echo}", "{hello}"), "no backend serves cobol"),
        (("run", "--graph", "m={hello}", "{hello}"), "is not recognised"),
        (("run", "--graph", "m={echo}", "--graph", "m={echo}", "{hello}"), "given twice"),
        (("run", "--nn-preload", "m:onnx", "{hello}"), "--nn-preload takes"),
        (("run", "-S", "http", "{hello}"), "-S takes"),
        (("run", "--config", "m={{}}", "{hello}"), "there is no --graph of that name"),
        (("run", "--config", "m=[", "{hello}"), "is not NAME=JSON"),
        (("run", "--dir", "nowhere", "{hello}"), "no directory"),
        (("run", "--env", "=x", "{hello}"), "--env takes"),
        (("run", "--runtime", "abacus", "{hello}"), "no runtime 'abacus'"),
        (("run", "--timeout", "0", "{hello}"), "--timeout"),
        (("run", "--max-memory", "lots", "{hello}"), "--max-memory takes"),
        (("run", "--max-host-memory", "much", "{hello}"), "--max-host-memory takes"),
        (("run", "--max-held", "much", "{hello}"), "--max-held takes"),
        (("run", "-W", "wmemcheck", "{hello}"), "-W takes"),
        (("run", "-W", "timeout=soon", "{hello}"), "as in 500ms"),
        (("run", "--preload", "a=b", "{hello}"), "one module"),
        (("run", "--mapdir", "x", "{hello}"), "takes GUEST::HOST"),
        (("run", "--graph", "m=onnx:gpuu:m.onnx", "{hello}"), "'gpuu'; did you mean 'gpu'?"),
        (("run", "-S", "nn-graph=onix::.", "{hello}"), "'onix'; did you mean 'onnx'?"),
        (("run", "--graph", "m=onnx:cuda:m.onnx", "{hello}"), "no execution target 'cuda'"),
        (("run", "--graph", "m=http://a/b.onnx", "{hello}"), "use https, or give"),
        (("run", "--runtime", "wasmtme", "{hello}"), "did you mean 'wasmtime'?"),
        (("run", "--invoke", "no", "{hello}"), "exports no function 'no'"),
        (("run", "--no-such-option", "{hello}"), "No such option"),
        (("run", "{echo}"), "it is a model of the encoding identity. Give it with --graph"),
        (("run", "{echo}", "{hello}"), "guest here: wasi-nn run --graph NAME={echo} {hello}"),
        (("run", "{echo}", "x"), "and the guest here\n"),
        (("run", "{lfs}"), "{lfs} is not a WebAssembly module or component: it is a git-lfs"),
        (("run", "--graph", "m={lfs}", "{hello}"), "{lfs} is a git-lfs pointer"),
        (("run", "{folder}"), "it is a folder. Name a .wasm file"),
        (("run", "https://a/b.wasm"), "only models are fetched"),
        (("inspect", "https://a/b.wasm"), "only models are fetched"),
        (("run", "--nn-preload", "m:Burn:GPU:net.mpk:net", "{hello}"), "no backend serves burn"),
        (("walk",), "No such command"),
        (("inspect", "missing"), "cannot read missing"),
        (("run", "--dialect", "latin", "{nn}"), "no dialect 'latin'"),
        (("run", "--dialect", "latin", "{hello}"), "no dialect 'latin'"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(guests, echo, tmp_path, arguments, says):
    (tmp_path / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "folder").mkdir()
    names = {
        "lfs": tmp_path / "lfs.onnx",
        "folder": tmp_path / "folder",
        "hello": guests / "hello/hello.wasm",
        "echo": echo,
        "nn": guests / "echo/echo.wasm",
    }
    code, out, err = wasi_nn(*(text.format(**names) for text in arguments))
    assert code == 2
    assert out == ""
    assert says.format(**names) in err
    assert err.startswith("wasi-nn: ")
    assert err.count("\n") == 1


def test_a_missing_library_names_the_extra(guests, relu, tmp_path):
    hide(tmp_path, *LIBRARIES)
    code, _, err = wasi_nn(
        *("run", "--graph", f"m={relu}", guests / "hello/hello.wasm"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert code == 2
    advice = 'onnxruntime is not installed; pip install "wasi-nn[onnx]"'
    assert err == f"wasi-nn: {advice}\n"
    hidden = {"PYTHONPATH": str(tmp_path)}
    out = wasi_nn("inspect", guests / "echo/echo.wasm", env=hidden)[1]
    served = next(line for line in out.splitlines() if line.startswith("served here:"))
    assert "onnx" not in served
    assert ("ggml" in served) == bool(find_spec("xllamacpp") or find_spec("llama_cpp"))
    assert f"not here:      onnx: {advice}\n" in out
    code, out, _ = wasi_nn("inspect", relu, env=hidden)
    assert (code, f"loads here:    no: {advice}\n" in out) == (1, True)
    assert "): serves onnx; onnxruntime is not installed\n" in wasi_nn("plugins", env=hidden)[1]
    assert advice in wasi_nn("doctor", env=hidden)[1]


def test_inspect_tells_of_sockets_and_of_the_options_that_they_need(guests):
    code, out, _ = wasi_nn("inspect", guests / "chat-server/chat-server.wasm")
    assert code == 0
    assert re.search(r"^sockets: +sock_accept, sock_bind, ", out, re.M)
    assert "may need:      --listen ADDRESS:PORT" in out
    assert "--connect" not in out
    code, out, _ = wasi_nn("inspect", guests / "sockets/sockets.wasm")
    assert "may need:      --listen ADDRESS:PORT" in out
    assert "may need:      --connect HOST:PORT" in out
    out = wasi_nn("inspect", guests / "hello/hello.wasm")[1]
    assert "may need" not in out
    assert "sockets" not in out


def test_inspect(guests, relu, wat, tmp_path):
    code, out, _ = wasi_nn("inspect", guests / "echo/echo.wasm")
    assert code == 0
    for line in ("core module, a command", "wasmedge", "compute_single", "yes, on wasmtime"):
        assert line in out
    code, out, _ = wasi_nn("inspect", relu)
    assert code == 0
    for line in ("encoding:", "onnx", "x: f32[1, 3]", "y: f32[1, 3]"):
        assert line in out
    foreign = tmp_path / "foreign.wasm"
    foreign.write_bytes(wat('(module (import "env" "x" (func)) (func (export "_start")))'))
    code, out, _ = wasi_nn("inspect", foreign)
    assert code == 1
    assert "no: the guest cannot start: it imports env.x" in out
    component = tmp_path / "component.wasm"
    component.write_bytes(b"\0asm\x0d\0\x01\0")
    code, out, _ = wasi_nn("inspect", component)
    assert code == 1
    for line in (
        "component, not a command",
        "no wasi:nn",
        "it does not export wasi:cli/run; it exports: nothing",
    ):
        assert line in out
    code, out, _ = wasi_nn("inspect", guests / "classify-wit/classify-wit.wasm")
    assert code == 0
    for line in ("component, a command", "wasi:nn/graph@0.2.0-rc-2024-10-28", "yes, on wasmtime"):
        assert line in out
    component.write_bytes(b"\0asm\x0d\0\x01\0\x0a\x05x")
    code, _, err = wasi_nn("inspect", component)
    assert (code, "damaged" in err) == (2, True)
    code, out, _ = wasi_nn("inspect", guests / "build.py")
    assert (code, "not recognised" in out) == (1, True)


def test_inspect_shows_each_file_in_a_block_of_its_own(guests, relu, tmp_path):
    code, out, err = wasi_nn("inspect", guests / "hello/hello.wasm", relu, relu)
    assert (code, err) == (0, "")
    blocks = out.split("\n\n")
    assert [block.split("\n")[1] for block in blocks] == [
        "kind:          core module, a command",
        "kind:          model",
        "kind:          model",
    ]
    assert all("x: f32[1, 3]" in block for block in blocks[1:])
    (tmp_path / "notes.txt").write_text("what it is about")
    code, out, _ = wasi_nn("inspect", relu, tmp_path / "notes.txt")
    assert (code, out.count("file: "), "not recognised" in out) == (1, 2, True)
    code, out, err = wasi_nn("inspect", tmp_path / "none.onnx", relu, tmp_path / "notes.txt")
    assert (code, out.count("file: "), "x: f32[1, 3]" in out) == (2, 3, True)
    assert err == f"wasi-nn: cannot read {tmp_path / 'none.onnx'}: No such file or directory\n"


def test_inspect_keeps_the_files_of_one_model_together(guests, tmp_path):
    xml, weights = (guests.parent / f"graphs/openvino/add.{end}" for end in ("xml", "bin"))
    code, out, _ = wasi_nn("inspect", xml, weights)
    assert (code, out.count("kind:")) == (0 if find_spec("openvino") else 1, 1)
    assert "openvino" in out
    # As a shell's * gives them.
    assert wasi_nn("inspect", guests / "hello/hello.wasm", weights, xml)[1].count("kind:") == 2
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in (*parts, tmp_path / "m-00001-of-00003.gguf"):
        part.write_bytes(b"GGUF")
    code, out, _ = wasi_nn("inspect", *parts, tmp_path / "m-00001-of-00003.gguf")
    assert out.count("kind: ") == 2


def test_inspect_prints_one_line_for_each_unreadable_file(guests, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    odd = ("package:nosuch/m.onnx", ".", "none", "loop", "package:json/none", "x" * 300)
    hello = guests / "hello/hello.wasm"
    code, out, err = wasi_nn("inspect", *odd, hello, cwd=tmp_path)
    # (A folder is told in its block, with what is in it.)
    assert (code, err.count("\n"), out.count("file: ")) == (2, len(odd) - 1, len(odd) + 1)
    assert "kind:          a folder" in out
    assert all(line.startswith("wasi-nn: ") for line in err.splitlines())
    assert "starts here:   yes" in out


def test_inspect_reports_a_broken_model_in_one_line(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"\x08\x07\x12\x04test" + b"\xff" * 30)
    code, out, err = wasi_nn("inspect", f"{model}")
    assert (code, err) == (1, "")
    assert "loads here:    no: " in out or "not recognised" in out


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (b"<!doctype html>", "an HTML page", "no: a server gave it"),
        (b"(module)", "WebAssembly in the text format (.wat)", "no: make a binary of it with"),
        (b"\x80\x02}.", "a pickled Python object", "no: a pickle is never loaded"),
        (b"%PDF-1.7\xff", "a PDF document", "no\n"),
        (b"\xe7\x9d\x11", "unknown", "begins with b'\\xe7\\x9d\\x11'"),
    ],
)
def test_inspect_explains_what_is_neither_a_guest_nor_a_model(tmp_path, content, kind, advice):
    (tmp_path / "file").write_bytes(content)
    code, out, err = wasi_nn("inspect", tmp_path / "file")
    assert (code, err) == (1, "")
    assert f"kind:          {kind}" in out
    assert "encoding:      not recognised\nruns here:     no" in out
    assert advice in out


def test_inspect_explains_a_folder(tmp_path):
    (tmp_path / "model.onnx").touch()
    code, out, err = wasi_nn("inspect", tmp_path)
    assert (code, err) == (1, "")
    assert "kind:          a folder" in out
    assert "name the file in it: model.onnx" in out


def test_inspect_lists_every_export(wat, tmp_path):
    guest = tmp_path / "reactor.wasm"
    many = "".join(f'(func (export "f{n}") (param f64))' for n in range(40))
    guest.write_bytes(wat(f"(module {many})"))
    code, out, _ = wasi_nn("inspect", guest)
    assert (code, out.count("export: ")) == (0, 40)
    assert f"wasi-nn run --invoke NAME {guest}" in out
    assert "starts here:   yes, by --invoke on wasmtime" in out
    guest.write_bytes(wat("(module)"))
    code, out, _ = wasi_nn("inspect", guest)
    assert (code, "starts here:   no: it exports no _start and no other" in out) == (1, True)


def test_inspect_explains_a_component_that_is_not_a_command(wat, tmp_path):
    module = '(core module $m (func (export "f"))) (core instance $i (instantiate $m))'
    handler = "wasi:http/incoming-handler@0.2.0"
    lifted = '(func $f (canon lift (core func $i "f"))) (instance $x (export "f" (func $f)))'
    guest = tmp_path / "proxy.wasm"
    guest.write_bytes(wat(f'(component {module} {lifted} (export "{handler}" (instance $x)))'))
    code, out, err = wasi_nn("inspect", guest)
    assert (code, err) == (1, "")
    assert "kind:          component, not a command: it does not export wasi:cli/run\n" in out
    says = f"it does not export wasi:cli/run; it exports: {handler}"
    assert f"starts here:   no: {says}\n" in out
    assert wasi_nn("run", guest) == (2, "", f"wasi-nn: this is not a command: {says}\n")


_BROKEN_PLUGIN = """
from wasi_nn import hookimpl
from wasi_nn.backend import Backend, Graph

class Broken(Backend):
    name, encodings = "broken", ("broken",)
    def sniff(self, head):
        if {sniff}:
            raise KeyError("boom")
        return "broken"
    def load(self, *arguments):
        class Odd(Graph):
            @property
            def inputs(self):
                raise KeyError("boom")
            def init_execution_context(self, reserve):
                raise KeyError("boom")
        return Odd()

@hookimpl
def wasi_nn_backends():
    return [Broken()]
"""


@pytest.mark.parametrize("sniff", [True, False])
def test_inspect_reports_a_plugin_that_raises_in_one_line(tmp_path, sniff):
    (tmp_path / "brk.py").write_text(_BROKEN_PLUGIN.format(sniff=sniff))
    info = tmp_path / "brk-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brk\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wasi_nn]\nbrk = brk\n")
    model = tmp_path / "model.brk"
    model.write_bytes(b"what only that plugin knows")
    got, out, err = wasi_nn("inspect", model, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert got == 1
    assert "Traceback" not in out + err
    told = [line for line in (out + err).splitlines() if "boom" in line]
    assert len(told) == 1
    assert "backend broken (brk 1)" in told[0]


def test_the_table_of_engines_fits_a_terminal_and_cuts_no_name(tmp_path):
    hide(tmp_path, *LIBRARIES)
    _, out, _ = wasi_nn("plugins", env={"PYTHONPATH": str(tmp_path)})
    table = out.split("\n\n")[-1].splitlines()
    assert max(map(len, table)) <= 80
    assert {"wasmtime", "wasmedge", "wasmer", "wamr", "v8"} <= set(table[0].split())
    assert {line.split("  ")[0] for line in table} >= {"component ABI", "deadline", "threads"}
    assert "…" not in out


def test_plugins_prints_a_line_for_each_plugin(tmp_path):
    hide(tmp_path, *LIBRARIES)
    _, out, _ = wasi_nn("plugins", env={"PYTHONPATH": str(tmp_path)})
    lines = out.split("\n\n")[0].splitlines()
    (line,) = (line for line in lines if line.startswith("wasmtime (wasi-nn "))
    assert "): runtime; wasmtime " in line
    assert all("): " in line for line in lines)
    (line,) = (line for line in lines if line.startswith("onnx (wasi-nn "))
    assert line.endswith("): serves onnx; onnxruntime is not installed")
    assert "wasi-nn doctor says what is missing" in out


def test_plugins_and_doctor():
    for command in ("plugins", "doctor"):
        code, out, _ = wasi_nn(command)
        assert code == 0
        for word in ("identity", "onnxruntime", "wasmtime"):
            assert word in out
