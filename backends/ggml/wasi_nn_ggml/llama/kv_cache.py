"""The KV cache of one execution context: a llama.cpp context, and the tokens that it has decoded.

A prompt that begins as the last one (the next turn of a chat) costs only its new tokens: the keys
and values of the common prefix stay. Tokens and positions are the same as without reuse.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Sequence

from wasi_nn.backend import Reserve
from wasi_nn.errors import ContextFull, PromptTooLong, RuntimeFailure
from wasi_nn_ggml.guard.estimates import fitting
from wasi_nn_ggml.llama.bindings import Batch
from wasi_nn_ggml.llama.loader import Library, error_log, freed_with
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import NON_CAUSAL, ContextSettings

_ABORTED = 2
_NO_TOKEN = -1
# Settings that llama.cpp calls by the same names.
_SAME_NAMES = (
    "pooling_type", "attention_type", "rope_scaling_type", "rope_freq_base", "rope_freq_scale",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip


class KvCache:
    """Tokens with their keys and values. Used by one thread at a time, except for ``stop``."""

    def __init__(self, model: Model, settings: ContextSettings, reserve: Reserve) -> None:
        """Makes the context; its estimated bytes are counted with ``reserve``. Raises
        ``RuntimeFailure`` if they do not fit, or llama.cpp fails."""
        native = model.native
        self._native = native
        self.model = model
        self.settings = settings
        n_ctx, size = fitting(model.shape, settings, model.n_ctx_train)
        self._reservation = Reservation(reserve, size)
        params = _params(native, settings, n_ctx)
        error_log.lines.clear()
        context = native.llama_init_from_model(model.pointer, params)
        if not context:
            self._reservation.release()
            raise RuntimeFailure(
                f"llama.cpp made no context of {n_ctx} tokens: "
                f"{error_log.take('it gives no reason')}"
            )
        self.context = int(context)
        self._free = freed_with(self, native.llama_free, self.context, model)
        #: llama.cpp's memory; None for a model that reads a text as a whole and cannot continue it.
        self.memory: int | None = native.llama_get_memory(self.context)
        self.n_ctx = int(native.llama_n_ctx(self.context))
        if model.positions is not None:
            self.n_ctx = min(self.n_ctx, model.positions)
        #: The most tokens of one call. llama.cpp splits a longer call if tokens see only earlier
        #: ones. If they also see later ones, as images in a causal text may, it ends the process.
        self.n_batch = int(native.llama_n_ubatch(self.context))
        self._causal = _is_causal(native, self.context, model, settings)
        self._tokens = array("i")
        # llama.cpp asks its abort callback before every operation. strlen is a callback without
        # Python: its answer is the length of the string in this buffer.
        self._stop = ctypes.create_string_buffer(2)
        native.llama_set_abort_callback(self.context, _STRLEN, ctypes.addressof(self._stop))
        self._decode = native.llama_decode
        self._token = ctypes.c_int32()
        self._single = Batch(1, ctypes.addressof(self._token))

    def evaluate(self, tokens: Sequence[int]) -> int:
        """Make the cache contain exactly these tokens, with logits after the last one. Returns the
        number of tokens that had to be decoded. Raises ``RuntimeFailure``, ``ContextFull`` and
        ``PromptTooLong``."""
        if len(tokens) > self.n_ctx:
            raise ContextFull(f"{len(tokens)} tokens do not fit a context of {self.n_ctx}")
        if not self._causal:
            if len(tokens) > self.n_batch:
                raise PromptTooLong(
                    f"the prompt has {len(tokens)} tokens; {self.n_batch} can see each other "
                    "(config batch-size, ubatch-size)"
                )
            # Cached keys and values depend on later tokens, and those differ now.
            self.clear()
        wanted = tokens if isinstance(tokens, array) else array("i", tokens)
        kept = common_prefix(self._tokens, wanted[:-1])
        if kept < len(self._tokens):
            if kept and self._native.llama_memory_seq_rm(self.memory, 0, kept, -1):
                del self._tokens[kept:]
            else:
                # A recurrent model's memory cannot be truncated.
                self.clear()
                kept = 0
        address = wanted.buffer_info()[0]
        at = kept
        while at < len(tokens):
            count = min(self.n_batch, len(tokens) - at)
            batch = Batch(count, address + wanted.itemsize * at)
            self._run(batch)
            self._tokens.extend(wanted[at : at + count])
            at += count
        return len(tokens) - kept

    def append(self, token: int) -> None:
        """Decode one more token. Raises ``ContextFull`` if it does not fit."""
        if len(self._tokens) >= self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full")
        self._token.value = token
        self._run(self._single)
        self._tokens.append(token)

    def mark_filled(self, cells: int) -> None:
        """Note that an image filled cells of a cleared cache: one per token, even where tokens
        share a position."""
        self._tokens = array("i", [_NO_TOKEN]) * cells

    def clear(self) -> None:
        """Remove every token."""
        self._native.llama_memory_clear(self.memory, True)
        del self._tokens[:]

    def stop(self) -> None:
        """Make the present decoding, and every later one, fail. Callable from any thread."""
        self._stop[0] = b"\1"

    def close(self) -> None:
        """Free the context. Call it once."""
        self._free()
        self._reservation.release()

    def _run(self, batch: Batch) -> None:
        status = self._decode(self.context, batch)
        if status == 0:
            return
        # Part of the batch may be in the cache.
        self.clear()
        if status == _ABORTED or self._stop[0] != b"\0":
            raise RuntimeFailure("the guest is being stopped")
        raise RuntimeFailure(
            f"llama.cpp could not decode {batch.n_tokens} tokens ({status}): "
            f"{error_log.take('it gives no reason')}"
        )


def common_prefix(cached: array[int], tokens: array[int]) -> int:
    """The length of the common prefix."""
    same, most = 0, min(len(cached), len(tokens))
    # Bisect: comparing slices of arrays is as fast as memory.
    while same < most:
        middle = (same + most + 1) // 2
        if cached[same:middle] == tokens[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same


def _is_causal(native: Library, context: int, model: Model, settings: ContextSettings) -> bool:
    if hasattr(native, "llama_get_causal_attn"):
        return bool(native.llama_get_causal_attn(context))
    if settings.attention_type < 0:
        return model.causal
    return settings.attention_type != NON_CAUSAL


def _params(native: Library, settings: ContextSettings, n_ctx: int) -> ctypes.Structure:
    params: ctypes.Structure = native.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = min(settings.n_batch, n_ctx)
    params.n_ubatch = settings.n_batch if settings.at_once else settings.n_ubatch
    threads = settings.threads if settings.threads > 0 else _cores()
    params.n_threads = threads
    params.n_threads_batch = settings.threads_batch if settings.threads_batch > 0 else threads
    params.embeddings = settings.embedding
    for name in _SAME_NAMES:
        setattr(params, name, getattr(settings, name))
    params.flash_attn_type = settings.flash_attention
    params.type_k = settings.cache_type_k
    params.type_v = settings.cache_type_v
    params.offload_kqv = settings.offload_kv
    return params


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def c_library(system: str) -> str | None:
    # On Windows, None does not stand for the libraries that the process has loaded.
    return "msvcrt" if system == "nt" else None


_STRLEN = ctypes.cast(ctypes.CDLL(c_library(os.name)).strlen, ctypes.c_void_p).value
