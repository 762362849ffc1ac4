"""Chooses the next token: llama.cpp's sampler chain, in the order of its command-line tools.

Source: llama.cpp's common/sampling.cpp. With a grammar, the chain chooses among the tokens that the
grammar allows.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import Reserve, unlimited
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn_ggml.grammar.matcher import Matcher
from wasi_nn_ggml.llama.bindings import LogitBias, TokenData, TokenDataArray
from wasi_nn_ggml.llama.loader import Library, error_log, freed_with
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import SamplerSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIROSTAT_TAU = 5.0
# Bytes of penalties for each of the last tokens, and of a grammar for each token of the vocabulary.
_LAST_BYTES, _CANDIDATE_BYTES = 16, 24
# Bytes of llguidance for a grammar and for each of its characters, measured.
_GRAMMAR_BYTES, _CHARACTER_BYTES = 1 << 20, 512
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
        self._grammar: Matcher | None = None
        last_n = _last_n(model, settings, n_ctx or model.n_ctx_train)
        size = _LAST_BYTES * last_n
        grammar = settings.grammar or settings.json_schema
        if grammar:
            size += _CANDIDATE_BYTES * model.n_vocab + _GRAMMAR_BYTES
            size += _CHARACTER_BYTES * len(grammar)
        self._reservation = Reservation(reserve, size)
        try:
            if settings.grammar:
                self._grammar = model.tokenizer().grammar(grammar)
            elif grammar:
                self._grammar = model.tokenizer().json_schema(grammar)
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
            self._grammar.reset()

    @property
    def guided(self) -> bool:
        """Whether a grammar says which tokens may come next."""
        return self._grammar is not None

    def sample(self, context: int, index: int = -1) -> int:
        """The token after the one at ``index`` of the last batch that the context has decoded.
        Raises ``RuntimeFailure`` if no token of the vocabulary continues the grammar."""
        if self._grammar is None:
            return int(self._native.llama_sampler_sample(self.chain, context, index))
        return self.choose(self._view(context, index))

    def row(self, context: int, index: int) -> NDArray[Any]:
        """A copy of the logits from which ``choose`` chooses."""
        row: NDArray[Any] = self._view(context, index).copy()
        return row

    def _view(self, context: int, index: int) -> NDArray[Any]:
        import numpy as np

        address = self._native.llama_get_logits_ith(context, index)
        pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
        view: NDArray[Any] = np.ctypeslib.as_array(pointer, (self._model.n_vocab,))
        return view

    def choose(self, logits: NDArray[Any]) -> int:
        """The same as ``sample``, from logits, for a grammar."""
        assert self._grammar is not None
        token = _choose(self._native, self.chain, logits, self._grammar.allowed())
        self._grammar.accept(token)
        self._native.llama_sampler_accept(self.chain, token)
        return token

    def advance(self, token: int) -> None:
        """Continue the text with a token that was chosen elsewhere. The random numbers go on as if
        it had been chosen here; Mirostat's state does not. Raises ``RuntimeFailure``."""
        candidate = TokenData(token, 0.0, 0.0)
        array = TokenDataArray(ctypes.addressof(candidate), 1, -1, False)
        self._native.llama_sampler_apply(self.chain, ctypes.byref(array))
        if self._grammar is not None:
            self._grammar.accept(token)
        self._native.llama_sampler_accept(self.chain, token)


def _choose(native: Library, chain: int, logits: NDArray[Any], allowed: NDArray[Any]) -> int:
    """One of the allowed tokens. (``llama_sampler_sample`` takes the whole vocabulary, and ends the
    process if the chain chooses none.)"""
    import numpy as np

    if not allowed.size:
        raise RuntimeFailure("no token of the model's vocabulary continues the grammar")
    candidates = np.zeros(allowed.size, [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    candidates["id"] = allowed
    candidates["logit"] = logits[allowed]
    array = TokenDataArray(candidates.ctypes.data, allowed.size, -1, False)
    native.llama_sampler_apply(chain, ctypes.byref(array))
    if 0 <= array.selected < array.size:
        # A sampler may have moved the candidates elsewhere.
        chosen = array.data + int(array.selected) * candidates.itemsize
        if ctypes.c_float.from_address(chosen + 4).value > float("-inf"):
            return int(ctypes.c_int32.from_address(chosen).value)
    raise RuntimeFailure("the sampler's settings leave no token for the grammar")


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
    if s.temp <= 0 and s.dynatemp_range <= 0 and s.xtc_probability <= 0 and s.typ_p == 1.0:
        # The others of the chain would leave the likeliest token, after sorting thousands.
        add(native.llama_sampler_init_greedy())
        return int(chain)
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
