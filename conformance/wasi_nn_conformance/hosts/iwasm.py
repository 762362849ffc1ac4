"""WAMR's own command with its wasi-nn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.command import Command
from wasi_nn_conformance.script import MOUNT


class Iwasm(Command):
    """``iwasm``, built with one of its backends. Its only named models are paths."""

    name = "native-iwasm"
    program = "iwasm"
    variable = "WASI_NN_IWASM"
    install = "build WAMR with WAMR_BUILD_WASI_NN=1"

    def encodings(self) -> frozenset[str]:
        return frozenset({"openvino", "onnx", "tensorflowlite", "ggml"})

    def dialects(self) -> frozenset[str]:
        return frozenset({"wamr", "wamr-legacy"})

    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        mounted = [f"--map-dir={MOUNT}::{graphs.folder}"]
        return [str(self.path()), *mounted, str(job.module), *job.args]
