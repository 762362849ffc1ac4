"""Operators that other packages add to torch (for example torchvision's nms).

A model names such operators. torch has them once their package is imported.
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

#: The packages whose operators have the package's name as a prefix. Only these are imported.
_PACKAGES = (
    "torchvision",
    "torchaudio",
    "torch_scatter",
    "torch_sparse",
    "torch_cluster",
    "torch_spline_conv",
)
_NAMED = re.compile(rb"\bops\.(%s)\.(\w+)" % "|".join(_PACKAGES).encode())
_MAX_CODE = 64 << 20


def bring(source: str | IO[bytes]) -> None:
    """Import the packages of the operators that an archive's code names, unless torch has them.

    Raises ``RuntimeFailure`` if a package is not installed or cannot be imported. Also raises it
    for a model of bytes: a guest may bring such a model and must not choose what the host
    imports."""
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
    """The packages whose operators an archive names, each with one of these operators."""
    found: dict[str, str] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for code in _codes(archive):
                for package, operator in _NAMED.findall(code):
                    found.setdefault(package.decode(), operator.decode())
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError):
        # torch reports what is wrong with a damaged archive.
        pass
    return found


def _codes(archive: zipfile.ZipFile) -> Iterator[bytes]:
    """The entries with TorchScript's code or torch.export's graph."""
    for entry in archive.infolist():
        tail = entry.filename.partition("/")[2]
        graph = entry.filename.endswith(".json") and "models/" in entry.filename
        if (tail.startswith("code/") or graph) and entry.file_size <= _MAX_CODE:
            yield archive.read(entry)
