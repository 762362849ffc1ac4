"""Writes the embedding of a text as WasmEdge does."""

from __future__ import annotations

import ctypes
import math

from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.settings import RANK, ContextSettings

# enum llama_pooling_type
_NONE = 0


def check(model: Model, settings: ContextSettings) -> None:
    """Raise ``InvalidArgument`` if the settings ask for scores of a model that gives none, and
    ``RuntimeFailure`` if the model's metadata about its embeddings is wrong."""
    if not settings.embedding:
        return
    if settings.pooling_type == RANK and not model.ranks:
        # llama.cpp would return the first number of an embedding as the score.
        raise InvalidArgument(
            "the model has no head that ranks: remove reranking from the config "
            f"(pooling-type {RANK})"
        )
    # llama.cpp copies so many numbers out of a row of n_embd. It ends the process if it has fewer.
    for width, what in ((model.n_embd_out, "an embedding"), (model.n_cls_out, "a score")):
        if not 0 < width <= model.n_embd:
            raise RuntimeFailure(
                f"the model claims {what} of {width} numbers, and computes {model.n_embd}"
            )


def as_json(model: Model, cache: KvCache) -> bytes:
    """``{"n_embedding": N, "embedding": [v1,v2,…]}`` of the evaluated text, with ten significant
    digits and normalised to a Euclidean length of 1. A model that does not pool gives the embedding
    of the last token. One that ranks gives its scores unchanged. Raises ``RuntimeFailure``, also
    for values that are not finite."""
    native = model.native
    pooling = native.llama_pooling_type(cache.context)
    if pooling == _NONE:
        address = native.llama_get_embeddings_ith(cache.context, -1)
    else:
        address = native.llama_get_embeddings_seq(cache.context, 0)
    if not address:
        raise RuntimeFailure("the model gives no embedding")
    count = model.n_cls_out if pooling == RANK else model.n_embd_out
    values = list((ctypes.c_float * count).from_address(address))
    if not all(map(math.isfinite, values)):
        # JSON cannot write them.
        raise RuntimeFailure("the model's embedding contains a value that is not a finite number")
    if pooling != RANK:
        length = math.hypot(*values)
        values = [value / length if length else 0.0 for value in values]
    numbers = ",".join(format(value, ".10g") for value in values)
    return f'{{"n_embedding": {len(values)}, "embedding": [{numbers}]}}'.encode()
