"""Execution contexts: a prompt in, text out, at once or token by token (WasmEdge's protocol)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from wasi_nn import config as reading
from wasi_nn import loading
from wasi_nn.backend import Generation, StreamingContext, position
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    PromptTooLong,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml import chat, embedding, settings
from wasi_nn_ggml.meter import Meter
from wasi_nn_ggml.sampler import Sampler
from wasi_nn_ggml.sequence import Sequence
from wasi_nn_ggml.vision import Picture, find_picture

if TYPE_CHECKING:
    from wasi_nn_ggml.backend import GgmlGraph

#: Input 0 is the prompt, output 0 the text.
CONFIG, METADATA = 1, 1
# Room that the peer leaves in a context for special tokens.
_MARGIN = 4
# No token of a vocabulary is longer, so that a longer prompt need not be tokenised.
_LONGEST_TOKEN = 512


class GgmlContext(StreamingContext):
    """One prompt at a time. The memory is made when it is first needed, and kept between turns."""

    def __init__(self, graph: GgmlGraph) -> None:
        self._graph = graph
        self._config: dict[str, Any] = dict(graph.config)
        self._settings = graph.settings
        self._weights = graph.weights
        self._sequence: Sequence | None = None
        self._sampler: Sampler | None = None
        # The prompt as it was given, until it is computed: a config may still change what it means.
        self._asked: str | None = None
        self._tokens: list[int] | None = None
        self._picture: Picture | None = None
        self._n_input = 0
        self._output = bytearray()
        self._n_output = 0
        self._piece = b""
        #: The token that a stream put out last and that is not in the memory yet; None outside one.
        self._pending: int | None = None
        self._stopped = False
        self._meter = Meter()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        if position(key, self._graph.inputs, "input") == CONFIG:
            self._configure(_text(tensor, "config"))
        else:
            self._prompt(_text(tensor, "prompt"))

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
                _to_stdout(self._piece)
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
        self._forget_output()
        if self._sampler is not None:
            self._sampler.reset()

    def cancel(self) -> None:
        self._stopped = True
        sequence = self._sequence
        if sequence is not None:
            sequence.stop()

    def generation(self) -> Generation | None:
        return self._meter.total()

    def close(self) -> None:
        self._let_go()
        self._picture = None

    # Inputs

    def _configure(self, text: str) -> None:
        """Lay a config over the one that holds."""
        config = {**self._config, **loading.known_config(self._graph.backend, reading.parse(text))}
        wanted = settings.read(config)
        if wanted.model != self._settings.model:
            weights = self._graph.source.weights(wanted.model)
            embedding.check(weights, wanted.context)
            self._let_go()
            self._weights = weights
        elif wanted.context != self._settings.context:
            embedding.check(self._weights, wanted.context)
            self._let_go()
        if wanted.sampler != self._settings.sampler:
            # A grammar that does not parse is this call's mistake.
            self._sampler = Sampler(self._weights, wanted.sampler)
        self._config = config
        self._settings = wanted
        if self._asked is not None:
            self._prompt(self._asked)

    def _prompt(self, text: str) -> None:
        self._pending = None
        self._forget_output()
        self._tokens = None
        self._picture = None
        self._asked = None
        asked = text
        if self._settings.chat:
            text = chat.prompt(self._weights, text, self._settings.chat_template)
        if self._settings.image or find_picture(text):
            self._picture = self._graph.picture(self._weights, self._settings, text)
            self._n_input = self._picture.n_tokens
            self._asked = asked
            return
        data = text.encode("utf-8")
        most = _LONGEST_TOKEN * (self._settings.context.n_ctx or self._weights.n_ctx_train)
        if len(data) > most:
            raise PromptTooLong(f"a prompt of {len(data)} bytes cannot fit the context")
        self._tokens = self._weights.tokenize(data)
        self._n_input = len(self._tokens)
        self._asked = asked

    # Computing

    def _begin(self) -> None:
        if self._tokens is None and self._picture is None:
            raise InvalidArgument("the prompt, input 0, has not been set")
        self._asked = None
        self._pending = None
        self._forget_output()

    def _ready(self) -> Sequence:
        if self._sequence is None:
            self._sequence = Sequence(self._weights, self._settings.context, self.hold)
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
            sampler = self._sampler = Sampler(self._weights, self._settings.sampler)
        else:
            sampler.reset()
        if self._n_input > sequence.n_ctx - _MARGIN:
            raise PromptTooLong(
                f"the prompt has {self._n_input} tokens; {sequence.n_ctx - _MARGIN} fit the "
                f"context of {sequence.n_ctx} (config ctx-size)"
            )
        started = time.perf_counter()
        computed = self._n_input
        if self._picture is not None:
            self._picture.evaluate(sequence)
        elif self._tokens:
            computed = sequence.evaluate(self._tokens)
        else:
            raise InvalidArgument("the prompt has no tokens")
        self._meter.prompt(computed, self._n_input - computed, started)
        if not self._weights.native.llama_get_logits_ith(sequence.context, -1):
            if self._picture is not None:
                raise InvalidArgument("the prompt ends with an image: let text follow")
            raise RuntimeFailure("the model gives no logits: it is for embeddings")
        return sampler

    def _sample(self, sampler: Sampler) -> int | None:
        """Choose a token and put its bytes out; None when it ends the text."""
        assert self._sequence is not None
        started = time.perf_counter()
        token = sampler.sample(self._sequence.context)
        self._piece = self._weights.piece(token)
        self._output += self._piece
        self._n_output += 1
        self._meter.token(started)
        if not self._settings.sampler.ignore_eos and self._weights.is_end(token):
            return None
        return token

    def _append(self, token: int) -> None:
        assert self._sequence is not None
        started = time.perf_counter()
        self._sequence.append(token)
        self._meter.decoded(started)

    def _embed(self) -> None:
        if self._tokens is None:
            raise InvalidArgument("embeddings are of text")
        sequence = self._ready()
        most = min(sequence.n_batch, sequence.n_ctx)
        if len(self._tokens) > most:
            raise PromptTooLong(
                f"the prompt has {len(self._tokens)} tokens; an embedding takes {most} "
                "(config batch-size, ctx-size)"
            )
        if not self._tokens:
            raise InvalidArgument("the prompt has no tokens")
        sequence.clear()
        sequence.evaluate(self._tokens)
        self._output += embedding.as_json(self._weights, sequence)

    # Outputs

    def _given(self, key: int | str, main: Any) -> Tensor:
        if position(key, self._graph.outputs, "output") == METADATA:
            data = memoryview(self._metadata())
        else:
            data = main()
        return Tensor(TensorType.U8, (len(data),), data)

    def _metadata(self) -> bytes:
        native = self._weights.native
        return (
            f'{{"input_tokens": {self._n_input}, "output_tokens": {self._n_output}, '
            f'"llama_build_number": {native.build_number}, "llama_commit": "{native.commit}"}}'
        ).encode()

    def _forget_output(self) -> None:
        self._output = bytearray()
        self._piece = b""
        self._n_output = 0

    def _let_go(self) -> None:
        if self._sequence is not None:
            self._sequence.close()
        self._sequence = None
        self._sampler = None
        self._pending = None


def _text(tensor: Tensor, what: str) -> str:
    try:
        return bytes(tensor.data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the {what} is no UTF-8: {error}") from error


def _to_stdout(piece: bytes) -> None:
    """A token's bytes, which need not be whole characters, on the host's standard output."""
    stream = sys.stdout
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(piece.decode("utf-8", "replace"))
    else:
        buffer.write(piece)
    stream.flush()
