"""Finds the llama.cpp library that is installed, without loading it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

#: The environment variable for a libllama of your own, with the ggml functions in it or beside it.
VARIABLE = "WASI_NN_LIBLLAMA"
INSTALL = 'pip install "wasi-nn[ggml-prebuilt]" (or "wasi-nn[ggml]", which compiles for minutes)'


class Provider(NamedTuple):
    """A library file, the distribution that contains it (empty for your own), and the file with
    mtmd (images), if any."""

    path: Path
    distribution: str
    vision: Path | None


def find() -> Provider | None:
    """The library to use: the variable's, else llama-cpp-python's, else xllamacpp's."""
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        return Provider(path, "", _first(path.parent, "libmtmd.*") or path)
    folder = _folder("llama_cpp")
    if folder is not None:
        compiled = _first(folder / "lib", "libllama.so", "libllama.dylib", "llama.dll")
        if compiled is not None:
            vision = _first(folder / "lib", "libmtmd.so", "libmtmd.dylib", "mtmd.dll")
            return Provider(compiled, "llama-cpp-python", vision)
    folder = _folder("xllamacpp")
    if folder is not None:
        prebuilt = _first(folder, "xllamacpp*.so", "xllamacpp*.pyd")
        if prebuilt is not None:
            return Provider(prebuilt, "xllamacpp", prebuilt)
    return None


def _folder(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _first(folder: Path, *patterns: str) -> Path | None:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            return path
    return None
