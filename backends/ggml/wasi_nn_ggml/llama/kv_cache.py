"""The KV cache of one execution context: a llama.cpp context, and the tokens that it has decoded.

A prompt that begins as the last one (the next turn of a chat) costs only its new tokens: the keys
and values of the common prefix stay. Tokens and positions are the same as without reuse.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

from wasi_nn.backend import Reserve
from wasi_nn.errors import ContextFull, PromptTooLong, RuntimeFailure
from wasi_nn_ggml.guard.estimates import fitting
from wasi_nn_ggml.llama.bindings import Batch
from wasi_nn_ggml.llama.loader import error_log
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.native_context import ABORTED, NativeContext
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import ContextSettings

_NO_TOKEN = -1


class KvCache:
    """Tokens with their keys and values. Used by one thread at a time, except for ``stop``."""

    def __init__(self, model: Model, settings: ContextSettings, reserve: Reserve) -> None:
        """Makes the context; its estimated bytes are counted with ``reserve``. Raises
        ``RuntimeFailure`` if they do not fit, or llama.cpp fails."""
        self._native = model.native
        self.model = model
        n_ctx, size = fitting(model.shape, settings, model.n_ctx_train)
        self._reservation = Reservation(reserve, size)
        try:
            self._made = NativeContext(model, settings, n_ctx)
        except BaseException:
            self._reservation.release()
            raise
        self.context = self._made.pointer
        #: llama.cpp's memory; None for a model that reads a text as a whole and cannot continue it.
        self.memory = self._made.memory
        self.n_ctx = self._made.n_ctx
        if model.positions is not None:
            self.n_ctx = min(self.n_ctx, model.positions)
        self.n_batch = self._made.n_batch
        self._tokens = array("i")
        self._token = ctypes.c_int32()
        self._single = Batch(1, ctypes.addressof(self._token))
        #: Makes the present decoding, and every later one, fail. Callable from any thread.
        self.stop = self._made.stop

    def evaluate(self, tokens: Sequence[int]) -> int:
        """Make the cache contain exactly these tokens, with logits after the last one. Returns the
        number of tokens that had to be decoded. Raises ``RuntimeFailure``, ``ContextFull`` and
        ``PromptTooLong``."""
        if len(tokens) > self.n_ctx:
            raise ContextFull(f"{len(tokens)} tokens do not fit a context of {self.n_ctx}")
        if not self._made.causal:
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

    def close(self) -> None:
        """Free the context. Call it once."""
        self._made.close()
        self._reservation.release()

    def _run(self, batch: Batch) -> None:
        status = self._made.decode(batch)
        if status == 0:
            return
        # Part of the batch may be in the cache.
        self.clear()
        if status == ABORTED or self._made.stopped:
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
