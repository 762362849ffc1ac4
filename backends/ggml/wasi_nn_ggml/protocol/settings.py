"""The ggml protocol's options, with WasmEdge's names, types and defaults.

Source: WasmEdge's plugins/wasi_nn/GGML/metadata/metadata_parser.cpp. A key of the wrong JSON type
is an error. Keys that WasmEdge reads and does not use are checked and otherwise left alone; every
other key of a context or a sampler takes effect whenever it is set, as some do in WasmEdge.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from wasi_nn.errors import InvalidArgument, UnsupportedOperation
from wasi_nn_ggml.protocol import keys

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_FLASH_ATTENTION = {
    "on": 1, "enabled": 1, "off": 0, "disabled": 0, "auto": -1,
}  # fmt: skip
#: ggml's numbers of what a KV cache can be made of: f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl,
#: bf16.
_CACHE_TYPES = (0, 1, 2, 3, 6, 7, 8, 20, 30)
#: llama.cpp's pooling type of models that score a text instead of embedding it.
RANK = 4
#: llama.cpp's attention type of tokens that look at later ones too.
NON_CAUSAL = 1

RANDOM_SEED = 0xFFFFFFFF


class ModelSettings(NamedTuple):
    """What a model's weights depend on: models that differ here are loaded apart."""

    n_gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: int = 1
    tensor_split: tuple[float, ...] = ()
    use_mmap: bool = True
    use_mlock: bool = False
    check_tensors: bool = False


class ContextSettings(NamedTuple):
    """What an execution context's memory depends on; 0 for ``n_ctx`` is what the model was trained
    for."""

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
        """Whether all tokens of a prompt may look at each other, as they do in models for
        embeddings: it is computed in one part then."""
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


class Settings(NamedTuple):
    """Everything that a config says."""

    model: ModelSettings = ModelSettings()
    context: ContextSettings = ContextSettings()
    sampler: SamplerSettings = SamplerSettings()
    n_predict: int = -1
    reverse_prompt: str = ""
    stream_stdout: bool = False
    chat: bool = False
    chat_template: str = ""
    mmproj: str = ""
    image: str = ""


def read(config: Mapping[str, Any]) -> Settings:
    """The settings that a config makes. Raises ``InvalidArgument`` for a value of the wrong type or
    out of its range, and ``UnsupportedOperation`` for ``tts``."""
    given = _Given(config)
    if given.flag("tts", False):
        raise UnsupportedOperation("text to speech is not served: leave out the config's tts")
    reranking = given.flag("reranking", False)
    return Settings(
        ModelSettings(
            n_gpu_layers=given.whole("n-gpu-layers", -1, -1, 1 << 20),
            main_gpu=given.whole("main-gpu", 0, 0, 1024),
            split_mode=given.choice("split-mode", _SPLIT_MODES, 1),
            tensor_split=given.split("tensor-split"),
            use_mmap=given.flag("use-mmap", True),
            use_mlock=given.flag("use-mlock", False),
            check_tensors=given.flag("check-tensors", False),
        ),
        ContextSettings(
            n_ctx=given.whole("ctx-size", 0, 0, 1 << 26),
            n_batch=given.whole("batch-size", 2048, 1, 1 << 20),
            n_ubatch=given.whole("ubatch-size", 512, 1, 1 << 20),
            threads=given.threads("threads"),
            threads_batch=given.threads("threads-batch"),
            embedding=given.flag("embedding", False) or reranking,
            pooling_type=RANK if reranking else given.whole("pooling-type", -1, -1, 4),
            attention_type=given.whole("attention-type", -1, -1, 1),
            flash_attention=given.choice("flash-attn", _FLASH_ATTENTION, -1),
            rope_scaling_type=given.whole("rope-scaling-type", -1, -1, 3),
            rope_freq_base=given.number("rope-freq-base", 0.0, least=0.0),
            rope_freq_scale=given.number("rope-freq-scale", 0.0, least=0.0),
            yarn_ext_factor=given.number("yarn-ext-factor", -1.0),
            yarn_attn_factor=given.number("yarn-attn-factor", -1.0),
            yarn_beta_fast=given.number("yarn-beta-fast", -1.0),
            yarn_beta_slow=given.number("yarn-beta-slow", -1.0),
            yarn_orig_ctx=given.whole("yarn-orig-ctx", 0, 0, 1 << 30),
            cache_type_k=given.one_of("cache-type-k", _CACHE_TYPES, 1),
            cache_type_v=given.one_of("cache-type-v", _CACHE_TYPES, 1),
            offload_kv=not given.flag("no-kv-offload", False),
        ),
        SamplerSettings(
            seed=given.whole("seed", RANDOM_SEED, -(1 << 63), (1 << 63) - 1) & 0xFFFFFFFF,
            temp=max(0.0, given.number("temp", 0.8)),
            dynatemp_range=given.number("dynatemp-range", 0.0),
            dynatemp_exponent=given.number("dynatemp-exponent", 1.0),
            top_k=given.whole("top-k", 40, -(1 << 31), (1 << 31) - 1),
            top_p=max(0.0, given.number("top-p", 0.95)),
            min_p=given.number("min-p", 0.05),
            typ_p=given.number("typ-p", 1.0),
            xtc_probability=given.number("xtc-probability", 0.0),
            xtc_threshold=given.number("xtc-threshold", 0.1),
            min_keep=given.whole("min-keep", 0, 0, 1 << 20),
            # WasmEdge's dry-last-n-penalty writes the same number as last-n-penalty.
            last_n_penalty=given.whole(
                "last-n-penalty", given.whole("dry-last-n-penalty", 64, -1, 1 << 20), -1, 1 << 20
            ),
            repeat_penalty=given.penalty("repeat-penalty"),
            presence_penalty=max(0.0, given.number("presence-penalty", 0.0)),
            frequency_penalty=max(0.0, given.number("frequency-penalty", 0.0)),
            dry_multiplier=given.number("dry-multipier", 0.0),
            dry_base=given.number("dry-base", 1.75),
            dry_allowed_length=given.whole("dry-allowed-length", 2, 0, 1 << 20),
            mirostat=given.whole("mirostat", 0, 0, 2),
            mirostat_eta=given.number("mirostat-eta", 0.1),
            ignore_eos=given.flag("ignore-eos", False),
            grammar=given.text("grammar"),
            json_schema=given.text("json-schema"),
        ),
        n_predict=given.whole("n-predict", -1, -(1 << 63), (1 << 63) - 1),
        reverse_prompt=given.text("reverse-prompt"),
        stream_stdout=given.flag("stream-stdout", False),
        chat=given.flag("enable-chat-template", False),
        chat_template=given.text("chat-template"),
        mmproj=given.text("mmproj"),
        image=given.text("image"),
    )


class _Given:
    """A config's values by key, each of the type that it must have."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        for names, kinds, words in (
            (keys.FLAGS, (bool,), "true or false"),
            (keys.WHOLE, (int,), "a whole number"),
            (keys.NUMBERS, (int, float), "a number"),
            (keys.TEXTS, (str,), "a text"),
        ):
            for key in config.keys() & set(names):
                value = config[key]
                if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                    raise InvalidArgument(f"config {key!r} must be {words}, not {_shown(value)}")
                if isinstance(value, str):
                    _check_text(key, value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._config.get(key, default))

    def text(self, key: str) -> str:
        return str(self._config.get(key, ""))

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = int(self._config.get(key, default))
        if not least <= value <= most:
            raise InvalidArgument(
                f"config {key!r} must be from {least} to {most}, not {_shown(value)}"
            )
        return value

    def number(self, key: str, default: float, least: float = -math.inf) -> float:
        try:
            value = float(self._config.get(key, default))
        except OverflowError:
            value = math.inf
        if not math.isfinite(value) or abs(value) > 1e30 or value < least:
            raise InvalidArgument(f"config {key!r} is out of range: {value}")
        return value

    def penalty(self, key: str) -> float:
        # llama.cpp divides by it.
        value = max(0.0, self.number(key, 1.0))
        if value < 1e-6:
            raise InvalidArgument(f"config {key!r} must be above 0, not {value}")
        return value

    def threads(self, key: str) -> int:
        # A number that suited another machine is no mistake.
        return min(self.whole(key, -1, -1, 1 << 20), 4 * (os.cpu_count() or 1))

    def choice(self, key: str, words: Mapping[str, int], default: int) -> int:
        word = self._config.get(key)
        if word is None:
            return default
        if word not in words:
            raise InvalidArgument(
                f"config {key!r} must be one of {', '.join(words)}, not {_shown(word)}"
            )
        return words[word]

    def one_of(self, key: str, numbers: tuple[int, ...], default: int) -> int:
        value = int(self._config.get(key, default))
        if value not in numbers:
            raise InvalidArgument(f"config {key!r} must be one of {numbers}, not {_shown(value)}")
        return value

    def split(self, key: str) -> tuple[float, ...]:
        parts = [part for part in self.text(key).replace("/", ",").split(",") if part.strip()]
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            numbers = (math.nan,)
        if len(numbers) > 128 or not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise InvalidArgument(f"config {key!r} must be numbers like '3,2'")
        return numbers


def _check_text(key: str, text: str) -> None:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can write half of a character.
        raise InvalidArgument(f"config {key!r} is not text: {error.reason}") from error
    if b"\0" in data:
        raise InvalidArgument(f"config {key!r} holds a NUL character")


def _shown(value: Any) -> str:
    """A value for a message, which a guest's may be too long for."""
    return reprlib.repr(value)
