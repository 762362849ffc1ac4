"""Chooses the next token: llama.cpp's sampler chain, in the order of its command-line tools.

Source: llama.cpp's common/sampling.cpp. A grammar checks the chosen token first. Only if it rejects
that one does it filter all candidates, which costs a pass over the vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import Reserve, unlimited
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn_ggml.grammar import gbnf
from wasi_nn_ggml.grammar.schema import grammar_of
from wasi_nn_ggml.llama.bindings import LogitBias, TokenDataArray
from wasi_nn_ggml.llama.loader import Library, error_log, freed_with
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import SamplerSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIROSTAT_TAU = 5.0
# Bytes of penalties for each of the last tokens, and of a grammar for each token of the vocabulary.
_LAST_BYTES, _CANDIDATE_BYTES = 16, 16
# Bytes of an element while a grammar is made: 65 in repetitions, 145 in parentheses, and 0.6 more
# for each letter of the rule's name.
_ELEMENT_BYTES = 160
_BREAKERS = (b"\n", b":", b'"', b"*")


class Sampler:
    """A sampler chain, and its grammar if any, for one execution context of ``n_ctx`` tokens (0:
    the model's). Its bytes are counted with ``reserve`` until it is closed."""

    def __init__(
        self,
        model: Model,
        settings: SamplerSettings,
        n_ctx: int = 0,
        reserve: Reserve = unlimited,
    ) -> None:
        native = model.native
        self._native = native
        self._model = model
        self._grammar: int | None = None
        self._candidates: _Candidates | None = None
        self._sample = native.llama_sampler_sample
        grammar = settings.grammar or grammar_of(settings.json_schema)
        last_n = _last_n(model, settings, n_ctx or model.n_ctx_train)
        size = _LAST_BYTES * last_n
        if grammar:
            contents = gbnf.check(grammar)
            for token in contents.tokens:
                model.vocabulary.check(token.encode("utf-8", "replace"))
            each = _ELEMENT_BYTES + contents.longest
            size += _CANDIDATE_BYTES * model.n_vocab + each * contents.elements
        self._reservation = Reservation(reserve, size)
        try:
            if grammar:
                self._grammar = _grammar(native, model.vocab, grammar)
                freed_with(self, native.llama_sampler_free, self._grammar)
                self._candidates = _Candidates(model.n_vocab)
            self.chain = _chain(native, model, settings, last_n)
        except BaseException:
            self._reservation.release()
            raise
        freed_with(self, native.llama_sampler_free, self.chain)

    def close(self) -> None:
        """Give back its reservation. The sampler is not used any more."""
        self._reservation.release()

    def reset(self) -> None:
        """Begin a new text: forget earlier tokens, and restart from the seed."""
        self._native.llama_sampler_reset(self.chain)
        if self._grammar is not None:
            self._native.llama_sampler_reset(self._grammar)

    def sample(self, context: int) -> int:
        """The token after those that the context has decoded. Raises ``RuntimeFailure`` if no token
        of the vocabulary continues the grammar."""
        if self._grammar is None or self._candidates is None:
            return int(self._sample(self.chain, context, -1))
        candidates, native = self._candidates, self._native
        logits = native.llama_get_logits_ith(context, -1)
        token = candidates.choose(native, logits, self.chain, None)
        if not candidates.allowed(native, token, self._grammar):
            token = candidates.choose(native, logits, self.chain, self._grammar)
            if not candidates.allowed(native, token, self._grammar):
                # llama.cpp ends the process if a grammar must accept such a token.
                raise RuntimeFailure("the sampler's settings leave no token for the grammar")
        native.llama_sampler_accept(self._grammar, token)
        native.llama_sampler_accept(self.chain, token)
        return token


class _Candidates:
    """The tokens of the vocabulary with their logits, in the layout of llama.cpp's samplers."""

    def __init__(self, n_vocab: int) -> None:
        import numpy as np

        self._n_vocab = n_vocab
        kind = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        self._all: NDArray[Any] = np.zeros(n_vocab, kind)
        self._one: NDArray[Any] = np.zeros(1, kind)
        self._ids = np.arange(n_vocab, dtype="<i4")

    def choose(self, native: Library, logits: int, chain: int, grammar: int | None) -> int:
        import numpy as np

        everything = self._all
        everything["id"] = self._ids
        everything["logit"] = np.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self._n_vocab,)
        )
        everything["p"] = 0
        array = TokenDataArray(everything.ctypes.data, self._n_vocab, -1, False)
        if grammar is not None:
            native.llama_sampler_apply(grammar, ctypes.byref(array))
            if not np.isfinite(everything["logit"]).any():
                raise RuntimeFailure("no token of the model's vocabulary continues the grammar")
        native.llama_sampler_apply(chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise RuntimeFailure("the sampler chose no token")
        # A sampler may have moved the candidates elsewhere.
        chosen = array.data + int(array.selected) * everything.itemsize
        return int(ctypes.c_int32.from_address(chosen).value)

    def allowed(self, native: Library, token: int, grammar: int) -> bool:
        one = self._one
        one[0] = (token, 1.0, 0.0)
        array = TokenDataArray(one.ctypes.data, 1, -1, False)
        native.llama_sampler_apply(grammar, ctypes.byref(array))
        return bool(one["logit"][0] > float("-inf"))


def _last_n(model: Model, settings: SamplerSettings, n_ctx: int) -> int:
    """The number of last tokens that penalties look at, at most the whole context."""
    wanted = settings.last_n_penalty
    return min(model.n_ctx_train if wanted < 0 else wanted, n_ctx)


def _chain(native: Library, model: Model, s: SamplerSettings, last_n: int) -> int:
    params = native.llama_sampler_chain_default_params()
    chain = native.llama_sampler_chain_init(params)

    def add(sampler: int | None) -> None:
        if sampler is None:
            native.llama_sampler_free(chain)
            raise InvalidArgument(error_log.take("llama.cpp rejects the sampler's settings"))
        native.llama_sampler_chain_add(chain, sampler)

    if s.ignore_eos:
        ends = model.ends_of_generation()
        biases = (LogitBias * len(ends))(*(LogitBias(token, float("-inf")) for token in ends))
        add(native.llama_sampler_init_logit_bias(model.n_vocab, len(ends), biases))
    if s.mirostat:
        add(native.llama_sampler_init_temp(s.temp))
        if s.mirostat == 1:
            add(
                native.llama_sampler_init_mirostat(
                    model.n_vocab, s.seed, _MIROSTAT_TAU, s.mirostat_eta, 100
                )
            )
        else:
            add(native.llama_sampler_init_mirostat_v2(s.seed, _MIROSTAT_TAU, s.mirostat_eta))
        return int(chain)
    if (s.repeat_penalty, s.frequency_penalty, s.presence_penalty) != (1.0, 0.0, 0.0):
        add(
            native.llama_sampler_init_penalties(
                model.n_vocab,
                last_n,
                s.repeat_penalty,
                s.frequency_penalty,
                s.presence_penalty,
            )
        )
    if s.dry_multiplier:
        breakers = (ctypes.c_char_p * len(_BREAKERS))(*_BREAKERS)
        add(
            native.llama_sampler_init_dry(
                model.vocab,
                s.dry_multiplier,
                s.dry_base,
                s.dry_allowed_length,
                last_n,
                breakers,
                len(_BREAKERS),
            )
        )
    add(native.llama_sampler_init_top_k(s.top_k))
    if s.typ_p != 1.0:
        add(native.llama_sampler_init_typical(s.typ_p, s.min_keep))
    add(native.llama_sampler_init_top_p(s.top_p, s.min_keep))
    add(native.llama_sampler_init_min_p(s.min_p, s.min_keep))
    if s.xtc_probability > 0:
        add(native.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, s.min_keep, s.seed))
    add(native.llama_sampler_init_temp_ext(s.temp, s.dynatemp_range, s.dynatemp_exponent))
    add(native.llama_sampler_init_dist(s.seed))
    return int(chain)


def _grammar(native: Library, vocab: int, text: str) -> int:
    error_log.lines.clear()
    sampler = native.llama_sampler_init_grammar(vocab, text.encode("utf-8", "replace"), b"root")
    if not sampler:
        raise InvalidArgument(f"the grammar does not parse: {error_log.take('no reason given')}")
    return int(sampler)
