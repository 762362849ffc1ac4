"""What models, guests, plugins, other hosts and the command line say reaches no terminal raw."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import threading
import warnings
from xml.etree import ElementTree as xml

import onnx
import pytest
from conftest import hide, needs
from onnx import TensorProto, helper

from wasi_nn._cli import main
from wasi_nn.escaping import MAX_LINE

# Of each kind: C0, DEL, C1 (NEL, CSI), marks of direction, no width, fillers, tags, markup, emoji.
EVIL = (
    "\x1b[31mE\x1b]0;pwned\x07\r\nwasi-nn: all good\nFORGED\x0b\x0c\x1c\x08\t\x7f\x85\x9b2J\u202e"
    "\u2066\u200b\u200d\u2060\ufeff\u115f\u3164\U000e0041\u2028[red]m[/red]:smile:</script><b>|`"
)
# The same without the colons, which the command line reads.
ARGUMENT = EVIL.replace(":", "")
RAW = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u115f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
SEEN = "31me"


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Runs the command, whose output must hold nothing raw, with ``terminal`` on a terminal too."""
    log = logging.getLogger("wasi_nn")
    before = log.handlers[:], log.level, log.propagate
    for owner, name in (
        (warnings, "showwarning"),
        (threading, "excepthook"),
        (sys, "unraisablehook"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    warnings.simplefilter("always")

    def run(*arguments, code=None, cwd=".", env=None, seen=SEEN, terminal=False):
        words = list(map(str, arguments))
        monkeypatch.chdir(cwd)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["wasi-nn", *words])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        log.handlers[:] = before[0]
        output = b"".join(capfdbinary.readouterr())
        check(output, seen)
        assert code in (None, ended.value.code), output
        if terminal:
            command = [sys.executable, "-m", "wasi_nn", *map(os.fsencode, words)]
            check(on_a_terminal(command).replace(b"\r\n", b"\n"), seen)
        return output.decode()

    yield run
    log.level, log.propagate = before[1:]


def on_a_terminal(command):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # it has ended
        pass
    os.close(ours)
    assert child.wait(60) >= 0
    return shown


def check(output, seen=SEEN):
    text = output.decode()  # raises for what is not UTF-8
    assert not RAW.search(text), text
    assert not re.search("^ ?(wasi-nn: all good|FORGED)", text, re.M), text
    assert max(map(len, text.split("\n"))) < MAX_LINE + 500
    if seen is not None:
        assert seen in text.lower(), text


def network(path, name="y", op="Relu"):
    x = helper.make_tensor_value_info(f"x{name}", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node(op, [x.name], [y.name], name=name)], name, [x], [y], doc_string=name
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name=name, doc_string=name)
    model.ir_version = 8
    onnx.save(model, path)
    return path


def gguf(path, *pairs):
    """A GGUF file without tensors, and with texts by their keys."""

    def text(value):
        data = value.encode() if isinstance(value, str) else value
        return struct.pack("<Q", len(data)) + data

    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    path.write_bytes(head + b"".join(text(k) + struct.pack("<I", 8) + text(v) for k, v in pairs))
    return path


def quoted(text):
    return "".join(f"\\{byte:02x}" for byte in text.encode())


@pytest.fixture
def wasm(tmp_path, wat):
    def make(text, name="evil.wasm"):
        path = tmp_path / name
        path.write_bytes(wat(f"(module {text})"))
        return path

    return make


def test_names_of_an_onnx_model_are_escaped(run, tmp_path):
    assert "input 0" in run("inspect", network(tmp_path / "m.onnx", EVIL), code=0, terminal=True)


def test_a_name_of_a_megabyte_is_shortened(run, tmp_path):
    out = run("inspect", network(tmp_path / "m.onnx", SEEN + "n" * 1_000_000), code=0)
    assert "(1000005 characters)" in out
    assert len(out) < 2000


def test_an_unknown_operator_is_escaped(run, tmp_path, guests):
    model = network(tmp_path / "m.onnx", op=EVIL)
    run("inspect", model, code=1)
    (tmp_path / "in").write_bytes(bytes(4))
    guest = guests / "classify/classify.wasm"
    # The guest gives the model's bytes to the host itself.
    out = run("run", "-v", "--dir", ".", guest, "m.onnx", "in", "1", cwd=tmp_path)
    assert "load(" in out
    options = ("--graph", f"net={model}", "--dir", ".")
    run("run", *options, guest, "name:net", "in", "1", cwd=tmp_path, terminal=True)


@pytest.mark.parametrize(
    "pairs",
    [
        [("general.architecture", EVIL)],
        [("general.architecture", "llama"), (EVIL, "x")],
        [(EVIL, "x"), (EVIL, "y")],
        [("general.architecture", "llama"), (EVIL.encode() + b"\xff\x9b", "x")],
        [("general.architecture", "llama"), ("tokenizer.ggml.model", EVIL)],
    ],
)
def test_metadata_of_a_language_model_is_escaped(run, tmp_path, guests, pairs):
    model = gguf(tmp_path / "m.gguf", *pairs)
    run("inspect", model, code=1, seen=None)
    guest = guests / "echo/echo.wasm"
    run("run", "-v", "--graph", f"net={model}", guest, "net", "hello", seen=None)


def test_imports_and_exports_of_a_guest_are_escaped(run, wasm):
    name = quoted(EVIL)
    function = f'(func (export "{name}") (param i32))'
    path = wasm(function)
    assert "export:" in run("inspect", path, code=0)
    run("run", path, code=2)
    run("run", "--invoke", ARGUMENT, path, code=2)
    run("run", "--invoke", EVIL, path, code=2)
    missing = wasm(f'(import "{name}" "{name}" (func)) (func (export "_start"))', "imports.wasm")
    run("inspect", missing, code=1)
    run("run", missing, code=2)
    other = f'(import "wasi_ephemeral_nn" "{name}" (func)) (func (export "_start"))'
    run("run", wasm(other, "nn.wasm"), code=2)


@pytest.mark.parametrize("engine", ["wasmtime", "v8", "wasmtime@"])
def test_names_of_functions_in_a_trap_are_escaped(run, wasm, engine):
    path = wasm('(func $f unreachable) (func (export "_start") call $f)')
    name = EVIL.encode()
    # The custom section "name": of function 0, in the module's and in the functions' names.
    size = lambda n: bytes([n & 127 | 128, n >> 7])  # noqa: E731
    names = b"\1\0" + size(len(name)) + name
    content = b"\4name" + b"\1" + size(len(names)) + names
    path.write_bytes(path.read_bytes() + b"\0" + size(len(content)) + content)
    out = run("run", "--runtime", engine, path, code=134 if engine != "v8" else None, seen=None)
    assert "unreachable" in out


def test_errors_of_damaged_guests_are_escaped(run, tmp_path):
    for number, data in enumerate((b"\0asm\1\0\0\0\7\5" + b"\xff\x1b" * 9, EVIL.encode(), b"")):
        path = tmp_path / f"{number}.wasm"
        path.write_bytes(data)
        run("run", path, code=2, seen=None)
        run("inspect", path, seen=None)


def test_names_that_a_guest_asks_for_are_escaped(run, guests, identity_model):
    guest = guests / "echo/echo.wasm"
    echo = identity_model()
    for name in (ARGUMENT, SEEN + "n" * 4_000):
        arguments = ("--graph", f"net={echo}", guest, name, "text")
        assert "load_by_name" in run("run", "-v", "--stats", *arguments)


def test_the_command_line_is_escaped(run, tmp_path, guests, identity_model):
    hello, echo = guests / "hello/hello.wasm", identity_model()
    for arguments in (
        ("--graph", f"{ARGUMENT}={ARGUMENT}"),
        ("--graph", f"net={ARGUMENT}:{echo}"),
        ("--graph", f"net=identity:{ARGUMENT}:{echo}"),
        ("--graph", f"{ARGUMENT}={echo}", "--graph", f"{ARGUMENT}={echo}"),
        ("--graph", f"net={echo}", "--config", f"{ARGUMENT}={{}}"),
        ("--graph", f"net={echo}", "--config", f"net={ARGUMENT}"),
        ("--nn-preload", f"net:{ARGUMENT}:CPU:{echo}"),
        ("-S", ARGUMENT),
        ("-W", ARGUMENT),
        ("--runtime", ARGUMENT),
        ("--runtime", f"wasmtime@{ARGUMENT}"),
        ("--runtime", "wasmtime", "--python", ARGUMENT),
        ("--dialect", ARGUMENT),
        ("--dir", f"{ARGUMENT}::/x"),
        ("--mapdir", ARGUMENT),
        ("--timeout", ARGUMENT),
        ("--max-memory", ARGUMENT),
        ("--fuel", ARGUMENT),
        (f"--{ARGUMENT}",),
    ):
        run("run", *arguments, hello, code=2)
    run("run", ARGUMENT, code=2)
    run("inspect", ARGUMENT, code=2)
    run(ARGUMENT, code=2)
    run("conformance", "--host", ARGUMENT, code=2)
    run("conformance", "--case", ARGUMENT, "--encoding", ARGUMENT, code=2)
    run("run", tmp_path / "a\udcff\udc9b.wasm", code=2, seen="a\\udcff")


def test_names_of_files_are_escaped(run, tmp_path, guests):
    folder = tmp_path / "\x1b[31mE\u202e\udc9b"
    folder.mkdir()
    model = network(folder / "a\nwasi-nn: all good.onnx")
    guest = folder / "g\r.wasm"
    guest.write_bytes((guests / "hello/hello.wasm").read_bytes())
    run("inspect", model, guest)
    run("inspect", guest, code=0, seen=None)
    broken = network(folder / "broken.onnx", op="NoSuch")
    run("run", "--graph", f"net={broken}", guests / "echo/echo.wasm", "net", "x", seen=None)


def test_unknown_keys_of_a_config_are_escaped(run, guests, identity_model):
    echo = identity_model()
    config = json.dumps({EVIL: 1, **{f"{EVIL}{n}": 1 for n in range(20)}})
    options = ("--graph", f"net={echo}", "--config", f"net={config}")
    run("run", *options, guests / "echo/echo.wasm", "net", "x", code=0)


PLUGIN = """
import threading
import warnings
from wasi_nn import hookimpl
from wasi_nn.types import Availability
from wasi_nn.backend import Backend
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn_identity.backend import IdentityBackend

EVIL = {evil!r}

class Gone:
    def __del__(self):
        raise ValueError(EVIL)

def in_a_thread():
    raise ValueError(EVIL)

class Evil(IdentityBackend):
    name = {name!r}
    encodings = ({name!r},)
    config_keys = frozenset(("known" + EVIL,))
    def availability(self, deep=False):
        if {fails}:
            raise ValueError(EVIL)
        return Availability(True, EVIL, (EVIL,))
    def load(self, builders, options):
        warnings.warn(EVIL)
        Gone()
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        if options.target.value == "auto":
            raise ValueError(EVIL)
        return super().load(builders, options)

class Engine(Runtime):
    name = "evil-engine"
    features = RuntimeFeatures()
    def availability(self):
        return Availability(False, EVIL)
    def compile(self, *arguments): ...

@hookimpl
def wasi_nn_backends():
    return [Evil()]

@hookimpl
def wasi_nn_runtimes():
    return [Engine()]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs an evil plugin; gives the environment that finds it."""

    def install(module, version="1.0"):
        folder = tmp_path / "site"
        info = folder / "evil_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: evil_plugin\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text("[wasi_nn]\nevil_plugin = evil_plugin\n")
        (folder / "evil_plugin.py").write_text(module)
        hide(folder, "torch", "openvino")
        monkeypatch.syspath_prepend(str(folder))
        return {"PYTHONPATH": str(folder)}

    yield install
    sys.modules.pop("evil_plugin", None)


@pytest.mark.parametrize("fails", [False, True])
def test_a_plugins_answers_are_escaped(run, plugin, guests, identity_model, fails):
    module = PLUGIN.format(evil=EVIL, fails=fails, name="evil")
    env = plugin(module, version="1.0\x1b[31m\x9b")
    run("plugins", env=env, code=0, terminal=not fails)
    run("doctor", env=env, code=1 if fails else 0)
    hello = guests / "hello/hello.wasm"
    run("run", "--runtime", "evil-engine", hello, env=env, code=2)
    guest, echo = guests / "echo/echo.wasm", identity_model()
    config = json.dumps({"nkown": 1})
    options = ("--graph", f"net=evil:{echo}", "--config", f"net={config}", "--stats")
    out = run("run", *options, guest, "net", "x", env=env, code=2 if fails else 0)
    if not fails:
        assert "wasi-nn: UserWarning: \\x1b[31mE" in out
        assert out.count("\n  ValueError: \\x1b[31mE") == 2
        assert "evil by evil on cpu" in out
    run("run", "--graph", f"net=evil:auto:{echo}", guest, "net", "x", env=env)


@pytest.mark.parametrize("name", [EVIL, "\x1b[31mE"])
def test_a_plugins_evil_name_is_escaped(run, plugin, name):
    env = plugin(PLUGIN.format(evil=EVIL, fails=False, name=name))
    run("plugins", env=env, code=0)
    run("doctor", env=env, code=1)


def test_a_plugins_import_error_is_escaped(run, plugin):
    env = plugin(f"raise ValueError({EVIL!r})")
    run("plugins", env=env, code=0)
    run("doctor", env=env, code=1)


def test_another_hosts_output_is_escaped_in_every_report(run, tmp_path, plugin):
    """A host whose version, standard output and errors are evil, in every report."""
    needs("ai_edge_litert")
    program = tmp_path / "wasmedge"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nevil = {EVIL!r}\n"
        "print('evil ' + evil.replace('\\r\\n', ' ').replace('\\n', ' '))\n"
        "print(evil, file=sys.stderr)\nsys.exit(1)\n"
    )
    program.chmod(0o755)
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html", "markdown")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    only = ("--host", "native-wasmedge", "--encoding", "tensorflowlite", "--case", "names/*")
    env = {"WASI_NN_WASMEDGE": str(program)}
    run("conformance", *only, "--jobs", "1", *options, env=env, code=1, terminal=True)
    for path in files.values():
        text = path.read_text("utf-8")
        assert not RAW.search(text), path
        assert SEEN in text.lower()
    json.loads(files["json"].read_text("utf-8"))
    assert xml.parse(files["junit"]).getroot().findall(".//failure")
    assert files["html"].read_text("utf-8").count("</script") == 2
    assert "<b>" not in files["markdown"].read_text("utf-8")
    merged = ("--merge", files["json"], "--markdown", tmp_path / "again.md")
    run("conformance", *only, *merged, env={"WASI_NN_WASMEDGE": "/no/such"}, code=1)
    assert "<b>" not in (tmp_path / "again.md").read_text("utf-8")
