"""The embedding of a text, as WasmEdge writes it."""

from __future__ import annotations

import ctypes
import math

from wasi_nn.errors import RuntimeFailure
from wasi_nn_ggml.sequence import Sequence
from wasi_nn_ggml.weights import Weights

# enum llama_pooling_type
_NONE, _RANK = 0, 4


def as_json(weights: Weights, sequence: Sequence) -> bytes:
    """``{"n_embedding": N, "embedding": [v1,v2,…]}`` of the evaluated text, ten significant digits,
    of length 1 (Euclid); of the last token where the model does not pool, and the score alone, as
    it is, where it ranks."""
    native = weights.native
    pooling = native.llama_pooling_type(sequence.context)
    if pooling == _NONE:
        address = native.llama_get_embeddings_ith(sequence.context, -1)
    else:
        address = native.llama_get_embeddings_seq(sequence.context, 0)
    if not address:
        raise RuntimeFailure("the model gives no embedding")
    if pooling == _RANK:
        values = [float(ctypes.c_float.from_address(address).value)]
    else:
        values = list((ctypes.c_float * weights.n_embd).from_address(address))
        length = math.sqrt(math.fsum(value * value for value in values))
        values = [value / length if length else 0.0 for value in values]
    numbers = ",".join(format(value, ".10g") for value in values)
    return f'{{"n_embedding": {len(values)}, "embedding": [{numbers}]}}'.encode()
