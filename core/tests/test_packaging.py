"""pyproject.toml against the folders: a folder that is not listed would not be installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


# It is shipped, and is not a plugin.
SUITE = "conformance/wasi_nn_conformance"


def packages() -> set[str]:
    """Every import package that is shipped."""
    found = [ROOT / "core/wasi_nn", ROOT / SUITE]
    for kind in ("backends", "runtimes"):
        found += [p.parent for p in ROOT.glob(f"{kind}/*/wasi_nn_*/__init__.py")]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_package_is_in_the_wheel(project):
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(wheel) == packages()


def test_every_package_is_importable_in_an_editable_install(project):
    folders = {Path(package).parent.as_posix() for package in packages()}
    assert set(project["tool"]["hatch"]["build"]["dev-mode-dirs"]) == folders


def test_every_plugin_has_an_entry_point_a_readme_and_tests(project):
    names = {Path(package).name for package in packages() - {"core/wasi_nn", SUITE}}
    assert set(project["project"]["entry-points"]["wasi_nn"].values()) == names
    for package in packages() - {"core/wasi_nn"}:
        folder = ROOT / Path(package).parent
        assert (folder / "README.md").exists(), folder
        assert list((folder / "tests").glob("test_*.py")), folder
        assert (ROOT / package / "py.typed").exists(), package


def test_the_version_of_the_package_is_the_projects(project):
    import wasi_nn

    assert wasi_nn.__version__ == project["project"]["version"]


def test_no_module_has_more_than_400_lines():
    for package in packages():
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
