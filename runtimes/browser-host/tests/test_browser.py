"""Guests in a headless browser, with their models, as a Python host runs them."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import CAT, needs_engine

from wasi_nn import Host, Policy
from wasi_nn.errors import (
    DeadlineExceeded,
    ErrorCode,
    GuestTrap,
    LinkError,
    Unavailable,
    UsageError,
)
from wasi_nn.limits import Limits
from wasi_nn.runtime import HostFunction, Preopen
from wasi_nn_browser import pages
from wasi_nn_browser.chromium import Chromium
from wasi_nn_browser.firefox import PREFERENCES, Firefox
from wasi_nn_browser.server import Answer, Server
from wasi_nn_conformance.places import GRAPHS, GUESTS

needs_engine("browser")

IDENTITY = GRAPHS / "onnx" / "identity.onnx"
CLASSIFY = GUESTS / "classify" / "classify.wasm"
SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'
ADD = """(module (global $count (mut i64) (i64.const 0))
  (func (export "add") (param i64) (result i64)
    (global.set $count (i64.add (global.get $count) (local.get 0))) (global.get $count))
  (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2))))"""


RUNTIMES = {"browser": Chromium(), "browser-firefox": Firefox()}


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    needs_engine(request.param)
    return request.param


@pytest.fixture(scope="module")
def host(runtime):
    """One browser of each kind for all."""
    with Host(runtime=runtime, policy=Policy(own_models=True)) as made:
        made.add_model("net", IDENTITY)
        yield made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m.onnx").write_bytes(IDENTITY.read_bytes())
    (tmp_path / "in.raw").write_bytes(struct.pack("<4f", 0.5, 4, 1, 2))
    return tmp_path


def given(folder: Path) -> list[Preopen]:
    return [Preopen(folder, "/d", writable=False)]


@pytest.mark.parametrize("model", ["name:net", "/d/m.onnx"])
def test_the_page_computes_named_models_and_the_guests_own(host, folder, model):
    result = host.run(CLASSIFY, [model, "/d/in.raw", "1,4", "2"], dirs=given(folder))
    assert (result.stdout, result.exit_code) == (b"1 4.0000\n3 2.0000\n", 0), result.stderr


def test_no_backend_of_this_host_computes(runtime, folder):
    code = (
        "import sys; from wasi_nn import Host; from wasi_nn.runtime import Preopen\n"
        "host = Host(runtime=sys.argv[4]); host.add_model('net', sys.argv[1])\n"
        "dirs = [Preopen(sys.argv[3], '/d', writable=False)]\n"
        "ran = host.run(sys.argv[2], ['name:net', '/d/in.raw', '1,4', '2'], dirs=dirs)\n"
        "assert ran.exit_code == 0, ran\n"
        "print('onnxruntime' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, IDENTITY, CLASSIFY, folder, runtime]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "False\n", ended.stderr


def test_a_call_that_fails_gives_an_errno_and_leaves_its_reason(host, folder):
    result = host.run(CLASSIFY, ["name:nix", "/d/in.raw", "1,4"], dirs=given(folder))
    assert result.exit_code == 1
    (failure,) = result.failures
    assert (failure.function, failure.code) == ("load_by_name", ErrorCode.NOT_FOUND)
    assert '"nix"' in failure.reason


def test_a_file_that_is_not_a_model_gives_an_errno(host, folder):
    (folder / "m.onnx").write_text("not a model")
    result = host.run(CLASSIFY, ["/d/m.onnx", "/d/in.raw", "1,4"], dirs=given(folder))
    assert result.exit_code == 1
    assert "does not recognise" in result.failures[0].reason
    # A named model, whose encoding its name gives.
    shutil.copy(IDENTITY, folder / "named.onnx")
    host.add_model("damaged", folder / "named.onnx")
    (folder / "named.onnx").write_text("not a model")
    result = host.run(CLASSIFY, ["name:damaged", "/d/in.raw", "1,4"], dirs=given(folder))
    assert "protobuf" in result.failures[0].reason.lower()


def test_a_guest_loads_its_own_models_only_if_the_policy_says_so(host, folder):
    policy = Policy(own_models=False)
    arguments = ["/d/m.onnx", "/d/in.raw", "1,4"]
    result = host.run(CLASSIFY, arguments, dirs=given(folder), policy=policy)
    assert result.exit_code == 1
    assert "own-models" in result.failures[0].reason


@pytest.mark.parametrize(
    "limits",
    [Limits(graphs=0), Limits(contexts=0), Limits(model_bytes=10), Limits(tensor_bytes=15)],
)
def test_a_quota_refuses_one_more(host, folder, limits):
    arguments = ["/d/m.onnx", "/d/in.raw", "1,4"]
    result = host.run(CLASSIFY, arguments, dirs=given(folder), limits=limits)
    assert result.exit_code == 1
    assert result.failures[0].code == ErrorCode.RUNTIME_ERROR
    assert "quota" in result.failures[0].reason


def test_streams_arguments_variables_and_exit_codes(host, wat):
    data = bytes(range(256)) * 600
    assert host.run(wat(CAT), stdin=data).stdout == data
    show = """(module
      (import "wasi_snapshot_preview1" "args_sizes_get" (func $a (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $e (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (drop (call $a (i32.const 0) (i32.const 4)))
        (drop (call $e (i32.const 8) (i32.const 12)))
        (call $exit (i32.add (i32.load (i32.const 4)) (i32.load (i32.const 12))))))"""
    # Room for bytes: "guest.wasm", "ä" and "A=é" with their zeros.
    assert host.run(wat(show), ["ä"], env={"A": "é"}).exit_code == 11 + 3 + 5


def test_an_output_that_fails_ends_the_run(host, wat):
    def full(data):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        host.run(wat(CAT), stdin=b"x", stdout=full)


def test_a_trap_and_a_wrong_pointer(host, wat):
    trap = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
    result = host.run(wat(trap))
    assert isinstance(result.error, GuestTrap)
    assert "unreachable" in str(result.error)
    write = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (call $exit
        (call $w (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 0)))))"""
    assert host.run(wat(write)).exit_code == 21  # EFAULT


def test_a_deadline_ends_a_guest_that_spins_and_one_that_waits_for_input(host, wat):
    begun = time.monotonic()
    assert isinstance(host.run(wat(SPIN), timeout=0.5).error, DeadlineExceeded)
    reader, writer = os.pipe()
    kept = os.dup(0)
    os.dup2(reader, 0)
    try:
        result = host.run(wat(CAT), stdin="inherit", timeout=0.5)
    finally:
        os.dup2(kept, 0)
        for descriptor in (reader, writer, kept):
            os.close(descriptor)
    assert isinstance(result.error, DeadlineExceeded)
    assert time.monotonic() - begun < 20
    assert host.run(wat(CAT), stdin=b"next").stdout == b"next"


def test_memory_is_limited(host, wat):
    grow = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func (export "_start")
        (call $exit (i32.eq (memory.grow (i32.const 100)) (i32.const -1)))))"""
    assert host.run(wat(grow)).exit_code == 0
    assert host.run(wat(grow), limits=Limits(memory=1 << 20)).exit_code == 1


def test_exports_are_called_one_after_the_other(host, wat):
    with host.compile(wat(ADD)).instantiate() as guest:
        assert guest.call("add", 2**62) == (2**62,)
        assert guest.call("add", 2**62) == (-(2**63),)
        assert guest.call("half", float("inf")) == (float("inf"),)


def test_a_start_function_may_call_wasi_nn(host, wat):
    module = """(module
      (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
      (memory (export "memory") 1) (global $errno (mut i32) (i32.const 0))
      (func $begin (global.set $errno (call $compute (i32.const 7)))) (start $begin)
      (func (export "errno") (result i32) (global.get $errno)))"""
    with host.compile(wat(module)).instantiate() as guest:
        assert guest.call("errno") == (1,)


def test_folders_are_read_only_and_lead_nowhere_else(host, folder):
    (folder / "out").symlink_to("/etc/passwd")
    for path in ("/d/out", "/d/../etc/passwd"):
        result = host.run(CLASSIFY, ["name:net", path, "1,4"], dirs=given(folder))
        assert result.exit_code == 1
        assert b"root" not in result.stdout + result.stderr
    with pytest.raises(UsageError, match="cannot write to"):
        host.run(CLASSIFY, ["name:net", "/d/in.raw", "1,4"], dirs={"/d": folder})


def test_a_guest_may_have_so_many_files_open(host, folder):
    result = host.run(
        CLASSIFY, ["name:net", "/d/in.raw", "1,4"], dirs=given(folder), limits=Limits(files=0)
    )
    assert result.exit_code == 1
    assert result.refused == {"files": 1}


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Policy(limits=Limits(compute_timeout=1)), "compute-timeout"),
        (Policy(isolation="guest"), "isolation"),
        (Policy(pins={"net": "sha256:" + "0" * 64}), "pins"),
    ],
)
def test_what_the_page_cannot_hold_is_refused(host, policy, why):
    with pytest.raises(UsageError, match=f"cannot hold the policy's {why}"):
        host.run(GUESTS / "hello" / "hello.wasm", policy=policy)


def test_host_functions_and_configs_are_refused(host, wat):
    module = wat('(module (import "test" "f" (func)) (func (export "go")))')
    function = HostFunction("test", "f", 0, False, lambda memory: None)
    with pytest.raises(UsageError, match=r"it imports test\.f"):
        host.compile(module).instantiate(extra=[function])
    with Host(runtime="browser") as other:
        other.add_model("net", IDENTITY, config={"threads": 2})
        with pytest.raises(UsageError, match="takes no config"):
            other.run(CLASSIFY, ["name:net", "x", "1,4"])


@pytest.mark.parametrize("name", RUNTIMES)
def test_it_is_used_only_if_it_is_named(name):
    from wasi_nn.plugins import Plugins
    from wasi_nn_browser.runtime import BrowserRuntime

    alone = Plugins()
    alone.register(__import__("wasi_nn_browser"), "browser")
    assert isinstance(alone.runtime(name), BrowserRuntime)
    with pytest.raises(Unavailable, match="no Wasm engine"):
        alone.runtime()
    with pytest.raises(UsageError, match="without a Python"):
        alone.runtime(f"{name}@")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_browser_or_pages_that_are_missing_make_it_unavailable(monkeypatch, tmp_path, name):
    browser = RUNTIMES[name]
    monkeypatch.setenv(browser.variable, "no-such-browser")
    with pytest.raises(Unavailable, match=f"no-such-browser is not found; install {browser.name}"):
        Host(runtime=name).runtime  # noqa: B018
    monkeypatch.setenv(browser.variable, "/bin/false")
    with pytest.raises(Unavailable, match=rf"--version failed.*{browser.variable}"):
        Host(runtime=name).runtime  # noqa: B018
    monkeypatch.setenv(pages.VARIABLE, str(tmp_path))
    with pytest.raises(Unavailable, match="make browser"):
        Host(runtime=name).runtime  # noqa: B018


def test_a_browser_without_jspi_is_not_used(monkeypatch, wat):
    """Firefox can be told to have none, in its preferences."""
    needs_engine("browser-firefox")
    monkeypatch.setitem(PREFERENCES, "javascript.options.wasm_js_promise_integration", False)
    with (
        Host(runtime="browser-firefox") as host,
        pytest.raises(LinkError, match="no JSPI"),
    ):
        host.run(wat(SPIN), timeout=60)


def browsers() -> set[str]:
    """The profiles of the browsers that run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {word.decode() for word in words if b"wasi-nn-browser-" in word}
    named = {word.removeprefix("--user-data-dir=") for word in found}
    return {each for each in named if Path(each).name.startswith("wasi-nn-browser-")}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.parametrize("way", ["exit", "kill"])
def test_the_browser_ends_with_the_host(runtime, wat, tmp_path, way):
    spin = tmp_path / "spin.wasm"
    spin.write_bytes(wat(SPIN))
    before = browsers()
    code = (
        "import sys; from wasi_nn import Host\n"
        "host = Host(runtime=sys.argv[2]); program = host.compile(sys.argv[1])\n"
        "print(program.run(timeout=0.2).exit_code, flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, spin, runtime], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"124\n"
        started = browsers() - before
        assert started
        if way == "kill":
            child.send_signal(signal.SIGKILL)
        child.stdin.close()
        child.wait(20)
    end = time.monotonic() + 20
    while (started & browsers() or any(map(os.path.exists, started))) and time.monotonic() < end:
        time.sleep(0.1)
    assert not started & browsers()
    assert not [each for each in started if os.path.exists(each)]


def test_the_server_serves_its_own_page_alone():
    server = Server(pages.folder(), lambda names, body: Answer(200, b"served"))

    def status(path, data=None, **headers):
        request = urllib.request.Request(server.origin + path, data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers

    try:
        page = f"/{server.token}/guests.html"
        code, headers = status(page)
        assert code == 200
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
        assert status("/wrong/guests.html")[0] == 403
        assert status(page, Host="example.org")[0] == 403
        assert status(f"/{server.token}/../runtime.py")[0] == 404
        assert status(f"/{server.token}/order", b"x")[0] == 200
        assert status(f"/{server.token}/order", b"x", Origin="http://example.org")[0] == 403
    finally:
        server.close()
