"""How much memory a context takes, before it is made.

llama.cpp does not say beforehand, and where the system promises more memory than there is, it finds
out by ending processes. The estimate is of what gets written to: what llama.cpp reserves for the
logits of every token of a text, where only the last one's are computed, costs nothing.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from wasi_nn.backend.memory import group_memory
from wasi_nn.errors import RuntimeFailure
from wasi_nn.escaping import logger
from wasi_nn_ggml.llama.loader import Library
from wasi_nn_ggml.llama.metadata import Metadata
from wasi_nn_ggml.protocol.settings import ContextSettings

log = logger("wasi_nn.ggml")

#: Bytes of an element of the KV cache by ggml's type: f32, f16, q4_0, …
_CACHE_BYTES = {0: 4.0, 1: 2.0, 2: 0.57, 3: 0.63, 6: 0.69, 7: 0.75, 8: 1.07, 20: 0.57, 30: 2.0}
_FLOAT, _HALF = 4, 2
# llama.cpp makes a context of whole blocks of so many tokens.
_BLOCK = 256
# What it notes of each token that is cached: its position, and which texts it belongs to.
_CELL_BYTES = 128
# What it takes to plan a computation, whatever its size: 2 MB, and this for each layer.
_PLAN_BYTES, _LAYER_BYTES = 2 << 20, 200 << 10
# Leave room for what is not the guest's.
_SPARE_BYTES = 128 << 20
# A context that was not asked for by size is not made smaller than this.
_LEAST = 4096
# llama.cpp computes their attention in full, whatever the settings say.
_NO_FLASH = ("grok",)


class Shape(NamedTuple):
    """What the size of a model's memory depends on: counts of numbers.

    ``keys`` and ``values`` are those of one token in all layers, ``states`` a recurrent model's,
    ``width`` the widest that a token gets on its way through a layer, all parts together."""

    keys: int
    values: int
    states: int
    width: int
    layers: int
    heads: int
    vocabulary: int
    full_attention: bool

    @classmethod
    def of(cls, native: Library, model: int, metadata: Metadata, vocabulary: int) -> Shape:
        """The shape of a loaded model."""
        layers = max(1, native.llama_model_n_layer(model))
        embedding = native.llama_model_n_embd(model)
        heads = max(1, metadata.number("attention.head_count"), native.llama_model_n_head(model))
        cached = metadata.numbers("attention.head_count_kv")
        if not cached and not metadata.knows_arrays:
            # They may differ from layer to layer.
            cached = [heads]
        cached = cached or [native.llama_model_n_head_kv(model)]
        total = cached[0] * layers if len(cached) == 1 else sum(map(abs, cached))
        lengths = []
        for part in ("key", "value"):
            names = (f"attention.{part}_length{of}" for of in ("", "_swa"))
            lengths.append(max(map(metadata.number, names)) or embedding // heads)
        experts = max(1, metadata.number("expert_used_count"))
        inner = max(
            metadata.number("feed_forward_length"),
            metadata.number("expert_feed_forward_length") * experts,
        )
        state = metadata.number("ssm.inner_size") * (
            metadata.number("ssm.state_size") + metadata.number("ssm.conv_kernel")
        )
        return cls(
            keys=total * lengths[0],
            values=total * lengths[1],
            states=layers * state,
            width=4 * inner + (4 + 2 * experts) * embedding + 4 * heads * max(lengths),
            layers=layers,
            heads=heads,
            vocabulary=vocabulary,
            full_attention=metadata.architecture in _NO_FLASH,
        )

    def bytes(self, settings: ContextSettings, n_ctx: int) -> int:
        """About how many bytes a context of ``n_ctx`` tokens takes, and not less."""
        n_ctx = whole_blocks(n_ctx)
        at_once = min(settings.n_batch if settings.at_once else settings.n_ubatch, n_ctx)
        cache = self.keys * _CACHE_BYTES[settings.cache_type_k]
        cache += self.values * _CACHE_BYTES[settings.cache_type_v]
        full = settings.flash_attention == 0 or self.full_attention
        # Who may look at whom, and without flash attention how much, before and after softmax.
        looks = at_once * n_ctx * (_FLOAT + 2 * _FLOAT * self.heads if full else _HALF)
        work = at_once * self.width * _FLOAT + looks
        # Every token of an embedding gets its logits: where they are computed, and copied to.
        logits = (at_once if settings.embedding else 1) * self.vocabulary * _FLOAT
        return int(
            n_ctx * (cache + _CELL_BYTES)
            + self.states * _FLOAT
            + work
            + 2 * logits
            + _PLAN_BYTES
            + self.layers * _LAYER_BYTES
        )


def whole_blocks(n_ctx: int) -> int:
    """The tokens that a context has which is made for ``n_ctx``."""
    return -(-n_ctx // _BLOCK) * _BLOCK


def fitting(shape: Shape, settings: ContextSettings, n_ctx_train: int) -> tuple[int, int]:
    """The number of tokens that a context is to have, and about how many bytes it takes. Raises
    ``RuntimeFailure`` when that is more than there is."""
    # Half of what there is: the host has other guests.
    room = (available() - _SPARE_BYTES) / 2
    n_ctx = settings.n_ctx
    if n_ctx:
        size = shape.bytes(settings, n_ctx)
        if size > room:
            raise RuntimeFailure(
                f"a context of {n_ctx} tokens takes {size / 1e9:.1f} GB; "
                f"{max(room, 0) / 1e9:.1f} GB is available: make the config's ctx-size smaller"
            )
        return n_ctx, size
    n_ctx = max(n_ctx_train, 1)
    # Somebody who names no size does not mean all the memory there is.
    while n_ctx > _LEAST and shape.bytes(settings, n_ctx) > room / 2:
        n_ctx //= 2
    if n_ctx < n_ctx_train:
        log.warning(
            "the model's context of %d tokens does not fit the memory: using %d (config ctx-size)",
            n_ctx_train,
            n_ctx,
        )
    size = shape.bytes(settings, n_ctx)
    if size > room:
        raise RuntimeFailure(f"there is no memory for a context of {n_ctx} tokens")
    return n_ctx, size


def available() -> float:
    """Bytes that can be had without swapping."""
    group = group_memory()
    return min(_free(), float("inf") if group is None else group.left)


def _free() -> float:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    except (ValueError, OSError, AttributeError):
        return float("inf")
