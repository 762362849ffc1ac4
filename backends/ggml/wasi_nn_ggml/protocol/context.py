"""Execution contexts: a prompt in, a text out, whole or token by token (WasmEdge's protocol)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import Generation, Journal, Reserve, StreamingContext, position
from wasi_nn.backend.config import check_host_only, known_config, parse
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    OutOfTokens,
    PromptTooLong,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml import settings
from wasi_nn_ggml.guard.estimates import whole_blocks
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.protocol import embedding
from wasi_nn_ggml.protocol import prompt as prompts
from wasi_nn_ggml.protocol.counters import Counters
from wasi_nn_ggml.protocol.output import Output, read_journal
from wasi_nn_ggml.protocol.prompt import Projection, Prompt
from wasi_nn_ggml.protocol.writer import Ahead, CacheWriter, Call, LoopWriter, Writer
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.room.room import Room, room_of
from wasi_nn_ggml.settings import Settings

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

#: Input 0 is the prompt, output 0 the text.
CONFIG, METADATA = 1, 1
# Tokens that WasmEdge leaves free in a context for special tokens.
_MARGIN = 4
# What is computed before a guest asks for it: in a stream, in a ``compute`` of which each token is
# looked at, and in one that only ends at the end of the text.
_STREAM, _LOOKED_AT, _WHOLE = Ahead(4), Ahead(2), Ahead(16, at_once=8)
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
        self._writer: CacheWriter | LoopWriter | None = None
        self._sampler: Sampler | None = None
        #: Whether the sampler has seen nothing of the text that it continues.
        self._fresh = True
        self._projection: Projection | None = None
        self._prompt: Prompt | None = None
        # The prompt as the guest gave it, until it is computed: a config may change its meaning.
        self._prompt_text: str | None = None
        # (Tests and embedders may replace ``reserve``.)
        self._output = Output(lambda size: self.reserve(size))
        #: Whether the next ``compute_single`` continues the output.
        self._streaming = False
        self._stopped = False
        #: Whether the next step must be without other guests.
        self._alone = False
        #: The tokens that the present call may still generate.
        self._allowed = sys.maxsize
        self._counters = Counters()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        if position(key, self._graph.inputs, "input") == CONFIG:
            self._configure(_text(tensor, "config", _MAX_CONFIG))
        else:
            self._set_prompt_text(_text(tensor, "prompt", prompts.MAX_BYTES))

    def accumulates(self, key: int | str) -> bool:
        return position(key, self._graph.inputs, "input") == CONFIG

    def compute(self) -> None:
        self._begin()
        if self._settings.context.embedding:
            self._embed()
            return
        most = self._settings.n_predict if self._settings.n_predict >= 0 else sys.maxsize
        stop = self._settings.reverse_prompt.encode("utf-8")
        ahead = _LOOKED_AT if stop or self._settings.stream_stdout else _WHOLE
        writer = self._evaluate(ahead, min(most, self._allowed))
        try:
            output = self._output
            while len(output.tokens) < most:
                before = len(output.text)
                ended = self._take(writer, most - len(output.tokens))
                if self._settings.stream_stdout:
                    self.stdout(output.piece)
                # Earlier tokens may have begun the reverse prompt.
                found = stop and output.text.find(stop, max(0, before - len(stop))) >= 0
                if found or ended:
                    return
        finally:
            writer.abandon()

    def compute_single(self) -> None:
        if self._settings.context.embedding:
            raise InvalidArgument("an embedding is computed at once: use compute")
        try:
            writer = self._writer
            if not self._streaming:
                self._begin()
            if not self._streaming or writer is None or self._fresh:
                # (If a config has changed how tokens are chosen, those that the guest has not asked
                # for are forgotten.)
                writer = self._evaluate(_STREAM, self._allowed)
            self._streaming = not self._take(writer, sys.maxsize)
        except BaseException:
            self._streaming = True
            self._leave_stream()
            raise
        if not self._streaming:
            raise EndOfSequence("the model has ended its text")

    def allow_tokens(self, most: int) -> None:
        self._allowed = most

    def get_output(self, key: int | str) -> Tensor:
        return self._result(key, memoryview(self._output.text).toreadonly)

    def get_output_single(self, key: int | str) -> Tensor:
        return self._result(key, lambda: memoryview(self._output.piece))

    def fini_single(self) -> None:
        self._leave_stream()
        # Call nothing native: an abandoned stream may end after its context's native memory is
        # freed. The sampler is reset when the next text begins.
        self._output.clear()

    def journal(self) -> Journal:
        return self._output.journal(self._streaming)

    def resume(self, journal: bytes, alone: bool) -> None:
        self._alone = alone
        tokens, continues = read_journal(journal)
        if self._prompt is None or not tokens:
            return
        self._begin()
        sampler = self._sampler = self._sampler or self._make_sampler(self.model, self._settings)
        sampler.reset()
        for token in tokens:
            sampler.advance(token)
            self._output.add(token, self.model.piece(token))
        self._streaming, self._fresh = continues, True

    def cancel(self) -> None:
        self._stopped = True
        writer = self._writer
        if writer is not None:
            writer.stop()

    @property
    def n_prompt_tokens(self) -> int:
        """The tokens of the prompt; 0 before there is one."""
        return self._prompt.n_tokens if self._prompt is not None else 0

    def generation(self) -> Generation | None:
        return self._counters.total()

    def close(self) -> None:
        self._free_writer()
        self._output.clear()
        self._replace_prompt(None)
        self._replace_projection(None)
        if self._model_reservation is not None:
            self._model_reservation.release()

    # Inputs

    def _configure(self, text: str) -> None:
        """Merge a config into the present one. Everything that can fail comes first, so that a
        mistake changes nothing."""
        backend, given = self._graph.backend, parse(text)
        check_host_only(given, backend.host_only_keys)
        config = {**self._config, **known_config(backend, given)}
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
            self._free_writer()
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
        self._sampler, self._fresh = sampler, True

    def _room(self) -> Room:
        return self._graph.room if self.model is self._graph.model else room_of(self.model)

    def _set_prompt_text(self, text: str) -> None:
        self._leave_stream()
        self._replace_prompt(None)
        self._prompt_text = None
        self._output.clear()
        self._set_prompt(self._read(self.model, self._settings, text))
        self._prompt_text = text

    def _read(self, model: Model, wanted: Settings, text: str) -> Prompt:
        return prompts.read(
            self._graph, model, wanted, text, self._projection, self.reserve, lambda: self._stopped
        )

    def _set_prompt(self, prompt: Prompt) -> None:
        self._leave_stream()
        self._output.clear()
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
        self._leave_stream()
        self._output.clear()

    def _leave_stream(self) -> None:
        if self._streaming and self._writer is not None:
            self._writer.abandon()
        self._streaming = False

    def _ensure_writer(self, private: bool) -> CacheWriter | LoopWriter:
        writer, wanted = self._writer, self._settings.context
        if writer is None or isinstance(writer, CacheWriter) is not private:
            if writer is not None:
                self._free_writer()
            if private:
                writer = CacheWriter(self.model, wanted, self.reserve)
            else:
                shared = self._settings.shared
                writer = LoopWriter(self._room(), wanted, shared, self.schedule, self.reserve)
            self._writer = writer
        if self._stopped:
            writer.stop()
        return writer

    def _evaluate(self, ahead: Ahead, limit: int) -> CacheWriter | LoopWriter:
        """Read the prompt, and what was written after it."""
        prompt = self._prompt
        assert prompt is not None
        shares = self.model.shares and not self._settings.context.at_once
        writer = self._ensure_writer(prompt.picture is not None or not shares)
        sampler = self._sampler
        if sampler is None:
            sampler = self._sampler = self._make_sampler(self.model, self._settings)
        if prompt.n_tokens > writer.n_ctx - _MARGIN:
            raise PromptTooLong(
                f"the prompt has {prompt.n_tokens} tokens; {writer.n_ctx - _MARGIN} fit the "
                f"context of {writer.n_ctx} (config ctx-size)"
            )
        if not prompt.n_tokens:
            raise InvalidArgument("the prompt has no tokens")
        started = time.perf_counter()
        if isinstance(writer, LoopWriter):
            writer.attach(self.stepping, self._alone)
            self._alone = False
        ends = not self._settings.sampler.ignore_eos
        call = Call(sampler, not self._output.tokens, ends, ahead, limit)
        self._fresh = False
        computed = writer.begin(prompt, self._output.tokens, call)
        if not self._output.tokens:
            self._counters.prompt(computed, prompt.n_tokens - computed, started)
        return writer

    def _take(self, writer: Writer, most: int) -> bool:
        """Write the next token, after which ``most - 1`` others may follow. Returns whether it ends
        the text."""
        if self._allowed <= 0:
            raise OutOfTokens
        started = time.perf_counter()
        token = writer.take(min(most, self._allowed))
        self._allowed -= 1
        self._output.add(token, self.model.piece(token))
        self._counters.token(started)
        return not self._settings.sampler.ignore_eos and self.model.is_end(token)

    def _embed(self) -> None:
        tokens = self._prompt.tokens if self._prompt is not None else None
        if tokens is None:
            raise InvalidArgument("an embedding is of a text: the prompt has an image")
        writer = self._ensure_writer(True)
        assert isinstance(writer, CacheWriter)
        cache = writer.cache
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
        self._output.write(embedding.as_json(self.model, cache))

    # Outputs

    def _result(self, key: int | str, main: Callable[[], memoryview]) -> Tensor:
        if position(key, self._graph.outputs, "output") == METADATA:
            data = memoryview(self._metadata())
        else:
            data = main()
        return Tensor(TensorType.U8, (len(data),), data)

    def _metadata(self) -> bytes:
        native, written = self.model.native, len(self._output.tokens)
        return (
            f'{{"input_tokens": {self.n_prompt_tokens}, "output_tokens": {written}, '
            f'"llama_build_number": {native.build_number}, "llama_commit": "{native.commit}"}}'
        ).encode()

    def _free_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._replace_sampler(None)
        self._streaming = False


def _text(tensor: Tensor, what: str, most: int) -> str:
    size = len(tensor.data)
    if size > most:
        raise InvalidArgument(f"the {what} has {size} bytes: at most {most} are allowed")
    return settings.decode(tensor.data, what)
