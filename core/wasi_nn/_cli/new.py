"""`wasi-nn new`: a repository for a plugin, with tests that pass."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click

from wasi_nn import _templates
from wasi_nn._cli.messages import tell
from wasi_nn.encodings import ALIASES, AUTODETECT, EXTRAS, TENSORFLOW
from wasi_nn.errors import UsageError
from wasi_nn.plugins import Plugins
from wasi_nn.types import ExecutionTarget

EXAMPLES = """Examples:

\b
  wasi-nn new backend mylibrary
  wasi-nn new backend my-library --into ~/src/wasi-nn-my-library
  wasi-nn new runtime myengine
"""

_ROOT = Path(_templates.__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_NAME = 50
# Files of every repository, by their names there.
_COMMON = {".github/workflows/test.yml": "ci.yml", ".gitignore": "gitignore"}
# Words that mean something else where a name can stand.
_RESERVED = {
    *(AUTODETECT, TENSORFLOW, "none", "shared", "guest", "package", "conformance", "newname"),
    *(word for words in (ALIASES, EXTRAS, EXTRAS.values()) for word in words),
    *(target.name.lower() for target in ExecutionTarget),
    # Packages of ours that are not plugins.
    *("testing", "browser"),
}


@click.command(no_args_is_help=True, epilog=EXAMPLES)
@click.argument("kind", type=click.Choice(["backend", "runtime"]))
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder to make. Default: wasi-nn-NAME here.",
)
def new(kind: str, name: str, into: Path | None) -> int:
    """Write a repository for a plugin: a backend for a library, or a runtime for a Wasm engine.

    It has a small plugin that works, tests that inherit the conformance cases, and a workflow that
    runs them. Put your library or your engine in its place."""
    _check_name(name)
    folder = (into or Path(f"wasi-nn-{name}")).expanduser()
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already: give another name, or another --into FOLDER")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {folder.absolute().parent} to make {folder.name} in")
    _write(kind, name, folder)
    tell(f"{folder} is there. Next:")
    tell(f"  cd {folder}")
    tell('  pip install -e ".[test]"')
    tell("  pytest")
    return 0


def _check_name(name: str) -> None:
    """Raise ``UsageError`` for a name that a plugin cannot have, or that is taken here."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise UsageError(
            f"{name!r} is not a name for a plugin: use small letters, digits and -, and begin with "
            "a letter, as in my-library"
        )
    if name in _RESERVED:
        raise UsageError(f"the name {name!r} means something else in wasi-nn: take another one")
    for record in Plugins.installed().records:
        taken = {record.name, *(runtime.name for runtime in record.runtimes)}
        for backend in record.backends:
            taken |= {backend.name, *backend.encodings}
        if name in taken:
            raise UsageError(
                f"the name {name!r} is taken by the plugin {record.name!r} of "
                f"{record.distribution} {record.version}: take another one"
            )
    module = _module(name)
    if find_spec(module) is not None:
        raise UsageError(f"there is a Python package {module} already: take another name")


def _write(kind: str, name: str, folder: Path) -> None:
    """Write the repository beside its place, and move it there when it is complete."""
    made = Path(tempfile.mkdtemp(prefix=".wasi-nn-new-", dir=folder.absolute().parent))
    try:
        for path, inner in _files(kind):
            to = made / _named(inner, name)
            to.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            to.write_bytes(data if path.suffix == ".raw" else _named(data.decode(), name).encode())
        mask = os.umask(0)
        os.umask(mask)
        made.chmod(0o777 & ~mask)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _files(kind: str) -> Iterator[tuple[Path, str]]:
    """Each file of a template, and its path in the repository."""
    for path in sorted((_ROOT / kind).rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path, path.relative_to(_ROOT / kind).as_posix()
    for inner, name in _COMMON.items():
        yield _ROOT / name, inner


def _named(text: str, name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("-"))
    plain = name.replace("-", "_")
    words = {
        "wasi_nn_newname": f"wasi_nn_{plain}",
        "test_newname": f"test_{plain}",
        "Newname": camel,
        "newname": name,
    }
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def _module(name: str) -> str:
    return f"wasi_nn_{name.replace('-', '_')}"
