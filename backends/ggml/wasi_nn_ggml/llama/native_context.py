"""A llama.cpp context: the memory of decoded tokens, and what decodes more of them."""

from __future__ import annotations

import ctypes
import os

from wasi_nn.backend import cores
from wasi_nn.errors import RuntimeFailure
from wasi_nn_ggml.llama.bindings import Batch
from wasi_nn_ggml.llama.loader import error_log, freed_with
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.settings import NON_CAUSAL, ContextSettings

#: What ``decode`` gives if there is no room for the tokens, and if ``stop`` was called.
NO_ROOM, ABORTED = 1, 2
# Settings that llama.cpp calls by the same names.
_SAME_NAMES = (
    "pooling_type", "attention_type", "rope_scaling_type", "rope_freq_base", "rope_freq_scale",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip


class NativeContext:
    """A ``llama_context`` of ``n_ctx`` tokens, for ``sequences`` texts that share them. Used by one
    thread at a time, except for ``stop``."""

    def __init__(
        self, model: Model, settings: ContextSettings, n_ctx: int, sequences: int = 1
    ) -> None:
        """Raises ``RuntimeFailure`` if llama.cpp fails."""
        native = model.native
        params: ctypes.Structure = native.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(settings.n_batch, n_ctx)
        params.n_ubatch = settings.n_batch if settings.at_once else settings.n_ubatch
        params.n_threads, params.n_threads_batch = threads(settings)
        params.embeddings = settings.embedding
        for name in _SAME_NAMES:
            setattr(params, name, getattr(settings, name))
        params.flash_attn_type = settings.flash_attention
        params.type_k = settings.cache_type_k
        params.type_v = settings.cache_type_v
        params.offload_kqv = settings.offload_kv
        params.n_seq_max = sequences
        params.kv_unified = sequences > 1
        error_log.lines.clear()
        pointer = native.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise RuntimeFailure(
                f"llama.cpp made no context of {n_ctx} tokens: "
                f"{error_log.take('it gives no reason')}"
            )
        self.pointer = int(pointer)
        self._native = native
        self._free = freed_with(self, native.llama_free, self.pointer, model)
        #: llama.cpp's memory; None for a model that reads a text as a whole and cannot continue it.
        self.memory: int | None = native.llama_get_memory(self.pointer)
        self.n_ctx = int(native.llama_n_ctx(self.pointer))
        #: The most tokens of one call. llama.cpp splits a longer call if tokens see only earlier
        #: ones. If they also see later ones, as images in a causal text may, it ends the process.
        self.n_batch = int(native.llama_n_ubatch(self.pointer))
        if hasattr(native, "llama_get_causal_attn"):
            self.causal = bool(native.llama_get_causal_attn(self.pointer))
        elif settings.attention_type < 0:
            self.causal = model.causal
        else:
            self.causal = settings.attention_type != NON_CAUSAL
        # llama.cpp asks its abort callback before every operation. strlen is a callback without
        # Python: its answer is the length of the string in this buffer.
        self._stop = ctypes.create_string_buffer(2)
        native.llama_set_abort_callback(self.pointer, _STRLEN, ctypes.addressof(self._stop))
        self._decode = native.llama_decode
        self._threads = threads(settings)

    def decode(self, batch: Batch) -> int:
        """Decode a batch: 0, ``NO_ROOM``, ``ABORTED``, or llama.cpp's number of a failure."""
        return int(self._decode(self.pointer, batch))

    def set_threads(self, single: int, batch: int) -> None:
        """The threads for one token, and for more of them at once."""
        if self._threads != (single, batch):
            self._threads = single, batch
            self._native.llama_set_n_threads(self.pointer, single, batch)

    def stop(self) -> None:
        """Make the present call of ``decode``, and every later one, give ``ABORTED``. Callable from
        any thread."""
        self._stop[0] = b"\1"

    def go_on(self) -> None:
        """Let ``decode`` work again after ``stop``."""
        self._stop[0] = b"\0"

    @property
    def stopped(self) -> bool:
        """Whether ``decode`` is stopped."""
        return self._stop[0] != b"\0"

    def close(self) -> None:
        """Free the context. Call it once."""
        self._free()


def threads(settings: ContextSettings) -> tuple[int, int]:
    """The threads for one token, and for more of them at once."""
    single = settings.threads if settings.threads > 0 else cores()
    return single, settings.threads_batch if settings.threads_batch > 0 else single


def c_library(system: str) -> str | None:
    """The name of the C library."""
    # On Windows, None does not stand for the libraries that the process has loaded.
    return "msvcrt" if system == "nt" else None


_STRLEN = ctypes.cast(ctypes.CDLL(c_library(os.name)).strlen, ctypes.c_void_p).value
