"""Estimates the memory of a context before llama.cpp makes it.

llama.cpp does not say beforehand, and a system that promises more memory than it has ends processes
when it runs out. The estimate counts what is written to. llama.cpp reserves logits for every token
of a text; where it computes only the last token's, the rest costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.backend.memory import group_memory
from wasi_nn.errors import RuntimeFailure
from wasi_nn.escaping import logger
from wasi_nn_ggml.settings import ContextSettings

if TYPE_CHECKING:
    from wasi_nn_ggml.llama.loader import Library
    from wasi_nn_ggml.llama.metadata import Metadata

log = logger("wasi_nn.ggml")

#: Bytes of an element of the KV cache, by ggml's type: f32, f16, q4_0, …
_CACHE_BYTES = {0: 4.0, 1: 2.0, 2: 0.57, 3: 0.63, 6: 0.69, 7: 0.75, 8: 1.07, 20: 0.57, 30: 2.0}
_FLOAT, _HALF = 4, 2
# llama.cpp rounds the tokens of a context up to whole blocks.
_BLOCK = 256
# Per cached token: its position, and the texts that it belongs to.
_CELL_BYTES = 128
# To plan a computation of any size: 2 MB, and this for each layer.
_PLAN_BYTES, _LAYER_BYTES = 2 << 20, 200 << 10
# Left free for everything but guests.
_SPARE_BYTES = 128 << 20
# A context without a requested size is not made smaller than this, in tokens.
_MIN_CONTEXT = 4096
# Architectures whose attention llama.cpp computes in full, whatever the settings say.
_NO_FLASH = ("grok",)


class Shape(NamedTuple):
    """The dimensions of a model that the size of a context depends on.

    ``keys`` and ``values`` count the cached numbers of one token in all layers, ``states`` the
    numbers of a recurrent model's state. ``width`` is the most numbers that a token takes on its
    way through a layer."""

    keys: int
    values: int
    states: int
    width: int
    layers: int
    heads: int
    vocabulary: int
    full_attention: bool

    @classmethod
    def of(cls, native: Library, pointer: int, metadata: Metadata, vocabulary: int) -> Shape:
        """The shape of a loaded model."""
        layers = max(1, native.llama_model_n_layer(pointer))
        embedding = native.llama_model_n_embd(pointer)
        heads = max(1, metadata.number("attention.head_count"), native.llama_model_n_head(pointer))
        cached = metadata.numbers("attention.head_count_kv")
        if not cached and not metadata.knows_arrays:
            # The counts may differ from layer to layer: assume the most.
            cached = [heads]
        cached = cached or [native.llama_model_n_head_kv(pointer)]
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
        """An upper estimate of the bytes of a context of ``n_ctx`` tokens."""
        n_ctx = whole_blocks(n_ctx)
        at_once = min(settings.n_batch if settings.at_once else settings.n_ubatch, n_ctx)
        cache = self.keys * _CACHE_BYTES[settings.cache_type_k]
        cache += self.values * _CACHE_BYTES[settings.cache_type_v]
        full = settings.flash_attention == 0 or self.full_attention
        # The attention mask; without flash attention also the scores, before and after softmax.
        looks = at_once * n_ctx * (_FLOAT + 2 * _FLOAT * self.heads if full else _HALF)
        work = at_once * self.width * _FLOAT + looks
        # Logits, where they are computed and where they are copied to. An embedding has them for
        # every token.
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
    """The tokens of a context that llama.cpp makes for ``n_ctx``."""
    return -(-n_ctx // _BLOCK) * _BLOCK


def most_tokens(shape: Shape, settings: ContextSettings, size: int) -> int:
    """The most tokens of a context that takes at most ``size`` bytes, in whole blocks."""
    fixed, block = shape.bytes(settings, _BLOCK), shape.bytes(settings, 1 << 20)
    # (A context of a million tokens has all the costs that do not depend on its size.)
    each = (block - fixed) / ((1 << 20) - _BLOCK)
    return max(0, int((size - fixed) / each) // _BLOCK * _BLOCK + _BLOCK)


def fitting(
    shape: Shape, settings: ContextSettings, n_ctx_train: int, most: int = 0
) -> tuple[int, int]:
    """The number of tokens for a context, and its estimated bytes. Raises ``RuntimeFailure`` if it
    does not fit the memory, or takes more than ``most`` bytes (0: any number)."""
    # Use at most half of what is free: the host has other guests.
    room = (available() - _SPARE_BYTES) / 2
    if most:
        room = min(room, most)
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
    # A guest that names no size does not want all the memory.
    while n_ctx > _MIN_CONTEXT and shape.bytes(settings, n_ctx) > room / 2:
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
    """Bytes that are available without swapping."""
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
