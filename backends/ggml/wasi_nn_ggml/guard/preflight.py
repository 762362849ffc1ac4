"""Loads and runs a guest's own model in a separate process first.

llama.cpp calls abort() on some damaged models, and a process cannot prevent that. A model that
would take the host down takes the separate process down instead. The price: the model is loaded
twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

from wasi_nn.backend import unlimited
from wasi_nn.errors import NnError, RuntimeFailure, WasiNnError
from wasi_nn_ggml import subprocess_module

_TIMEOUT_SECONDS = 120
_REJECTED = 3
# Memory for the process beside the model's file. A vocabulary can make llama.cpp write tokens
# without end, and without a limit the system would end processes to find memory.
_EXTRA_BYTES = 8 << 30
# Texts that a damaged vocabulary may fail on. An exception in llama.cpp ends its process.
_TEXTS = (
    *(bytes([byte]) for byte in range(256)),
    bytes(range(256)),
    bytes(range(255, -1, -1)) * 2,
    "a b  c\n\n\tzz a ü é 你好 👋🏽 \u200b\ufdfa\u0301 x1234567 don't".encode(),
    b"<s></s><unk><|im_start|>user\n<|endoftext|>[INST]<0x0A>",
    b"\xe4\xbd \xf0\x9f \xc3",
    b" " * 300 + b"a" * 300,
    b"",
)


def run(path: str, descriptor: int) -> None:
    """Raise ``RuntimeFailure`` for a model that cannot be loaded, or that ends the process."""
    try:
        ended = subprocess.run(
            subprocess_module.command(__name__, path),
            pass_fds=(descriptor,),
            env=subprocess_module.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(
            f"the model was not loaded and run within {_TIMEOUT_SECONDS} seconds"
        ) from None
    if ended.returncode == 0:
        return
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = lines[-1] if lines else "no reason given"
    if ended.returncode == _REJECTED:
        raise RuntimeFailure(reason)
    try:
        how = signal.Signals(-ended.returncode).name
    except ValueError:
        how = f"exit code {ended.returncode}"
    raise RuntimeFailure(f"the model makes llama.cpp end its process ({how}): {reason}")


def main() -> None:
    """Test the model that the process's argument names."""
    path = sys.argv[1]
    try:
        subprocess_module.limit(os.stat(path).st_size + _EXTRA_BYTES)
        _test(path)
    except WasiNnError as error:
        print(error, file=sys.stderr)
        sys.exit(_REJECTED)


def _test(path: str) -> None:
    from wasi_nn_ggml.guard import gguf
    from wasi_nn_ggml.llama.kv_cache import KvCache
    from wasi_nn_ggml.llama.model import Model
    from wasi_nn_ggml.protocol import embedding
    from wasi_nn_ggml.settings import RANK, ContextSettings, ModelSettings

    with open(path, "rb") as file:
        contents = gguf.check(file.fileno())
    model = Model(path, ModelSettings(), contents)
    for text in _TEXTS:
        with suppress(NnError):
            model.tokenize(text)
    tokens = [0]
    with suppress(NnError):
        tokens = list(model.tokenize(b"a b")[:8]) or tokens
    n_ctx = min(256, model.n_ctx_train or 256)
    cache = KvCache(model, ContextSettings(n_ctx=n_ctx), unlimited)
    cache.evaluate(tokens)
    cache.close()
    # A guest can ask for an embedding later. What is rejected here is rejected again then.
    for pooling in (-1, *((RANK,) if model.ranks else ())):
        settings = ContextSettings(n_ctx=n_ctx, embedding=True, pooling_type=pooling)
        with suppress(NnError):
            embedding.check(model, settings)
            cache = KvCache(model, settings, unlimited)
            cache.evaluate(tokens)
            embedding.as_json(model, cache)
            cache.close()
