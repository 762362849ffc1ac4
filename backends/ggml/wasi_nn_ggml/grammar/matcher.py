"""Texts that keep to a grammar or a JSON schema, with llguidance: which tokens may come next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.escaping import logger
from wasi_nn_ggml.grammar import gbnf, lark, schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logger("wasi_nn.ggml")

# Limits of llguidance: what the parser does for one token, how many ways it follows at once, and
# the lexer's states in a text (1 to 2 KB each).
_LIMITS: dict[str, Any] = {
    "step_max_items": 500_000,
    "max_items_in_row": 1000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}
# Else llguidance would choose the tokens of a text that has no alternative, with a tokenizer.
_OPTIONS = '%llguidance {"no_forcing": true}\n'
_MAX_REASON = 200
_MAX_CONVERTED = 8


class Tokenizer:
    """A model's vocabulary as llguidance needs it. Threads may share it."""

    def __init__(
        self, pieces: Sequence[bytes], special: Sequence[int], ends: Sequence[int]
    ) -> None:
        """``pieces`` are the bytes of each token, and the names of the ``special`` ones; ``ends``
        are the tokens that end a text. Raises ``UnsupportedOperation`` without llguidance."""
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise UnsupportedOperation(
                f"grammars need llguidance ({error}): pip install llguidance"
            ) from error
        self.n_vocab = len(pieces)
        self._numbers = {piece: token for token, piece in enumerate(pieces)}
        vocabulary = _Vocabulary(pieces, special, ends)
        self.native = LLTokenizer(vocabulary, eos_token=[*ends] or None)  # type: ignore[arg-type]
        # llguidance has its own copy.
        vocabulary.tokens = ()
        # A server makes a context for each request, often with the same grammar.
        self._converted: dict[str, str] = {}

    def grammar(self, text: str) -> Matcher:
        """A matcher of a grammar in GBNF. Raises ``InvalidArgument`` with the reason."""
        converted = self._converted.get(text)
        if converted is None:
            converted = lark.convert(gbnf.read(text), self._number)
            if len(self._converted) == _MAX_CONVERTED:
                self._converted.clear()
            self._converted[text] = converted
        return Matcher(self, converted, "grammar")

    def json_schema(self, text: str) -> Matcher:
        """A matcher of a JSON schema. Raises ``InvalidArgument`` with the reason. Logs keywords
        that an answer may not satisfy."""
        matcher = Matcher(self, schema.convert(text), "json-schema")
        _report(text, matcher.warnings)
        return matcher

    def _number(self, name: str) -> int:
        """The number of a token that a grammar names: ``<think>`` or ``<[5]>``."""
        number = name[2:-2] if name.startswith("<[") and name.endswith("]>") else ""
        if number.isdecimal() and len(number) < 10 and int(number) < self.n_vocab:
            return int(number)
        token = self._numbers.get(name.encode("utf-8", "replace"))
        if token is None:
            raise InvalidArgument(
                f"the grammar names {name}, which is not one of the model's tokens"
            )
        return token


class _Vocabulary:
    """In the form of llguidance's ``TokenizerWrapper``."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, pieces: Sequence[bytes], special: Sequence[int], ends: Sequence[int]
    ) -> None:
        self.tokens = pieces
        self.special_token_ids = special
        self.eos_token_id = ends[0] if ends else None

    def __call__(self, text: str) -> list[int]:
        """Only for forced texts, which ``_OPTIONS`` turns off."""
        return []


class Matcher:
    """Follows one text at a time."""

    def __init__(self, tokenizer: Tokenizer, text: str, what: str) -> None:
        import numpy as np
        from llguidance import LLMatcher, LLParserLimits

        self._n_vocab = tokenizer.n_vocab
        self._mask: NDArray[Any] = np.zeros(-(-tokenizer.native.vocab_size // 32), "<u4")
        limits = LLParserLimits(**_LIMITS)
        self._start = LLMatcher(tokenizer.native, _OPTIONS + text, log_level=0, limits=limits)
        self._matcher = self._start
        if not self._start.is_error():
            self.reset()
            self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise InvalidArgument(f"the {what} cannot be used: {self._reason()}")
        self.warnings = tuple(self._start.get_grammar_warnings())

    def reset(self) -> None:
        """Begin a new text."""
        self._matcher = self._start.deep_copy()

    def allowed(self) -> NDArray[Any]:
        """The tokens that may come next; none if the vocabulary has none. Raises
        ``RuntimeFailure`` if the text has become too complex for llguidance's limits."""
        import numpy as np

        mask = self._mask
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise RuntimeFailure(f"the grammar became too complex: {self._reason()}")
        bits = np.unpackbits(mask.view("u1"), count=self._n_vocab, bitorder="little")
        return np.flatnonzero(bits)

    def accept(self, token: int) -> None:
        """Continue the text with an allowed token. Raises ``RuntimeFailure`` as ``allowed``."""
        if not self._matcher.consume_token(token):
            raise RuntimeFailure(f"the grammar became too complex: {self._reason()}")

    def _reason(self) -> str:
        """Without the place in the Lark text, and without that text, which llguidance appends."""
        first, _, _ = self._matcher.get_error().partition("\n")
        if first.startswith("NoExtension"):
            return "no text satisfies it"
        return re.sub(r"^at \d+\(\d+\): ", "", first)[:_MAX_REASON]


@lru_cache(maxsize=16)
def _report(schema: str, warnings: tuple[str, ...]) -> None:
    """Once for a schema: each context has a matcher."""
    for warning in warnings:
        log.warning("the json-schema is not followed in full: %s", warning[:_MAX_REASON])
