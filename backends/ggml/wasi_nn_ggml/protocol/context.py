"""Execution contexts: a prompt in, a text out, whole or token by token (WasmEdge's protocol)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import Generation, Reserve, StreamingContext, position
from wasi_nn.backend.config import known_config, parse
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    OutOfTokens,
    PromptTooLong,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml import settings
from wasi_nn_ggml.guard.estimates import whole_blocks
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.protocol import embedding
from wasi_nn_ggml.protocol import prompt as prompts
from wasi_nn_ggml.protocol.counters import Counters
from wasi_nn_ggml.protocol.prompt import Projection, Prompt
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import Settings

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

#: Input 0 is the prompt, output 0 the text.
CONFIG, METADATA = 1, 1
# Tokens that WasmEdge leaves free in a context for special tokens.
_MARGIN = 4
# In bytes. A config may contain a grammar.
_MAX_CONFIG = 1 << 20


class GgmlContext(StreamingContext):
    """Holds one prompt at a time. It makes its KV cache on first use and keeps it between turns."""

    def __init__(self, graph: GgmlGraph, reserve: Reserve) -> None:
        self.reserve = reserve
        self._graph = graph
        self._config: dict[str, Any] = dict(graph.config)
        self._settings = graph.settings
        #: The model in use: the graph's, or one that this context's config asked for.
        self.model = graph.model
        #: The bytes of a model that is not the graph's.
        self._model_reservation: Reservation | None = None
        self._cache: KvCache | None = None
        self._sampler: Sampler | None = None
        self._projection: Projection | None = None
        self._prompt: Prompt | None = None
        # The prompt as the guest gave it, until it is computed: a config may change its meaning.
        self._prompt_text: str | None = None
        self._output = bytearray()
        #: Bytes of the output that are reserved.
        self._output_reserved = 0
        self._n_output = 0
        self._piece = b""
        #: The last token of a stream, which is not in the cache yet; None outside a stream.
        self._pending: int | None = None
        self._stopped = False
        #: The tokens that the present call may still generate.
        self._allowed = sys.maxsize
        self._counters = Counters()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        if position(key, self._graph.inputs, "input") == CONFIG:
            self._configure(_text(tensor, "config", _MAX_CONFIG))
        else:
            self._set_prompt_text(_text(tensor, "prompt", prompts.MAX_BYTES))

    def compute(self) -> None:
        self._begin()
        if self._settings.context.embedding:
            self._embed()
            return
        sampler = self._evaluate()
        most = self._settings.n_predict if self._settings.n_predict >= 0 else sys.maxsize
        stop = self._settings.reverse_prompt.encode("utf-8")
        while self._n_output < most:
            before = len(self._output)
            last = self._sample(sampler)
            if self._settings.stream_stdout:
                self.stdout(self._piece)
            # Earlier tokens may have begun the reverse prompt.
            if stop and self._output.find(stop, max(0, before - len(stop))) >= 0:
                return
            if last is None:
                return
            self._append(last)

    def compute_single(self) -> None:
        if self._settings.context.embedding:
            raise InvalidArgument("an embedding is computed at once: use compute")
        try:
            if self._pending is not None and self._sampler is not None:
                sampler = self._sampler
                self._append(self._pending)
            else:
                self._begin()
                sampler = self._evaluate()
            self._pending = self._sample(sampler)
        except BaseException:
            self._pending = None
            raise
        if self._pending is None:
            raise EndOfSequence("the model has ended its text")

    def allow_tokens(self, most: int) -> None:
        self._allowed = most

    def get_output(self, key: int | str) -> Tensor:
        return self._result(key, memoryview(self._output).toreadonly)

    def get_output_single(self, key: int | str) -> Tensor:
        return self._result(key, lambda: memoryview(self._piece))

    def fini_single(self) -> None:
        self._pending = None
        # Call nothing native: an abandoned stream may end after its context's native memory is
        # freed. The sampler is reset when the next text begins.
        self._clear_output()

    def cancel(self) -> None:
        self._stopped = True
        cache = self._cache
        if cache is not None:
            cache.stop()

    @property
    def n_prompt_tokens(self) -> int:
        """The tokens of the prompt; 0 before there is one."""
        return self._prompt.n_tokens if self._prompt is not None else 0

    def generation(self) -> Generation | None:
        return self._counters.total()

    def close(self) -> None:
        self._free_cache()
        self._clear_output()
        self._replace_prompt(None)
        self._replace_projection(None)
        if self._model_reservation is not None:
            self._model_reservation.release()

    # Inputs

    def _configure(self, text: str) -> None:
        """Merge a config into the present one. Everything that can fail comes first, so that a
        mistake changes nothing."""
        config = {**self._config, **known_config(self._graph.backend, parse(text))}
        wanted, current = self._graph.read(config), self._settings
        with ExitStack() as undo:
            model, reservation = self.model, self._model_reservation
            if wanted.model != current.model:
                model, reservation = self._load(wanted.model)
                if reservation is not None:
                    undo.callback(reservation.release)
            embedding.check(model, wanted.context)
            sampler = None
            if wanted.sampler != current.sampler:
                # Report a grammar that does not parse now.
                sampler = self._make_sampler(model, wanted)
                undo.callback(sampler.close)
            prompt = None
            if self._prompt_text is not None:
                prompt = self._read(model, wanted, self._prompt_text)
            undo.pop_all()
        if wanted.model != current.model or wanted.context != current.context:
            self._free_cache()
        if model is not self.model:
            # A projector keeps the model alive that it was made for.
            if self._projection is not None:
                self._replace_prompt(None)
                self._replace_projection(None)
            if self._model_reservation is not None:
                self._model_reservation.release()
        self.model, self._model_reservation = model, reservation
        if sampler is not None:
            self._replace_sampler(sampler)
        self._config = config
        self._settings = wanted
        if prompt is not None:
            self._set_prompt(prompt)

    def _load(self, wanted: settings.ModelSettings) -> tuple[Model, Reservation | None]:
        graph = self._graph
        if wanted == graph.settings.model:
            return graph.model, None
        reservation = Reservation(self.reserve, graph.source.size)
        try:
            return graph.source.model(wanted), reservation
        except BaseException:
            reservation.release()
            raise

    def _make_sampler(self, model: Model, wanted: Settings) -> Sampler:
        n_ctx = whole_blocks(wanted.context.n_ctx or model.n_ctx_train)
        return Sampler(model, wanted.sampler, n_ctx, self.reserve)

    def _replace_sampler(self, sampler: Sampler | None) -> None:
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = sampler

    def _set_prompt_text(self, text: str) -> None:
        self._pending = None
        self._replace_prompt(None)
        self._prompt_text = None
        self._clear_output()
        self._set_prompt(self._read(self.model, self._settings, text))
        self._prompt_text = text

    def _read(self, model: Model, wanted: Settings, text: str) -> Prompt:
        return prompts.read(
            self._graph, model, wanted, text, self._projection, self.reserve, lambda: self._stopped
        )

    def _set_prompt(self, prompt: Prompt) -> None:
        self._pending = None
        self._clear_output()
        self._replace_prompt(prompt)
        if prompt.projection is not None:
            self._replace_projection(prompt.projection)

    def _replace_prompt(self, prompt: Prompt | None) -> None:
        old, self._prompt = self._prompt, prompt
        if old is not None and old.picture is not None:
            old.picture.reservation.release()

    def _replace_projection(self, projection: Projection | None) -> None:
        old, self._projection = self._projection, projection
        if old is not None and old is not projection:
            old.reservation.release()

    # Computing

    def _begin(self) -> None:
        if self._prompt is None:
            raise InvalidArgument("the prompt, input 0, has not been set")
        self._prompt_text = None
        self._pending = None
        self._clear_output()

    def _ensure_cache(self) -> KvCache:
        if self._cache is None:
            self._cache = KvCache(self.model, self._settings.context, self.reserve)
        if self._stopped:
            self._cache.stop()
        return self._cache

    def _evaluate(self) -> Sampler:
        """Decode the prompt into the cache. Returns the sampler, reset."""
        cache = self._ensure_cache()
        if cache.memory is None:
            raise RuntimeFailure(
                "the model writes no text: it is for embeddings (set the config's embedding)"
            )
        sampler = self._sampler
        if sampler is None:
            sampler = self._sampler = self._make_sampler(self.model, self._settings)
        else:
            sampler.reset()
        prompt = self._prompt
        assert prompt is not None
        if prompt.n_tokens > cache.n_ctx - _MARGIN:
            raise PromptTooLong(
                f"the prompt has {prompt.n_tokens} tokens; {cache.n_ctx - _MARGIN} fit the "
                f"context of {cache.n_ctx} (config ctx-size)"
            )
        started = time.perf_counter()
        computed = prompt.n_tokens
        if prompt.picture is not None:
            prompt.picture.evaluate(cache)
            # In some models an image has fewer positions than tokens.
            cache.mark_filled(prompt.n_tokens)
        elif prompt.tokens:
            computed = cache.evaluate(prompt.tokens)
        else:
            raise InvalidArgument("the prompt has no tokens")
        self._counters.prompt(computed, prompt.n_tokens - computed, started)
        if not self.model.native.llama_get_logits_ith(cache.context, -1):
            if prompt.picture is not None:
                raise InvalidArgument("the prompt ends with an image: let text follow")
            raise RuntimeFailure("the model gives no logits: it is for embeddings")
        return sampler

    def _sample(self, sampler: Sampler) -> int | None:
        """Choose a token and write its bytes; None if it ends the text."""
        if self._allowed <= 0:
            raise OutOfTokens
        self._allowed -= 1
        assert self._cache is not None
        started = time.perf_counter()
        token = sampler.sample(self._cache.context)
        self._piece = self.model.piece(token)
        self._write(self._piece)
        self._n_output += 1
        self._counters.token(started)
        if not self._settings.sampler.ignore_eos and self.model.is_end(token):
            return None
        return token

    def _write(self, data: bytes) -> None:
        self.reserve(len(data))
        self._output_reserved += len(data)
        try:
            self._output += data
        except BufferError:
            # An embedder still holds a view of an earlier output. That one stays as it is.
            self._output = self._output + data

    def _append(self, token: int) -> None:
        assert self._cache is not None
        started = time.perf_counter()
        self._cache.append(token)
        self._counters.decoded(started)

    def _embed(self) -> None:
        tokens = self._prompt.tokens if self._prompt is not None else None
        if tokens is None:
            raise InvalidArgument("an embedding is of a text: the prompt has an image")
        cache = self._ensure_cache()
        most = min(cache.n_batch, cache.n_ctx)
        if len(tokens) > most:
            raise PromptTooLong(
                f"the prompt has {len(tokens)} tokens; an embedding takes {most} "
                "(config batch-size, ctx-size)"
            )
        if not tokens:
            raise InvalidArgument("the prompt has no tokens")
        cache.clear()
        cache.evaluate(tokens)
        self._write(embedding.as_json(self.model, cache))

    # Outputs

    def _result(self, key: int | str, main: Callable[[], memoryview]) -> Tensor:
        if position(key, self._graph.outputs, "output") == METADATA:
            data = memoryview(self._metadata())
        else:
            data = main()
        return Tensor(TensorType.U8, (len(data),), data)

    def _metadata(self) -> bytes:
        native = self.model.native
        return (
            f'{{"input_tokens": {self.n_prompt_tokens}, "output_tokens": {self._n_output}, '
            f'"llama_build_number": {native.build_number}, "llama_commit": "{native.commit}"}}'
        ).encode()

    def _clear_output(self) -> None:
        reserved, self._output_reserved = self._output_reserved, 0
        if reserved:
            self.reserve(-reserved)
        self._output = bytearray()
        self._piece = b""
        self._n_output = 0

    def _free_cache(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None
        self._replace_sampler(None)
        self._pending = None


def _text(tensor: Tensor, what: str, most: int) -> str:
    size = len(tensor.data)
    if size > most:
        raise InvalidArgument(f"the {what} has {size} bytes: at most {most} are allowed")
    return settings.decode(tensor.data, what)
