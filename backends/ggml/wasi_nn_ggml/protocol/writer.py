"""What continues a context's prompt: a place in the model's decode loop, or a cache of its own."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple, Protocol
from weakref import finalize

from wasi_nn.backend import Reserve, Schedule
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.protocol.prompt import Prompt
from wasi_nn_ggml.room.room import Room
from wasi_nn_ggml.room.sequence import Text
from wasi_nn_ggml.settings import ContextSettings, SharedSettings


class Writer(Protocol):
    """Used by one thread at a time, except for ``stop``."""

    n_ctx: int

    def begin(self, prompt: Prompt, written: array[int], text: Call) -> int:
        """Read a prompt and the tokens that were written after it. Returns the number of tokens
        that had to be computed. Raises ``InvalidArgument``, ``ContextFull``, ``PromptTooLong`` and
        ``RuntimeFailure``."""

    def take(self, allowed: int) -> int:
        """The next token, of at most ``allowed`` that may follow. Raises ``ContextFull`` and
        ``RuntimeFailure``."""

    def abandon(self) -> None:
        """No further token of the text is wanted. Calls nothing native."""

    def stop(self) -> None:
        """Make the present call, and every later one, fail. Callable from any thread."""

    def close(self) -> None:
        """Free the memory. Call it once."""


class Ahead(NamedTuple):
    """How many tokens the loop may be before a guest, and how many it gives it at once."""

    tokens: int
    at_once: int = 1


class Call:
    """How a text is written: by which sampler, ``fresh`` if that has seen nothing of the text;
    whether a token can end it; how many tokens may be computed before their guest asks, and how
    many the guest gets at once."""

    def __init__(self, sampler: Sampler, fresh: bool, ends: bool, ahead: Ahead, limit: int) -> None:
        self.sampler, self.fresh, self.ends = sampler, fresh, ends
        self.ahead, self.limit = ahead, limit


class LoopWriter:
    """A sequence in the loop of a model."""

    def __init__(
        self,
        room: Room,
        settings: ContextSettings,
        shared: SharedSettings,
        schedule: Schedule,
        reserve: Reserve,
    ) -> None:
        """Raises ``RuntimeFailure`` if there is no memory."""
        self._room = room
        self._place = room.join(settings, shared, schedule, reserve)
        self._sequence = self._place.sequence
        self.n_ctx = self._sequence.n_ctx
        self.take = self._sequence.take
        self.abandon = self._sequence.abandon
        self.stop = self._sequence.stop
        #: Leaves the loop, also if nobody closes this.
        self._leave = finalize(self, self._sequence.close)

    def attach(self, stepping: Callable[[bool], object], alone: bool) -> None:
        """Tell ``stepping`` of each step, and take the next one ``alone``."""
        self._sequence.stepping = stepping
        self._sequence.alone = alone

    def begin(self, prompt: Prompt, written: array[int], text: Call) -> int:
        assert prompt.tokens is not None
        tokens = prompt.tokens + written
        wanted = Text(tokens, text.sampler, text.ends, *text.ahead, text.limit)
        wanted.fresh = text.fresh
        return self._sequence.begin(wanted)

    def close(self) -> None:
        self._leave()
        self._place.reservation.release()


class CacheWriter:
    """A llama.cpp context of its own, for embeddings, for prompts with images, and for models whose
    texts cannot share one."""

    def __init__(self, model: Model, settings: ContextSettings, reserve: Reserve) -> None:
        """Raises ``RuntimeFailure`` if there is no memory, or if the model must write a text and
        cannot."""
        self.cache = KvCache(model, settings, reserve)
        if self.cache.memory is None and not settings.embedding:
            self.cache.close()
            raise RuntimeFailure(
                "the model writes no text: it is for embeddings (set the config's embedding)"
            )
        self._native = model.native
        self.n_ctx = self.cache.n_ctx
        self.stop = self.cache.stop
        self.close = self.cache.close
        self._sampler: Sampler | None = None
        #: The last token, which is not in the cache yet.
        self._pending: int | None = None

    def begin(self, prompt: Prompt, written: array[int], text: Call) -> int:
        cache = self.cache
        if text.fresh:
            text.sampler.reset()
        self._sampler, self._pending = text.sampler, None
        computed = prompt.n_tokens
        if prompt.picture is not None:
            prompt.picture.evaluate(cache)
            # In some models an image has fewer positions than tokens.
            cache.mark_filled(prompt.n_tokens)
            for token in written:
                cache.append(token)
        else:
            assert prompt.tokens is not None
            computed = cache.evaluate(prompt.tokens + written)
        if not self._native.llama_get_logits_ith(cache.context, -1):
            if prompt.picture is not None:
                raise InvalidArgument("the prompt ends with an image: let text follow")
            raise RuntimeFailure("the model gives no logits: it is for embeddings")
        return min(computed, prompt.n_tokens)

    def take(self, allowed: int) -> int:
        if self._pending is not None:
            self.cache.append(self._pending)
        assert self._sampler is not None
        self._pending = self._sampler.sample(self.cache.context)
        return self._pending

    def abandon(self) -> None:
        self._pending = None
