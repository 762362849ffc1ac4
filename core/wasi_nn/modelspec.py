"""How people write down a named model on a command line, in the three spellings that exist.

- ours: ``NAME=PATH[,PATH…]`` or ``NAME=ENCODING[:TARGET]:PATH[,PATH…]``
- WasmEdge's ``--nn-preload NAME:ENCODING:TARGET:PATH[:PATH…]``
- wasmtime's ``-S nn-graph=FORMAT::DIR``, which takes the folder's name and fixed file names

A path may be ``package:PKG/FILE``: a file inside an installed Python package.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from wasi_nn.encodings import AUTODETECT, GGML, ONNX, OPENVINO, PYTORCH, TENSORFLOWLITE, canonical
from wasi_nn.errors import UsageError
from wasi_nn.registry import NamedModel
from wasi_nn.types import ExecutionTarget

_PACKAGE = "package:"
# The file names that `wasmtime run -S nn-graph` looks for; the last two are ours, in its manner.
_GRAPH_FILES = {
    OPENVINO: ("model.xml", "model.bin"),
    ONNX: ("model.onnx",),
    PYTORCH: ("model.pt",),
    TENSORFLOWLITE: ("model.tflite",),
    GGML: ("model.gguf",),
}


def parse_graph(text: str) -> NamedModel:
    """``NAME=PATH[,PATH…]``, ``NAME=ENCODING:PATH…`` or ``NAME=ENCODING:TARGET:PATH…``.

    Raises ``UsageError``."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UsageError(f"--graph wants NAME=[ENCODING:[TARGET:]]PATH[,PATH…], not {text!r}")
    if re.match(r"\w+://", rest):
        raise UsageError(f"--graph {text}: URLs are not fetched; download the file and name it")
    encoding, target = AUTODETECT, ExecutionTarget.CPU
    word, colon, after = rest.partition(":")
    if colon and not _is_path(rest, word):
        encoding, rest = canonical(word), after
        word, colon, after = rest.partition(":")
        if colon and not _is_path(rest, word) and re.fullmatch(r"\w+", word):
            target, rest = ExecutionTarget.named(word), after
    paths = tuple(resolve_path(part) for part in _split_commas(rest))
    return NamedModel(name, paths, encoding, target)


def parse_nn_preload(text: str) -> NamedModel:
    """WasmEdge's ``NAME:ENCODING:TARGET:PATH[:PATH…]`` (plugins/wasi_nn/wasinnenv.cpp).

    For ggml the rest of the text is one path, whatever colons it holds. A missing file is for the
    guest to hear of, as there. Raises ``UsageError``."""
    parts = text.split(":", 3)
    if len(parts) != 4 or not all(parts):
        raise UsageError(f"--nn-preload wants NAME:ENCODING:TARGET:PATH[:PATH…], not {text!r}")
    name, encoding, target, rest = parts
    encoding = canonical(encoding)
    whole = encoding == GGML or rest.startswith(_PACKAGE)
    paths = [rest] if whole else _split_paths(rest)
    resolved = tuple(resolve_path(path) for path in paths)
    return NamedModel(name, resolved, encoding, ExecutionTarget.named(target), must_exist=False)


def parse_wasmtime_option(text: str) -> NamedModel | None:
    """What wasmtime takes after ``-S``: ``nn`` (None: nothing to do) or ``nn-graph=FORMAT::DIR``.

    Raises ``UsageError`` for everything else."""
    if text in ("nn", "nn=y", "nn=true", "nn=yes"):
        return None
    key, _, value = text.partition("=")
    encoding, colons, folder = value.partition("::")
    if key != "nn-graph" or not colons:
        raise UsageError(f"-S understands nn and nn-graph=FORMAT::DIR, not {text!r}")
    files = _GRAPH_FILES.get(canonical(encoding))
    if files is None:
        raise UsageError(
            f"-S {text}: unknown format {encoding!r}; known: {', '.join(_GRAPH_FILES)}"
        )
    directory = Path(folder)
    if not directory.is_dir():
        raise UsageError(f"-S {text}: {folder!r} is not a directory")
    paths = tuple(directory / name for name in files)
    return NamedModel(directory.resolve().name, paths, canonical(encoding))


def resolve_path(text: str) -> Path:
    """A path of the command line; ``package:PKG/FILE`` is found without importing the package.

    Raises ``UsageError`` when the package or its file is not there."""
    if not text:
        raise UsageError("the path of a file is empty")
    if not text.startswith(_PACKAGE):
        return Path(text).expanduser()
    package, _, inner = text[len(_PACKAGE) :].partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{text}: {error}") from error
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{text}: the Python package {package!r} is not installed")
    for root in found.submodule_search_locations:
        path = Path(root) / inner
        if inner and path.exists():
            return path
    raise UsageError(f"{text}: the package {package!r} has no file {inner!r}")


def _is_path(text: str, word: str) -> bool:
    # A drive letter, "package:" and a file that exists are no encodings.
    return len(word) == 1 or text.startswith(_PACKAGE) or Path(_split_commas(text)[0]).exists()


def _split_commas(text: str) -> list[str]:
    """Split at commas, but not within the path of a file that exists."""
    parts = [part for part in text.split(",") if part]
    paths: list[str] = []
    while parts:
        wholes = ((count, ",".join(parts[:count])) for count in range(len(parts), 1, -1))
        found = next((one for one in wholes if Path(one[1]).exists()), (1, parts[0]))
        paths.append(found[1])
        parts = parts[found[0] :]
    return paths


def _split_paths(text: str) -> list[str]:
    """Split at colons, but not behind a drive letter (``C:\\model.xml``)."""
    paths: list[str] = []
    for part in text.split(":"):
        if paths and len(paths[-1]) == 1 and paths[-1].isalpha() and part[:1] in ("\\", "/"):
            paths[-1] += ":" + part
        elif part:
            paths.append(part)
    return paths
