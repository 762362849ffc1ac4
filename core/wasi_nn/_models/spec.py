"""Parse a named model from a command line, in one of three spellings.

- ours: ``NAME=PATH[,PATH…]`` or ``NAME=ENCODING[:TARGET]:PATH[,PATH…]``
- WasmEdge's ``--nn-preload NAME:ENCODING:TARGET:PATH[:PATH…]``
- wasmtime's ``-S nn-graph=FORMAT::DIR``, with the folder's name and fixed file names

A path may be ``package:PKG/FILE``, a file in an installed Python package. In our spelling and in
WasmEdge's it may be a URL, whose file is fetched.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from wasi_nn._models.registry import NamedModel
from wasi_nn._models.sources.url import is_remote, local_path, scheme_of
from wasi_nn._policy import values
from wasi_nn._suggestion import did_you_mean
from wasi_nn.encodings import AUTODETECT, GGML, ONNX, OPENVINO, PYTORCH, TENSORFLOWLITE, canonical
from wasi_nn.errors import UsageError
from wasi_nn.types import ExecutionTarget

_PACKAGE = "package:"
# A URL that became a Path has lost one of its two slashes.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(?:https?|ftp|file|s3|gs|hf):/")
#: Gives the paths of a model's sources, whose name is the first argument.
Locate = Callable[[str, Sequence[str]], Sequence[Path]]
# The file names that `wasmtime run -S nn-graph` looks for. The last two are our additions.
_GRAPH_FILES = {
    OPENVINO: ("model.xml", "model.bin"),
    ONNX: ("model.onnx",),
    PYTORCH: ("model.pt",),
    TENSORFLOWLITE: ("model.tflite",),
    GGML: ("model.gguf",),
}


def local_files(
    sources: Sequence[str | os.PathLike[str]], digest: str | None = None
) -> tuple[Path, ...]:
    """The files of a model. Those of URLs are downloaded if they are not in the user's cache; with
    a ``digest`` (see ``NamedModel``), they must have it. Raises ``UsageError``."""
    if not any(map(is_remote, sources)):
        return tuple(resolve_path(source) for source in sources)
    from wasi_nn._models import catalogue
    from wasi_nn._models.sources.fetching import fetch

    return fetch(sources, catalogue.read().cache, values.digest(digest) if digest else None).paths


def _locate(_: str, sources: Sequence[str]) -> Sequence[Path]:
    return local_files(sources)


def parse_graph(text: str, locate: Locate = _locate) -> NamedModel:
    """``NAME=PATH[,PATH…]``, ``NAME=ENCODING:PATH…`` or ``NAME=ENCODING:TARGET:PATH…``.

    Raises ``UsageError``, and what ``locate`` raises."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UsageError(f"--graph takes NAME=[ENCODING:[TARGET:]]PATH[,PATH…], not {text!r}")
    encoding, target = AUTODETECT, ExecutionTarget.CPU
    word, colon, after = rest.partition(":")
    if colon and not _is_path(rest, word):
        encoding, rest = canonical(word), after
        word, colon, after = rest.partition(":")
        if colon and not _is_path(rest, word) and re.fullmatch(r"\w+", word):
            target, rest = ExecutionTarget.named(word), after
    return NamedModel(name, tuple(locate(name, _split_commas(rest))), encoding, target)


def parse_nn_preload(text: str, locate: Locate = _locate) -> NamedModel:
    """WasmEdge's ``NAME:ENCODING:TARGET:PATH[:PATH…]`` (plugins/wasi_nn/wasinnenv.cpp).

    For ggml, the rest of the text is one path and may contain colons. A missing file is an error
    that the guest gets, as in WasmEdge. Raises ``UsageError``, and what ``locate`` raises."""
    parts = text.split(":", 3)
    if len(parts) != 4 or not all(parts):
        raise UsageError(f"--nn-preload takes NAME:ENCODING:TARGET:PATH[:PATH…], not {text!r}")
    name, encoding, target, rest = parts
    encoding = canonical(encoding)
    whole = encoding == GGML or rest.startswith(_PACKAGE) or _URL.match(rest) is not None
    paths = [rest] if whole else _split_paths(rest)
    resolved = tuple(locate(name, paths))
    return NamedModel(name, resolved, encoding, ExecutionTarget.named(target), must_exist=False)


def parse_nn_graph(text: str) -> NamedModel:
    """Parse wasmtime's ``nn-graph=FORMAT::DIR``. Raises ``UsageError``."""
    key, _, value = text.partition("=")
    encoding, colons, folder = value.partition("::")
    if key != "nn-graph" or not colons:
        raise UsageError(f"-S takes nn or nn-graph=FORMAT::DIR, not {text!r}")
    files = _GRAPH_FILES.get(canonical(encoding))
    if files is None:
        raise UsageError(
            f"-S {text}: unknown format {encoding!r}{did_you_mean(encoding, _GRAPH_FILES)}; "
            f"known: {', '.join(_GRAPH_FILES)}"
        )
    directory = Path(folder)
    if not directory.is_dir():
        raise UsageError(f"-S {text}: {folder!r} is not a directory")
    paths = tuple(directory / name for name in files)
    return NamedModel(directory.resolve().name, paths, canonical(encoding))


def resolve_path(source: str | os.PathLike[str]) -> Path:
    """The path of a file that the user named. ``package:PKG/FILE`` is found without importing the
    package, and ``file:///PATH`` is a path too. Raises ``UsageError`` if the package or its file
    does not exist, for another URL, and for anything that is not a path."""
    if not isinstance(source, (str, os.PathLike)):
        several = "; give several files as several arguments"
        raise UsageError(
            f"a file must be a path (str or Path), not {source!r:.200}"
            + several * isinstance(source, Sequence)
        )
    text = os.fspath(source)
    if not text:
        raise UsageError("the path of a file is empty")
    if not text.startswith(_PACKAGE):
        path = Path(text).expanduser()
        if not _URL.match(text) or path.exists():
            return path
        if scheme_of(text) == "file":
            return local_path(text)
        raise UsageError(
            f"{text}: only models are fetched, and their URLs are texts (str): download the file "
            "and name it"
        )
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
    # An encoding is not a drive letter, "package:", a URL, a folder or an existing file.
    if (
        len(word) == 1
        or re.search(r"[,/\\]", word)
        or text.startswith(_PACKAGE)
        or _URL.match(text)
    ):
        return True
    return Path(_split_commas(text)[0]).exists()


def _split_commas(text: str) -> list[str]:
    """Split at commas, except within the path of an existing file."""
    parts = [part for part in text.split(",") if part]
    paths: list[str] = []
    while parts:
        wholes = ((count, ",".join(parts[:count])) for count in range(len(parts), 1, -1))
        found = next((one for one in wholes if Path(one[1]).exists()), (1, parts[0]))
        paths.append(found[1])
        parts = parts[found[0] :]
    return paths


def _split_paths(text: str) -> list[str]:
    """Split at colons, except after a drive letter (``C:\\model.xml``)."""
    paths: list[str] = []
    for part in text.split(":"):
        if paths and len(paths[-1]) == 1 and paths[-1].isalpha() and part[:1] in ("\\", "/"):
            paths[-1] += ":" + part
        elif part:
            paths.append(part)
    return paths
