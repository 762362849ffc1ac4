"""Finding plugins; a broken one is reported by name and stops no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wasi_nn import Host
from wasi_nn.errors import InvalidEncoding, Unavailable, UsageError
from wasi_nn.plugins import Plugins, availability

SOUND = """
from wasi_nn.backend import Backend
from wasi_nn import hookimpl

class Sound(Backend):
    name = "sound"
    encodings = ("sound", "onnx")
    def load(self, builders, options): ...

@hookimpl
def wasi_nn_backends():
    return [Sound()]
"""


def distribution(folder, name: str, module: str | None) -> None:
    """Install a plugin by hand: a module and its metadata."""
    if module is not None:
        (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wasi_nn]\n{name} = {name}\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("sound_plugin", "broken_plugin"):
        sys.modules.pop(name, None)


def record(plugins: Plugins, name: str):
    return next(record for record in plugins.records if record.name == name)


def test_first_party_plugins_are_ordinary_entry_points():
    names = {record.name for record in Plugins.installed().records}
    assert {"identity", "onnx", "wasmtime"} <= names
    assert all(not record.error for record in Plugins.installed().records)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        (None, "ModuleNotFoundError"),
        (SOUND.replace("[Sound()]", "1 / 0"), "ZeroDivisionError"),
        (SOUND.replace("[Sound()]", "None"), "wasi_nn_backends gave None, and must give a list"),
        (SOUND.replace("def wasi_nn_backends():", "def wasi_nn_backends(x):"), "Error"),
        (SOUND.replace('name = "sound"', 'name = "identity"'), "already provided by plugin"),
        (SOUND.replace('encodings = ("sound", "onnx")', ""), "names no encodings"),
        (SOUND.replace('name = "sound"', ""), "has no name"),
        (SOUND.replace("[Sound()]", "[Sound]"), "is not a wasi_nn.backend.Backend"),
        (SOUND.replace("wasi_nn_backends", "wasi_nn_backend"), "did you mean 'wasi_nn_backends'?"),
        (SOUND.replace("@hookimpl\n", ""), "mark the function wasi_nn_backends with"),
        ("def backends(): ...", "a function wasi_nn_backends or wasi_nn_runtimes, marked with"),
        (SOUND + "@hookimpl\ndef wasi_nn_runtime(): ...", "there is no hook 'wasi_nn_runtime'"),
        (SOUND + "def wasi_nn_runtimes(): ...", "mark the function wasi_nn_runtimes with"),
    ],
)
def test_a_broken_plugin_stops_no_other(folder, module, says):
    distribution(folder, "broken_plugin", module)
    distribution(folder, "sound_plugin", SOUND)
    plugins = Plugins.installed()
    assert says in (record(plugins, "broken_plugin").error or "")
    assert not record(plugins, "sound_plugin").error
    assert plugins.backend_for("identity").name == "identity"
    assert plugins.backend_for("sound").name == "sound"


def test_a_backends_name_chooses_between_two_of_one_encoding(folder):
    distribution(folder, "sound_plugin", SOUND)
    plugins = Plugins.installed()
    assert plugins.backend_for("onnx").name == "onnx"
    assert plugins.backend_for("sound").name == "sound"


def test_the_command_reports_a_broken_plugin(folder):
    distribution(folder, "broken_plugin", "1 / 0")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    for command, code in (("plugins", 0), ("doctor", 1)):
        run = subprocess.run(
            [sys.executable, "-m", "wasi_nn", command],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == code, run.stderr
        assert "broken_plugin" in run.stdout
        assert "ZeroDivisionError" in run.stdout
        assert "wasmtime" in run.stdout


def test_a_backend_that_fails_when_it_is_asked_stops_no_other(folder, tmp_path):
    methods = "".join(
        f"    def {name}: raise RuntimeError('broken {name}')\n"
        for name in ("availability(self)", "missing(self)", "sniff(self, head)")
    )
    module = SOUND.replace('"onnx")\n', '"onnx")\n' + methods)
    distribution(folder, "sound_plugin", module)
    plugins = Plugins.installed()
    found = availability(plugins.backend_for("sound"))
    assert not found.usable
    assert "the plugin is broken" in found.detail
    (tmp_path / "m").write_bytes(b"wasi-nn:identity")
    with Host(plugins=plugins) as host:
        host.add_model("m", tmp_path / "m")
        assert host.model("m").backend == "identity"
        host.add_model("s", tmp_path / "m", encoding="sound")
        assert "backend sound (sound_plugin 1.0) is broken" in host.registry.missing_libraries()[0]


def test_two_hosts_share_no_plugin_objects():
    first, second = Plugins.installed(), Plugins.installed()
    assert first.backend_for("onnx") is not second.backend_for("onnx")


def test_what_nobody_serves():
    plugins = Plugins()
    with pytest.raises(InvalidEncoding, match="installed backends serve: nothing"):
        plugins.backend_for("onnx")
    with pytest.raises(Unavailable, match=r'pip install "wasi-nn\[wasmtime\]"'):
        plugins.runtime()
    with pytest.raises(UsageError, match="known: none"):
        plugins.runtime("wasmtime")


def test_importing_the_plugins_imports_no_library():
    code = (
        "import sys; from wasi_nn.plugins import Plugins; Plugins.installed();"
        "print([m for m in ('numpy', 'onnxruntime', 'wasmtime', 'rich') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
