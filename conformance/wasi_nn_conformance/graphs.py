"""The canonical graphs of an encoding: files by name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn_conformance.places import GRAPHS

#: The suffixes of an encoding's files, in the order of its graph builders.
SUFFIXES = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
    "tensorflowlite": (".tflite",),
    "pytorch": (".pt",),
    "ggml": (".gguf",),
}
_CONFIGS: dict[str, Mapping[str, Any]] = {
    "ggml": {"temp": 0, "threads": 1, "ctx-size": 512, "n-predict": 16},
}
_ROW = (1, 4)
#: The dimensions of the canonical graphs' inputs and outputs; -1 is an open dimension.
DIMENSIONS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]] = {
    "identity": ((_ROW,), (_ROW,)),
    "add": ((_ROW, _ROW), (_ROW,)),
    "pair": ((_ROW, _ROW), (_ROW, _ROW)),
    "matmul": ((_ROW,), ((1, 3),)),
    "batch": (((-1, 4),), ((-1, 4),)),
}
_INPUTS = {"add": ("x", "y"), "pair": ("a", "b"), "tiny": ("prompt", "config")}


class GraphSet(NamedTuple):
    """``files`` are the builders of each graph, in order; ``config`` is the config of every
    graph."""

    encoding: str
    folder: Path
    files: Mapping[str, tuple[Path, ...]]
    config: Mapping[str, Any] = {}


def canonical(encoding: str) -> GraphSet:
    """The checked-in graphs of an encoding, which may be none."""
    folder = GRAPHS / encoding
    suffixes = SUFFIXES.get(encoding, ())
    names = sorted(path.stem for path in folder.glob(f"*{suffixes[0]}")) if suffixes else []
    files = {name: tuple(folder / f"{name}{suffix}" for suffix in suffixes) for name in names}
    return GraphSet(encoding, folder, files, _CONFIGS.get(encoding, {}))


def put_folder(graphs: GraphSet, graph: str, folder: Path) -> Path:
    """Make a graph's folder as wasmtime's ``-S nn-graph=ENCODING::FOLDER`` takes it: the folder's
    name is the model's, and the files are ``model`` with the encoding's suffixes."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for path in graphs.files[graph]:
            shutil.copyfile(path, folder / f"model{path.suffix}")
    return folder


def inputs(encoding: str, graph: str) -> tuple[str, ...]:
    """The names of a graph's inputs; numbers if the encoding has no names."""
    names = _INPUTS.get(graph, ("x",))
    return tuple(map(str, range(len(names)))) if encoding == "pytorch" else names
