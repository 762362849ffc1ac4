"""Finding plugins; a broken one is reported by name and stops no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import LIBRARIES, hide, run_python

from wasi_nn import ExecutionTarget, Host, Policy, hookimpl
from wasi_nn._models.registry import detect, missing
from wasi_nn.errors import InvalidEncoding, RuntimeFailure, Unavailable, UsageError
from wasi_nn.hookspecs import API_VERSION
from wasi_nn.plugins import Plugins, availability, is_broken

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

ENGINE = """
from wasi_nn import hookimpl
from wasi_nn.runtime import Runtime, RuntimeFeatures

class Engine(Runtime):
    name = "engine"
    survives_fork = False
    features = RuntimeFeatures()
    def availability(self): ...
    def compile(self, data, limits): ...

@hookimpl
def wasi_nn_runtimes():
    return [Engine()]
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
        (SOUND.replace("[Sound()]", "1 / 0"), "division by zero ({module}:12)"),
        ("def (", "({module}:1)"),
        ("import json\n\njson.loads('x')", "({module}:3)"),
        ("WASI_NN_API = 2\n" + SOUND, "it is for version 2 of the API for plugins"),
        (SOUND.replace("[Sound()]", "None"), "wasi_nn_backends gave None, and must give a list"),
        (SOUND.replace("def wasi_nn_backends():", "def wasi_nn_backends(x):"), "Error"),
        (SOUND.replace('name = "sound"', 'name = "identity"'), "already provided by plugin"),
        (SOUND.replace('encodings = ("sound", "onnx")', ""), "must have encodings, a tuple"),
        (SOUND.replace('name = "sound"', ""), "a Backend must have a name"),
        (SOUND.replace("[Sound()]", "[Sound]"), "is not a wasi_nn.backend.Backend"),
        (SOUND.replace("wasi_nn_backends", "wasi_nn_backend"), "did you mean 'wasi_nn_backends'?"),
        (SOUND.replace("@hookimpl\n", ""), "mark the function wasi_nn_backends with"),
        (
            SOUND.replace("wasi_nn_backends", "wasi_nn_backend").replace("@hookimpl\n", ""),
            "it has 'wasi_nn_backend'; did you mean 'wasi_nn_backends'?",
        ),
        ("def backends(): ...", "a function wasi_nn_backends or wasi_nn_runtimes, marked with"),
        (SOUND + "@hookimpl\ndef wasi_nn_runtime(): ...", "there is no hook 'wasi_nn_runtime'"),
        (SOUND + "def wasi_nn_runtimes(): ...", "mark the function wasi_nn_runtimes with"),
        (SOUND.replace("[Sound()]", "Sound()"), "must give a list"),
        (SOUND.replace("[Sound()]", "5"), "wasi_nn_backends gave 5, and must give a list"),
        (SOUND.replace('("sound", "onnx")', '("sound", 5)'), "each is a word of letters"),
        (SOUND.replace('("sound", "onnx")', '("",)'), "each is a word of letters"),
        (SOUND.replace('name = "sound"', 'name = "a:b"'), "is 'a:b', and must be a word"),
        (SOUND.replace('name = "sound"', 'name = "\\x1b[31m"'), "must be a word"),
        (SOUND.replace('name = "sound"', 'name = ""'), "must be a word"),
        *(
            (SOUND.replace('name = "sound"', f'name = "sound"; {clause}'), says)
            for clause, says in (
                ("config_keys = (1,)", "is (1,), and must be a set of texts, or None"),
                ("config_keys = {1}", "is {1}, and must be a set of texts, or None"),
                ("host_only_keys = None", "host_only_keys of"),
                ("survives_fork = 1", "is 1, and must be True or False"),
                ("name = property(lambda self: self.nothing)", "no attribute 'nothing'"),
            )
        ),
        (ENGINE.replace("RuntimeFeatures()", "None"), "is None, and must be RuntimeFeatures"),
        (ENGINE.replace("survives_fork = False", "wasi_modules = None"), "wasi_modules of"),
        (
            "from wasi_nn import hookimpl, runtime\n"
            "class Engine(runtime.Runtime):\n"
            "    name = 'engine'\n"
            "    def availability(self): ...\n"
            "    def compile(self, data, limits): ...\n"
            "@hookimpl\n"
            "def wasi_nn_runtimes():\n"
            "    return [Engine()]\n",
            "has no features: they must be RuntimeFeatures",
        ),
    ],
)
def test_a_broken_plugin_stops_no_other(folder, module, says):
    distribution(folder, "broken_plugin", module)
    distribution(folder, "sound_plugin", SOUND)
    plugins = Plugins.installed()
    says = says.replace("{module}", str(folder / "broken_plugin.py"))
    assert says in (record(plugins, "broken_plugin").error or "")
    assert not record(plugins, "sound_plugin").error
    assert plugins.backend_for("identity").name == "identity"
    assert plugins.backend_for("sound").name == "sound"


def test_what_a_plugin_prints_is_not_the_guests_output(folder, capsys, caplog):
    module = "import threading\nprint('debug')\n" + SOUND + "    print('never')\n"
    distribution(folder, "sound_plugin", module.replace("return", "print('here')\n    return"))
    Plugins.installed()
    assert capsys.readouterr().out == ""
    (message,) = [each.getMessage() for each in caplog.records]
    plugin = "plugin sound_plugin of sound_plugin 1.0"
    assert message == f"{plugin} prints when it is loaded: debug here"
    print("ours")
    assert capsys.readouterr().out == "ours\n"


def test_a_plugin_may_keep_the_output_that_it_saw(folder, capsys):
    keeps = "import sys\nOUT = sys.stdout\n" + SOUND
    distribution(folder, "sound_plugin", keeps + "def say(): print('later', file=OUT)\n")
    Plugins.installed()
    sys.modules["sound_plugin"].say()
    assert capsys.readouterr().out == "later\n"


def test_a_plugin_may_say_which_contract_it_is_for(folder):
    distribution(folder, "sound_plugin", f"WASI_NN_API = {API_VERSION}\n" + SOUND)
    assert record(Plugins.installed(), "sound_plugin").error is None


def test_a_backends_name_chooses_between_two_of_one_encoding(folder):
    distribution(folder, "sound_plugin", SOUND)
    plugins = Plugins.installed()
    assert plugins.backend_for("onnx").name == "onnx"
    assert plugins.backend_for("sound").name == "sound"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("1 / 0", "ZeroDivisionError"),
        (SOUND.replace("wasi_nn_backends", "wasi_nn_backend"), "did you mean 'wasi_nn_backends'?"),
    ],
)
def test_the_command_reports_a_broken_plugin(folder, module, says):
    distribution(folder, "broken_plugin", module)
    hide(folder, *LIBRARIES)
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
        assert says in run.stdout
        assert "wasmtime" in run.stdout


def test_a_backend_that_fails_when_it_is_asked_stops_no_other(folder, tmp_path):
    methods = "".join(
        f"    def {name}: raise RuntimeError('broken {name}')\n"
        for name in ("availability(self, deep)", "sniff(self, head)")
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
        reason = host.registry.missing_libraries()[0]
        assert "backend sound (sound_plugin 1.0): the plugin is broken" in reason


ODD = """
from wasi_nn import hookimpl
from wasi_nn.backend import Backend, ExecutionContext, Generation, Graph
from wasi_nn.runtime import Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability, TensorInfo, TensorType

class OddContext(ExecutionContext):
    def set_input(self, key, tensor): ...
    def compute(self): ...
    def get_output(self, key): ...
    def generation(self): return {generation}

class Odd(Graph):
    inputs = {inputs}
    {attribute}
    def init_execution_context(self, reserve): return {context}

class Sound(Backend):
    name = "sound"
    encodings = ("sound",)
    def availability(self, deep): return {availability}
    def sniff(self, head): return {sniff}
    def load(self, builders, options): return Odd()

class Engine(Runtime):
    name = "engine"
    @property
    def features(self): return {features}
    def availability(self): return Availability(True, "1.0")
    def compile(self, data, limits): return {compiled}

class OddModule(Module):
    def prepare(self, functions, wasi, limits): return 7

@hookimpl
def wasi_nn_backends():
    return [Sound()]

@hookimpl
def wasi_nn_runtimes():
    return [Engine()]
"""
ANSWERS = {
    "attribute": "",
    "compiled": "None",
    "context": "OddContext()",
    "generation": "None",
    "inputs": "()",
    "availability": "Availability(True, '1.0')",
    "sniff": "'sound' if head.startswith(b'sound') else None",
    "features": "RuntimeFeatures()",
}


def odd_plugins(folder, **answers):
    distribution(folder, "sound_plugin", ODD.format(**{**ANSWERS, **answers}))
    return Plugins.installed()


@pytest.mark.parametrize(
    ("of", "answer", "says"),
    [
        *(("availability", odd, "must give an Availability") for odd in ("None", "True")),
        ("availability", "(True, '1.0')", "must give an Availability"),
        ("availability", "Availability(True, 5)", "must give an Availability"),
        ("availability", "1 / 0", "ZeroDivisionError"),
        ("availability", "exit(3)", "SystemExit"),
        ("features", "(True,)", "must be RuntimeFeatures"),
        ("features", "1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_gives_an_odd_answer_is_broken(folder, of, answer, says):
    plugins = odd_plugins(folder, **{of: answer})
    engine = next(runtime for runtime in plugins.runtimes if runtime.name == "engine")
    found = availability(engine if of == "features" else plugins.backend_for("sound"))
    assert is_broken(found)
    assert not found.usable
    assert says in found.detail
    if of == "features":
        with pytest.raises(Unavailable, match="the plugin is broken"):
            plugins.runtime("engine")
    else:
        assert says in (missing(plugins.backend_for("sound")) or "")


@pytest.mark.parametrize("answer", ["True", "5", "'other'", "'onnx'"])
def test_an_encoding_that_is_not_the_backends_own_is_not_believed(folder, caplog, answer):
    plugins = odd_plugins(folder, sniff=answer)
    assert detect(plugins, [memoryview(b"what nobody knows")]) is None
    assert "backend sound (sound_plugin 1.0) failed to look at a model" in caplog.text
    assert "is not one of its encodings" in caplog.text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("None", "inputs are None"),
        ("[1]", "must be a TensorInfo"),
        ("[TensorInfo(None, TensorType.F32, (1,))]", "name must be a text"),
        ("[TensorInfo('x', 'f32', (1,))]", "its type a TensorType"),
        ("[TensorInfo('x', None, (1.5,))]", "dimensions whole numbers"),
    ],
)
def test_an_odd_description_of_a_graph_is_the_backends_failure(folder, answer, says):
    with Host(plugins=odd_plugins(folder, inputs=answer)) as host:
        model = host.load(b"sound", isolation="none")
        assert model.outputs == ()
        with pytest.raises(RuntimeFailure, match="backend sound .sound_plugin 1.0.: .*" + says):
            assert model.inputs


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("untyped_bytes = None", "untyped_bytes is None, and must be True or False"),
        ("concurrent_contexts = 'no'", "concurrent_contexts is 'no', and must be True or False"),
        ("choices = ['signature']", "choices are ['signature'], and must be lists of texts"),
        ("choices = dict(signature='main')", "and must be lists of texts, by key of the config"),
        ("choices = dict(signature=[1])", "and must be lists of texts, by key of the config"),
        ("choices = property(lambda self: 1 / 0)", "failed: ZeroDivisionError"),
    ],
)
def test_a_graph_with_an_odd_attribute_is_not_loaded(folder, attribute, says):
    plugins = odd_plugins(folder, attribute=attribute)
    with Host(plugins=plugins) as host, pytest.raises(RuntimeFailure) as caught:
        host.load(b"sound")
    assert str(caught.value).startswith("backend sound (sound_plugin 1.0)")
    assert says in str(caught.value)


def test_the_values_of_a_choice_may_be_an_iterator(folder):
    plugins = odd_plugins(folder, attribute="choices = dict(signature=map(str, 'ab'))")
    with Host(plugins=plugins) as host:
        assert host.load(b"sound").choices == {"signature": ("a", "b")}


def test_what_is_not_a_context_is_the_backends_failure(folder):
    says = r"backend sound \(sound_plugin 1.0\): .* must give an ExecutionContext"
    plugins = odd_plugins(folder, context="5")
    with Host(plugins=plugins) as host, pytest.raises(RuntimeFailure, match=says):
        host.load(b"sound").init_execution_context()


@pytest.mark.parametrize("answer", ["5", "1 / 0", "exit()", "Generation(None)"])
def test_odd_counts_of_a_language_model_are_left_out(folder, caplog, answer):
    plugins = odd_plugins(folder, generation=answer)
    policy = Policy(own_models=True, isolation="none")
    with Host(plugins=plugins, policy=policy) as host, host.open_session() as session:
        graph = session.load([memoryview(b"sound")], "sound", ExecutionTarget.CPU)
        session.init_execution_context(graph)
        assert session.generation is None
    assert "backend sound (sound_plugin 1.0) failed to count" in caplog.text


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("None", "compile gave None, and must give wasi_nn.runtime.Module"),
        ("OddModule()", "prepare gave 7, and must give wasi_nn.runtime.Instance"),
    ],
)
def test_a_runtime_that_gives_odd_code_is_broken(folder, made, says):
    hello = b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\7\x0a\1\6_start\0\0\x0a\4\1\2\0\x0b"
    plugins = odd_plugins(folder, compiled=made)
    with Host(plugins=plugins, runtime="engine") as host, pytest.raises(Unavailable) as caught:
        host.run(hello)
    assert f"runtime engine is unavailable: the plugin is broken: {says}" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "answers", "code", "says"),
    [
        ("plugins", {"availability": "None"}, 0, "the plugin is broken: availability"),
        ("doctor", {"availability": "None"}, 1, "[broken]  backend sound: the plugin is broken: a"),
        ("doctor", {"features": "1 / 0"}, 1, "[broken]  runtime engine: the plugin is broken: Zer"),
        (
            "inspect",
            {"availability": "None"},
            1,
            "no: backend sound (sound_plugin 1.0): the",
        ),
        ("inspect", {"inputs": "[1]"}, 1, "one of inputs is of Python's type int"),
    ],
)
def test_every_command_reports_odd_answers_in_one_line(folder, command, answers, code, says):
    odd_plugins(folder, **answers)
    hide(folder, *LIBRARIES)
    (folder / "model").write_bytes(b"sound")
    run = subprocess.run(
        [sys.executable, "-m", "wasi_nn", command, *(["model"] if command == "inspect" else [])],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (code, "")
    assert says in run.stdout


def test_plugins_need_no_hash_and_may_have_the_same_name():
    class Plugin:
        __hash__ = None
        __name__ = "plugin"

        def __init__(self, code: str) -> None:
            exec(code, names := {})
            self._backend = names["Sound"]

        @hookimpl
        def wasi_nn_backends(self):
            return [self._backend()]

    plugins = Plugins()
    for name in ("a", "b"):
        plugins.register(Plugin(SOUND.replace('"sound"', f'"{name}"', 1)), name)
    assert [backend.name for backend in plugins.backends] == ["a", "b"]


def test_two_hosts_share_no_plugin_objects():
    first, second = Plugins.installed(), Plugins.installed()
    assert first.backend_for("onnx") is not second.backend_for("onnx")


def test_an_encoding_that_nobody_serves_is_explained():
    plugins = Plugins()
    with pytest.raises(InvalidEncoding, match="installed backends serve: nothing"):
        plugins.backend_for("onnx")
    with pytest.raises(Unavailable, match=r'pip install "wasi-nn\[wasmtime\]"'):
        plugins.runtime()
    with pytest.raises(UsageError, match="known: none"):
        plugins.runtime("wasmtime")


@pytest.mark.parametrize(
    "declared",
    [
        'name = "mine"; encodings = ("mine",)',
        "name = property(lambda self: 'mine'); encodings = property(lambda self: ('mine',))",
        "def __init__(self): self.name = 'mine'; self.encodings = ('mine',)",
    ],
)
def test_attributes_may_be_set_on_the_class_on_the_object_or_as_properties(folder, declared):
    declaration = 'name = "sound"\n    encodings = ("sound", "onnx")'
    distribution(folder, "sound_plugin", SOUND.replace(declaration, declared))
    plugins = Plugins.installed()
    assert not record(plugins, "sound_plugin").error
    assert plugins.backend_for("mine").config_keys == frozenset()


def test_asking_backends_whether_they_can_be_used_imports_no_library():
    code = (
        "import sys; from wasi_nn.plugins import Plugins, availability;"
        "[availability(backend) for backend in Plugins.installed().backends];"
        "libraries = 'numpy onnxruntime openvino torch ai_edge_litert xllamacpp'.split();"
        "print([name for name in libraries if name in sys.modules])"
    )
    run = run_python(code, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_the_plugins_imports_no_library():
    code = (
        "import sys; from wasi_nn.plugins import Plugins; Plugins.installed();"
        "print([m for m in ('numpy', 'onnxruntime', 'wasmtime', 'rich') if m in sys.modules])"
    )
    run = run_python(code, check=True)
    assert run.stdout.strip() == "[]"
