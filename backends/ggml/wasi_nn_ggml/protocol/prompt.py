"""A prompt as the model takes it: tokens, or text and images."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.errors import InvalidArgument, ModelNotFound, PromptTooLong
from wasi_nn_ggml.llama.model import Weights
from wasi_nn_ggml.llama.vision import Picture, Projector, find_picture
from wasi_nn_ggml.protocol import chat
from wasi_nn_ggml.protocol.settings import Settings
from wasi_nn_ggml.reservation import Holding

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

Hold = Callable[[int], None]
# Bytes of a prompt that a token stands for, at most, if the vocabulary has no longer one: a prompt
# that cannot fit is not tokenised. A token may stand for more than its own text, for a word that is
# unknown or for spaces that do not count.
_LONGEST_TOKEN = 512
# A context is as large as a guest's config says, and is not made before the prompt is read.
_MOST_TEXT = 16 << 20
#: The same with images, which are the most of it.
MOST_BYTES = 64 << 20


class Projection(NamedTuple):
    """The projector that a context uses, and the bytes that it counts for."""

    path: Path
    weights: Weights
    projector: Projector
    holding: Holding


class Prompt(NamedTuple):
    """``tokens``, or ``picture`` with the projection that made it."""

    n_tokens: int
    tokens: array[int] | None = None
    picture: Picture | None = None
    projection: Projection | None = None


def read(
    graph: GgmlGraph,
    weights: Weights,
    wanted: Settings,
    text: str,
    known: Projection | None,
    hold: Hold,
    stopped: Callable[[], bool],
) -> Prompt:
    """What a guest asked with these settings. ``known`` is the projection that its context has: it
    is used again where it fits. Raises ``NnError``, and holds nothing then."""
    longest = max(_LONGEST_TOKEN, weights.vocabulary.longest)
    most = min(longest * (wanted.context.n_ctx or weights.n_ctx_train), _MOST_TEXT)
    images = find_picture(text)
    _check(len(text), MOST_BYTES if images else most)
    if wanted.chat:
        try:
            text = chat.prompt(weights, text, wanted.chat_template, most, stopped)
        except UnicodeEncodeError as error:
            # JSON can write half of a character.
            raise InvalidArgument(f"a message is not text: {error.reason}") from error
    if wanted.image or images or (wanted.chat and find_picture(text)):
        projection = _projection(graph, weights, wanted, known, hold)
        try:
            # The base64 of the images, twice, and what it stands for.
            with Holding(hold, 4 * len(text)):
                picture = projection.projector.read(text, graph.image(wanted), most, hold)
        except BaseException:
            if projection is not known:
                projection.holding.give_back()
            raise
        return Prompt(picture.n_tokens, None, picture, projection)
    data = text.encode("utf-8")
    _check(len(data), most)
    with Holding(hold, weights.tokenising * len(data)):
        tokens = weights.tokenize(data)
    return Prompt(len(tokens), tokens)


def _check(size: int, most: int) -> None:
    if size > most:
        raise PromptTooLong(f"the prompt has {size} bytes: at most {most} can fit the context")


def _projection(
    graph: GgmlGraph, weights: Weights, wanted: Settings, known: Projection | None, hold: Hold
) -> Projection:
    path = graph.projector_path(wanted)
    if known is not None and known.path == path and known.weights is weights:
        return known
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelNotFound(f"projector {path}: {error.strerror or error}") from error
    holding = Holding(hold, size)
    try:
        projector = graph.projector(weights, path, wanted.context)
    except BaseException:
        holding.give_back()
        raise
    return Projection(path, weights, projector, holding)
