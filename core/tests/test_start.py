"""What a program's start imports, and the entry points that it reads."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import needs, run_python

import wasi_nn
from wasi_nn._distributions import EntryPoint, entry_points, installed_version

GROUP = "wasi_nn"
HELLO = Path(__file__).parents[2] / "conformance/guests/hello/hello.wasm"


def install(folder, name, entries, version="1.0", suffix="dist-info", header="METADATA"):
    """A distribution's metadata, as pip writes it."""
    info = folder / f"{name.replace('-', '_')}-{version}.{suffix}"
    info.mkdir(parents=True)
    (info / header).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText")
    (info / "entry_points.txt").write_text(entries)


def ours():
    return sorted(entry_points(GROUP))


def theirs():
    found = metadata.entry_points(group=GROUP)
    return sorted(EntryPoint(e.name, e.value, e.dist.name, e.dist.version) for e in found)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_name_of_the_package_is_there():
    assert all(getattr(wasi_nn, name) is not None for name in wasi_nn.__all__)
    assert set(wasi_nn.__all__) <= set(dir(wasi_nn))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = wasi_nn.nothing


@pytest.mark.parametrize("name", ["backend", "errors", "plugins", "runtime", "types", "wasm"])
def test_a_public_module_needs_no_import_of_its_own(name):
    code = f"import wasi_nn; print(wasi_nn.{name}.__name__)"
    run = run_python(code, check=True)
    assert run.stdout.strip() == f"wasi_nn.{name}"


def test_entry_points_are_those_of_importlib_metadata(folder):
    install(
        folder, "my-plugin", "# ours\n[other]\na = b\n\n[wasi_nn]\n x=mod : obj.y [extra]\n\n[z]\n"
    )
    install(folder, "an-egg", "[wasi_nn]\negg = egg\n", suffix="egg-info", header="PKG-INFO")
    install(folder, "no-group", "[console_scripts]\na = b\n")
    (folder / "bad-1.0.dist-info").mkdir()
    (folder / "bad-1.0.dist-info/entry_points.txt").write_bytes(b"[x]\n")
    (folder / "file-1.0.egg-info").write_text("Name: file\n")
    assert {entry.name for entry in ours()} >= {"x", "egg", "onnx"}
    assert ours() == theirs()
    assert installed_version("My.plugin") == installed_version("an_egg") == "1.0"
    assert installed_version("pluggy") == metadata.version("pluggy")
    assert installed_version("nowhere") == ""


def test_the_first_distribution_of_a_name_counts(folder, monkeypatch):
    install(folder / "one", "twice.named", "[wasi_nn]\nfirst = x\n")
    install(folder / "two", "Twice-named", "[wasi_nn]\nsecond = x\n", version="2.0")
    monkeypatch.syspath_prepend(folder / "two")
    monkeypatch.syspath_prepend(folder / "one")
    assert {e.name for e in ours()} & {"first", "second"} == {"first"}
    assert installed_version("twice-named") == "1.0"
    assert ours() == theirs()


@pytest.mark.parametrize("entry", [Path("/"), None, b"/", 7, "a\0b", "/nowhere"], ids=repr)
def test_an_odd_entry_of_the_search_path_is_left_out(monkeypatch, entry):
    found = ours()
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert ours() == found


def test_a_distribution_in_an_archive_is_found(folder):
    with zipfile.ZipFile(folder / "app.zip", "w") as archive:
        archive.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1.0\n")
        archive.writestr("zipped-1.0.dist-info/entry_points.txt", "[wasi_nn]\nzipped = zipped\n")
    sys.path.insert(0, str(folder / "app.zip"))
    try:
        assert EntryPoint("zipped", "zipped", "zipped", "1.0") in ours()
        assert installed_version("zipped") == "1.0"
        assert installed_version("nowhere") == ""
    finally:
        del sys.path[0]


def test_a_distribution_of_another_finder_is_found(folder, monkeypatch):
    install(folder / "hidden", "elsewhere", "[wasi_nn]\nelse = elsewhere\n")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return None

        @staticmethod
        def find_distributions(context):
            return [metadata.PathDistribution(folder / "hidden/elsewhere-1.0.dist-info")]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert EntryPoint("else", "elsewhere", "elsewhere", "1.0") in ours()


@pytest.mark.parametrize("value", ["os:path.join", "os : path.join", "os:path.join [extra]"])
def test_an_entry_point_is_loaded(value):
    assert EntryPoint("x", value, "", "").load() is os.path.join
    assert EntryPoint("x", "os", "", "").load() is os


# What takes a program's time and memory, and is not needed to know the plugins.
HEAVY = """
    asyncio concurrent ctypes dataclasses email http importlib.metadata json logging multiprocessing
    numpy pathlib shutil signal socket ssl subprocess tempfile traceback urllib xml zipfile
    click rich jinja2 wasmtime wasmer onnxruntime openvino torch ai_edge_litert xllamacpp llama_cpp
    wasi_nn._abi wasi_nn._cli wasi_nn._host wasi_nn._models wasi_nn._process wasi_nn._session
    wasi_nn.wasm
""".split()


def test_a_list_of_the_plugins_imports_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import wasi_nn; "
        "from wasi_nn.plugins import Plugins; records = Plugins.installed().records; "
        "assert len(records) > 2, records; print(*(set(sys.modules) - before))"
    )
    run = run_python(code, check=True)
    imported = run.stdout.split()
    assert "wasi_nn.plugins" in imported
    assert not {name for name in imported if name in HEAVY}


# What a run of a small guest does not need.
UNUSED = """
    asyncio dataclasses email http importlib.metadata json multiprocessing numpy pkgutil random rich
    shutil socket subprocess tempfile jinja2 onnxruntime openvino torch ai_edge_litert xllamacpp
    llama_cpp wasmtime wasi_nn._abi.component wasi_nn._models.recognition wasi_nn._sandbox
    wasi_nn._sockets
""".split()


def test_a_run_of_a_small_guest_imports_no_more_than_it_needs():
    needs("wasmtime")
    code = (
        "import sys; before = set(sys.modules); from wasi_nn.__main__ import main\n"
        f"sys.argv = ['wasi-nn', 'run', '--runtime', 'wasmtime', {str(HELLO)!r}]\n"
        "try: main()\n"
        "finally: print(*(set(sys.modules) - before))"
    )
    imported = run_python(code, check=True).stdout.splitlines()[-1].split()
    assert "wasi_nn_wasmtime.instance" in imported
    # (Python 3.10's own module platform imports it.)
    own = {"subprocess"} if sys.version_info < (3, 11) else set()
    assert not {name for name in imported if name in UNUSED} - own


def test_an_import_of_the_package_opens_no_file():
    code = (
        "import sys; opened = []; modules = ('.py', '.pyc', '.so'); "
        "sys.addaudithook(lambda event, given: event == 'open' and opened.append(given[0])); "
        "import wasi_nn; from wasi_nn import *; "
        "print(*(path for path in opened if not str(path).endswith(modules)), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = run_python(code, check=True, env=environment)
    assert run.stdout.strip() == ""
