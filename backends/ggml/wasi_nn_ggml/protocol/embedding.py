"""The embedding of a text, as WasmEdge writes it."""

from __future__ import annotations

import ctypes
import math

from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.protocol.settings import RANK, ContextSettings

# enum llama_pooling_type
_NONE = 0


def check(model: Model, settings: ContextSettings) -> None:
    """Raise ``InvalidArgument`` for scores that are asked of a model which gives none, and
    ``RuntimeFailure`` for one whose numbers about its embeddings cannot be right."""
    if not settings.embedding:
        return
    if settings.pooling_type == RANK and not model.ranks:
        # llama.cpp would give the first number of an embedding for the score.
        raise InvalidArgument(
            "the model has no head that ranks: leave out the config's reranking "
            f"(pooling-type {RANK})"
        )
    # llama.cpp copies that many out of a row of n_embd, and ends the process when it is shorter.
    for width, what in ((model.n_embd_out, "an embedding"), (model.n_cls_out, "a score")):
        if not 0 < width <= model.n_embd:
            raise RuntimeFailure(
                f"the model claims {what} of {width} numbers, and computes {model.n_embd}"
            )


def as_json(model: Model, cache: KvCache) -> bytes:
    """``{"n_embedding": N, "embedding": [v1,v2,…]}`` of the evaluated text, ten significant digits,
    of length 1 (Euclid); of the last token where the model does not pool, and the scores, as they
    are, where it ranks. Raises ``RuntimeFailure``, for what is not a number too."""
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
        # JSON has no word for them.
        raise RuntimeFailure("the model's embedding holds a value that is not a finite number")
    if pooling != RANK:
        length = math.hypot(*values)
        values = [value / length if length else 0.0 for value in values]
    numbers = ",".join(format(value, ".10g") for value in values)
    return f'{{"n_embedding": {len(values)}, "embedding": [{numbers}]}}'.encode()
