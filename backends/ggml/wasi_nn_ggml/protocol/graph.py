"""Loads GGUF models as graphs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn.backend import (
    FALLBACK,
    Backend,
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
    Reserve,
)
from wasi_nn.backend.config import check_host_only, known_config, parse
from wasi_nn.backend.files import Version, version
from wasi_nn.errors import (
    InvalidArgument,
    ModelNotFound,
    UnsupportedOperation,
)
from wasi_nn.types import ExecutionTarget, TensorInfo, TensorType
from wasi_nn_ggml import settings
from wasi_nn_ggml.guard import model_files
from wasi_nn_ggml.llama.loader import library
from wasi_nn_ggml.llama.model import Model, Source, applicable
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.llama.vision import Projector, check_projector
from wasi_nn_ggml.protocol import embedding
from wasi_nn_ggml.protocol.context import GgmlContext
from wasi_nn_ggml.room.room import room_of

# Of an image file, in bytes.
_MAX_IMAGE = 32 << 20


_INPUTS = (
    TensorInfo("prompt", TensorType.U8, (-1,), "text"),
    TensorInfo("config", TensorType.U8, (-1,), "JSON"),
)
_OUTPUTS = (
    TensorInfo("text", TensorType.U8, (-1,), "text"),
    TensorInfo("metadata", TensorType.U8, (-1,), "JSON"),
)


class GgmlGraph(Graph):
    """A model with a config. Its contexts compute together, in the decode loops of its model."""

    untyped_bytes = True
    inputs = _INPUTS
    outputs = _OUTPUTS
    shared_memory: object

    def __init__(
        self,
        backend: Backend,
        source: Source,
        projector: Path | None,
        config: Mapping[str, Any],
        gpu: bool,
    ) -> None:
        self.backend = backend
        self._gpu = gpu
        self.source = source
        self.config = dict(config)
        self.settings = self.read(config)
        self.model: Model = source.model(self.settings.model)
        self.shared_memory = self.model
        self.room = room_of(self.model)
        self._projector_path = projector
        #: The projectors that contexts use now, by file and model.
        self.projectors: weakref.WeakValueDictionary[tuple[Version, int], Projector] = (
            weakref.WeakValueDictionary()
        )
        self._lock = threading.Lock()
        embedding.check(self.model, self.settings.context)
        # Report a grammar that does not parse at load.
        if self.settings.sampler.grammar or self.settings.sampler.json_schema:
            Sampler(self.model, self.settings.sampler)

    def read(self, config: Mapping[str, Any]) -> settings.Settings:
        """The settings of a config that have an effect. Raises ``InvalidArgument``."""
        wanted = settings.read(config)
        return wanted._replace(model=applicable(wanted.model, self._gpu))

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        return GgmlContext(self, reserve)

    def statistics(self) -> Mapping[str, float]:
        return self.room.statistics()

    def projector_path(self, wanted: settings.Settings) -> Path:
        """The path of the projector. Raises ``InvalidArgument`` if there is none, and
        ``ModelNotFound``."""
        if wanted.mmproj:
            return self._beside(wanted.mmproj, "mmproj")
        if self._projector_path is None:
            raise InvalidArgument("images need a projector: the config's mmproj")
        return self._projector_path

    def projector(self, model: Model, path: Path, wanted: settings.ContextSettings) -> Projector:
        """The projector at ``path`` for a model, loaded once for all contexts. Raises
        ``ModelNotFound`` and ``RuntimeFailure``."""
        key = (version(path), id(model))
        with self._lock:
            projector = self.projectors.get(key)
            if projector is None:
                projector = self.projectors[key] = Projector(model, path, wanted)
        return projector

    def image(self, wanted: settings.Settings) -> bytes | None:
        """The image file of the config. Raises ``InvalidArgument`` and ``ModelNotFound``."""
        if not wanted.image:
            return None
        path = self._beside(wanted.image, "image")
        try:
            with path.open("rb") as file:
                # Read one byte more than allowed: the file may grow meanwhile.
                size = os.fstat(file.fileno()).st_size
                data = file.read(_MAX_IMAGE + 1) if size <= _MAX_IMAGE else b""
        except OSError as error:
            raise ModelNotFound(f"the config's image {path}: {error.strerror or error}") from error
        if max(size, len(data)) > _MAX_IMAGE:
            raise InvalidArgument(f"an image has {size} bytes: at most {_MAX_IMAGE} are allowed")
        return data

    def close(self) -> None:
        self.source.close()

    def _beside(self, name: str, key: str) -> Path:
        """The file that a guest's config names with ``key``, in the model's folder. Raises
        ``InvalidArgument`` and ``ModelNotFound``."""
        if self.source.path is None:
            raise InvalidArgument(f"the config's {key} names a file: the model must be a file too")
        return model_files.beside(self.source.path, name, key)


def load(backend: Backend, builders: Sequence[Builder], options: LoadOptions) -> GgmlGraph:
    """See ``Backend.load``."""
    if not 1 <= len(builders) <= 2:
        raise InvalidArgument(
            f"{len(builders)} builders were given; a ggml graph takes a model, and optionally a "
            "JSON config or a projector. Of a split model, give only the first part: the others "
            "are found beside it"
        )
    native = library()
    has_gpu = native.llama_supports_gpu_offload()
    gpu = has_gpu and options.target in (ExecutionTarget.GPU, ExecutionTarget.AUTO)
    on_cpu = options.target in (ExecutionTarget.CPU, ExecutionTarget.AUTO)
    if not gpu and not on_cpu and not options.allow_fallback:
        raise UnsupportedOperation(
            f"the execution target {options.target} is not available: {native.version} runs on the "
            f"{'CPU and the GPU' if has_gpu else 'CPU'}; {FALLBACK}"
        )
    config = dict(options.config)
    projector = None
    if len(builders) == 2:
        second = builders[1]
        if isinstance(second, Path):
            check_projector(second)
            projector = second
        else:
            given = parse(settings.decode(second, "config"))
            check_host_only(given, backend.host_only_keys)
            config.update(known_config(backend, given))
    source = Source(builders[0])
    try:
        return GgmlGraph(backend, source, projector, config, gpu)
    except BaseException:
        source.close()
        raise
