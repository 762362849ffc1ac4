"""Execution contexts: a prompt in, text out, at once or token by token (WasmEdge's protocol)."""

from __future__ import annotations

import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from wasi_nn._models import loading
from wasi_nn.backend import Generation, Reserve, StreamingContext, position
from wasi_nn.backend import config as reading
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    PromptTooLong,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.guard.estimates import whole_blocks
from wasi_nn_ggml.llama.kv_cache import Sequence
from wasi_nn_ggml.llama.model import Weights
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.protocol import embedding, settings
from wasi_nn_ggml.protocol import prompt as prompts
from wasi_nn_ggml.protocol.counters import Meter
from wasi_nn_ggml.protocol.prompt import Projection, Prompt
from wasi_nn_ggml.protocol.settings import Settings
from wasi_nn_ggml.reservation import Holding

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

#: Input 0 is the prompt, output 0 the text.
CONFIG, METADATA = 1, 1
# Room that the peer leaves in a context for special tokens.
_MARGIN = 4
# A grammar may be in it.
_MOST_CONFIG = 1 << 20


class GgmlContext(StreamingContext):
    """One prompt at a time. The memory is made when it is first needed, and kept between turns."""

    def __init__(self, graph: GgmlGraph, reserve: Reserve) -> None:
        self.reserve = reserve
        self._graph = graph
        self._config: dict[str, Any] = dict(graph.config)
        self._settings = graph.settings
        self._weights = graph.weights
        self._sequence: Sequence | None = None
        self._sampler: Sampler | None = None
        #: Bytes of weights that are not the graph's own.
        self._apart: Holding | None = None
        self._projection: Projection | None = None
        self._prompt: Prompt | None = None
        # The prompt as it was given, until it is computed: a config may still change what it means.
        self._asked: str | None = None
        self._output = bytearray()
        #: Bytes of the output that count against the guest's limit.
        self._counted = 0
        self._n_output = 0
        self._piece = b""
        #: The token that a stream put out last and that is not in the memory yet; None outside one.
        self._pending: int | None = None
        self._stopped = False
        self._meter = Meter()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        if position(key, self._graph.inputs, "input") == CONFIG:
            self._configure(_text(tensor, "config", _MOST_CONFIG))
        else:
            self._ask(_text(tensor, "prompt", prompts.MOST_BYTES))

    def compute(self) -> None:
        self._begin()
        if self._settings.context.embedding:
            self._embed()
            return
        sampler = self._evaluate()
        most = self._settings.n_predict if self._settings.n_predict >= 0 else sys.maxsize
        stop = self._settings.reverse_prompt.encode("utf-8")
        put_out = _to_stdout()
        while self._n_output < most:
            before = len(self._output)
            last = self._sample(sampler)
            if self._settings.stream_stdout:
                put_out(self._piece)
            # The text may have been begun by earlier tokens.
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

    def get_output(self, key: int | str) -> Tensor:
        return self._given(key, memoryview(self._output).toreadonly)

    def get_output_single(self, key: int | str) -> Tensor:
        return self._given(key, lambda: memoryview(self._piece))

    def fini_single(self) -> None:
        self._pending = None
        # The sampler begins anew with the next text. An abandoned stream may end here when its
        # context's native memory is gone already, so nothing native is called.
        self._forget_output()

    def cancel(self) -> None:
        self._stopped = True
        sequence = self._sequence
        if sequence is not None:
            sequence.stop()

    def generation(self) -> Generation | None:
        return self._meter.total()

    def close(self) -> None:
        self._let_go()
        self._forget_output()
        self._keep(None)
        self._use(None)
        if self._apart is not None:
            self._apart.give_back()

    # Inputs

    def _configure(self, text: str) -> None:
        """Lay a config over the one that holds. What it needs is made before anything is given up:
        a mistake changes nothing."""
        config = {**self._config, **loading.known_config(self._graph.backend, reading.parse(text))}
        wanted, known = self._graph.read(config), self._settings
        with ExitStack() as undo:
            weights, apart = self._weights, self._apart
            if wanted.model != known.model:
                weights, apart = self._load(wanted.model)
                if apart is not None:
                    undo.callback(apart.give_back)
            embedding.check(weights, wanted.context)
            sampler = None
            if wanted.sampler != known.sampler:
                # A grammar that does not parse is this call's mistake.
                sampler = self._sampling(weights, wanted)
                undo.callback(sampler.close)
            prompt = None
            if self._asked is not None:
                prompt = self._read(weights, wanted, self._asked)
            undo.pop_all()
        if wanted.model != known.model or wanted.context != known.context:
            self._let_go()
        if weights is not self._weights:
            # A projector keeps the weights that it was made for.
            if self._projection is not None:
                self._keep(None)
                self._use(None)
            if self._apart is not None:
                self._apart.give_back()
        self._weights, self._apart = weights, apart
        if sampler is not None:
            self._choose_with(sampler)
        self._config = config
        self._settings = wanted
        if prompt is not None:
            self._take(prompt)

    def _load(self, wanted: settings.ModelSettings) -> tuple[Weights, Holding | None]:
        graph = self._graph
        if wanted == graph.settings.model:
            return graph.weights, None
        apart = Holding(self.reserve, graph.source.size)
        try:
            return graph.source.weights(wanted), apart
        except BaseException:
            apart.give_back()
            raise

    def _sampling(self, weights: Weights, wanted: Settings) -> Sampler:
        n_ctx = whole_blocks(wanted.context.n_ctx or weights.n_ctx_train)
        return Sampler(weights, wanted.sampler, n_ctx, self.reserve)

    def _choose_with(self, sampler: Sampler | None) -> None:
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = sampler

    def _ask(self, text: str) -> None:
        self._pending = None
        self._keep(None)
        self._asked = None
        self._forget_output()
        prompt = self._read(self._weights, self._settings, text)
        self._take(prompt)
        self._asked = text

    def _read(self, weights: Weights, wanted: Settings, text: str) -> Prompt:
        return prompts.read(
            self._graph, weights, wanted, text, self._projection, self.reserve, self._is_stopped
        )

    def _is_stopped(self) -> bool:
        return self._stopped

    def _take(self, prompt: Prompt) -> None:
        self._pending = None
        self._forget_output()
        self._keep(prompt)
        if prompt.projection is not None:
            self._use(prompt.projection)

    def _keep(self, prompt: Prompt | None) -> None:
        known, self._prompt = self._prompt, prompt
        if known is not None and known.picture is not None:
            known.picture.holding.give_back()

    def _use(self, projection: Projection | None) -> None:
        known, self._projection = self._projection, projection
        if known is not None and known is not projection:
            known.holding.give_back()

    # Computing

    def _begin(self) -> None:
        if self._prompt is None:
            raise InvalidArgument("the prompt, input 0, has not been set")
        self._asked = None
        self._pending = None
        self._forget_output()

    def _ready(self) -> Sequence:
        if self._sequence is None:
            self._sequence = Sequence(self._weights, self._settings.context, self.reserve)
        if self._stopped:
            self._sequence.stop()
        return self._sequence

    def _evaluate(self) -> Sampler:
        """Bring the prompt into memory; gives the sampler, at its beginning."""
        sequence = self._ready()
        if sequence.memory is None:
            raise RuntimeFailure(
                "the model writes no text: it is for embeddings (config embedding)"
            )
        sampler = self._sampler
        if sampler is None:
            sampler = self._sampler = self._sampling(self._weights, self._settings)
        else:
            sampler.reset()
        prompt = self._prompt
        assert prompt is not None
        if prompt.n_tokens > sequence.n_ctx - _MARGIN:
            raise PromptTooLong(
                f"the prompt has {prompt.n_tokens} tokens; {sequence.n_ctx - _MARGIN} fit the "
                f"context of {sequence.n_ctx} (config ctx-size)"
            )
        started = time.perf_counter()
        computed = prompt.n_tokens
        if prompt.picture is not None:
            prompt.picture.evaluate(sequence)
            # An image has fewer positions than tokens in some models.
            sequence.filled(prompt.n_tokens)
        elif prompt.tokens:
            computed = sequence.evaluate(prompt.tokens)
        else:
            raise InvalidArgument("the prompt has no tokens")
        self._meter.prompt(computed, prompt.n_tokens - computed, started)
        if not self._weights.native.llama_get_logits_ith(sequence.context, -1):
            if prompt.picture is not None:
                raise InvalidArgument("the prompt ends with an image: let text follow")
            raise RuntimeFailure("the model gives no logits: it is for embeddings")
        return sampler

    def _sample(self, sampler: Sampler) -> int | None:
        """Choose a token and put its bytes out; None when it ends the text."""
        assert self._sequence is not None
        started = time.perf_counter()
        token = sampler.sample(self._sequence.context)
        self._piece = self._weights.piece(token)
        self._write(self._piece)
        self._n_output += 1
        self._meter.token(started)
        if not self._settings.sampler.ignore_eos and self._weights.is_end(token):
            return None
        return token

    def _write(self, data: bytes) -> None:
        self.reserve(len(data))
        self._counted += len(data)
        try:
            self._output += data
        except BufferError:
            # An embedder still looks at an earlier output: that one stays as it is.
            self._output = self._output + data

    def _append(self, token: int) -> None:
        assert self._sequence is not None
        started = time.perf_counter()
        self._sequence.append(token)
        self._meter.decoded(started)

    def _embed(self) -> None:
        tokens = self._prompt.tokens if self._prompt is not None else None
        if tokens is None:
            raise InvalidArgument("embeddings are of text")
        sequence = self._ready()
        most = min(sequence.n_batch, sequence.n_ctx)
        if len(tokens) > most:
            raise PromptTooLong(
                f"the prompt has {len(tokens)} tokens; an embedding takes {most} "
                "(config batch-size, ctx-size)"
            )
        if not tokens:
            raise InvalidArgument("the prompt has no tokens")
        sequence.clear()
        sequence.evaluate(tokens)
        self._write(embedding.as_json(self._weights, sequence))

    # Outputs

    def _given(self, key: int | str, main: Any) -> Tensor:
        if position(key, self._graph.outputs, "output") == METADATA:
            data = memoryview(self._metadata())
        else:
            data = main()
        return Tensor(TensorType.U8, (len(data),), data)

    def _metadata(self) -> bytes:
        native = self._weights.native
        n_input = self._prompt.n_tokens if self._prompt is not None else 0
        return (
            f'{{"input_tokens": {n_input}, "output_tokens": {self._n_output}, '
            f'"llama_build_number": {native.build_number}, "llama_commit": "{native.commit}"}}'
        ).encode()

    def _forget_output(self) -> None:
        counted, self._counted = self._counted, 0
        if counted:
            self.reserve(-counted)
        self._output = bytearray()
        self._piece = b""
        self._n_output = 0

    def _let_go(self) -> None:
        if self._sequence is not None:
            self._sequence.close()
        self._sequence = None
        self._choose_with(None)
        self._pending = None


def _text(tensor: Tensor, what: str, most: int) -> str:
    size = len(tensor.data)
    if size > most:
        raise InvalidArgument(f"the {what} has {size} bytes: at most {most} are allowed")
    try:
        return bytes(tensor.data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the {what} is not UTF-8: {error}") from error


def _to_stdout() -> Callable[[bytes], None]:
    """What puts a text's tokens on the host's standard output. A token need not be whole
    characters: where the output takes text alone (notebooks), it gets whole ones."""
    stream = sys.stdout
    buffer = getattr(stream, "buffer", None)
    decoder = getincrementaldecoder("utf-8")(errors="replace")

    def put_out(piece: bytes) -> None:
        if buffer is None:
            stream.write(decoder.decode(piece))
        else:
            buffer.write(piece)
        stream.flush()

    return put_out
