"""Operators that other packages add to torch (torchvision's nms in a detector).

A model names them, and torch has them once their package is imported.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import IO

from wasi_nn.errors import RuntimeFailure

#: Packages whose operators have their own name before them. No other package is imported.
_PACKAGES = (
    "torchvision",
    "torchaudio",
    "torch_scatter",
    "torch_sparse",
    "torch_cluster",
    "torch_spline_conv",
)
_NAMED = re.compile(rb"\bops\.(%s)\.(\w+)" % "|".join(_PACKAGES).encode())
_MOST_CODE = 64 << 20


def bring(source: str | IO[bytes]) -> None:
    """Import the packages whose operators an archive's code names, where torch does not know them.

    Raises ``RuntimeFailure`` for one that is not installed or cannot be imported, and for every
    one that a model of bytes wants: a guest can bring such a model, and must not choose what the
    host imports."""
    import torch

    for package, operator in _named(source).items():
        if hasattr(getattr(torch.ops, package), operator):
            continue
        what = f"the model uses the operator {package}::{operator}"
        if not isinstance(source, str):
            raise RuntimeFailure(f"{what}: register the model by its path, so that it is imported")
        if find_spec(package) is None:
            raise RuntimeFailure(f"{what}: install {package} (pip install {package})")
        try:
            import_module(package)
        except Exception as error:
            raise RuntimeFailure(
                f"{what}, and {package} cannot be imported: install the build of it that is for "
                f"torch {torch.__version__} ({error})"
            ) from error


def _named(source: str | IO[bytes]) -> dict[str, str]:
    """The packages whose operators an archive names, with one of these."""
    found: dict[str, str] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for code in _codes(archive):
                for package, operator in _NAMED.findall(code):
                    found.setdefault(package.decode(), operator.decode())
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError):
        # torch says what is wrong with a damaged archive.
        pass
    return found


def _codes(archive: zipfile.ZipFile) -> Iterator[bytes]:
    """The entries with the code of TorchScript or the graph of torch.export."""
    for entry in archive.infolist():
        tail = entry.filename.partition("/")[2]
        graph = entry.filename.endswith(".json") and "models/" in entry.filename
        if (tail.startswith("code/") or graph) and entry.file_size <= _MOST_CODE:
            yield archive.read(entry)
