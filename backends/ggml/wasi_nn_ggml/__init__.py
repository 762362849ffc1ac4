"""GGUF models through llama.cpp, as a wasi-nn plugin. Importing this loads no library.

The packages. Each imports only those below it.

- ``protocol``: WasmEdge's ggml protocol: graphs and contexts, prompts and outputs;
- ``llama``: llama.cpp in this process: its library, models, KV caches, samplers and images;
- ``grammar``: JSON schemas as grammars, and checks of grammars;
- ``guard``: checks and estimates that run before llama.cpp, for better messages, and because guests
  share a process.
"""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_ggml.backend import GgmlBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [GgmlBackend()]
