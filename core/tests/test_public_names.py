"""What plugins may import is public: in ``__all__`` of a module whose path has no underscore."""

from __future__ import annotations

import ast
import inspect
import runpy
from pathlib import Path
from typing import get_origin

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(
    file
    for pattern in ("backends/*/wasi_nn_*", "runtimes/*/wasi_nn_*", "docs/examples")
    for folder in ROOT.glob(pattern)
    for file in folder.rglob("*.py")
)
API = runpy.run_path(str(ROOT / "tools" / "api.py"))
MODULES = API["public_modules"]()


def imports(file: Path):
    """The module and the name of each import of wasi_nn; None for the module itself."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            pairs = [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            pairs = [(alias.name, None) for alias in node.names]
        else:
            continue
        yield from (pair for pair in pairs if pair[0].split(".")[0] == "wasi_nn")


def is_public(module: str, name: str | None) -> bool:
    if name is None or f"{module}.{name}" in MODULES:
        return module in MODULES
    return module in MODULES and name in MODULES[module].__all__


@pytest.mark.parametrize("file", PLUGINS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_plugin_imports_public_names_only(file):
    assert [pair for pair in imports(file) if not is_public(*pair)] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_exists_and_is_documented(name):
    module = MODULES[name]
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        # (On Python 3.10, Callable[…] is a class.)
        if get_origin(value) is None and (inspect.isclass(value) or inspect.isfunction(value)):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_defines_no_other_names(name):
    """What is not in ``__all__`` has an underscore, in its own name or in its module's."""
    tree = ast.parse(inspect.getsource(MODULES[name]))
    defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assigned = {
        name.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    others = {each for each in defined | assigned if not each.startswith("_")}
    assert others - {"T", "log"} <= set(MODULES[name].__all__)


def test_the_page_of_the_api_is_what_the_code_says():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert page == API["page"](), "docs/api.md differs from the code: run make api"
