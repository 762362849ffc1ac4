"""The settings of the ggml protocol's config, with WasmEdge's defaults.

Source: WasmEdge's plugins/wasi_nn/GGML/metadata/metadata_parser.cpp. A value of the wrong JSON type
is an error. Keys that WasmEdge reads but does not use are only checked. Every other key of a
context or a sampler takes effect whenever it is set; in WasmEdge only some do.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from wasi_nn.backend.config import Config, choice, flag, number, text, typed, whole_number
from wasi_nn.errors import InvalidArgument, UnsupportedOperation
from wasi_nn_ggml import keys

# The first choice of each is the default.
_SPLIT_MODES = {"layer": 1, "none": 0, "row": 2}
_FLASH_ATTENTION = {"auto": -1, "on": 1, "enabled": 1, "off": 0, "disabled": 0}
# ggml's types of a KV cache: f16, f32, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, bf16.
_CACHE_TYPES = (1, 0, 2, 3, 6, 7, 8, 20, 30)
#: llama.cpp's pooling type of models that score a text.
RANK = 4
#: llama.cpp's attention type of tokens that also see later ones.
NON_CAUSAL = 1

_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

RANDOM_SEED = 0xFFFFFFFF


class ModelSettings(NamedTuple):
    """What a loaded model depends on. Other values here load the model again."""

    gpu: bool = False
    n_gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: int = 1
    tensor_split: tuple[float, ...] = ()
    use_mmap: bool = True
    use_mlock: bool = False
    check_tensors: bool = False


class ContextSettings(NamedTuple):
    """What a llama.cpp context depends on. An ``n_ctx`` of 0 is what the model was trained for."""

    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    threads: int = -1
    threads_batch: int = -1
    embedding: bool = False
    pooling_type: int = -1
    attention_type: int = -1
    flash_attention: int = -1
    rope_scaling_type: int = -1
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_orig_ctx: int = 0
    cache_type_k: int = 1
    cache_type_v: int = 1
    offload_kv: bool = True

    @property
    def at_once(self) -> bool:
        """Whether all tokens of a prompt may see each other, as in embedding models. Then the
        prompt is computed in one part."""
        return self.embedding or self.attention_type == NON_CAUSAL


class SamplerSettings(NamedTuple):
    """How a token is chosen."""

    seed: int = RANDOM_SEED
    temp: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typ_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_keep: int = 0
    last_n_penalty: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    mirostat: int = 0
    mirostat_eta: float = 0.1
    ignore_eos: bool = False
    grammar: str = ""
    json_schema: str = ""


class SharedSettings(NamedTuple):
    """What the operator says about the memory that guests share. ``kv_memory`` is in bytes; 0 is a
    quarter of what is free. With ``prefixes``, tenants know each other's beginnings of prompts."""

    kv_memory: int = 0
    prefixes: bool = False


class Settings(NamedTuple):
    """Everything that a config says."""

    model: ModelSettings = ModelSettings()
    context: ContextSettings = ContextSettings()
    sampler: SamplerSettings = SamplerSettings()
    shared: SharedSettings = SharedSettings()
    n_predict: int = -1
    reverse_prompt: str = ""
    stream_stdout: bool = False
    chat: bool = False
    chat_template: str = ""
    mmproj: str = ""
    image: str = ""


def read(given: Config) -> Settings:
    """The settings of a config. Raises ``InvalidArgument`` for a value of the wrong type or out of
    range, and ``UnsupportedOperation`` for ``tts``."""
    for kind, names in keys.BY_TYPE.items():
        for key in given.keys() & names:
            typed(given, key, kind, kind())
    if flag(given, "tts", False):
        raise UnsupportedOperation("text to speech is not supported: leave out the config's tts")
    reranking = flag(given, "reranking", False)
    # In WasmEdge, dry-last-n-penalty sets the same number as last-n-penalty.
    last_n = whole_number(given, "dry-last-n-penalty", 64, -1, 1 << 20)
    return Settings(
        ModelSettings(
            n_gpu_layers=whole_number(given, "n-gpu-layers", -1, -1, 1 << 20),
            main_gpu=whole_number(given, "main-gpu", 0, 0, 1024),
            split_mode=_SPLIT_MODES[choice(given, "split-mode", [*_SPLIT_MODES])],
            tensor_split=_numbers(given, "tensor-split"),
            use_mmap=flag(given, "use-mmap", True),
            use_mlock=flag(given, "use-mlock", False),
            check_tensors=flag(given, "check-tensors", False),
        ),
        ContextSettings(
            n_ctx=whole_number(given, "ctx-size", 0, 0, 1 << 26),
            n_batch=whole_number(given, "batch-size", 2048, 1, 1 << 20),
            n_ubatch=whole_number(given, "ubatch-size", 512, 1, 1 << 20),
            threads=_threads(given, "threads"),
            threads_batch=_threads(given, "threads-batch"),
            embedding=flag(given, "embedding", False) or reranking,
            pooling_type=RANK if reranking else whole_number(given, "pooling-type", -1, -1, 4),
            attention_type=whole_number(given, "attention-type", -1, -1, 1),
            flash_attention=_FLASH_ATTENTION[choice(given, "flash-attn", [*_FLASH_ATTENTION])],
            rope_scaling_type=whole_number(given, "rope-scaling-type", -1, -1, 3),
            rope_freq_base=number(given, "rope-freq-base", 0.0, 0.0),
            rope_freq_scale=number(given, "rope-freq-scale", 0.0, 0.0),
            yarn_ext_factor=number(given, "yarn-ext-factor", -1.0),
            yarn_attn_factor=number(given, "yarn-attn-factor", -1.0),
            yarn_beta_fast=number(given, "yarn-beta-fast", -1.0),
            yarn_beta_slow=number(given, "yarn-beta-slow", -1.0),
            yarn_orig_ctx=whole_number(given, "yarn-orig-ctx", 0, 0, 1 << 30),
            cache_type_k=choice(given, "cache-type-k", _CACHE_TYPES),
            cache_type_v=choice(given, "cache-type-v", _CACHE_TYPES),
            offload_kv=not flag(given, "no-kv-offload", False),
        ),
        SamplerSettings(
            seed=whole_number(given, "seed", RANDOM_SEED, -(1 << 63), (1 << 63) - 1) & 0xFFFFFFFF,
            temp=max(0.0, number(given, "temp", 0.8)),
            dynatemp_range=number(given, "dynatemp-range", 0.0),
            dynatemp_exponent=number(given, "dynatemp-exponent", 1.0),
            top_k=whole_number(given, "top-k", 40, -(1 << 31), (1 << 31) - 1),
            top_p=max(0.0, number(given, "top-p", 0.95)),
            min_p=number(given, "min-p", 0.05),
            typ_p=number(given, "typ-p", 1.0),
            xtc_probability=number(given, "xtc-probability", 0.0),
            xtc_threshold=number(given, "xtc-threshold", 0.1),
            min_keep=whole_number(given, "min-keep", 0, 0, 1 << 20),
            last_n_penalty=whole_number(given, "last-n-penalty", last_n, -1, 1 << 20),
            repeat_penalty=_penalty(given, "repeat-penalty"),
            presence_penalty=max(0.0, number(given, "presence-penalty", 0.0)),
            frequency_penalty=max(0.0, number(given, "frequency-penalty", 0.0)),
            dry_multiplier=number(given, "dry-multipier", 0.0),
            dry_base=number(given, "dry-base", 1.75),
            dry_allowed_length=whole_number(given, "dry-allowed-length", 2, 0, 1 << 20),
            mirostat=whole_number(given, "mirostat", 0, 0, 2),
            mirostat_eta=number(given, "mirostat-eta", 0.1),
            ignore_eos=flag(given, "ignore-eos", False),
            grammar=text(given, "grammar"),
            json_schema=text(given, "json-schema"),
        ),
        SharedSettings(_size(given, "kv-memory"), flag(given, "share-prefixes", False)),
        n_predict=whole_number(given, "n-predict", -1, -(1 << 63), (1 << 63) - 1),
        reverse_prompt=text(given, "reverse-prompt"),
        stream_stdout=flag(given, "stream-stdout", False),
        chat=flag(given, "enable-chat-template", False),
        chat_template=text(given, "chat-template"),
        mmproj=text(given, "mmproj"),
        image=text(given, "image"),
    )


def decode(data: memoryview, what: str) -> str:
    """The text of a guest's bytes. Raises ``InvalidArgument`` if they are not UTF-8."""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the {what} is not UTF-8: {error}") from error


def _size(given: Config, key: str) -> int:
    """A number of bytes, as a whole number or a text like ``2G``; 0 by default."""
    if not isinstance(given.get(key), str):
        return whole_number(given, key, 0, 1, 1 << 50)
    value = text(given, key).strip().upper().removesuffix("B").removesuffix("I").rstrip()
    factor = _FACTORS.get(value[-1:], 0)
    number = value[:-1].rstrip() if factor else value
    if not (number.isascii() and number.isdecimal() and 0 < len(number) < 16):
        raise InvalidArgument(f"config {key!r} must be a size like '2G', not {value[:20]!r}")
    return int(number) * (factor or 1)


def _threads(given: Config, key: str) -> int:
    # A number that suits another machine is not a mistake.
    return min(whole_number(given, key, -1, -1, 1 << 20), 4 * (os.cpu_count() or 1))


def _penalty(given: Config, key: str) -> float:
    value = max(0.0, number(given, key, 1.0))
    if value < 1e-6:
        # llama.cpp divides by it.
        raise InvalidArgument(f"config {key!r} must be above 0, not {value}")
    return value


def _numbers(given: Config, key: str) -> tuple[float, ...]:
    """Numbers between commas or slashes."""
    parts = [part for part in text(given, key).replace("/", ",").split(",") if part.strip()]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = (math.nan,)
    if len(numbers) > 128 or not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise InvalidArgument(f"config {key!r} must be numbers like '3,2'")
    return numbers
