"""WasmEdge's own command with its wasi_nn plugins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.command import Command
from wasi_nn_conformance.script import MOUNT

_NAMES = {
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "tensorflowlite": "TensorflowLite",
    "ggml": "GGML",
}


class WasmEdge(Command):
    """``wasmedge --nn-preload …``. One plugin serves one encoding. The command does not say
    which plugins are installed."""

    name = "native-wasmedge"
    program = "wasmedge"
    variable = "WASI_NN_WASMEDGE"
    install = "install WasmEdge with a wasi_nn plugin"

    def encodings(self) -> frozenset[str]:
        return frozenset(_NAMES)

    def dialects(self) -> frozenset[str]:
        return frozenset({"wasmedge"})

    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        options = []
        for name, graph in {**{n: n for n in graphs.files}, **job.models}.items():
            paths = ":".join(str(path) for path in graphs.files[graph])
            options += ["--nn-preload", f"{name}:{_NAMES[graphs.encoding]}:CPU:{paths}"]
        mounted = ["--dir", f"{MOUNT}:{graphs.folder}"]
        return [str(self.path()), *mounted, *options, str(job.module), *job.args]
