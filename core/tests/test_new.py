"""`wasi-nn new`: the repositories that it writes are plugins whose tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile

import click
import pytest
from conftest import hide, needs

from wasi_nn._cli.new import new
from wasi_nn.errors import UsageError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*arguments):
        new.main(list(arguments), standalone_mode=False)
        return tmp_path / "wasi-nn-my-lib"

    return write


@pytest.fixture
def tested(write, tmp_path):
    """A function that installs a new plugin as pip does, and runs its own tests."""

    def test(kind, *options):
        folder = write(kind, "my-lib")
        needs("hatchling")
        site = tmp_path / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        alone = ["--no-deps", "--no-build-isolation", "--target", str(site)]
        run = subprocess.run([*pip, *alone, str(folder)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        hide(site, "torch", "openvino", "ai_edge_litert")
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-qrs", "-p", "no:cacheprovider", *options],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert run.returncode == 0, run.stdout + run.stderr
        passed = re.search(r"(\d+) passed", run.stdout)
        assert passed is not None, run.stdout
        return int(passed[1])

    return test


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "at_least"), [("backend", 240), ("runtime", 250)])
def test_the_tests_of_a_new_plugin_pass(tested, kind, at_least):
    assert tested(kind) > at_least


KINDS = {
    "backend": ("class MyLib(backend.Backend)", "tests/graphs/add.my-lib"),
    "runtime": ("class MyLib(runtime.Runtime)", "wasi_nn_my_lib/instance.py"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_repository_has_all_that_a_plugin_needs(write, kind):
    line, own_file = KINDS[kind]
    folder = write(kind, "my-lib")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "tests/test_my_lib.py",
        "wasi_nn_my_lib/__init__.py",
        "wasi_nn_my_lib/py.typed",
        own_file,
    }
    text = "".join((folder / file).read_bytes().decode("latin-1") for file in files)
    assert "newname" not in text.lower()
    assert line in text
    assert 'my-lib = "wasi_nn_my_lib"' in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My", "is not a name for a plugin: use small letters, digits and -"),
        ("1a", "is not a name for a plugin"),
        ("a_b", "is not a name for a plugin"),
        ("a-", "is not a name for a plugin"),
        ("../a", "is not a name for a plugin"),
        ("", "is not a name for a plugin"),
        ("a" * 51, "is not a name for a plugin"),
        ("onnx", "means something else"),
        ("gguf", "means something else"),
        ("cpu", "means something else"),
        ("autodetect", "means something else"),
        ("identity", "is taken by the plugin 'identity' of wasi-nn"),
        ("wasmtime", "is taken by the plugin 'wasmtime' of wasi-nn"),
        ("conformance", "means something else"),
    ],
)
def test_a_name_that_a_plugin_cannot_have_is_refused(write, tmp_path, name, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        write("backend", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugins_wheel_has_its_package_alone(write, tmp_path, kind):
    needs("hatchling")
    folder = write(kind, "my-lib")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    run = subprocess.run([*command, *options, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        inner = file.read("wasi_nn_my_lib-0.1.0.dist-info/entry_points.txt").decode()
    package = folder / "wasi_nn_my_lib"
    assert names == {f"wasi_nn_my_lib/{path.name}" for path in package.iterdir()}
    assert inner == "[wasi_nn]\nmy-lib = wasi_nn_my_lib\n"


def test_nothing_is_written_over(write, tmp_path):
    folder = write("backend", "my-lib")
    (folder / "README.md").write_text("mine")
    for arguments in ([], ["--into", "."], ["--into", "wasi-nn-my-lib/README.md"]):
        with pytest.raises(UsageError, match="exists already"):
            write("backend", "my-lib", *arguments)
    with pytest.raises(UsageError, match="there is no folder"):
        write("backend", "my-lib", "--into", "none/here")
    with pytest.raises(click.BadParameter):
        write("engine", "my-lib")
    assert (folder / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["wasi-nn-my-lib"]
